//! What can only end an epilogue, since its shape differs from that of the unit: a gate, which makes one element of two
//! that lie half a row apart, and a gate's gradient, which does the reverse.

use std::fmt::Write;

use super::dispatch::Operand;
use super::lowering::Lowerer;
use crate::gpu::DType;
use crate::ops::pointwise::Row;
use crate::ops::{Role, TensorType};
use crate::shape::{Layout, Shape};
use crate::tape::graph::{Graph, NodeId, ValueId};

/// A node that ends its unit.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    /// [`Role::Gate`]
    Gate(NodeId),
    /// [`Role::GateGradient`]
    GateGradient(NodeId),
}

impl End {
    /// `None` if the node has another role, or its inputs and outputs are not what the role asks for: its own kernel then
    /// does whatever it does.
    pub fn of(graph: &Graph, node: NodeId) -> Option<End> {
        let inputs: Vec<_> = graph.inputs(node).iter().map(|&x| graph.ty(x)).collect();
        let outputs: Vec<_> = graph.outputs(node).map(|x| graph.ty(x)).collect();
        let &[output] = &outputs[..] else { return None };
        let is_half = |half: TensorType, rows: TensorType| {
            let rank = rows.shape.rank();
            let has_halves = rank > 0 && rows.shape.last().is_multiple_of(2);
            [half, rows].iter().all(|ty| ty.dtype == DType::F32)
                && has_halves
                && half.shape == rows.shape.with_dim(rank - 1, rows.shape.last() / 2)
        };
        match (graph.operation(node)?.role(output), &inputs[..]) {
            (Role::Gate { .. }, &[rows]) if is_half(output, rows) => Some(End::Gate(node)),
            (Role::GateGradient { .. }, &[rows, half]) if output == rows && is_half(half, rows) => {
                Some(End::GateGradient(node))
            }
            _ => None,
        }
    }

    pub fn node(self) -> NodeId {
        match self {
            End::Gate(node) | End::GateGradient(node) => node,
        }
    }

    /// What the epilogue computes for it, and what it reads otherwise.
    pub fn inputs(self, graph: &Graph) -> (ValueId, Option<ValueId>) {
        let inputs = graph.inputs(self.node());
        match self {
            End::Gate(_) => (inputs[0], None),
            End::GateGradient(_) => (inputs[1], Some(inputs[0])),
        }
    }
}

/// An [`End`] behind the steps of an epilogue.
pub(super) struct Ending {
    /// The step that it reads.
    pub step: usize,
    pub output: Operand,
    /// The pointwise operations that it calls.
    pub rows: &'static [&'static Row],
    kind: Kind,
}

enum Kind {
    /// The expression of [`Role::Gate`].
    Gate(&'static str),
    /// Those of [`Role::GateGradient`] for both halves. The rows are the last leaf, of which no step loads anything; they
    /// and the output are given as their left half.
    GateGradient([&'static str; 2]),
}

impl Ending {
    /// `step` computes what `end` reads, in steps of the given shape. Adds to `leaves` what is read beside that.
    pub fn new(
        lowerer: &mut Lowerer<'_>,
        end: End,
        step: usize,
        shape: Shape,
        leaves: &mut Vec<Operand>,
    ) -> Ending {
        let graph = lowerer.graph;
        let output = graph.outputs(end.node()).next().expect("an output");
        let operation = graph.operation(end.node()).expect("an operation");
        let target = lowerer.operand(output);
        let (kind, rows, output) = match operation.role(graph.ty(output)) {
            Role::Gate { wgsl, rows } => (Kind::Gate(wgsl), rows, target),
            Role::GateGradient { gate, up, rows } => {
                let (_, packed) = end.inputs(graph);
                let packed = lowerer.operand(packed.expect("a gradient reads rows"));
                leaves.push(left_half(&packed, shape));
                let kind = Kind::GateGradient([gate, up]);
                (kind, rows, left_half(&target, shape))
            }
            _ => unreachable!("checked when the unit was formed"),
        };
        Ending {
            step,
            output,
            rows,
            kind,
        }
    }

    pub fn is_gate(&self) -> bool {
        matches!(self.kind, Kind::Gate(_))
    }

    /// The functions that are applied, behind those of [`Ending::rows`].
    pub fn functions(&self, text: &mut String) {
        match &self.kind {
            Kind::Gate(wgsl) => {
                writeln!(text, "fn gated(gate: T, up: T) -> T {{ return {wgsl}; }}").unwrap();
            }
            Kind::GateGradient(halves) => {
                for (name, wgsl) in ["gate_gradient", "up_gradient"].iter().zip(halves) {
                    writeln!(
                        text,
                        "fn {name}(gate: T, up: T, gradient: T) -> T {{ return {wgsl}; }}"
                    )
                    .unwrap();
                }
            }
        }
    }

    /// The statements of a gate's gradient. `at` gives the place of an operand's element in the left
    /// half, `apart` how much further the right half is.
    pub fn gradient_statements(
        &self,
        text: &mut String,
        [rows, output]: [usize; 2],
        at: impl Fn(usize) -> String,
        apart: &str,
    ) {
        let (step, from, to) = (self.step, at(rows), at(output));
        writeln!(
            text,
            "    let gate = in{rows}[{from}];\n    \
             let up = in{rows}[{from} + {apart}];\n    \
             out{output}[{to}] = gate_gradient(gate, up, v{step});\n    \
             out{output}[{to} + {apart}] = up_gradient(gate, up, v{step});"
        )
        .unwrap();
    }
}

/// The left half of dense rows; `shape` is that of one half.
fn left_half(rows: &Operand, shape: Shape) -> Operand {
    let layout = rows.layout;
    let layout = Layout::strided(shape, layout.offset, layout.strides());
    Operand { layout, ..*rows }
}
