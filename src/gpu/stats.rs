//! Counters that tests and programs read to see what a step costs the host.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A snapshot of a device's counters, all counted since the device was made. See
/// [`Device::stats`](crate::Device::stats).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Compute pipelines built.
    pub pipelines: u64,
    /// Bind groups made.
    pub bind_groups: u64,
    /// Buffers made, of every kind.
    pub buffers: u64,
    /// Bytes of all device buffers alive now.
    pub buffer_bytes: u64,
    /// Command submissions.
    pub submits: u64,
    /// Dispatches in those submissions.
    pub dispatches: u64,
    /// Times the host blocked for a result or in [`Device::wait`](crate::Device::wait). Being held back because many steps
    /// are under way does not count.
    pub waits: u64,
    /// Tapes that were planned because no plan of their structure was cached.
    pub plans: u64,
    /// Tapes that ran from a cached plan.
    pub replays: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub pipelines: AtomicU64,
    pub bind_groups: AtomicU64,
    pub buffers: AtomicU64,
    pub buffer_bytes: AtomicU64,
    pub submits: AtomicU64,
    pub dispatches: AtomicU64,
    pub waits: AtomicU64,
    pub plans: AtomicU64,
    pub replays: AtomicU64,
}

impl Counters {
    pub fn snapshot(&self) -> Stats {
        Stats {
            pipelines: self.pipelines.load(Relaxed),
            bind_groups: self.bind_groups.load(Relaxed),
            buffers: self.buffers.load(Relaxed),
            buffer_bytes: self.buffer_bytes.load(Relaxed),
            submits: self.submits.load(Relaxed),
            dispatches: self.dispatches.load(Relaxed),
            waits: self.waits.load(Relaxed),
            plans: self.plans.load(Relaxed),
            replays: self.replays.load(Relaxed),
        }
    }
}

pub(crate) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Relaxed);
}
