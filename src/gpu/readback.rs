//! Results on their way back to the host: a ring of mapped buffers per plan, so that asking never stalls the device.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

#[cfg(not(target_family = "wasm"))]
use super::blocking::block_on;
use super::buffer::Buffer;
use super::device::{Device, MOST_IN_FLIGHT};
use super::dtype::Element;
use super::waiting::{Arrival, Flight, Signal};
use crate::error::{Error, Result};
use crate::shape::Shape;

/// One buffer that results land in.
struct Staging {
    buffer: Buffer,
    /// Of its mapping.
    signal: Arc<Signal>,
}

impl Staging {
    fn new(device: &Device, bytes: u64) -> Result<Staging> {
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        Ok(Staging {
            buffer: device.create_buffer("readback", bytes, usage)?,
            signal: Arc::default(),
        })
    }
}

/// A staging buffer being filled by the device.
pub(crate) struct Readback {
    device: Device,
    staging: Staging,
    /// What fills it.
    submission: Option<wgpu::SubmissionIndex>,
}

impl Readback {
    pub(crate) fn new(device: &Device, bytes: u64) -> Result<Readback> {
        Ok(Readback {
            device: device.clone(),
            staging: Staging::new(device, bytes)?,
            submission: None,
        })
    }

    /// Looks at the bytes as soon as they have arrived.
    #[cfg(all(feature = "mpi", not(target_family = "wasm")))]
    pub(crate) fn wait_for<T>(&self, look: impl FnOnce(&[u8]) -> T) -> Result<T> {
        block_on(self.arrival())?;
        self.view(look)
    }

    pub(crate) fn buffer(&self) -> &wgpu::Buffer {
        self.staging.buffer.raw()
    }

    /// Asks for the contents as of a submission, which must be the last one made.
    pub(crate) fn map(&mut self, submission: wgpu::SubmissionIndex) {
        self.submission = Some(submission);
        self.staging.signal.set(Flight::Flying);
        let signal = self.staging.signal.clone();
        self.buffer()
            .slice(..)
            .map_async(wgpu::MapMode::Read, move |mapped| {
                signal.set(match mapped {
                    Ok(()) => Flight::Landed,
                    Err(_) => Flight::Failed,
                });
            });
    }

    /// The contents' arrival. Nothing submitted after them is waited for: the device goes on with that meanwhile.
    pub(crate) fn arrival(&self) -> Arrival {
        Arrival::new(&self.device, &self.staging.signal, self.submission.clone())
    }

    /// Copies the bytes out as soon as they have arrived.
    #[cfg(not(target_family = "wasm"))]
    pub(crate) fn wait(&self) -> Result<Vec<u8>> {
        block_on(self.arrival())?;
        self.bytes()
    }

    /// Copies the bytes out, which have arrived. The buffer stays mapped.
    pub(crate) fn bytes(&self) -> Result<Vec<u8>> {
        self.view(<[u8]>::to_vec)
    }

    fn view<T>(&self, look: impl FnOnce(&[u8]) -> T) -> Result<T> {
        let fail = |reason: String| Error::Readback {
            what: "results".to_owned(),
            reason,
        };
        if self.staging.signal.flight() == Flight::Failed {
            self.device.check()?;
            return Err(fail("the buffer could not be mapped".to_owned()));
        }
        let view = self
            .buffer()
            .slice(..)
            .get_mapped_range()
            .map_err(|error| fail(error.to_string()))?;
        Ok(look(&view))
    }
}

/// Indices out of range that a kernel counts, in two words behind the results: how many, and the largest.
pub(crate) struct Fault {
    pub operation: &'static str,
    /// What all indices are to be below.
    pub extent: usize,
}

impl Fault {
    pub const WORDS: usize = 2;

    /// The size of the counters of so many faults.
    pub fn bytes(faults: &[Fault]) -> usize {
        4 * Fault::WORDS * faults.len()
    }

    /// The first fault that has been counted, if there is one.
    fn check(faults: &[Fault], results: &[u8]) -> Result<()> {
        let counters = &results[results.len() - Fault::bytes(faults)..];
        for (fault, counter) in faults.iter().zip(counters.chunks_exact(4 * Fault::WORDS)) {
            let [count, largest] = bytemuck::pod_read_unaligned(counter);
            if count > 0 {
                return Err(Error::IndexOutOfRange {
                    operation: fault.operation.to_owned(),
                    count,
                    largest,
                    extent: fault.extent,
                });
            }
        }
        Ok(())
    }
}

/// Staging buffers of one plan that nobody is waiting for. They come back when the results have been taken or dropped.
#[derive(Clone)]
pub(crate) struct Ring {
    bytes: u64,
    /// Without the device, which holds the plans that hold these.
    resting: Arc<Mutex<Vec<Staging>>>,
}

/// So many results may be under way before a plan makes another staging buffer: those of all steps that the device lets be
/// under way, and of the one that is being encoded.
const MADE_AT_ONCE: u64 = MOST_IN_FLIGHT as u64 + 1;

/// Larger results get their staging buffers one by one.
const MOST_BYTES_AT_ONCE: u64 = 64 << 10;

/// How many buffers a ring for results of this size begins with.
fn count_at_first(bytes: u64) -> u64 {
    match bytes {
        0 => 0,
        1..=MOST_BYTES_AT_ONCE => MADE_AT_ONCE,
        _ => 1,
    }
}

