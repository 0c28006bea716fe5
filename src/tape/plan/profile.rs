//! Runs plans with their dispatches timed.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::dispatch::Cost;
use super::recorder::{Phase, PhaseClock, Recorder, Run};
use super::replay::Plan;
use super::step::Step;
use super::timing::{Clock, DeviceTimes, Intervals, Queries, length};
use crate::error::Result;
use crate::gpu::Device;
use crate::gpu::readback::Landing;

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

/// Runs a plan once, timing every dispatch by itself.
pub(super) fn run(device: &Device, plan: &Plan, inputs: &[u8]) -> Result<Vec<KernelTime>> {
    plan.write_inputs(device, inputs);
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
        Intervals::Device(intervals) => intervals
            .iter()
            .map(|&[start, end]| length(start, end))
            .collect(),
        Intervals::Host(intervals) => intervals.iter().map(|&[start, end]| end - start).collect(),
    };
    Ok(kernel_times(plan, times))
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
    inputs: &[u8],
    landing: &Rc<Landing>,
    mut clock: PhaseClock,
) -> Result<()> {
    let recorder = device.attached::<Recorder>();
    let each = recorder.is_each_next(&plan);
    if !each {
        // What came before shall not count.
        device.wait()?;
    }
    let queries = Queries::new(device, plan.steps.len(), each)?;
    clock.skip();
    plan.write_inputs(device, inputs);
    let device_times = if each && queries.is_none() {
        let times = wait_for_each(device, &plan)?;
        let (commands, readback) = plan.encode(device, &[], None)?;
        plan.land(readback, device.submit(commands)?, landing);
        times
    } else {
        let (commands, readback) = plan.encode(device, &plan.steps, queries.as_ref())?;
        clock.lap(Phase::Encode);
        let start = Instant::now();
        let submission = device.submit(commands)?;
        clock.lap(Phase::Submit);
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
    let dispatches = plan.steps.len() as u64;
    device
        .shared
        .counters
        .count(|stats| stats.dispatches += dispatches);
    recorder.push(Run {
        plan,
        spans: clock.spans,
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
    let mut intervals = Vec::with_capacity(plan.steps.len());
    for step in &plan.steps {
        let mut encoder = wgpu.create_command_encoder(&Default::default());
        Step::encode_all(
            std::slice::from_ref(step),
            &mut encoder.begin_compute_pass(&Default::default()),
        );
        let start = Instant::now();
        device.submit(encoder.finish())?;
        device.wait()?;
        intervals.push([start, Instant::now()]);
    }
    Ok(DeviceTimes {
        each: true,
        clock: Clock::Host(intervals),
    })
}
