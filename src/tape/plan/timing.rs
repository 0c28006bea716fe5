//! When the device was at work: timestamps around dispatches, or the host's clock where the adapter has none.

use std::time::{Duration, Instant};

use super::step::Step;
use crate::error::Result;
use crate::gpu::Device;
use crate::gpu::readback::Readback;

/// When the device was at work on one run of a plan.
pub(crate) struct DeviceTimes {
    /// Whether there is an interval for every dispatch, or one for all of them.
    pub each: bool,
    pub(super) clock: Clock,
}

pub(super) enum Clock {
    /// The device's own: pairs of timestamps on their way to the host.
    Device(Readback),
    /// The host's, which waited.
    Host(Vec<[Instant; 2]>),
}

/// Beginnings and ends.
pub(crate) enum Intervals {
    /// In nanoseconds since some moment that the device knows.
    Device(Vec<[f64; 2]>),
    Host(Vec<[Instant; 2]>),
}

impl DeviceTimes {
    /// Waits for the times.
    #[cfg(not(target_family = "wasm"))]
    pub fn read(&self, device: &Device) -> Result<Intervals> {
        Ok(match &self.clock {
            Clock::Host(intervals) => Intervals::Host(intervals.clone()),
            Clock::Device(readback) => {
                let period = f64::from(device.shared.queue.get_timestamp_period());
                let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(&readback.wait()?);
                let first = *device.shared.first_tick.get_or_init(|| ticks[0]);
                let nanoseconds = |pair: &[u64]| {
                    [pair[0], pair[1]].map(|tick| tick.wrapping_sub(first) as i64 as f64 * period)
                };
                Intervals::Device(ticks.chunks_exact(2).map(nanoseconds).collect())
            }
        })
    }
}

/// Timestamps around the passes of one submission.
pub(super) struct Queries {
    set: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    readback: Readback,
    each: bool,
}

impl Queries {
    /// For a submission of so many dispatches, around each of them or around all together; `None` where the adapter has
    /// no timestamps, or not that many.
    pub fn new(device: &Device, dispatches: usize, each: bool) -> Result<Option<Queries>> {
        let count = if each { 2 * dispatches } else { 2 };
        if !device.has_timestamps()
            || count > wgpu::QUERY_SET_MAX_QUERIES as usize
            || dispatches == 0
        {
            return Ok(None);
        }
        let bytes = 8 * count as u64;
        let wgpu = &device.shared.wgpu;
        let (set, resolved) = device.scoped(|| {
            let set = wgpu.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("profile"),
                ty: wgpu::QueryType::Timestamp,
                count: count as u32,
            });
            let resolved = wgpu.create_buffer(&wgpu::BufferDescriptor {
                label: Some("profile"),
                size: bytes,
                usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            });
            (set, resolved)
        })?;
        Ok(Some(Queries {
            set,
            resolved,
            readback: Readback::new(device, bytes)?,
            each,
        }))
    }

    /// Encodes the dispatches and what brings the timestamps back.
    pub fn encode(&self, encoder: &mut wgpu::CommandEncoder, steps: &[Step]) {
        let length = if self.each { 1 } else { steps.len() };
        for (index, steps) in steps.chunks(length).enumerate() {
            let first = 2 * index as u32;
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: Some(steps[0].name),
                timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                    query_set: &self.set,
                    beginning_of_pass_write_index: Some(first),
                    end_of_pass_write_index: Some(first + 1),
                }),
            });
            Step::encode_all(steps, &mut pass);
        }
        let bytes = self.resolved.size();
        encoder.resolve_query_set(&self.set, 0..(bytes / 8) as u32, &self.resolved, 0);
        encoder.copy_buffer_to_buffer(&self.resolved, 0, self.readback.buffer(), 0, bytes);
    }

    /// To be called when the commands have been submitted.
    pub fn launch(mut self, submission: wgpu::SubmissionIndex) -> DeviceTimes {
        self.readback.map(submission);
        DeviceTimes {
            each: self.each,
            clock: Clock::Device(self.readback),
        }
    }
}

/// A length in nanoseconds.
pub(crate) fn length(start: f64, end: f64) -> Duration {
    Duration::from_nanos((end - start).max(0.0) as u64)
}
