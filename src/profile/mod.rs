//! Where the time of a step goes: on the device kernel by kernel, and on the host.
//!
//! A [`Profiler`] watches a device while a program goes on as usual; what comes out is a [`Profile`], to be printed as a
//! table and to be written as a trace for [Perfetto](https://ui.perfetto.dev). A device that nobody profiles pays for
//! none of it.
//!
//! ```
//! # fn main() -> shadegrad::Result<()> {
//! use shadegrad::profile::Profiler;
//! use shadegrad::{Device, Tape};
//!
//! let device = Device::new()?;
//! let step = || -> shadegrad::Result<()> {
//!     let tape = Tape::inference(&device);
//!     let x = tape.input([64, 64], &[0.5f32; 64 * 64]);
//!     let _y = tape.fetch::<f32>(x.matmul(x).softmax());
//!     tape.run()
//! };
//! step()?; // compiles the kernels
//! let profiler = Profiler::start(&device);
//! for _ in 0..6 {
//!     step()?;
//! }
//! let profile = profiler.finish()?;
//! println!("{}", profile.table(None));
//! assert_eq!(profile.tapes()[0].kernels.len(), 2);
//! # let directory = std::env::temp_dir().join("shadegrad-profile-example.json");
//! profile.write_trace(&directory)?;
//! # std::fs::remove_file(directory).unwrap();
//! # Ok(())
//! # }
//! ```
//!
//! Timing dispatches one by one costs something, so runs of a tape take turns: one is timed as a whole, on a device that
//! has finished everything before; the next dispatch by dispatch. Times of kernels are medians over the latter, all
//! others over the former. A profile should hold ten runs or more, after one that has compiled the kernels.

mod ceiling;
mod profiler;
mod table;
mod trace;

pub use ceiling::Ceiling;
pub use profiler::{HostTime, Profile, Profiler, TapeProfile, TimedBy};
pub use table::Table;
