//! From groups to dispatches over virtual slots.

use super::analysis::Analysis;
use super::dispatch::{Dispatch, Operand, Program, is_same_buffer};
use super::emit::{Emit, Lowering};
use super::ends::End;
use super::epilogue::Epilogue;
use super::groups::FusionGroup;
use super::lowerer::Lowerer;
use super::{pointwise, stores};
use crate::gpu::readback::Fault;
use crate::gpu::{DType, Device};
use crate::shape::{Layout, Shape};
use crate::tape::graph::ValueId;
use crate::tape::record::Graph;
use crate::tape::role::Role;

/// Lowers all groups in order.
pub(super) fn lower(
    device: &Device,
    graph: &Graph,
    analysis: &Analysis,
    groups: &[FusionGroup],
) -> Program {
    let mut lowerer = Lowerer::new(device, graph, analysis);
    if graph.fusion.copy_elision {
        lowerer.elide_copies(groups);
    }
    for group in groups {
        lower_group(&mut lowerer, group);
    }
    for (value, range) in &graph.fetches {
        let operand = lowerer.operand(*value);
        // Whole words are copied to the host.
        let is_word = (operand.dtype.bytes() * operand.layout.offset).is_multiple_of(4);
        let dense = match is_word && operand.layout.is_contiguous() {
            true => operand,
            false => pointwise::copied(&mut lowerer, &operand),
        };
        lowerer.program.fetches.push((dense, range.clone()));
    }
    lowerer.program
}

fn lower_group(lowerer: &mut Lowerer<'_>, group: &FusionGroup) {
    let Some(root) = group.root else {
        pointwise::lower(lowerer, group);
        return;
    };
    let graph = lowerer.graph;
    let operation = graph.operation(root).expect("groups hold operations");
    let role = graph.role(root);
    if let (Some(Role::View), Some(output)) = (&role, graph.output(root)) {
        // A view that strides cannot express: copy into the input's order, which is the output's.
        let input = lowerer.operand(graph.inputs(root)[0]);
        let copy = lowerer.operand(output);
        let target = Operand {
            layout: Layout::contiguous(input.shape(), copy.layout.offset),
            ..copy
        };
        pointwise::copy(lowerer, &input, &target);
        return;
    }
    if let Some(end) = End::of(graph, root) {
        pointwise::lower_end(lowerer, end);
        return;
    }
    let values = graph.inputs(root);
    let mut inputs: Vec<Operand> = values.iter().map(|&value| lowerer.operand(value)).collect();
    copy_out(lowerer, operation.mutates(), values, &mut inputs);
    let needed = group.outputs(graph, lowerer.analysis);
    let values: Vec<ValueId> = graph.outputs(root).collect();
    let is_epilogue = matches!(role, Some(Role::Epilogue { .. }));
    let outputs = values
        .iter()
        .enumerate()
        // An epilogue stores output 0 itself, and only if somebody reads it.
        .map(|(position, &value)| (!(is_epilogue && position == 0)).then(|| lowerer.operand(value)))
        .collect();
    let needed = values.iter().map(|value| needed.contains(value)).collect();
    let has_gate = group.end.is_some_and(|end| end.is_gate());
    let mut emit = GroupLowerer { lowerer, group };
    operation.lower(&mut Lowering {
        emit: &mut emit,
        inputs,
        outputs,
        needed,
        has_gate,
    });
}

/// Copies those inputs of an operation that lie in a buffer which it overwrites, in the same tensor or beside it: no
/// dispatch may bind a buffer for reading and writing, nor find half of a tensor overwritten.
fn copy_out(
    lowerer: &mut Lowerer<'_>,
    mutated: &[usize],
    values: &[ValueId],
    inputs: &mut [Operand],
) {
    let written: Vec<usize> = mutated.iter().map(|&index| inputs[index].slot).collect();
    for index in (0..inputs.len()).filter(|index| !mutated.contains(index)) {
        let base = lowerer.analysis.views[values[index].index()].base;
        // What was computed in its place is no copy.
        let is_tensor = lowerer.graph.tensor(base).is_some();
        let (slots, slot) = (&lowerer.program.slots, inputs[index].slot);
        let mut written = written.iter();
        if is_tensor && written.any(|&other| is_same_buffer(slots, slot, other)) {
            inputs[index] = pointwise::copied(lowerer, &inputs[index]);
        }
    }
}

/// The lowerer at work on one group.
struct GroupLowerer<'a, 'l> {
    lowerer: &'a mut Lowerer<'l>,
    group: &'a FusionGroup,
}

impl Emit for GroupLowerer<'_, '_> {
    fn device(&self) -> &Device {
        self.lowerer.device
    }
    fn temp(&mut self, shape: Shape, dtype: DType) -> Operand {
        self.lowerer.temp(shape, dtype)
    }
    fn copy(&mut self, from: &Operand, to: &Operand) {
        pointwise::copy(self.lowerer, from, to);
    }
    fn push(&mut self, dispatch: Dispatch) {
        self.lowerer.push(dispatch);
    }
    fn epilogue(&mut self, first_binding: usize) -> Epilogue {
        stores::generate(self.lowerer, self.group, first_binding)
    }
    fn reuse(&mut self, output: usize, input: usize) -> Option<Operand> {
        let node = self.group.root.expect("operations with kernels are roots");
        self.lowerer.reuse(node, output, input)
    }
    fn fault_counter(&mut self, fault: Fault) -> Operand {
        self.lowerer.fault_counter(fault)
    }
}
