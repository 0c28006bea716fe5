//! The cache of pipelines compiled from kernels.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

#[cfg(not(target_family = "wasm"))]
use super::blocking::block_on;
use super::device::Device;
use super::kernel::{Access, Kernel};
use super::opaque;
use crate::error::{Error, Result};

pub(crate) struct Pipeline {
    pub raw: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
}

impl Pipeline {
    /// Encodes a dispatch that is part of no plan, with whole buffers in its bindings.
    pub(super) fn encode(
        &self,
        device: &wgpu::Device,
        buffers: &[(u32, &wgpu::Buffer)],
        groups: u32,
    ) -> wgpu::CommandEncoder {
        let entries = buffers
            .iter()
            .map(|&(binding, buffer)| wgpu::BindGroupEntry {
                binding,
                resource: buffer.as_entire_binding(),
            });
        let bind_group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &self.layout,
            entries: &entries.collect::<Vec<_>>(),
        });
        let mut encoder = device.create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&self.raw);
        pass.set_bind_group(0, &bind_group, &[]);
        pass.dispatch_workgroups(groups, 1, 1);
        drop(pass);
        encoder
    }
}

/// What a pipeline is made from: the kernel, and how each of its storage bindings is used.
type PipelineKey = (Kernel, Vec<Access>);

#[derive(Default)]
pub(crate) struct KernelCache {
    pipelines: Mutex<HashMap<PipelineKey, Arc<Pipeline>>>,
}

impl KernelCache {
    /// Whether there is a pipeline for a kernel.
    pub fn has(&self, kernel: &Kernel, accesses: &[Access]) -> bool {
        let key = (kernel.clone(), accesses.to_vec());
        self.pipelines.lock().unwrap().contains_key(&key)
    }

    /// The pipeline for a kernel, compiled on first use.
    pub fn pipeline(
        &self,
        device: &Device,
        kernel: &Kernel,
        accesses: &[Access],
    ) -> Result<Arc<Pipeline>> {
        let key = (kernel.clone(), accesses.to_vec());
        if let Some(pipeline) = self.pipelines.lock().unwrap().get(&key) {
            return Ok(pipeline.clone());
        }
        let pipeline = Arc::new(compile(device, kernel, accesses)?);
        self.pipelines.lock().unwrap().insert(key, pipeline.clone());
        Ok(pipeline)
    }
}

impl Device {
    /// Name and WGSL of every kernel compiled on this device so far, generated ones included: to look at, and for tests
    /// to validate.
    pub fn kernels(&self) -> Vec<(&'static str, String)> {
        let cache = self.attached::<KernelCache>();
        let pipelines = cache.pipelines.lock().unwrap();
        let sources = pipelines.keys();
        let sources = sources.map(|(kernel, _)| (kernel.name, kernel.module.text()));
        // Each text once.
        sources.collect::<BTreeSet<_>>().into_iter().collect()
    }
}

fn compile(device: &Device, kernel: &Kernel, accesses: &[Access]) -> Result<Pipeline> {
    let shared = &device.shared;
    // Nobody checks where matrices are loaded from and stored to, so only kernels that are known to be right may have any.
    if !kernel.trusted && kernel.module.names_matrices() {
        return Err(Error::Kernel {
            kernel: kernel.name.to_owned(),
            reason: "cooperative matrices are for the crate's own kernels: no driver checks their bounds. \
                     Var::matmul multiplies on matrix units"
                .to_owned(),
        });
    }
    shared.counters.count(|stats| stats.pipelines += 1);
    let made = device.scoped(|| build(&shared.wgpu, device, kernel, accesses));
    made.map_err(|error| match error {
        Error::Validation { reason } => Error::Kernel {
            kernel: kernel.name.to_owned(),
            #[cfg(not(target_family = "wasm"))]
            reason: reason_in_file(&shared.wgpu, kernel).unwrap_or(reason),
            #[cfg(target_family = "wasm")]
            reason,
        },
        other => other,
    })
}

/// What is wrong with a kernel's WGSL, and where in which file.
#[cfg(not(target_family = "wasm"))]
fn reason_in_file(device: &wgpu::Device, kernel: &Kernel) -> Option<String> {
    let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: None,
        source: wgpu::ShaderSource::Wgsl(kernel.module.text().into()),
    });
    let info = block_on(module.get_compilation_info());
    let _ = block_on(scope.pop());
    let message = info.messages.into_iter().next()?;
    let at = message.location?;
    let (file, line) = kernel.module.place(at.line_number as usize);
    let (_, said) = message.message.split_once("error: ")?;
    // Without the numbers of lines in the text that was put together.
    let said = said.lines().filter(|line| !line.contains("┌─"));
    let said = said.map(|line| line.split_once('│').map_or(line, |(_, line)| line));
    let said = said.collect::<Vec<_>>().join("\n");
    Some(format!("{file}:{line}:{}: {said}", at.line_position))
}

/// The pipeline for a kernel as `owner` runs it, on `device`, which is of the same adapter. wgpu reports errors.
pub(crate) fn build(
    device: &wgpu::Device,
    owner: &Device,
    kernel: &Kernel,
    accesses: &[Access],
) -> Pipeline {
    let entry = |binding: u32, ty| wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty,
            has_dynamic_offset: false,
            min_binding_size: None,
        },
        count: None,
    };
    let mut entries = vec![entry(0, wgpu::BufferBindingType::Uniform)];
    entries.extend(accesses.iter().enumerate().map(|(index, access)| {
        let ty = match access {
            Access::Read => wgpu::BufferBindingType::Storage { read_only: true },
            Access::Write => wgpu::BufferBindingType::Storage { read_only: false },
            Access::Uniform { .. } | Access::Window { .. } => wgpu::BufferBindingType::Uniform,
        };
        entry(access.binding(index), ty)
    }));
    let opaque = match owner.is_llvmpipe() {
        true => opaque::copied(&kernel.module, kernel.entry),
        false => None,
    };
    let source = opaque.as_ref().unwrap_or(&kernel.module).text();
    let descriptor = wgpu::ShaderModuleDescriptor {
        label: Some(kernel.name),
        source: wgpu::ShaderSource::Wgsl(source.into()),
    };
    let module = if kernel.trusted && !owner.shared.checked_kernels {
        // SAFETY: only the crate's own kernels are trusted; each guards its accesses against the extents it is
        // given, and the test-suite runs every one of them with the checks on.
        unsafe {
            device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked())
        }
    } else {
        device.create_shader_module(descriptor)
    };
    let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
        label: Some(kernel.name),
        entries: &entries,
    });
    let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: Some(kernel.name),
        bind_group_layouts: &[Some(&layout)],
        immediate_size: 0,
    });
    let raw = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(kernel.name),
        layout: Some(&pipeline_layout),
        module: &module,
        entry_point: Some(kernel.entry),
        compilation_options: wgpu::PipelineCompilationOptions {
            constants: &[],
            // Kernels initialise their workgroup memory themselves.
            zero_initialize_workgroup_memory: false,
        },
        cache: None,
    });
    Pipeline { raw, layout }
}

#[cfg(test)]
#[path = "../../tests/unit/gpu/pipeline.rs"]
mod tests;
