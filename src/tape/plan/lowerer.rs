//! What lowering keeps: where values lie, and the dispatches so far.

use std::collections::HashMap;
use std::ops::Range;

use super::analysis::Analysis;
use super::dispatch::{Dispatch, Operand, Program, Slot};
use super::groups::FusionGroup;
use super::{halves, window};
use crate::error::require_within;
use crate::gpu::buffer::Buffer;
use crate::gpu::readback::Fault;
use crate::gpu::{DType, Device, Tensor};
use crate::shape::{Layout, Shape};
use crate::tape::graph::{NodeId, Source, ValueId};
use crate::tape::record::Graph;

/// WebGPU guarantees that bindings may start at multiples of this many bytes.
const BINDING_ALIGNMENT: usize = 256;

/// Smaller values are not worth the kernels of their own that writing over an operand takes.
const REUSED_FROM: u64 = 1 << 20;

/// The slot of the inputs, and that of the counters of faults.
const INPUTS: usize = 0;
const FAULTS: usize = 1;

pub(super) struct Lowerer<'a> {
    pub device: &'a Device,
    pub graph: &'a Graph,
    pub analysis: &'a Analysis,
    pub program: Program,
    /// By base value: its slot, and the index of its first element there.
    pub places: HashMap<ValueId, (usize, usize)>,
}

