//! The planner: from a list of nodes to one command submission, planned once per structure and replayed.
//!
//! In goes the list of a tape; out comes a [`Plan`], which holds pipelines, bind groups and buffers, and which every tape of
//! the same structure is replayed with. Each pass reads what the passes before have made, and may change only what the
//! table says. `SHADEGRAD_PLAN=print` prints the result of each for every new plan; [`Tape::explain`](crate::Tape::explain)
//! gives the same as text.
//!
//! | pass | takes | makes | may change |
//! | --- | --- | --- | --- |
//! | [`analysis`] | the list | live nodes, readers, views as strides, scheduling regions | nothing |
//! | [`groups`] | both | fusion groups in the order in which they run | which nodes share a kernel, and the order of kernels within a region |
//! | [`copy_elision`] | groups | values that are computed where they are assigned to | where a value lies |
//! | [`lowering`] | groups | dispatches over virtual slots, through the generators [`pointwise`] and [`stores`], or through [`Operation::lower`](super::Operation::lower) | nothing |
//! | [`horizontal`] | dispatches | fewer, by horizontal fusion | which dispatches are one, and their order as far as their slots allow |
//! | [`memory`] | slots | a pooled buffer for each, by live ranges | nothing |
//! | [`uniform`] | dispatches | operands that are bound as uniform buffers | how kernels read operands |
//! | [`replay`] | dispatches, buffers | pipelines, bind groups, the plan | nothing |
//!
//! No pass changes a bit of a result but [`groups`] and [`horizontal`], where a fused kernel rounds otherwise.

mod analysis;
mod cache;
mod copy_elision;
mod dispatch;
mod emit;
mod ends;
mod epilogue;
mod groups;
mod halves;
mod horizontal;
mod joins;
mod lowerer;
mod lowering;
mod memory;
#[cfg(all(any(feature = "mpi", test), not(target_family = "wasm")))]
mod parts;
mod passes;
mod pointwise;
mod print;
#[cfg(not(target_family = "wasm"))]
mod profile;
mod recorder;
mod replay;
mod step;
mod stores;
mod timing;
mod uniform;
mod window;
#[cfg(all(any(feature = "mpi", test), not(target_family = "wasm")))]
mod writes;

#[cfg(not(target_family = "wasm"))]
pub(super) use cache::profile;
#[cfg(all(any(feature = "mpi", test), not(target_family = "wasm")))]
pub(super) use cache::run_in_parts;
pub(super) use cache::{explain, memory, run};
pub use dispatch::{Cost, Dispatch, Operand};
pub use emit::Lowering;
pub(crate) use epilogue::Epilogue;
pub use memory::MemoryUse;
#[cfg(not(target_family = "wasm"))]
pub use profile::KernelTime;
#[cfg(not(target_family = "wasm"))]
pub(crate) use profile::kernel_times;
#[cfg(not(target_family = "wasm"))]
pub(crate) use recorder::{Phase, Recorder, Run, Span};
#[cfg(not(target_family = "wasm"))]
pub(crate) use replay::Plan;
#[cfg(not(target_family = "wasm"))]
pub(crate) use timing::{Intervals, length};