impl Ring {
    /// A ring for results of this size, none if it is zero.
    pub fn new(device: &Device, bytes: u64) -> Result<Ring> {
        let resting: Result<Vec<Staging>> = (0..count_at_first(bytes))
            .map(|_| Staging::new(device, bytes))
            .collect();
        Ok(Ring {
            bytes,
            resting: Arc::new(Mutex::new(resting?)),
        })
    }

    /// Bytes of the buffers that a ring for results of this size begins with.
    pub fn bytes_at_first(bytes: u64) -> u64 {
        bytes * count_at_first(bytes)
    }

    /// A buffer that is not being filled, made only if there is none; `None` if there are no results.
    pub fn take(&self, device: &Device) -> Result<Option<Readback>> {
        if self.bytes == 0 {
            return Ok(None);
        }
        let mut resting = self.resting.lock().unwrap();
        let idle = resting
            .iter()
            .position(|staging| staging.signal.flight() != Flight::Flying);
        let staging = match idle {
            Some(position) => resting.swap_remove(position),
            None => Staging::new(device, self.bytes)?,
        };
        if staging.signal.flight() != Flight::Grounded {
            staging.buffer.raw().unmap();
        }
        Ok(Some(Readback {
            device: device.clone(),
            staging,
            submission: None,
        }))
    }

    pub(crate) fn give_back(&self, readback: Readback) {
        self.resting.lock().unwrap().push(readback.staging);
    }
}

/// All results of one run of a tape, as bytes once they have arrived.
#[derive(Default)]
pub(crate) struct Landing {
    state: RefCell<LandingState>,
}

#[derive(Default)]
enum LandingState {
    /// The tape has not run yet.
    #[default]
    Recorded,
    Flying(Readback, Ring, Arc<[Fault]>),
    Landed(Vec<u8>, Arc<[Fault]>),
    Failed,
}

impl Landing {
    pub fn launch(&self, readback: Readback, ring: Ring, faults: Arc<[Fault]>) {
        *self.state.borrow_mut() = LandingState::Flying(readback, ring, faults);
    }

    fn ready(&self) -> Result<bool> {
        match &*self.state.borrow() {
            LandingState::Flying(readback, ..) => readback.arrival().has_come(),
            LandingState::Landed(..) => Ok(true),
            _ => Ok(false),
        }
    }

    /// What is still on its way, if anything is.
    fn arrival(&self) -> Option<Arrival> {
        match &*self.state.borrow() {
            LandingState::Flying(readback, ..) => Some(readback.arrival()),
            _ => None,
        }
    }

    /// Some of the bytes, which are on their way no more.
    fn bytes(&self, shape: Shape, range: std::ops::Range<usize>) -> Result<Vec<u8>> {
        let mut state = self.state.borrow_mut();
        if let LandingState::Flying(readback, ..) = &*state {
            let bytes = readback.bytes();
            let flown = std::mem::replace(&mut *state, LandingState::Failed);
            let LandingState::Flying(readback, ring, faults) = flown else {
                unreachable!("matched above");
            };
            let bytes = bytes?;
            ring.give_back(readback);
            *state = LandingState::Landed(bytes, faults);
        }
        let reason = match &*state {
            LandingState::Landed(bytes, faults) => {
                Fault::check(faults, bytes)?;
                return Ok(bytes[range].to_vec());
            }
            LandingState::Recorded => "the tape has not run yet: call Tape::run first",
            _ => "reading failed before",
        };
        Err(Error::Readback {
            what: format!("value of shape {shape}"),
            reason: reason.to_owned(),
        })
    }
}

impl Drop for Landing {
    /// A result that nobody looked at gives its staging buffer back too.
    fn drop(&mut self) {
        let state = std::mem::replace(self.state.get_mut(), LandingState::Failed);
        if let LandingState::Flying(readback, ring, _) = state {
            ring.give_back(readback);
        }
    }
}

/// A value asked for with [`Tape::fetch`](crate::Tape::fetch), to be taken after [`Tape::run`](crate::Tape::run). It
/// may be taken any number of steps later; the device is not stalled meanwhile.
pub struct Fetch<E: Element> {
    pub(crate) landing: Rc<Landing>,
    pub(crate) range: std::ops::Range<usize>,
    pub(crate) shape: Shape,
    pub(crate) element: PhantomData<E>,
}

impl<E: Element> Fetch<E> {
    /// Whether the values have arrived. Never blocks.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceLost`], or any error that wgpu reported meanwhile.
    pub fn is_ready(&self) -> Result<bool> {
        self.landing.ready()
    }

    /// The values in row-major order, once they have arrived.
    ///
    /// # Errors
    ///
    /// [`Error::Readback`] if the tape has not run, [`Error::IndexOutOfRange`] if an operation on the tape was given such
    /// indices, [`Error::DeviceLost`].
    pub async fn ready(&self) -> Result<Vec<E>> {
        if let Some(arrival) = self.landing.arrival() {
            arrival.await?;
        }
        let bytes = self.landing.bytes(self.shape, self.range.clone())?;
        Ok(bytemuck::pod_collect_to_vec(&bytes))
    }

    /// The values in row-major order, waiting for them if need be.
    ///
    /// # Errors
    ///
    /// As [`Fetch::ready`].
    #[cfg(not(target_family = "wasm"))]
    pub fn get(&self) -> Result<Vec<E>> {
        block_on(self.ready())
    }

    /// The first value: for scalars.
    ///
    /// # Errors
    ///
    /// As [`Fetch::ready`].
    #[cfg(not(target_family = "wasm"))]
    pub fn item(&self) -> Result<E> {
        Ok(self.get()?[0])
    }
}
