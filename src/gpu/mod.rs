//! Everything that touches wgpu: the device and what it can do at most, tensors on it, kernels, buffers, readback and
//! statistics.

mod adapter;
pub(crate) mod ahead;
pub(crate) mod arena;
mod ceiling;
mod device;
pub(crate) mod kernel;
mod opaque;
pub(crate) mod readback;
pub(crate) mod stats;
mod tensor;

pub use adapter::{AdapterClass, AdapterDescription};
pub use ceiling::Ceiling;
pub(crate) use device::MOST_ITERATIONS;
pub use device::{Device, DeviceOptions};
pub use kernel::Kernel;
pub use readback::Fetch;
pub use stats::Stats;
pub use tensor::{DType, Element, Tensor};
