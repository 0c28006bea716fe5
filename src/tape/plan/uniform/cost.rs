//! How much faster a device loads from uniform buffers.

use std::time::{Duration, Instant};

use super::windows;
use crate::error::Result;
use crate::gpu::kernel::Access;
use crate::gpu::pipeline::KernelCache;
use crate::gpu::warm_up::Scratch;
use crate::gpu::{Device, Kernel};

/// Loads of each lane in a run: a few milliseconds at most.
const ROUNDS: u32 = 8192;

/// Runs of each kind, of which the fastest counts.
const RUNS: usize = 3;

/// Bytes that the kernel goes round in.
const BYTES: u64 = 4 << 10;

/// How many loads from uniform buffers take as long as one from a storage buffer, measured. It has been 2 on one CPU and
/// 20 on another.
pub(super) fn uniform_loads_per_storage_load(device: &Device) -> Result<f64> {
    let kernel = Kernel::builtin("load_cost", "load_cost", "load_cost").pruned();
    let next = Access::window_binding(2);
    let module = windows::rewritten(&kernel.module, 1, next, &[BYTES]);
    let uniform = Kernel {
        module: module.expect("the kernel can read either way"),
        ..kernel.clone()
    };
    let storage = time(device, &kernel, Access::Read)?;
    let uniform = time(device, &uniform, Access::Uniform { bytes: BYTES })?;
    Ok(storage.as_secs_f64() / uniform.as_secs_f64().max(1e-9))
}

/// What the loads take, without what a submission takes.
fn time(device: &Device, kernel: &Kernel, access: Access) -> Result<Duration> {
    let accesses = [access, Access::Write];
    let pipeline = device
        .attached::<KernelCache>()
        .pipeline(device, kernel, &accesses)?;
    let scratch = Scratch::new(&device.shared.wgpu, &device.shared.limits);
    let run = |rounds: u32| {
        let queue = (&device.shared.wgpu, &device.shared.queue);
        let start = Instant::now();
        scratch.dispatch(queue, &pipeline, &accesses, &[rounds, 8], 1);
        start.elapsed()
    };
    run(ROUNDS); // Drivers compile at the first run.
    let least = |rounds: u32| (0..RUNS).map(|_| run(rounds)).min().unwrap_or_default();
    let time = least(ROUNDS).saturating_sub(least(0));
    device.check()?;
    Ok(time)
}
