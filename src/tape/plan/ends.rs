//! What can only end an epilogue, since its shape differs from that of the group: a gate, which makes one element of two
//! that lie half a row apart, and a gate's gradient, which does the reverse.

use crate::tape::graph::{NodeId, ValueId};
use crate::tape::record::Graph;
use crate::tape::role::{Role, TensorType};

/// A node that ends its group.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    /// [`Role::Gate`]
    Gate(NodeId),
    /// [`Role::GateGradient`]
    GateGradient(NodeId),
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
        match (graph.role(node)?, &inputs[..]) {
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
