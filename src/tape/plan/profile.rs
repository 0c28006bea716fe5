//! Where a step's device time goes, kernel by kernel.

use std::time::{Duration, Instant};

use super::Cost;
use super::replay::Plan;
use crate::error::Result;
use crate::gpu::readback::Readback;
use crate::gpu::{Device, stats};

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
pub(super) fn run(device: &Device, plan: &Plan, upload: &[u8]) -> Result<Vec<KernelTime>> {
    plan.upload(device, upload);
    let count = plan.steps.len();
    let times = if device.has_timestamps() && 2 * count <= wgpu::QUERY_SET_MAX_QUERIES as usize {
        by_timestamps(device, plan)?
    } else {
        by_waiting(device, plan)?
    };
    let timed = plan.steps.iter().zip(times).map(|(step, time)| KernelTime {
        name: step.name,
        workgroups: step.grid.iter().map(|&extent| u64::from(extent)).product(),
        time,
        cost: step.cost,
    });
    Ok(timed.collect())
}

fn by_timestamps(device: &Device, plan: &Plan) -> Result<Vec<Duration>> {
    let shared = &device.shared;
    let count = 2 * plan.steps.len() as u32;
    let bytes = 8 * u64::from(count).max(1);
    let (queries, resolved) = device.scoped(|| {
        let queries = shared.wgpu.create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("profile"),
            ty: wgpu::QueryType::Timestamp,
            count: count.max(1),
        });
        let resolved = shared.wgpu.create_buffer(&wgpu::BufferDescriptor {
            label: Some("profile"),
            size: bytes,
            usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        (queries, resolved)
    })?;
    let mut encoder = shared.wgpu.create_command_encoder(&Default::default());
    for (index, step) in plan.steps.iter().enumerate() {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some(step.name),
            timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                query_set: &queries,
                beginning_of_pass_write_index: Some(2 * index as u32),
                end_of_pass_write_index: Some(2 * index as u32 + 1),
            }),
        });
        step.encode(&mut pass);
    }
    let readback = Readback::new(device, bytes)?;
    encoder.resolve_query_set(&queries, 0..count, &resolved, 0);
    encoder.copy_buffer_to_buffer(&resolved, 0, readback.buffer(), 0, bytes);
    device.submit(encoder.finish())?;
    readback.map();
    let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(&readback.wait()?);
    let period = f64::from(shared.queue.get_timestamp_period());
    let time = |pair: &[u64]| {
        Duration::from_nanos((pair[1].saturating_sub(pair[0]) as f64 * period) as u64)
    };
    Ok(ticks.chunks_exact(2).map(time).collect())
}

fn by_waiting(device: &Device, plan: &Plan) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    for step in &plan.steps {
        let mut encoder = device
            .shared
            .wgpu
            .create_command_encoder(&Default::default());
        step.encode(&mut encoder.begin_compute_pass(&Default::default()));
        let start = Instant::now();
        device.submit(encoder.finish())?;
        stats::count(&device.shared.counters.waits, 1);
        device.poll(wgpu::PollType::wait_indefinitely())?;
        times.push(start.elapsed());
    }
    Ok(times)
}
