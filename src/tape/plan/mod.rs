//! From a list of nodes to one command submission, planned once per structure and replayed.
//!
//! The passes, in order: [`live`](analysis) (what is needed), [`units`](units) (which nodes share a kernel, in which
//! order), [`lowering`](lowering) (dispatches over virtual slots), [`side_by_side`](side_by_side) (several of them as one),
//! [`memory`](memory) (slots to buffers), [`uniform`](uniform) (what is read from uniform buffers), and
//! [`replay`](replay) (pipelines, bind groups, submission).

mod analysis;
mod cache;
mod dispatch;
mod emit;
mod endings;
mod ends;
mod epilogue;
mod forward_assign;
mod lowerer;
mod lowering;
mod memory;
mod passes;
mod pointwise;
mod profile;
mod recorder;
mod replay;
mod side_by_side;
mod step;
mod stores;
mod timing;
mod uniform;
mod units;
mod window;

pub(super) use cache::{memory, profile, run};
pub use dispatch::{Cost, Dispatch, Operand};
pub use emit::Lowering;
pub(crate) use epilogue::Epilogue;
pub use memory::MemoryUse;
pub use profile::KernelTime;
pub(crate) use profile::kernel_times;
pub(crate) use recorder::{Phase, Recorder, Run, Span};
pub(crate) use replay::Plan;
pub(crate) use timing::{Stretches, length};
