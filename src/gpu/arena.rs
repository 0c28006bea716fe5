//! Device buffers and the pool from which plans take the buffers of their intermediate values.

use std::sync::Arc;

use super::Device;
use super::stats::{Counters, count};
use crate::error::Result;

/// A reference-counted device buffer with an identity, so that plans can tell whether they still refer to the same one.
#[derive(Clone, Debug)]
pub(crate) struct Buffer {
    inner: Arc<Owned>,
}

#[derive(Debug)]
struct Owned {
    raw: wgpu::Buffer,
    id: u64,
    counters: Arc<Counters>,
}

impl Buffer {
    pub fn new(raw: wgpu::Buffer, id: u64, counters: Arc<Counters>) -> Buffer {
        count(&counters.buffers, 1);
        count(&counters.buffer_bytes, raw.size());
        Buffer {
            inner: Arc::new(Owned { raw, id, counters }),
        }
    }

    pub fn raw(&self) -> &wgpu::Buffer {
        &self.inner.raw
    }

    pub fn id(&self) -> u64 {
        self.inner.id
    }

    pub fn bytes(&self) -> u64 {
        self.inner.raw.size()
    }

    /// How many handles to this buffer there are.
    pub fn holders(&self) -> usize {
        Arc::strong_count(&self.inner)
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.counters
            .buffer_bytes
            .fetch_sub(self.raw.size(), std::sync::atomic::Ordering::Relaxed);
    }
}

/// Buffers for intermediate values. Plans run one after the other on one queue and leave nothing behind in these
/// buffers, so all plans of a device share them.
#[derive(Default)]
pub(crate) struct Arena {
    buffers: Vec<Buffer>,
}

impl Arena {
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
                    let usage = wgpu::BufferUsages::STORAGE
                        | wgpu::BufferUsages::COPY_SRC
                        | wgpu::BufferUsages::COPY_DST;
                    let buffer = device.create_buffer("intermediate", sizes[index], usage)?;
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
