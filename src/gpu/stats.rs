//! Counters that tests and programs read to see what a step costs the host, and when it waited.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

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

/// What [`Stats`] are taken from.
#[derive(Debug, Default)]
pub(crate) struct Counters(Mutex<Stats>);

impl Counters {
    pub fn snapshot(&self) -> Stats {
        *self.0.lock().unwrap()
    }

    pub fn count(&self, change: impl FnOnce(&mut Stats)) {
        change(&mut self.0.lock().unwrap());
    }
}

/// When the host waited for the device, noted while somebody profiles. Otherwise a step pays for a look at a flag.
#[derive(Default)]
pub(crate) struct WaitTimes {
    open: AtomicBool,
    spans: Mutex<Vec<[Instant; 2]>>,
}

impl WaitTimes {
    /// Begins to note; whether nobody else was at it.
    pub fn begin(&self) -> bool {
        !self.open.swap(true, Relaxed)
    }

    /// Start and end of every wait since it began.
    pub fn end(&self) -> Vec<[Instant; 2]> {
        self.open.store(false, Relaxed);
        std::mem::take(&mut self.spans.lock().unwrap())
    }

    /// The time, if it is of interest to anybody.
    pub fn now(&self) -> Option<Instant> {
        self.open.load(Relaxed).then(Instant::now)
    }

    /// Notes that the host has been waiting since `start`.
    pub fn waited(&self, start: Option<Instant>) {
        if let Some(start) = start
            && self.open.load(Relaxed)
        {
            self.spans.lock().unwrap().push([start, Instant::now()]);
        }
    }
}
