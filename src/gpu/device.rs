//! A device, what it makes and runs, and wgpu's asynchronous errors as `Result`s.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Poll, Waker};

use super::adapter::{
    AdapterClass, AdapterDescription, MatrixConfiguration, MatrixUnits, SOFTWARE, memory,
};
use super::attached::Attached;
#[cfg(not(target_family = "wasm"))]
use super::blocking::block_on;
use super::buffer::Buffer;
use super::stats::{Counters, Stats, WaitTimes};
use crate::error::{Error, Result, require, require_within};

/// A GPU (or software adapter) opened for computing: its queue, caches of compiled kernels and plans, its buffers and
/// statistics. Cheap to clone; all clones are the same device.
#[derive(Clone)]
pub struct Device {
    pub(crate) shared: Arc<Shared>,
    pub(crate) is_meta: bool,
}

pub(crate) struct Shared {
    /// For further devices on it.
    pub adapter: wgpu::Adapter,
    pub wgpu: wgpu::Device,
    pub queue: wgpu::Queue,
    pub description: AdapterDescription,
    pub limits: wgpu::Limits,
    pub counters: Arc<Counters>,
    pub wait_times: WaitTimes,
    pub(super) attached: Attached,
    pub checked_kernels: bool,
    pub poison: bool,
    /// The subgroup size, where the driver guarantees a single one.
    pub(super) subgroup_size: Option<u32>,
    pub(super) has_f16: bool,
    /// What the adapter lists, or why kernels don't use it; and what the test of it has shown.
    pub(super) listed_matrix_units: Result<MatrixConfiguration, MatrixUnits>,
    pub(super) matrix_units: OnceLock<MatrixUnits>,
    pub(super) described: OnceLock<AdapterDescription>,
    pub(super) next_buffer: AtomicU64,
    /// Tapes that have drawn random numbers without a key of their own.
    pub tapes_drawing: AtomicU64,
    /// The first timestamp that was read. What counts is the distance to it: drivers may count nanoseconds since the epoch,
    /// more than an `f64` tells apart.
    pub first_tick: OnceLock<u64>,
    /// Through how many windows kernels may read a large operand; software adapters measure it when they first need it.
    pub most_windows: OnceLock<u64>,
    /// See [`Device::overlaps`]; tests set it.
    pub overlaps: OnceLock<bool>,
    pub(super) in_flight: Mutex<VecDeque<wgpu::SubmissionIndex>>,
    pub(super) failure: Arc<Mutex<Failure>>,
}

/// How often an invocation may go round loops on software adapters: see [`Device::most_iterations`].
pub(crate) const MOST_ITERATIONS: usize = 65_535;

/// A host that records faster than the device computes is held back when this many submissions are under way: each
/// holds on to its uploads.
pub(crate) const MOST_IN_FLIGHT: usize = 8;

impl Drop for Shared {
    /// Software adapters compile and compute on threads of their own, which must not be cut off by the end of `main`.
    fn drop(&mut self) {
        let _ = self.wgpu.poll(wgpu::PollType::wait_indefinitely());
    }
}

/// The first asynchronous error, kept until the next call can return it.
#[derive(Default)]
pub(super) struct Failure {
    lost: Option<String>,
    pub error: Option<Error>,
    /// Of those who wait for the loss.
    wakers: Vec<Waker>,
}

impl Failure {
    pub fn lose(&mut self, reason: String) {
        self.lost.get_or_insert(reason);
        self.wakers.drain(..).for_each(Waker::wake);
    }
}

impl Device {
    /// A meta device, as PyTorch calls it: its tensors have shapes but no memory, and what is written to them is dropped. So
    /// whatever is made and recorded on it says what it would need on this device, and nothing is allocated, loaded or run.
    ///
    /// ```
    /// # fn main() -> shadegrad::Result<()> {
    /// use shadegrad::nn::{Gpt, GptConfig, ParameterBuilder};
    /// use shadegrad::ops::CrossEntropy;
    /// use shadegrad::optim::{AdamW, AdamWConfig, Optimizer};
    /// use shadegrad::{Device, Tape};
    ///
    /// let device = Device::new()?;
    /// let meta = device.meta();
    /// let mut builder = ParameterBuilder::new(0);
    /// let gpt = Gpt::new(&GptConfig { n_layers: 24, d_model: 512, ..GptConfig::new(1000) }, &mut builder)?;
    /// let mut optimizer = AdamW::new(&builder.build(&meta)?, AdamWConfig::default())?;
    /// let tape = Tape::training(&meta);
    /// let tokens = tape.input([32, 16], &[0u32; 512]);
    /// optimizer.step(&tape, gpt.loss(tokens, tokens, CrossEntropy::default()), 1e-3);
    /// assert!(tape.memory()?.persistent > 400_000_000);
    /// assert!(device.stats().buffer_bytes < 1_000);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Running a tape or reading a tensor is [`Error::InvalidArgument`].
    pub fn meta(&self) -> Device {
        Device {
            is_meta: true,
            ..self.clone()
        }
    }

    /// Whether it is a [meta device](Device::meta).
    pub fn is_meta(&self) -> bool {
        self.is_meta
    }

