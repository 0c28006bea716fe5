//! From units to dispatches over virtual slots.

use std::collections::HashMap;

use super::analysis::Analysis;
use super::dispatch::{Dispatch, Operand, Program, Slot};
use super::emit::Lowering;
use super::pointwise;
use super::side_by_side;
use super::uniform;
use super::units::Unit;
use crate::error::Error;
use crate::gpu::readback::Fault;
use crate::gpu::{DType, Device, Tensor};
use crate::ops::Role;
use crate::shape::{Layout, Shape};
use crate::tape::graph::{Graph, NodeId, Source, ValueId};

/// WebGPU guarantees that bindings may start at multiples of this many bytes.
const BINDING_ALIGNMENT: usize = 256;

/// Lowers all units in order.
pub(super) fn lower(
    device: &Device,
    graph: &Graph,
    analysis: &Analysis,
    units: &[Unit],
) -> Program {
    let mut lowerer = Lowerer {
        device,
        graph,
        analysis,
        program: Program {
            slots: vec![Slot::Upload, Slot::Faults],
            dispatches: Vec::new(),
            fetches: Vec::new(),
            faults: Vec::new(),
            refused: None,
        },
        places: HashMap::new(),
    };
    if graph.fusion.forward_assign {
        lowerer.forward_assigned(units);
    }
    for unit in units {
        lowerer.unit(unit);
    }
    for (value, range) in &graph.fetches {
        let operand = lowerer.operand(*value);
        let dense = lowerer.contiguous(&operand);
        lowerer.program.fetches.push((dense, range.clone()));
    }
    if graph.fusion.side_by_side {
        side_by_side::pair(device.class(), &mut lowerer.program);
    }
    lowerer.program
}

/// The upload buffer's slot, and that of the counters of faults.
const UPLOAD: usize = 0;
const FAULTS: usize = 1;

pub(super) struct Lowerer<'a> {
    pub device: &'a Device,
    pub graph: &'a Graph,
    pub analysis: &'a Analysis,
    pub program: Program,
    /// By base value: its slot, and the index of its first element there.
    places: HashMap<ValueId, (usize, usize)>,
}

