//! What ends an epilogue, as text: see [`End`].

use super::dispatch::Operand;
use super::ends::{End, Kind};
use super::lowerer::Lowerer;

/// An [`End`] behind the steps of an epilogue. A gate's gradient reads the rows as the last leaf, of which no step loads
/// anything; they and the output are given as their left half.
pub(super) struct Ending {
    pub end: End,
    /// The step that it reads.
    pub step: usize,
    pub output: Operand,
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
        let mut output = lowerer.operand(graph.output(end.node).expect("an output"));
        if let (_, Some(packed)) = end.inputs(graph) {
            leaves.push(halves(&lowerer.operand(packed))[0]);
            output = halves(&output)[0];
        }
        Ending { end, step, output }
    }

    /// The functions that are applied, behind those of [`End::called`].
    pub fn functions(&self, text: &mut String) {
        match self.end.kind {
            Kind::Gate(wgsl) => {
                *text += &format!("fn gated(gate: T, up: T) -> T {{ return {wgsl}; }}\n");
            }
            Kind::GateGradient(halves) => {
                for (name, wgsl) in ["gate_gradient", "up_gradient"].into_iter().zip(halves) {
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
