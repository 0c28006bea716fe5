//! The tape: a list of recorded operations, differentiated by walking it backwards, planned once and replayed.
//!
//! Reading order: `record` (the tape, its values, what an operation is), `backward` (reverse mode), `checkpoint` (what
//! reverse mode computes again), then `plan` (how a list becomes dispatches).

mod assign;
mod backward;
mod checkpoint;
mod fusion;
mod graph;
mod leaves;
mod mixed;
mod names;
mod plan;
mod precision;
mod record;
mod role;
mod run;
mod signature;
mod trace;
mod views;

pub use backward::Gradients;
pub use fusion::Fusion;
pub(crate) use plan::Epilogue;
#[cfg(not(target_family = "wasm"))]
pub use plan::KernelTime;
pub use plan::{Cost, Dispatch, Lowering, MemoryUse, Operand};
#[cfg(not(target_family = "wasm"))]
pub(crate) use plan::{Intervals, Phase, Plan, Recorder, Run, Span, kernel_times, length};
pub use precision::{Precision, Takes};
pub use record::{Backward, Identity, Operation, Tape, Var};
pub use role::{PointwiseFunction, Role, TensorType};
pub use signature::Signature;
pub use trace::Trace;
