//! Reverse-mode tape autograd whose every operation runs as a WGSL compute shader through wgpu.

pub mod check;
pub mod checkpoint;
pub mod data;
mod error;
pub mod gpu;
pub mod nn;
pub mod ops;
pub mod optim;
mod rng;
pub mod sampling;
mod shape;
pub mod tape;

pub use error::{Error, Result};
pub use gpu::{AdapterClass, DType, Device, DeviceOptions, Kernel, Tensor};
pub use shape::{Layout, MAX_RANK, Shape};
pub use tape::{Tape, Var};