impl Lowerer<'_> {
    /// Lets values that only exist to be assigned to a persistent tensor be computed in place there.
    fn forward_assigned(&mut self, units: &[Unit]) {
        let (graph, analysis) = (self.graph, self.analysis);
        for unit in units {
            let Some(node) = unit.root else { continue };
            let is_assign = graph
                .operation(node)
                .is_some_and(|operation| operation.name() == crate::ops::layout::ASSIGN);
            if !is_assign {
                continue;
            }
            let &[destination, value] = graph.inputs(node) else {
                unreachable!("assign has two inputs");
            };
            let tensor = graph.tensor(destination).expect("destinations are tensors");
            let view = analysis.views[value.index()];
            let is_whole = view.layout.is_contiguous()
                && view.layout.offset == 0
                && view.layout.shape.elements() == graph.ty(view.base).shape.elements();
            let producer = units.iter().find(|unit| {
                unit.members()
                    .any(|member| member == graph.producer(view.base))
            });
            let (Some(producer), true) = (producer, is_whole) else {
                continue;
            };
            if self.places.contains_key(&view.base)
                || !self.is_only_assigned(view.base, node, producer)
                || self.touches(producer, tensor)
                || self.is_used(tensor, |reader| reader < node)
                || (self.is_fetched(view.base) && self.is_used(tensor, |reader| reader > node))
            {
                continue;
            }
            let place = self.place_tensor(tensor);
            self.places.insert(view.base, place);
        }
    }

    /// Whether nobody reads a value but its own unit and one assignment. Another reader might write to the tensor's
    /// buffer, and no dispatch may bind it both ways.
    fn is_only_assigned(&self, base: ValueId, assign: NodeId, producer: &Unit) -> bool {
        let is_view = |node: NodeId| {
            self.graph.outputs(node).len() > 0 && self.analysis.is_free_view(self.graph, node)
        };
        self.deep_readers(base).all(|reader| {
            reader == assign || is_view(reader) || producer.members().any(|node| node == reader)
        })
    }

    /// Whether a unit reads or overwrites the tensor's buffer: no dispatch may bind it both ways.
    fn touches(&self, unit: &Unit, tensor: &Tensor) -> bool {
        unit.inputs(self.graph).iter().any(|&input| {
            let base = self.analysis.views[input.index()].base;
            let forwarded = self.places.get(&base).is_some_and(|&(slot, _)| {
                matches!(&self.program.slots[slot], Slot::External { buffer, .. } if buffer.id() == tensor.buffer.id())
            });
            let bound = self.graph.tensor(base)
                .is_some_and(|source| source.buffer.id() == tensor.buffer.id());
            forwarded || bound
        })
    }

    /// Whether a value is copied to the host, whole or in part. That happens last, when the tensor that it was computed
    /// in may hold something else.
    fn is_fetched(&self, base: ValueId) -> bool {
        let mut fetches = self.graph.fetches.iter();
        fetches.any(|(value, _)| self.analysis.views[value.index()].base == base)
    }

    /// Whether one of the `nodes` reads or overwrites the tensor's elements.
    fn is_used(&self, tensor: &Tensor, nodes: impl Fn(NodeId) -> bool) -> bool {
        let (start, end) = (tensor.layout.offset, tensor.layout.end());
        self.graph.values.iter().enumerate().any(|(index, value)| {
            let Source::Tensor { index: other } = self.graph.nodes[value.node.index()].source
            else {
                return false;
            };
            let other = &self.graph.tensors[other];
            other.buffer.id() == tensor.buffer.id()
                && other.layout.offset < end
                && start < other.layout.end()
                && self.deep_readers(ValueId(index as u32)).any(&nodes)
        })
    }

    /// Nodes that read a value, directly or through a view.
    fn deep_readers(&self, base: ValueId) -> impl Iterator<Item = NodeId> + '_ {
        (0..self.graph.values.len())
            .filter(move |&index| self.analysis.views[index].base == base)
            .flat_map(|index| self.analysis.readers[index].iter().copied())
    }

    fn unit(&mut self, unit: &Unit) {
        let Some(root) = unit.root else {
            pointwise::lower(self, unit);
            return;
        };
        let operation = self
            .graph
            .operation(root)
            .expect("units hold operations")
            .clone();
        let output = self.graph.outputs(root).next();
        if let Some(output) = output
            && let Role::View = operation.role(self.graph.ty(output))
        {
            // A view that strides cannot express: copy into the input's order, which is the output's.
            let input = self.operand(self.graph.inputs(root)[0]);
            let copy = self.operand(output);
            let target = Operand {
                layout: Layout::contiguous(input.shape(), copy.layout.offset),
                ..copy
            };
            pointwise::copy(self, &input, &target);
            return;
        }
        let values = self.graph.inputs(root).to_vec();
        let mut inputs: Vec<Operand> = values.iter().map(|&value| self.operand(value)).collect();
        self.copy_out(operation.mutates(), &values, &mut inputs);
        let needed = unit.outputs(self.graph, self.analysis);
        let values: Vec<ValueId> = self.graph.outputs(root).collect();
        let is_epilogue = output.is_some_and(|output| {
            matches!(operation.role(self.graph.ty(output)), Role::Epilogue { .. })
        });
        let outputs = values
            .iter()
            .enumerate()
            // An epilogue stores output 0 itself, and only if somebody reads it.
            .map(|(position, &value)| {
                (!(is_epilogue && position == 0)).then(|| self.operand(value))
            })
            .collect();
        let needed = values.iter().map(|value| needed.contains(value)).collect();
        let mut cx = Lowering {
            lowerer: self,
            unit,
            inputs,
            outputs,
            needed,
        };
        operation.lower(&mut cx);
    }

    /// Copies those inputs of an operation that lie in a buffer which it overwrites, in the same tensor or beside it: no
    /// dispatch may bind a buffer for reading and writing, nor find half of a tensor overwritten.
    fn copy_out(&mut self, mutated: &[usize], values: &[ValueId], inputs: &mut [Operand]) {
        let written: Vec<usize> = mutated.iter().map(|&index| inputs[index].slot).collect();
        for index in (0..inputs.len()).filter(|index| !mutated.contains(index)) {
            let base = self.analysis.views[values[index].index()].base;
            // What was computed in its place is no copy.
            let is_tensor = self.graph.tensor(base).is_some();
            let slot = inputs[index].slot;
            if is_tensor
                && written
                    .iter()
                    .any(|&other| self.is_same_buffer(slot, other))
            {
                let copy = self.temp(inputs[index].shape(), inputs[index].dtype);
                pointwise::copy(self, &inputs[index], &copy);
                inputs[index] = copy;
            }
        }
    }

    fn is_same_buffer(&self, a: usize, b: usize) -> bool {
        match (&self.program.slots[a], &self.program.slots[b]) {
            (Slot::External { buffer: a, .. }, Slot::External { buffer: b, .. }) => {
                a.id() == b.id()
            }
            _ => false,
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
    pub fn put_over(&mut self, node: NodeId, output: usize, input: usize) -> Option<Operand> {
        let input = self.graph.inputs(node)[input];
        let output = self.graph.outputs(node).nth(output)?;
        let base = self.analysis.views[input.index()].base;
        let elements = |value: ValueId| self.graph.ty(value).shape.elements();
        let (source, target) = (self.operand(input), self.operand(output));
        let is_transient =
            |operand: &Operand| matches!(self.program.slots[operand.slot], Slot::Transient { .. });
        let fits = source.layout.is_contiguous()
            && elements(base) == elements(output)
            && source.dtype == target.dtype
            && is_transient(&source)
            && is_transient(&target);
        if !fits || !self.analysis.is_only_reader(self.graph, base, node) {
            return None;
        }
        self.places
            .insert(output, (source.slot, source.layout.offset));
        Some(self.operand(output))
    }

    fn place(&mut self, base: ValueId) -> (usize, usize) {
        match self.graph.nodes[self.graph.producer(base).index()].source {
            Source::Upload { offset } => (UPLOAD, offset / 4),
            Source::Tensor { index } => self.place_tensor(&self.graph.tensors[index]),
            Source::Operation(_) => {
                let elements = self.graph.ty(base).shape.elements();
                (self.slot(Slot::Transient { elements }), 0)
            }
        }
    }

    fn place_tensor(&mut self, tensor: &Tensor) -> (usize, usize) {
        let first = 4 * tensor.layout.offset;
        let end = 4 * tensor.layout.end();
        let mut start = first - first % BINDING_ALIGNMENT;
        // A uniform window must not reach beyond the buffer: near its end it starts earlier.
        if let Some(window) = uniform::window(self.device, (end - start) as u64)
            && let Some(last) = tensor.buffer.bytes().checked_sub(window)
        {
            start = start.min(last as usize);
            start -= start % BINDING_ALIGNMENT;
        }
        let slot = Slot::External {
            buffer: tensor.buffer.clone(),
            start: start as u64,
            bytes: (end - start) as u64,
            first: first as u64,
        };
        (self.slot(slot), (first - start) / 4)
    }

    fn slot(&mut self, slot: Slot) -> usize {
        // A range that is bound already keeps its slot, so that operands can be compared.
        if let Slot::External {
            buffer,
            start,
            bytes,
            first,
        } = &slot
        {
            for (index, other) in self.program.slots.iter_mut().enumerate() {
                match other {
                    Slot::External {
                        buffer: b,
                        start: s,
                        bytes: l,
                        first: f,
                    } if b.id() == buffer.id() && s == start && l == bytes => {
                        *f = (*f).min(*first);
                        return index;
                    }
                    _ => {}
                }
            }
        }
        self.program.slots.push(slot);
        self.program.slots.len() - 1
    }

    pub fn temp(&mut self, shape: Shape, dtype: DType) -> Operand {
        let elements = shape.elements();
        Operand {
            slot: self.slot(Slot::Transient { elements }),
            layout: Layout::contiguous(shape, 0),
            dtype,
        }
    }

    pub fn contiguous(&mut self, operand: &Operand) -> Operand {
        if operand.layout.is_contiguous() {
            return *operand;
        }
        let copy = self.temp(operand.shape(), operand.dtype);
        pointwise::copy(self, operand, &copy);
        copy
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
    pub fn push(&mut self, dispatch: Dispatch) {
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
            Some(needed) if needed > limit => {
                self.program.refused.get_or_insert_with(|| Error::Limit {
                    what: format!(
                        "kernel `{}`, in iterations of one invocation's loops on this software adapter,",
                        kernel.name
                    ),
                    needed: needed as u64,
                    limit: limit as u64,
                });
            }
            Some(_) => {}
            None => assert!(
                !kernel.trusted && !kernel.has_loops(),
                "kernel `{}` has loops: state how often they go round, by Dispatch::iterations",
                kernel.name
            ),
        }
        self.program.dispatches.push(dispatch);
    }
}