    /// Refuses what needs values on a meta device.
    pub(crate) fn require_values(&self) -> Result<()> {
        let expected = "a device that has memory, for running tapes and reading tensors";
        require(!self.is_meta, "device", "a meta device", expected)
    }

    /// Whether both are clones of one device.
    pub(crate) fn is(&self, other: &Device) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared) && self.is_meta == other.is_meta
    }

    /// Which kernel variants this device gets.
    pub fn class(&self) -> AdapterClass {
        self.shared.description.class
    }

    /// Whether this is a software adapter whose every subgroup has exactly `size` lanes: the register variants of
    /// kernels are written for those.
    pub(crate) fn has_subgroups_of(&self, size: u32) -> bool {
        self.class() == AdapterClass::Software && self.shared.subgroup_size == Some(size)
    }

    /// Whether the driver is Mesa's llvmpipe, whose habits some code has to know.
    pub(crate) fn is_llvmpipe(&self) -> bool {
        self.shared.description.driver.contains("llvmpipe")
    }

    /// Whether [`Tape::profile`](crate::Tape::profile) times kernels on the device itself, by timestamp queries.
    pub fn has_timestamps(&self) -> bool {
        let features = self.shared.wgpu.features();
        features.contains(wgpu::Features::TIMESTAMP_QUERY)
    }

    /// Whether kernels for GPUs fetch ahead and write steps out, so that a GPU's memory and arithmetic overlap. On software
    /// adapters they don't: that would only take two to three times as long to compile.
    pub(crate) fn overlaps(&self) -> bool {
        *self.shared.overlaps.get_or_init(|| !self.is_software())
    }

    /// Whether the adapter is a software one, whichever class the kernels are chosen for.
    pub(crate) fn is_software(&self) -> bool {
        self.shared.description.kind == SOFTWARE
    }

    /// How often an invocation may go round loops, all of them together. Mesa's llvmpipe, before version 26, ends them there
    /// without a word (`LP_MAX_TGSI_LOOP_ITERATIONS`); other drivers have no such limit.
    pub(crate) fn most_iterations(&self) -> usize {
        match self.is_software() {
            true => MOST_ITERATIONS,
            false => usize::MAX,
        }
    }

    /// Whether kernels may use subgroup operations, whatever the size of subgroups.
    pub(crate) fn has_subgroups(&self) -> bool {
        let features = self.shared.wgpu.features();
        features.contains(wgpu::Features::SUBGROUP)
    }

    /// The lanes of a subgroup, where kernels may use subgroup operations and all subgroups have as many.
    pub(crate) fn subgroup_size(&self) -> Option<usize> {
        self.shared.subgroup_size.map(|size| size as usize)
    }

    /// Whether kernels may name `f16`. Where not, halves are pairs in words.
    pub fn has_f16(&self) -> bool {
        self.shared.has_f16
    }

    /// The limits this device was opened with.
    pub fn limits(&self) -> &wgpu::Limits {
        &self.shared.limits
    }

    /// The memory that the adapter can give buffers, in bytes, where its driver says: those of GPUs do through Vulkan. Of a
    /// GPU with memory of its own it is that memory. Others use a part of it, too, so less may be free.
    pub fn memory(&self) -> Option<u64> {
        memory(&self.shared.adapter)
    }

    /// The counters as they stand now.
    pub fn stats(&self) -> Stats {
        self.shared.counters.snapshot()
    }

    /// What a layer above keeps with this device: the one value of its type, made when it is first asked for.
    pub(crate) fn attached<T: Default + Send + Sync + 'static>(&self) -> Arc<T> {
        self.shared.attached.get()
    }

    /// Blocks until everything submitted so far has finished.
    ///
    /// # Errors
    ///
    /// As [`Device::wait_async`].
    #[cfg(not(target_family = "wasm"))]
    pub fn wait(&self) -> Result<()> {
        self.shared.counters.count(|stats| stats.waits += 1);
        self.poll(wgpu::PollType::wait_indefinitely())
    }

    /// Sends written values on their way and waits until they have arrived, so that what wgpu keeps of them on the host
    /// can be reused. In a browser they are the browser's by then.
    pub(crate) fn flush(&self) -> Result<()> {
        self.shared.queue.submit([]);
        self.shared.counters.count(|stats| stats.submits += 1);
        #[cfg(not(target_family = "wasm"))]
        self.wait()?;
        self.check()
    }

    /// Gives the device up: all further calls fail with [`Error::DeviceLost`]. For tests of what a program does then.
    pub fn destroy(&self) {
        self.shared.wgpu.destroy();
        self.shared
            .failure
            .lock()
            .unwrap()
            .lose("destroyed".to_owned());
    }

    /// Waits until the device is lost, for ever if it never is: the error that all further calls fail with, for programs that
    /// make no calls while they have nothing to do.
    pub async fn lost(&self) -> Error {
        poll_fn(|context| {
            let mut failure = self.shared.failure.lock().unwrap();
            if let Some(reason) = failure.lost.clone() {
                return Poll::Ready(Error::DeviceLost { reason });
            }
            failure.wakers.push(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    pub(crate) fn poll(&self, kind: wgpu::PollType) -> Result<()> {
        self.check()?;
        let start = match kind {
            wgpu::PollType::Poll => None,
            wgpu::PollType::Wait { .. } => self.shared.wait_times.now(),
        };
        let polled = self.shared.wgpu.poll(kind);
        self.shared.wait_times.waited(start);
        self.check()?;
        polled.map(|_| ()).map_err(|error| Error::DeviceLost {
            reason: error.to_string(),
        })
    }

    /// Submits commands, holding back a host that has run too far ahead, and lets wgpu make progress. In a browser nobody is
    /// held back: wgpu's waiting does nothing there.
    pub(crate) fn submit(&self, commands: wgpu::CommandBuffer) -> Result<wgpu::SubmissionIndex> {
        let submission = self.shared.queue.submit([commands]);
        self.shared.counters.count(|stats| stats.submits += 1);
        let oldest = {
            let mut in_flight = self.shared.in_flight.lock().unwrap();
            in_flight.push_back(submission.clone());
            (in_flight.len() > MOST_IN_FLIGHT).then(|| in_flight.pop_front())
        };
        self.poll(match oldest.flatten() {
            Some(oldest) => wgpu::PollType::Wait {
                submission_index: Some(oldest),
                timeout: None,
            },
            None => wgpu::PollType::Poll,
        })?;
        Ok(submission)
    }

    /// Returns the first error that wgpu reported asynchronously since the last check.
    pub(crate) fn check(&self) -> Result<()> {
        let mut failure = self.shared.failure.lock().unwrap();
        if let Some(reason) = &failure.lost {
            return Err(Error::DeviceLost {
                reason: reason.clone(),
            });
        }
        failure.error.take().map_or(Ok(()), Err)
    }

    /// Runs `make`. A browser tells only later what was wrong, and then the next call fails.
    #[cfg(target_family = "wasm")]
    pub(crate) fn scoped<T>(&self, make: impl FnOnce() -> T) -> Result<T> {
        let made = make();
        self.check().map(|()| made)
    }

    /// Runs `make` so that the wgpu errors it causes come back as its result.
    #[cfg(not(target_family = "wasm"))]
    pub(crate) fn scoped<T>(&self, make: impl FnOnce() -> T) -> Result<T> {
        let filters = [
            wgpu::ErrorFilter::OutOfMemory,
            wgpu::ErrorFilter::Validation,
            wgpu::ErrorFilter::Internal,
        ];
        let scopes = filters.map(|filter| self.shared.wgpu.push_error_scope(filter));
        let made = make();
        let [memory, validation, internal] = scopes;
        let errors = [internal.pop(), validation.pop(), memory.pop()].map(|error| {
            // wgpu-core resolves scopes at once; nothing is waited for.
            block_on(error)
        });
        self.check()?;
        match errors.into_iter().flatten().next() {
            Some(error) => Err(from_wgpu(error)),
            None => Ok(made),
        }
    }

    /// Most bytes that a buffer of elements may have.
    pub(crate) fn largest_storage(&self) -> u64 {
        let limits = &self.shared.limits;
        limits
            .max_buffer_size
            .min(limits.max_storage_buffer_binding_size)
    }

    /// Makes a buffer for elements.
    ///
    /// # Errors
    ///
    /// As [`Device::create_buffer`].
    pub(crate) fn create_storage(&self, label: &str, bytes: u64) -> Result<Buffer> {
        let mut usage = wgpu::BufferUsages::STORAGE
            | wgpu::BufferUsages::COPY_SRC
            | wgpu::BufferUsages::COPY_DST;
        if self.class() == AdapterClass::Software {
            // The planner may have kernels read operands that way.
            usage |= wgpu::BufferUsages::UNIFORM;
        }
        self.create_buffer(label, bytes, usage)
    }

    /// Makes a buffer.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`] beyond the adapter's limits, [`Error::OutOfMemory`].
    pub(crate) fn create_buffer(
        &self,
        label: &str,
        bytes: u64,
        usage: wgpu::BufferUsages,
    ) -> Result<Buffer> {
        let limit = match usage.contains(wgpu::BufferUsages::STORAGE) {
            true => self.largest_storage(),
            false => self.shared.limits.max_buffer_size,
        };
        require_within(limit, format!("buffer `{label}`, in bytes,"), bytes)?;
        let make = || {
            self.shared.wgpu.create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size: bytes,
                usage,
                mapped_at_creation: false,
            })
        };
        let raw = match self.is_meta {
            true => None,
            false => Some(self.scoped(make)?),
        };
        let id = self.shared.next_buffer.fetch_add(1, Relaxed);
        Ok(Buffer::new(raw, bytes, id, self.shared.counters.clone()))
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({})", self.shared.description)
    }
}

pub(super) fn from_wgpu(error: wgpu::Error) -> Error {
    match error {
        wgpu::Error::OutOfMemory { source } => Error::OutOfMemory {
            reason: source.to_string(),
        },
        wgpu::Error::Validation { description, .. } | wgpu::Error::Internal { description, .. } => {
            Error::Validation {
                reason: description,
            }
        }
    }
}
