//! Machine code before it is needed, on Mesa's llvmpipe.
//!
//! llvmpipe compiles a kernel when it is first dispatched, one kernel after the other: seconds before a first step, on one
//! core. Devices of their own compile beside one another, though, and what one of them compiled the others find in the
//! driver's cache on disk, in milliseconds. A dispatch of no workgroups is enough, and runs nothing. But its parameters have
//! to be true ones: the driver looks at them, and where constants instead would make a kernel much shorter, as zeros do
//! where they end loops, it compiles that.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use super::blocking::block_on;
use super::device::Device;
use super::kernel::{Access, Kernel};
use super::open::experimental;
use super::pipeline::{self, Pipeline};

/// Fewer new kernels than this are not worth a device.
const FEWEST: usize = 4;

/// Each device has threads of its own for every core.
const MOST_HELPERS: usize = 3;

/// Some drivers don't take many devices that are made at the same time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A kernel to compile, how it is bound, its pipeline, and parameters that it will be dispatched with.
pub(crate) type New<'a> = (&'a Kernel, &'a [Access], &'a Pipeline, &'a [u32]);

/// Compiles kernels that `device` has pipelines for, but has not dispatched, on all cores, and says whether that was worth
/// it. Only ever saves time: what goes wrong here shows when the kernels are used.
pub(crate) fn compile(device: &Device, kernels: &[New<'_>]) -> bool {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let adapter = &device.shared.adapter;
    if kernels.len() < FEWEST || cores < 2 || !compiles_late(device) {
        return false;
    }
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    // The longest first, so that all cores end at about the same time.
    let mut order: Vec<usize> = (0..kernels.len()).collect();
    order.sort_by_cached_key(|&index| std::cmp::Reverse(kernels[index].0.module.text().len()));
    let next = AtomicUsize::new(0);
    let take = || {
        order
            .get(next.fetch_add(1, Relaxed))
            .map(|&index| &kernels[index])
    };
    std::thread::scope(|scope| {
        for _ in 0..MOST_HELPERS.min(cores - 1).min(kernels.len() / FEWEST) {
            scope.spawn(|| {
                let Some((helper, queue)) = helper(device, adapter) else {
                    return;
                };
                let scratch = Scratch::new(&helper, &device.shared.limits);
                while let Some(&(kernel, accesses, _, params)) = take() {
                    let pipeline = pipeline::build(&helper, device, kernel, accesses);
                    scratch.dispatch((&helper, &queue), &pipeline, accesses, params, 0);
                }
            });
        }
        let (own, queue) = (&device.shared.wgpu, &device.shared.queue);
        // An error would be about these buffers, and none of the caller's.
        let scope = own.push_error_scope(wgpu::ErrorFilter::Validation);
        let scratch = Scratch::new(own, &device.shared.limits);
        while let Some(&(_, accesses, pipeline, params)) = take() {
            scratch.dispatch((own, queue), pipeline, accesses, params, 0);
        }
        let _ = block_on(scope.pop());
    });
    true
}

/// Whether the driver is llvmpipe and keeps what it compiles.
fn compiles_late(device: &Device) -> bool {
    let is_off = |name| std::env::var(name).is_ok_and(|value| value == "true" || value == "1");
    device.is_llvmpipe()
        && !is_off("MESA_SHADER_CACHE_DISABLE")
        && !is_off("MESA_GLSL_CACHE_DISABLE")
}

/// Another device on the same adapter, with the same features.
fn helper(device: &Device, adapter: &wgpu::Adapter) -> Option<(wgpu::Device, wgpu::Queue)> {
    let features = device.shared.wgpu.features();
    let request = adapter.request_device(&wgpu::DeviceDescriptor {
        label: Some("shadegrad, compiling"),
        required_features: features,
        required_limits: device.shared.limits.clone(),
        experimental_features: experimental(features),
        ..Default::default()
    });
    let (helper, queue) = block_on(request).ok()?;
    helper.on_uncaptured_error(std::sync::Arc::new(|_| ()));
    Some((helper, queue))
}

/// What kernels are bound to that run on nothing.
pub(crate) struct Scratch {
    params: wgpu::Buffer,
    read: wgpu::Buffer,
    written: wgpu::Buffer,
}

impl Scratch {
    /// As large as the largest uniform array.
    const BYTES: u64 = 64 << 10;

    pub fn new(device: &wgpu::Device, limits: &wgpu::Limits) -> Scratch {
        let bytes = Scratch::BYTES
            .min(limits.max_uniform_buffer_binding_size)
            .min(limits.max_storage_buffer_binding_size);
        let [params, read, written] = [
            wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::UNIFORM,
            wgpu::BufferUsages::STORAGE,
        ]
        .map(|usage| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("nothing"),
                size: bytes,
                usage,
                mapped_at_creation: false,
            })
        });
        Scratch {
            params,
            read,
            written,
        }
    }

    /// Dispatches a kernel, and waits until it has run. Without workgroups, all that happens is that the driver compiles it.
    pub fn dispatch(
        &self,
        (device, queue): (&wgpu::Device, &wgpu::Queue),
        pipeline: &Pipeline,
        accesses: &[Access],
        params: &[u32],
        groups: u32,
    ) {
        let bound = accesses.iter().enumerate().map(|(index, access)| {
            let buffer = match access {
                Access::Write => &self.written,
                _ => &self.read,
            };
            (access.binding(index), buffer)
        });
        let buffers: Vec<_> = bound.chain([(0, &self.params)]).collect();
        let encoder = pipeline.encode(device, &buffers, groups);
        queue.write_buffer(&self.params, 0, bytemuck::cast_slice(params));
        let submission = queue.submit([encoder.finish()]);
        let _ = device.poll(wgpu::PollType::Wait {
            submission_index: Some(submission),
            timeout: None,
        });
    }
}

#[cfg(test)]
#[path = "../../tests/unit/gpu/warm_up.rs"]
mod tests;
