//! The pool from which plans take the buffers of their intermediate values.

use super::buffer::Buffer;
use super::device::Device;
use crate::error::Result;

/// Buffers for intermediate values. Plans run one after the other on one queue and leave nothing behind in these
/// buffers, so all plans of a device share them.
#[derive(Default)]
pub(crate) struct BufferPool {
    buffers: Vec<Buffer>,
}

impl BufferPool {
    /// Gives one buffer for each of `sizes` (in bytes), no two the same, making only those that are missing.
    pub fn take(&mut self, device: &Device, sizes: &[u64]) -> Result<Vec<Buffer>> {
        let mut free = self.buffers.clone();
        let mut order: Vec<usize> = (0..sizes.len()).collect();
        // Largest first, so that a small request does not occupy the only buffer that a large one fits.
        order.sort_by_key(|&index| std::cmp::Reverse(sizes[index]));
        let mut taken: Vec<Option<Buffer>> = vec![None; sizes.len()];
        for index in order {
            let best = free
                .iter()
                .enumerate()
                .filter(|(_, buffer)| buffer.bytes() >= sizes[index])
                .min_by_key(|(_, buffer)| buffer.bytes())
                .map(|(position, _)| position);
            let buffer = match best {
                Some(position) => free.swap_remove(position),
                None => {
                    let buffer = device.create_storage("intermediate", sizes[index])?;
                    self.buffers.push(buffer.clone());
                    buffer
                }
            };
            taken[index] = Some(buffer);
        }
        Ok(taken.into_iter().flatten().collect())
    }

    /// Forgets buffers that no plan holds any more.
    pub fn trim(&mut self) {
        self.buffers.retain(|buffer| buffer.holders() > 1);
    }
}
