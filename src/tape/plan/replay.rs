//! A finished plan: pipelines and bind groups in order, and how a step is submitted with them.

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::{Arc, Mutex, Weak};

use super::dispatch::{Dispatch, Program, Slot};
use super::memory::{self, MemoryUse};
use super::passes::Planned;
use super::step::Step;
use super::timing::Queries;
#[cfg(all(any(feature = "mpi", test), not(target_family = "wasm")))]
use super::writes::Writes;
use crate::error::{Result, require_within};
use crate::gpu::buffer::{Buffer, Owned};
use crate::gpu::kernel::Access;
use crate::gpu::pipeline::{KernelCache, Pipeline};
use crate::gpu::pool::BufferPool;
use crate::gpu::readback::{Fault, Landing, Readback, Ring};
#[cfg(not(target_family = "wasm"))]
use crate::gpu::warm_up;
use crate::gpu::{Device, Kernel};
use crate::tape::record::Graph;

/// Everything needed to run a tape of one structure again.
pub(crate) struct Plan {
    pub steps: Vec<Step>,
    inputs: Option<Buffer>,
    copies: Vec<Copy>,
    #[cfg(all(any(feature = "mpi", test), not(target_family = "wasm")))]
    pub(super) writes: Writes,
    /// What kernels count, and where.
    faults: Arc<[Fault]>,
    counters: Option<Buffer>,
    ring: Ring,
    /// The pooled buffers, kept from being given back while bind groups refer to them.
    pooled: Vec<Buffer>,
    _params: Buffer,
    /// The persistent buffers that bind groups refer to.
    external: Vec<Weak<Owned>>,
    pub memory: MemoryUse,
    /// Distinct pipelines among those of the steps.
    pub pipelines: usize,
}

struct Copy {
    from: wgpu::Buffer,
    start: u64,
    to: u64,
    bytes: u64,
}

