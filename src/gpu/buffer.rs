//! Device buffers with an identity.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use super::stats::Counters;

/// A reference-counted device buffer with an identity, so that plans can tell whether they still refer to the same one.
#[derive(Clone, Debug)]
pub(crate) struct Buffer {
    inner: Arc<Owned>,
}

#[derive(Debug)]
pub(crate) struct Owned {
    /// None of a meta device's.
    raw: Option<wgpu::Buffer>,
    bytes: u64,
    id: u64,
    counters: Arc<Counters>,
    copy: HalfCopy,
}

/// A second buffer that has a buffer of floats in halves. Whatever overwrites the first says so afterwards, unless it
/// overwrites both alike; so the copy is good while it was made of what the latest write has left.
#[derive(Debug, Default)]
struct HalfCopy {
    is_wanted: AtomicBool,
    buffer: OnceLock<Buffer>,
    /// Writes to the first that the copy has not followed, in all.
    writes: AtomicU64,
    /// As many there were when the copy was made, plus one.
    made: AtomicU64,
}

impl Buffer {
    pub fn new(raw: Option<wgpu::Buffer>, bytes: u64, id: u64, counters: Arc<Counters>) -> Buffer {
        if raw.is_some() {
            counters.count(|stats| {
                stats.buffers += 1;
                stats.buffer_bytes += bytes;
            });
        }
        Buffer {
            inner: Arc::new(Owned {
                raw,
                bytes,
                id,
                counters,
                copy: HalfCopy::default(),
            }),
        }
    }

    pub fn raw(&self) -> &wgpu::Buffer {
        let raw = self.inner.raw.as_ref();
        raw.expect("a meta device's tensors have no values")
    }

    pub fn id(&self) -> u64 {
        self.inner.id
    }

    pub fn bytes(&self) -> u64 {
        self.inner.bytes
    }

    /// Something that tells whether the buffer is still there, without keeping it.
    pub fn downgrade(&self) -> Weak<Owned> {
        Arc::downgrade(&self.inner)
    }

    /// Lets mixed precision keep a copy in halves.
    pub fn want_halves(&self) {
        self.inner.copy.is_wanted.store(true, Ordering::Relaxed);
    }

    pub fn wants_halves(&self) -> bool {
        self.inner.copy.is_wanted.load(Ordering::Relaxed)
    }

    /// Where its copy in halves is, if there is one.
    pub fn halves(&self) -> Option<&Buffer> {
        self.inner.copy.buffer.get()
    }

    /// Takes a buffer for the copy, which nothing has been copied to yet. The first stays.
    pub fn keep_halves(&self, buffer: Buffer) -> &Buffer {
        self.inner.copy.buffer.get_or_init(|| buffer)
    }

    /// Says that it has been overwritten, by what did not overwrite the copy alike.
    pub fn has_been_written(&self) {
        self.inner.copy.writes.fetch_add(1, Ordering::SeqCst);
    }

    /// If the copy is not that of the elements as they are: what to tell [`Buffer::has_been_copied`] when it is.
    pub fn outdated(&self) -> Option<u64> {
        let HalfCopy { writes, made, .. } = &self.inner.copy;
        let writes = writes.load(Ordering::SeqCst) + 1;
        (made.load(Ordering::SeqCst) != writes).then_some(writes)
    }

    pub fn has_been_copied(&self, writes: u64) {
        self.inner.copy.made.store(writes, Ordering::SeqCst);
    }

    /// How many handles to this buffer there are.
    pub fn holders(&self) -> usize {
        Arc::strong_count(&self.inner)
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Some(_raw) = &self.raw {
            self.counters
                .count(|stats| stats.buffer_bytes -= self.bytes);
            // Else its memory would wait for the browser's garbage collector, which knows nothing of how much it is.
            #[cfg(target_family = "wasm")]
            _raw.destroy();
        }
    }
}
