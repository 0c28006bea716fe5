//! Waiting for the device. What waits is written once, as an `async fn`, and its blocking twin runs that under `block_on`,
//! where a future that has to wait does so in place, in a call of wgpu's. Elsewhere it is woken: in a browser by the browser,
//! and else by a thread that waits in its stead. There is no blocking in browsers.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
#[cfg(not(target_family = "wasm"))]
use std::thread::JoinHandle;

use super::device::Device;
use crate::error::Result;

/// What becomes of something that the device has been asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Flight {
    /// Not asked for.
    #[default]
    Grounded,
    /// Asked for, on its way.
    Flying,
    /// It is there.
    Landed,
    /// It will never be.
    Failed,
}

/// A flight that wgpu ends, and those who wait for its end.
#[derive(Default)]
pub(crate) struct Signal {
    state: Mutex<(Flight, Vec<Waker>)>,
}

impl Signal {
    pub fn flight(&self) -> Flight {
        self.state().0
    }

    fn state(&self) -> MutexGuard<'_, (Flight, Vec<Waker>)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes it, and wakes whoever waits for that.
    pub fn set(&self, flight: Flight) {
        self.state().0 = flight;
        if flight != Flight::Flying {
            self.wake();
        }
    }

    fn wake(&self) {
        let wakers = std::mem::take(&mut self.state().1);
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// The end of a flight, which a submission brings about.
pub(crate) struct Arrival {
    device: Device,
    signal: Arc<Signal>,
    /// The last one made, if it is none.
    submission: Option<wgpu::SubmissionIndex>,
    /// Waits for it.
    #[cfg(not(target_family = "wasm"))]
    thread: Option<JoinHandle<()>>,
}

impl Arrival {
    pub fn new(
        device: &Device,
        signal: &Arc<Signal>,
        submission: Option<wgpu::SubmissionIndex>,
    ) -> Arrival {
        Arrival {
            device: device.clone(),
            signal: signal.clone(),
            submission,
            #[cfg(not(target_family = "wasm"))]
            thread: None,
        }
    }

    /// Whether it has come, after letting wgpu make progress without blocking.
    pub fn has_come(&self) -> Result<bool> {
        self.device.poll(wgpu::PollType::Poll)?;
        Ok(self.signal.flight() != Flight::Flying)
    }
}

impl Future for Arrival {
    type Output = Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let arrival = self.get_mut();
        if arrival.has_come()? {
            return Poll::Ready(Ok(()));
        }
        #[cfg(not(target_family = "wasm"))]
        if super::blocking::IS_ALLOWED.get() {
            return Poll::Ready(arrival.wait());
        }
        arrival.signal.state().1.push(cx.waker().clone());
        #[cfg(not(target_family = "wasm"))]
        arrival.wait_elsewhere();
        // It may have come before anybody was to be woken.
        match arrival.signal.flight() {
            Flight::Flying => Poll::Pending,
            _ => Poll::Ready(Ok(())),
        }
    }
}

#[cfg(not(target_family = "wasm"))]
impl Arrival {
    fn poll_type(&self) -> wgpu::PollType {
        wgpu::PollType::Wait {
            submission_index: self.submission.clone(),
            timeout: None,
        }
    }

    /// Waits in place.
    fn wait(&self) -> Result<()> {
        self.device.shared.counters.count(|stats| stats.waits += 1);
        while self.signal.flight() == Flight::Flying {
            self.device.poll(self.poll_type())?;
        }
        Ok(())
    }

    /// Begins to wait on a thread, unless one is at it.
    fn wait_elsewhere(&mut self) {
        if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
            let (device, signal) = (self.device.clone(), self.signal.clone());
            let wait = self.poll_type();
            self.thread = Some(std::thread::spawn(move || {
                // An error is kept for whoever asks the device next.
                let _ = device.shared.wgpu.poll(wait);
                signal.wake();
            }));
        }
    }
}

impl Device {
    /// Waits until everything submitted so far has finished.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceLost`](crate::Error::DeviceLost), or any error that wgpu reported since the last call.
    pub async fn wait_async(&self) -> Result<()> {
        let signal = Arc::new(Signal::default());
        signal.set(Flight::Flying);
        let done = signal.clone();
        let queue = &self.shared.queue;
        queue.on_submitted_work_done(move || done.set(Flight::Landed));
        Arrival::new(self, &signal, None).await
    }
}