impl<'a> Lowerer<'a> {
    pub fn new(device: &'a Device, graph: &'a Graph, analysis: &'a Analysis) -> Lowerer<'a> {
        Lowerer {
            device,
            graph,
            analysis,
            program: Program {
                slots: vec![Slot::Inputs, Slot::Faults],
                dispatches: Vec::new(),
                fetches: Vec::new(),
                faults: Vec::new(),
                refused: None,
            },
            places: HashMap::new(),
        }
    }

    /// Where a value's elements are, giving its base a slot if it has none yet.
    pub fn operand(&mut self, value: ValueId) -> Operand {
        let view = self.analysis.views[value.index()];
        let (slot, offset) = match self.places.get(&view.base) {
            Some(&place) => place,
            None => {
                let place = self.place(view.base);
                self.places.insert(view.base, place);
                place
            }
        };
        Operand {
            slot,
            layout: view.layout.shifted(offset),
            dtype: self.graph.ty(value).dtype,
        }
    }

    /// Gives an output the place of an input that nothing else reads.
    pub fn reuse(&mut self, node: NodeId, output: usize, input: usize) -> Option<Operand> {
        let input = self.graph.inputs(node)[input];
        let output = self.graph.outputs(node).nth(output)?;
        let base = self.analysis.views[input.index()].base;
        let elements = |value: ValueId| self.graph.ty(value).shape.elements();
        let (source, target) = (self.operand(input), self.operand(output));
        let is_mine = |reader| reader == node;
        let fits = source.layout.is_contiguous()
            && elements(base) == elements(output)
            && source.dtype == target.dtype
            && self.is_transient(source.slot)
            && self.is_transient(target.slot)
            && !self.analysis.is_fetched(base)
            && self.analysis.is_only_read_by(self.graph, base, is_mine);
        if !fits {
            return None;
        }
        self.places
            .insert(output, (source.slot, source.layout.offset));
        Some(self.operand(output))
    }

    /// Gives a large value that a pointwise group computes the place of one that it alone reads, element by element.
    pub fn reuse_leaf(&mut self, group: &FusionGroup) {
        let (graph, analysis) = (self.graph, self.analysis);
        let inputs = group.inputs(graph);
        let base_of = |value: ValueId| analysis.views[value.index()].base;
        for output in group.outputs(graph, analysis) {
            let ty = graph.ty(output);
            if self.places.contains_key(&output)
                || ty.dtype.storage(ty.shape.elements()) < REUSED_FROM
            {
                continue;
            }
            let is_free = |&&input: &&ValueId| {
                let base = base_of(input);
                let readings = inputs.iter().filter(|&&other| base_of(other) == base);
                let place = self.places.get(&base);
                let is_ours = |node| group.members().any(|it| it == node);
                graph.ty(input) == ty
                    && graph.ty(base).shape.elements() == ty.shape.elements()
                    && analysis.views[input.index()].layout.is_contiguous()
                    && place.is_some_and(|&(slot, _)| self.is_transient(slot))
                    && readings.count() == 1
                    && !analysis.is_fetched(base)
                    && analysis.is_only_read_by(graph, base, is_ours)
            };
            if let Some(&input) = inputs.iter().find(is_free) {
                self.places.insert(output, self.places[&base_of(input)]);
                return;
            }
        }
    }

    fn is_transient(&self, slot: usize) -> bool {
        matches!(self.program.slots[slot], Slot::Transient { .. })
    }

    fn place(&mut self, base: ValueId) -> (usize, usize) {
        match self.graph.nodes[self.graph.producer(base).index()].source {
            Source::Input { offset } => (INPUTS, offset / self.graph.ty(base).dtype.bytes()),
            Source::Tensor { index } => self.place_tensor(&self.graph.tensors[index]),
            Source::Operation(_) => {
                let ty = self.graph.ty(base);
                let bytes = ty.dtype.storage(ty.shape.elements());
                (self.slot(Slot::Transient { bytes }), 0)
            }
        }
    }

    pub fn place_tensor(&mut self, tensor: &Tensor) -> (usize, usize) {
        let size = tensor.dtype.bytes();
        let first = size * tensor.layout.offset;
        let end = (size * tensor.layout.end()).next_multiple_of(4);
        let mut start = first - first % BINDING_ALIGNMENT;
        // A uniform window must not reach beyond the buffer: near its end it starts earlier.
        if let Some(window) = window::uniform_window(self.device, (end - start) as u64)
            && let Some(last) = tensor.buffer.bytes().checked_sub(window)
        {
            start = start.min(last as usize);
            start -= start % BINDING_ALIGNMENT;
        }
        let slot = self.external(&tensor.buffer, start as u64..end as u64, first as u64);
        (slot, (first - start) / size)
    }

    /// The slot of a range of a persistent buffer whose elements begin at `first`. A range that is bound already keeps its
    /// slot, so that operands can be compared.
    pub fn external(&mut self, buffer: &Buffer, range: Range<u64>, first: u64) -> usize {
        let mut slots = self.program.slots.iter_mut();
        let known = slots.position(|slot| match slot {
            Slot::External {
                buffer: known,
                start,
                bytes,
                first: earliest,
            } if known.id() == buffer.id() && (*start..*start + *bytes) == range => {
                *earliest = first.min(*earliest);
                true
            }
            _ => false,
        });
        known.unwrap_or_else(|| {
            self.slot(Slot::External {
                buffer: buffer.clone(),
                start: range.start,
                bytes: range.end - range.start,
                first,
            })
        })
    }

    fn slot(&mut self, slot: Slot) -> usize {
        self.program.slots.push(slot);
        self.program.slots.len() - 1
    }

    pub fn temp(&mut self, shape: Shape, dtype: DType) -> Operand {
        let bytes = dtype.storage(shape.elements());
        Operand {
            slot: self.slot(Slot::Transient { bytes }),
            layout: Layout::contiguous(shape, 0),
            dtype,
        }
    }

    pub fn fault_counter(&mut self, fault: Fault) -> Operand {
        let words = Fault::WORDS * self.program.faults.len();
        self.program.faults.push(fault);
        Operand {
            slot: FAULTS,
            layout: Layout::contiguous(Shape::new(&[Fault::WORDS]), words),
            dtype: DType::U32,
        }
    }

    #[track_caller]
    pub fn push(&mut self, mut dispatch: Dispatch) {
        halves::widen(self.device, &mut dispatch);
        self.join(&mut dispatch);
        for (axis, &extent) in dispatch.grid.iter().enumerate() {
            assert!(
                extent <= 65_535,
                "kernel `{}`: {extent} workgroups in dimension {axis}, the limit is 65535",
                dispatch.kernel.name
            );
        }
        let kernel = &dispatch.kernel;
        let limit = self.device.most_iterations();
        match dispatch.iterations {
            Some(needed) => {
                let loops = "in iterations of one invocation's loops on this software adapter,";
                let what = format!("kernel `{}`, {loops}", kernel.name);
                let fits = require_within(limit as u64, what, needed as u64);
                self.program.refused = self.program.refused.take().or(fits.err());
            }
            None => assert!(
                !kernel.trusted && !kernel.module.has_loops(),
                "kernel `{}` has loops: state how often they go round, by Dispatch::iterations",
                kernel.name
            ),
        }
        self.program.dispatches.push(dispatch);
    }
}