impl Plan {
    pub(super) fn build(device: &Device, graph: &Graph, planned: Planned) -> Result<Plan> {
        let memory = memory(device, graph, &planned)?;
        let Planned {
            program,
            assignment,
            input_bytes,
        } = planned;
        let pool = device.attached::<Mutex<BufferPool>>();
        let pooled = pool.lock().unwrap().take(device, &assignment.sizes)?;
        let inputs = if graph.input_bytes.is_empty() {
            None
        } else {
            Some(device.create_storage("inputs", input_bytes)?)
        };
        let counters = match Fault::bytes(&program.faults) as u64 {
            0 => None,
            bytes => Some(device.create_storage("faults", bytes)?),
        };
        let resolve = |slot: usize| -> (&Buffer, u64, u64) {
            match &program.slots[slot] {
                Slot::Transient { bytes } => {
                    let buffer = &pooled[assignment.buffer_of[slot].expect("every slot is used")];
                    (buffer, 0, *bytes)
                }
                Slot::External {
                    buffer,
                    start,
                    bytes,
                    ..
                } => (buffer, *start, *bytes),
                Slot::Inputs => {
                    let buffer = inputs.as_ref().expect("inputs exist where they are read");
                    (buffer, 0, buffer.bytes())
                }
                Slot::Faults => {
                    let buffer = counters
                        .as_ref()
                        .expect("counters exist where they are bound");
                    (buffer, 0, buffer.bytes())
                }
                Slot::Window { .. } => unreachable!("windows look at other slots"),
            }
        };
        let resolve = |slot: usize| match &program.slots[slot] {
            Slot::Window { of, start } => {
                let (buffer, first, bytes) = resolve(*of);
                (buffer, first + start, bytes - start)
            }
            _ => resolve(slot),
        };
        for dispatch in &program.dispatches {
            refuse_conflicts(dispatch, &resolve);
        }
        let pipelines = pipelines(device, &program.dispatches)?;
        let params = Params::build(device, &program.dispatches)?;
        let steps = device.scoped(|| {
            let make = |(index, dispatch): (usize, &Dispatch)| {
                let mut entries = vec![wgpu::BindGroupEntry {
                    binding: 0,
                    resource: params.binding(index),
                }];
                entries.extend(dispatch.bindings.iter().enumerate().map(
                    |(index, (slot, access))| {
                        let (buffer, offset, bytes) = resolve(*slot);
                        let bytes = match *access {
                            Access::Uniform { bytes } | Access::Window { bytes } => bytes,
                            _ => bytes,
                        };
                        wgpu::BindGroupEntry {
                            binding: access.binding(index),
                            resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                                buffer: buffer.raw(),
                                offset,
                                size: wgpu::BufferSize::new(bytes),
                            }),
                        }
                    },
                ));
                device.shared.counters.count(|stats| stats.bind_groups += 1);
                let descriptor = wgpu::BindGroupDescriptor {
                    label: Some(dispatch.kernel.name),
                    layout: &pipelines[index].layout,
                    entries: &entries,
                };
                Step {
                    name: dispatch.kernel.name,
                    cost: dispatch.cost,
                    pipeline: pipelines[index].clone(),
                    bind_group: device.shared.wgpu.create_bind_group(&descriptor),
                    grid: dispatch.grid,
                }
            };
            program.dispatches.iter().enumerate().map(make).collect()
        })?;
        let copies = program.fetches.iter().map(|(operand, range)| {
            let (buffer, offset, _) = resolve(operand.slot);
            Copy {
                from: buffer.raw().clone(),
                start: offset + (operand.dtype.bytes() * operand.layout.offset) as u64,
                to: range.start as u64,
                bytes: range.len().next_multiple_of(4) as u64,
            }
        });
        let mut copies: Vec<Copy> = copies.collect();
        let (fetched, all) = result_bytes(graph, &program);
        copies.extend(
            counters
                .iter()
                .filter(|_| all > fetched)
                .map(|counters| Copy {
                    from: counters.raw().clone(),
                    start: 0,
                    to: fetched,
                    bytes: counters.bytes(),
                }),
        );
        let external = program.slots.iter().filter_map(Slot::persistent);
        let distinct: HashSet<*const Pipeline> = pipelines.iter().map(Arc::as_ptr).collect();
        let ring = Ring::new(device, all)?;
        Ok(Plan {
            memory,
            pipelines: distinct.len(),
            steps,
            copies,
            #[cfg(all(any(feature = "mpi", test), not(target_family = "wasm")))]
            writes: Writes::of(&program),
            faults: program.faults.into(),
            counters,
            ring,
            external: external.map(Buffer::downgrade).collect(),
            inputs,
            pooled,
            _params: params.buffer,
        })
    }

    /// Whether a tensor of this plan has been dropped: no tape can ask for the plan again, and its bind groups should not
    /// keep the tensor's memory.
    pub fn is_obsolete(&self) -> bool {
        let is_gone = |buffer: &Weak<Owned>| buffer.strong_count() == 0;
        self.external.iter().any(is_gone)
    }

    /// Writes this step's inputs. They arrive before anything submitted later.
    pub fn write_inputs(&self, device: &Device, bytes: &[u8]) {
        let queue = &device.shared.queue;
        if device.shared.poison {
            for buffer in self.pooled.iter().chain(&self.inputs) {
                queue.write_buffer(buffer.raw(), 0, &vec![0xff; buffer.bytes() as usize]);
            }
        }
        if let Some(buffer) = &self.inputs {
            queue.write_buffer(buffer.raw(), 0, bytes);
        }
    }

    /// Writes this step's inputs and submits the plan's commands, once, without waiting.
    pub fn submit(&self, device: &Device, inputs: &[u8], landing: &Rc<Landing>) -> Result<()> {
        self.write_inputs(device, inputs);
        self.submit_from(device, 0, landing)
    }

    /// Submits the steps from one on, once.
    pub(super) fn submit_from(
        &self,
        device: &Device,
        first: usize,
        landing: &Rc<Landing>,
    ) -> Result<()> {
        let (commands, readback) = self.encode(device, &self.steps[first..], None)?;
        let submission = device.submit(commands)?;
        let dispatches = self.steps.len() as u64;
        device
            .shared
            .counters
            .count(|stats| stats.dispatches += dispatches);
        self.land(readback, submission, landing);
        Ok(())
    }

    /// Begins to count faults. To be encoded before the first step.
    pub(super) fn clear_faults(&self, encoder: &mut wgpu::CommandEncoder) {
        if let Some(counters) = &self.counters {
            encoder.clear_buffer(counters.raw(), 0, None);
        }
    }

    /// Encodes the steps that have not run already, timed if there are queries, and the copies of the results.
    pub(super) fn encode(
        &self,
        device: &Device,
        steps: &[Step],
        queries: Option<&Queries>,
    ) -> Result<(wgpu::CommandBuffer, Option<Readback>)> {
        let wgpu = &device.shared.wgpu;
        let mut encoder = wgpu.create_command_encoder(&Default::default());
        if steps.len() == self.steps.len() {
            self.clear_faults(&mut encoder);
        }
        match queries {
            Some(queries) => queries.encode(&mut encoder, steps),
            None if steps.is_empty() => {}
            None => Step::encode_all(steps, &mut encoder.begin_compute_pass(&Default::default())),
        }
        let readback = self.ring.take(device)?;
        for copy in &self.copies {
            let to = readback
                .as_ref()
                .expect("copies go to the readback")
                .buffer();
            encoder.copy_buffer_to_buffer(&copy.from, copy.start, to, copy.to, copy.bytes);
        }
        Ok((encoder.finish(), readback))
    }

    /// Sends the results on their way, their copies having been submitted, last of all.
    pub fn land(
        &self,
        readback: Option<Readback>,
        submission: wgpu::SubmissionIndex,
        landing: &Rc<Landing>,
    ) {
        if let Some(mut readback) = readback {
            readback.map(submission);
            landing.launch(readback, self.ring.clone(), self.faults.clone());
        }
    }
}

