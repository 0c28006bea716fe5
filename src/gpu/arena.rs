//! Device buffers and the pool from which plans take the buffers of their intermediate values.

use std::sync::{Arc, Weak};

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

    /// Something that tells whether the buffer is still there, without keeping it.
    pub fn watch(&self) -> Watch {
        Watch {
            inner: Arc::downgrade(&self.inner),
        }
    }

    /// How many handles to this buffer there are.
    pub fn holders(&self) -> usize {
        Arc::strong_count(&self.inner)
    }
}

/// See [`Buffer::watch`].
#[derive(Debug)]
pub(crate) struct Watch {
    inner: Weak<Owned>,
}

impl Watch {
    pub fn is_gone(&self) -> bool {
        self.inner.strong_count() == 0
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::{DType, Device, Tape, Tensor};

    fn sum(device: &Device, elements: usize) -> f32 {
        let tensor = Tensor::zeros(device, [elements], DType::F32).unwrap();
        let tape = Tape::inference(device);
        let sum = tape.fetch::<f32>(tape.tensor(&tensor).sum_all());
        tape.run().unwrap();
        sum.item().unwrap()
    }

    #[test]
    fn what_is_dropped_is_freed() {
        let device = Device::new().unwrap_or_else(|error| panic!("{error}"));
        let allocated = || {
            device.wait().unwrap();
            let report = device.shared.wgpu.generate_allocator_report();
            report.map_or(0, |report| {
                report
                    .allocations
                    .iter()
                    .map(|allocation| allocation.size)
                    .sum()
            })
        };
        // A plan does not keep a dropped tensor's memory for longer than until the next plan.
        sum(&device, 10);
        let before: u64 = allocated();
        sum(&device, 1 << 22);
        sum(&device, 20);
        assert!(
            allocated() < before + (1 << 20),
            "{before}, {}",
            allocated()
        );
        // Nothing that a device holds holds the device.
        let shared = Arc::downgrade(&device.shared);
        drop(device);
        assert!(shared.upgrade().is_none());
    }
}
