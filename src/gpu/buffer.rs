//! Device buffers with an identity.

use std::sync::{Arc, Weak};

use super::stats::{Counters, count};

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
    pub fn downgrade(&self) -> WeakBuffer {
        WeakBuffer {
            inner: Arc::downgrade(&self.inner),
        }
    }

    /// How many handles to this buffer there are.
    pub fn holders(&self) -> usize {
        Arc::strong_count(&self.inner)
    }
}

/// See [`Buffer::downgrade`].
#[derive(Debug)]
pub(crate) struct WeakBuffer {
    inner: Weak<Owned>,
}

impl WeakBuffer {
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
