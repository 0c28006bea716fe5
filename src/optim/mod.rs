//! Optimizers, clipping and learning-rate schedules.
//!
//! One training step is recorded on one tape: the model, its loss, and [`Optimizer::step`], which differentiates the
//! loss, clips the gradient by its global norm and updates the parameters in place. Running the tape does all of it in
//! one submission. Parameters that are to be treated differently, or frozen, belong to [groups](ParameterGroups) of the
//! optimizer. With dropout, each tape drops other values; [`Tape::set_seed`](crate::Tape::set_seed) says which, for runs that are to repeat or
//! resume to the same bits.
//!
//! ```
//! # fn main() -> shadegrad::Result<()> {
//! use shadegrad::nn::{Init, ParameterBuilder};
//! use shadegrad::optim::{AdamW, AdamWConfig, Optimizer};
//! use shadegrad::{Device, Tape};
//!
//! let device = Device::new()?;
//! let mut builder = ParameterBuilder::new(1);
//! let x = builder.parameter("x", [2], Init::Ones);
//! let parameters = builder.build(&device)?;
//! let config = AdamWConfig { weight_decay: 0.0, clip_norm: Some(1.0), ..AdamWConfig::default() };
//! let mut optimizer = AdamW::new(&parameters, config)?;
//!
//! let mut losses = Vec::new();
//! for _ in 0..50 {
//!     let tape = Tape::training(&device);
//!     let loss = x.on(&tape).powi(2.0).sum_all();
//!     let report = optimizer.step(&tape, loss, 0.1).fetch();
//!     tape.run()?;
//!     losses.push(report.get()?.loss); // An error if the loss is not finite.
//! }
//! assert!(losses[0] == 2.0 && losses[49] < 0.1);
//! # Ok(())
//! # }
//! ```

mod adamw;
mod clip;
mod gradients;
mod groups;
mod loss_scale;
mod optimizer;
mod reports;
mod schedule;
mod sgd;

pub use adamw::{AdamW, AdamWConfig};
pub use groups::{Factors, ParameterGroups, default_decay};
pub use loss_scale::LossScale;
pub(crate) use loss_scale::is_scale;
pub use optimizer::{Metrics, Optimizer, Report, Update};
pub use reports::Reports;
pub use schedule::Schedule;
pub use sgd::{Sgd, SgdConfig};
