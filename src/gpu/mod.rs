//! Everything that touches wgpu: the device, tensors on it, kernels, buffers, readback and statistics. It knows nothing
//! of what is above it.

mod adapter;
mod attached;
#[cfg(not(target_family = "wasm"))]
pub(crate) mod blocking;
pub(crate) mod buffer;
mod device;
mod dtype;
pub(crate) mod kernel;
pub(crate) mod matrix_units;
mod opaque;
mod open;
mod options;
pub(crate) mod pipeline;
pub(crate) mod pool;
pub(crate) mod readback;
pub(crate) mod stats;
pub(crate) mod syntax;
mod tensor;
pub(crate) mod waiting;
#[cfg(not(target_family = "wasm"))]
pub(crate) mod warm_up;

pub(crate) use adapter::MatrixConfiguration;
pub use adapter::{AdapterClass, AdapterDescription, MatrixUnits};
#[cfg(not(target_family = "wasm"))]
pub use blocking::block_on;
pub use device::Device;
pub(crate) use device::MOST_ITERATIONS;
pub use dtype::{DType, Element};
pub use kernel::Kernel;
pub use options::{DeviceOptions, Feature};
pub use readback::Fetch;
pub use stats::Stats;
pub use tensor::Tensor;
