//! Data-parallel training over MPI: several processes, each with a device, train one model on their shares of each batch.
//!
//! Every rank (MPI's word for one of the processes) holds all parameters. A step records the gradient of the rank's share of
//! the batch by [`Optimizer::accumulate`](crate::optim::Optimizer::accumulate), runs that tape and sums
//! over the ranks by [`World::run_and_sum`], and updates by
//! [`Optimizer::step_accumulated`](crate::optim::Optimizer::step_accumulated): so clipping, the skipping of steps that are not
//! finite, and loss scaling see the gradient of the whole batch. Sums are made in the order of ranks, each element by one rank
//! that hands it to all: all ranks hold the same bits, and the same run gives the same bits again, whatever MPI is underneath.
//!
//! ```no_run
//! # fn main() -> shadegrad::Result<()> {
//! # use shadegrad::nn::{Init, ParameterBuilder};
//! use shadegrad::optim::{AdamW, AdamWConfig, Optimizer};
//! use shadegrad::parallel::World;
//! use shadegrad::{DType, Device, Tape, Tensor};
//!
//! let world = World::new();
//! let device = Device::new()?;
//! # let mut builder = ParameterBuilder::new(1);
//! # let x = builder.parameter("x", [2], Init::Ones);
//! # let parameters = builder.build(&device)?;
//! let mut optimizer = AdamW::new(&parameters, AdamWConfig::default())?;
//! let total = Tensor::zeros(&device, [1], DType::F32)?;
//! for step in 0..100 {
//!     let rows = world.share(32);
//!     let tape = Tape::training(&device);
//!     tape.set_rows(rows.start, rows.len()); // Dropout as one device would have it.
//!     tape.set_seed(1, step);
//!     let part = tape.scalar(rows.len() as f32 / 32.0);
//!     # let mean_loss = x.on(&tape).powi(2.0).sum_all();
//!     let loss = mean_loss * part; // Of the rank's rows.
//!     tape.assign(&total, loss.reshape([1]));
//!     optimizer.accumulate(&tape, loss)?;
//!     let gradient = optimizer.accumulated().expect("accumulated above").segments();
//!     world.run_and_sum(tape, gradient.iter().chain([&total]), DType::F32)?;
//!     let tape = Tape::training(&device);
//!     let report = optimizer.step_accumulated(&tape, tape.tensor(&total).sum_all(), 1e-3).fetch();
//!     tape.run()?;
//!     if world.is_first() {
//!         println!("{}", report.get()?.loss);
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Where the network is slow, ranks make steps of their own in between: [`DiLoCo`].
//!
//! The program is started by MPI's launcher, such as `mpirun -n 4`; `docs/parallel.md` says more. A rank that panics, that
//! MPI refuses something, or that others wait for in vain, ends all ranks with a line that names it.

mod agreement;
mod diloco;
mod faults;
mod sum;
mod times;
mod wait;
mod world;

pub use diloco::{DiLoCo, DiLoCoConfig};
pub use times::SumTimes;
pub use world::World;