/// What a plan will need, before it is built.
pub(super) fn memory(device: &Device, graph: &Graph, planned: &Planned) -> Result<MemoryUse> {
    let Planned {
        program,
        assignment,
        input_bytes,
    } = planned;
    let inputs = match graph.input_bytes.is_empty() {
        true => 0,
        false => *input_bytes,
    };
    let (params, _) = Params::of(device, &program.dispatches)?;
    let written = inputs + Fault::bytes(&program.faults) as u64 + params.len() as u64;
    let (_, results) = result_bytes(graph, program);
    let results = Ring::bytes_at_first(results);
    Ok(memory::total(program, assignment, written, results))
}

/// Bytes of what has been asked for, and of all that goes to the host with it.
fn result_bytes(graph: &Graph, program: &Program) -> (u64, u64) {
    let fetched = graph.fetches.last().map_or(0, |(_, range)| range.end);
    let fetched = fetched.next_multiple_of(4) as u64;
    // Nobody is told about faults who asks for nothing.
    let faults = match fetched {
        0 => 0,
        _ => Fault::bytes(&program.faults) as u64,
    };
    (fetched, fetched + faults)
}

/// WebGPU forbids one dispatch to bind a buffer both for writing and in another way, even in disjoint ranges, and to bind
/// overlapping ranges for writing.
fn refuse_conflicts<'a>(dispatch: &Dispatch, resolve: &impl Fn(usize) -> (&'a Buffer, u64, u64)) {
    let name = dispatch.kernel.name;
    let bindings = dispatch.bindings.iter().enumerate();
    let bindings = bindings.map(|(index, &(slot, access))| {
        let (buffer, start, bytes) = resolve(slot);
        let range = start..start + bytes;
        (access.binding(index), access, buffer.id(), range)
    });
    let bindings: Vec<_> = bindings.collect();
    for (index, (number, access, buffer, range)) in bindings.iter().enumerate() {
        let others = bindings[..index].iter().filter(|other| other.2 == *buffer);
        for (other, other_access, _, other_range) in others {
            match [access, other_access].map(|access| *access == Access::Write) {
                [true, true] => assert!(
                    range.end <= other_range.start || other_range.end <= range.start,
                    "kernel `{name}` binds overlapping parts of one buffer for writing, as bindings {other} and {number}; \
                     bind them once, together"
                ),
                written => assert!(
                    written == [false; 2],
                    "kernel `{name}` binds one buffer both for reading and for writing, as bindings {other} and {number}; \
                     bind it once, for writing"
                ),
            }
        }
    }
}

