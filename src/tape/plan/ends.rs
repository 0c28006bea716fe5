//! What can only end an epilogue, since its shape differs from that of the group: a gate, which makes one element of two
//! that lie half a row apart, and a gate's gradient, which does the reverse.

use super::dispatch::Operand;
use crate::tape::graph::{NodeId, ValueId};
use crate::tape::record::Graph;
use crate::tape::role::{PointwiseFunction, Role, TensorType};

/// A node that ends its group.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub node: NodeId,
    pub kind: Kind,
    /// The pointwise functions that it calls.
    pub called: &'static [PointwiseFunction],
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// The expression of [`Role::Gate`].
    Gate(&'static str),
    /// Those of [`Role::GateGradient`] for both halves.
    GateGradient([&'static str; 2]),
}

impl End {
    /// `None` if the node has another role, or its inputs and outputs are not what the role asks for: its own kernels then
    /// do whatever they do.
    pub fn of(graph: &Graph, node: NodeId) -> Option<End> {
        let inputs: Vec<_> = graph.inputs(node).iter().map(|&x| graph.ty(x)).collect();
        let outputs: Vec<_> = graph.outputs(node).map(|x| graph.ty(x)).collect();
        let &[output] = &outputs[..] else { return None };
        let is_half = |half: TensorType, rows: TensorType| {
            let rank = rows.shape.rank();
            let has_halves = rank > 0 && rows.shape.last().is_multiple_of(2);
            [half, rows].iter().all(|ty| ty.dtype.is_float())
                && has_halves
                && half.shape == rows.shape.with_dim(rank - 1, rows.shape.last() / 2)
        };
        let (kind, called) = match (graph.role(node)?, &inputs[..]) {
            (Role::Gate { wgsl, called }, &[rows]) if is_half(output, rows) => {
                (Kind::Gate(wgsl), called)
            }
            (Role::GateGradient { gate, up, called }, &[rows, half])
                if output == rows && is_half(half, rows) =>
            {
                (Kind::GateGradient([gate, up]), called)
            }
            _ => return None,
        };
        Some(End { node, kind, called })
    }

    pub fn is_gate(&self) -> bool {
        matches!(self.kind, Kind::Gate(_))
    }

    /// The functions that it applies, to both halves of the rows and, if it is a gradient, to what arrives.
    pub fn functions(&self) -> Vec<PointwiseFunction> {
        let function = |name, inputs, wgsl| PointwiseFunction {
            name,
            inputs,
            attributes: &[],
            wgsl,
            helpers: "",
        };
        let inputs = &["gate", "up", "gradient"];
        match self.kind {
            Kind::Gate(wgsl) => vec![function("gated", &inputs[..2], wgsl)],
            Kind::GateGradient([gate, up]) => vec![
                function("gate_gradient", inputs, gate),
                function("up_gradient", inputs, up),
            ],
        }
    }

    /// What the epilogue computes for it, and what it reads otherwise.
    pub fn inputs(self, graph: &Graph) -> (ValueId, Option<ValueId>) {
        let inputs = graph.inputs(self.node);
        match self.kind {
            Kind::Gate(_) => (inputs[0], None),
            Kind::GateGradient(_) => (inputs[1], Some(inputs[0])),
        }
    }
}

/// The left and the right half of rows.
pub(super) fn halves(rows: &Operand) -> [Operand; 2] {
    let (axis, half) = (rows.shape().rank() - 1, rows.shape().last() / 2);
    [0, half].map(|start| rows.with_layout(rows.layout.slice(axis, start, half)))
}
