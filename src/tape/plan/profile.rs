//! Where a step's device time goes: timestamps around dispatches, or waiting where the adapter has none.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Cost;
use super::replay::{Plan, Step};
use crate::error::Result;
use crate::gpu::readback::{Landing, Readback};
use crate::gpu::{Device, stats};
use crate::profile::{Laps, Phase, Run};

/// One dispatch of a profiled tape. See [`Tape::profile`](crate::Tape::profile).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct KernelTime {
    /// The kernel's name.
    pub name: &'static str,
    /// Workgroups launched.
    pub workgroups: u64,
    /// Time on the device: by timestamp queries where the adapter has them, else wall time of a submission of its own,
    /// which includes the cost of submitting and waiting.
    pub time: Duration,
    /// What the kernel had to do.
    pub cost: Cost,
}

/// When the device was at work on one run of a plan.
pub(crate) struct DeviceTimes {
    /// Whether there is a stretch for every dispatch, or one for all of them.
    pub each: bool,
    clock: Clock,
}

enum Clock {
    /// The device's own: pairs of timestamps on their way to the host.
    Device(Readback),
    /// The host's, which waited.
    Host(Vec<[Instant; 2]>),
}

/// Beginnings and ends.
pub(crate) enum Stretches {
    /// In nanoseconds since some moment that the device knows.
    Device(Vec<[f64; 2]>),
    Host(Vec<[Instant; 2]>),
}

impl DeviceTimes {
    /// Waits for the times.
    pub fn read(&self, device: &Device) -> Result<Stretches> {
        Ok(match &self.clock {
            Clock::Host(stretches) => Stretches::Host(stretches.clone()),
            Clock::Device(readback) => {
                let period = f64::from(device.shared.queue.get_timestamp_period());
                let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(&readback.wait()?);
                let first = *device.shared.first_tick.get_or_init(|| ticks[0]);
                let nanoseconds = |pair: &[u64]| {
                    [pair[0], pair[1]].map(|tick| tick.wrapping_sub(first) as i64 as f64 * period)
                };
                Stretches::Device(ticks.chunks_exact(2).map(nanoseconds).collect())
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
    fn new(device: &Device, dispatches: usize, each: bool) -> Result<Option<Queries>> {
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
    fn launch(mut self, submission: wgpu::SubmissionIndex) -> DeviceTimes {
        self.readback.map(submission);
        DeviceTimes {
            each: self.each,
            clock: Clock::Device(self.readback),
        }
    }
}

/// Runs a plan once, timing every dispatch by itself.
pub(super) fn run(device: &Device, plan: &Plan, upload: &[u8]) -> Result<Vec<KernelTime>> {
    plan.upload(device, upload);
    let times = match Queries::new(device, plan.steps.len(), true)? {
        Some(queries) => {
            let mut encoder = device
                .shared
                .wgpu
                .create_command_encoder(&Default::default());
            queries.encode(&mut encoder, &plan.steps);
            let submission = device.submit(encoder.finish())?;
            queries.launch(submission)
        }
        None => wait_for_each(device, plan)?,
    };
    let times = match times.read(device)? {
        Stretches::Device(stretches) => stretches
            .iter()
            .map(|&[start, end]| length(start, end))
            .collect(),
        Stretches::Host(stretches) => stretches.iter().map(|&[start, end]| end - start).collect(),
    };
    Ok(kernel_times(plan, times))
}

/// A length in nanoseconds.
pub(crate) fn length(start: f64, end: f64) -> Duration {
    Duration::from_nanos((end - start).max(0.0) as u64)
}

/// What the plan's dispatches are, with a time for each.
pub(crate) fn kernel_times(plan: &Plan, times: Vec<Duration>) -> Vec<KernelTime> {
    let timed = plan.steps.iter().zip(times).map(|(step, time)| KernelTime {
        name: step.name,
        workgroups: step.grid.iter().map(|&extent| u64::from(extent)).product(),
        time,
        cost: step.cost,
    });
    timed.collect()
}

/// Runs a plan like [`Plan::submit`] and notes down when what happened.
pub(super) fn submit(
    device: &Device,
    plan: Arc<Plan>,
    upload: &[u8],
    landing: &Rc<Landing>,
    mut laps: Laps,
) -> Result<()> {
    let recorder = &device.shared.recorder;
    let each = recorder.is_each_next(&plan);
    if !each {
        // What came before shall not count.
        device.wait()?;
    }
    let queries = Queries::new(device, plan.steps.len(), each)?;
    laps.skip();
    plan.upload(device, upload);
    let device_times = if each && queries.is_none() {
        let times = wait_for_each(device, &plan)?;
        let (commands, readback) = plan.encode(device, &[], None)?;
        plan.land(readback, device.submit(commands)?, landing);
        times
    } else {
        let (commands, readback) = plan.encode(device, &plan.steps, queries.as_ref())?;
        laps.lap(Phase::Encode);
        let start = Instant::now();
        let submission = device.submit(commands)?;
        laps.lap(Phase::Submit);
        plan.land(readback, submission.clone(), landing);
        match queries {
            Some(queries) => queries.launch(submission),
            None => {
                device.wait()?;
                let clock = Clock::Host(vec![[start, Instant::now()]]);
                DeviceTimes { each, clock }
            }
        }
    };
    stats::count(&device.shared.counters.dispatches, plan.steps.len() as u64);
    recorder.push(Run {
        plan,
        spans: laps.spans,
        device: device_times,
    });
    Ok(())
}

/// Runs the dispatches one by one, waiting for each.
fn wait_for_each(device: &Device, plan: &Plan) -> Result<DeviceTimes> {
    let wgpu = &device.shared.wgpu;
    let mut encoder = wgpu.create_command_encoder(&Default::default());
    plan.clear_faults(&mut encoder);
    device.submit(encoder.finish())?;
    device.wait()?;
    let mut stretches = Vec::with_capacity(plan.steps.len());
    for step in &plan.steps {
        let mut encoder = wgpu.create_command_encoder(&Default::default());
        Step::encode_all(
            std::slice::from_ref(step),
            &mut encoder.begin_compute_pass(&Default::default()),
        );
        let start = Instant::now();
        device.submit(encoder.finish())?;
        device.wait()?;
        stretches.push([start, Instant::now()]);
    }
    Ok(DeviceTimes {
        each: true,
        clock: Clock::Host(stretches),
    })
}
