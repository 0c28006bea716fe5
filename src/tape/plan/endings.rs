//! What ends an epilogue, as text: see [`End`].

use super::dispatch::Operand;
use super::ends::End;
use super::lowerer::Lowerer;
use crate::tape::role::{PointwiseFunction, Role};

/// An [`End`] behind the steps of an epilogue.
pub(super) struct Ending {
    /// The step that it reads.
    pub step: usize,
    pub output: Operand,
    /// The pointwise functions that it calls.
    pub called: &'static [PointwiseFunction],
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
    /// `step` computes what `end` reads. Adds to `leaves` what is read beside that.
    pub fn new(
        lowerer: &mut Lowerer<'_>,
        end: End,
        step: usize,
        leaves: &mut Vec<Operand>,
    ) -> Ending {
        let graph = lowerer.graph;
        let output = graph.output(end.node()).expect("an output");
        let target = lowerer.operand(output);
        let (kind, called, output) = match graph.role(end.node()) {
            Some(Role::Gate { wgsl, called }) => (Kind::Gate(wgsl), called, target),
            Some(Role::GateGradient { gate, up, called }) => {
                let (_, packed) = end.inputs(graph);
                let packed = lowerer.operand(packed.expect("a gradient reads rows"));
                leaves.push(halves(&packed)[0]);
                let kind = Kind::GateGradient([gate, up]);
                (kind, called, halves(&target)[0])
            }
            _ => unreachable!("checked when the group was formed"),
        };
        Ending {
            step,
            output,
            called,
            kind,
        }
    }

    pub fn is_gate(&self) -> bool {
        matches!(self.kind, Kind::Gate(_))
    }

    /// The functions that are applied, behind those of [`Ending::called`].
    pub fn functions(&self, text: &mut String) {
        match &self.kind {
            Kind::Gate(wgsl) => {
                *text += &format!("fn gated(gate: T, up: T) -> T {{ return {wgsl}; }}\n");
            }
            Kind::GateGradient(halves) => {
                for (name, wgsl) in ["gate_gradient", "up_gradient"].iter().zip(halves) {
                    *text += &format!(
                        "fn {name}(gate: T, up: T, gradient: T) -> T {{ return {wgsl}; }}\n"
                    );
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
        *text += &format!(
            "    let gate = in{rows}[{from}];\n    \
             let up = in{rows}[{from} + {apart}];\n    \
             out{output}[{to}] = gate_gradient(gate, up, v{step});\n    \
             out{output}[{to} + {apart}] = up_gradient(gate, up, v{step});\n"
        );
    }
}

/// The left and the right half of rows.
pub(super) fn halves(rows: &Operand) -> [Operand; 2] {
    let (axis, half) = (rows.shape().rank() - 1, rows.shape().last() / 2);
    [0, half].map(|start| rows.with_layout(rows.layout.slice(axis, start, half)))
}
