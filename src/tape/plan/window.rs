//! Through which bindings of uniform buffers operands can be read.

use crate::gpu::{AdapterClass, Device};

/// Sizes that bindings are rounded up to, in bytes: a text declares how large its array is, and every further size is one
/// more text to compile.
pub(super) const SIZES: [u64; 3] = [4 << 10, 16 << 10, WINDOW];

/// The most bytes that a uniform binding may have, on llvmpipe as by WebGPU's own limits.
pub(super) const WINDOW: u64 = 64 << 10;

/// What an operand of so many bytes is rounded up to, if one uniform binding of the device can hold it.
pub(super) fn uniform_window(device: &Device, bytes: u64) -> Option<u64> {
    let size = SIZES.into_iter().find(|&size| bytes <= size)?;
    is_possible(device).then_some(size)
}

pub(super) fn is_possible(device: &Device) -> bool {
    let limit = device.limits().max_uniform_buffer_binding_size;
    device.class() == AdapterClass::Software && limit >= WINDOW
}