/// One pipeline per dispatch, compiling what is new.
fn pipelines(device: &Device, dispatches: &[Dispatch]) -> Result<Vec<Arc<Pipeline>>> {
    let keys: Vec<PipelineKey<'_>> = dispatches
        .iter()
        .map(|dispatch| {
            let accesses = dispatch.bindings.iter().map(|&(_, access)| access);
            (&dispatch.kernel, accesses.collect())
        })
        .collect();
    let kernels = &device.attached::<KernelCache>();
    #[cfg(not(target_family = "wasm"))]
    compile(device, kernels, &keys, dispatches)?;
    keys.iter()
        .map(|(kernel, accesses)| kernels.pipeline(device, kernel, accesses))
        .collect()
}

/// A kernel, and how it is bound.
type PipelineKey<'a> = (&'a Kernel, Vec<Access>);

/// Compiles what is new on all cores. A browser has threads of its own.
#[cfg(not(target_family = "wasm"))]
fn compile(
    device: &Device,
    kernels: &KernelCache,
    keys: &[PipelineKey<'_>],
    dispatches: &[Dispatch],
) -> Result<()> {
    let mut seen = HashSet::new();
    // With the first dispatch of each.
    let distinct: Vec<_> = keys
        .iter()
        .zip(dispatches)
        .filter(|&(key, _)| seen.insert(key) && !kernels.has(key.0, &key.1))
        .collect();
    let workers = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(distinct.len().max(1));
    let compile = |worker: usize| -> Result<()> {
        for ((kernel, accesses), _) in distinct.iter().skip(worker).step_by(workers) {
            kernels.pipeline(device, kernel, accesses)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (1..workers)
            .map(|worker| scope.spawn(move || compile(worker)))
            .collect();
        let mine = compile(0);
        threads
            .into_iter()
            .map(|thread| thread.join().expect("compiling does not panic"))
            .fold(mine, Result::and)
    })?;
    let made: Vec<Arc<Pipeline>> = distinct
        .iter()
        .map(|((kernel, accesses), _)| kernels.pipeline(device, kernel, accesses))
        .collect::<Result<_>>()?;
    let new: Vec<_> = distinct
        .iter()
        .zip(&made)
        .map(|(((kernel, accesses), dispatch), pipeline)| {
            (*kernel, &accesses[..], &**pipeline, &dispatch.params[..])
        })
        .collect();
    warm_up::compile(device, &new);
    Ok(())
}

/// The uniform parameters of all dispatches in one buffer.
struct Params {
    buffer: Buffer,
    parts: Parts,
}

/// Offset and size of each dispatch's part, in bytes.
type Parts = Vec<(u64, u64)>;

impl Params {
    /// The buffer's bytes, with the parts.
    fn of(device: &Device, dispatches: &[Dispatch]) -> Result<(Vec<u8>, Parts)> {
        let alignment = device.limits().min_uniform_buffer_offset_alignment as usize;
        let mut bytes: Vec<u8> = Vec::new();
        let mut parts = Vec::new();
        for dispatch in dispatches {
            let start = bytes.len().next_multiple_of(alignment);
            bytes.resize(start, 0);
            bytes.extend_from_slice(bytemuck::cast_slice(&dispatch.params));
            // Uniform structs are sized in multiples of 16 bytes.
            let size = (4 * dispatch.params.len()).next_multiple_of(16).max(16);
            bytes.resize(start + size, 0);
            parts.push((start as u64, size as u64));
        }
        bytes.resize(bytes.len().max(16), 0);
        let (size, limit) = (bytes.len() as u64, device.limits().max_buffer_size);
        require_within(limit, "the parameters of one tape, in bytes,", size)?;
        Ok((bytes, parts))
    }

    fn build(device: &Device, dispatches: &[Dispatch]) -> Result<Params> {
        let (bytes, parts) = Params::of(device, dispatches)?;
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let buffer = device.create_buffer("kernel parameters", bytes.len() as u64, usage)?;
        device.shared.queue.write_buffer(buffer.raw(), 0, &bytes);
        Ok(Params { buffer, parts })
    }

    fn binding(&self, index: usize) -> wgpu::BindingResource<'_> {
        let (offset, size) = self.parts[index];
        wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer: self.buffer.raw(),
            offset,
            size: wgpu::BufferSize::new(size),
        })
    }
}
