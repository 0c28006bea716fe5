//! The gated unit of SwiGLU feed-forward layers, on the packed output of one projection.
//!
//! `h = silu(gate)·up` where a row is `[gate, up]`, `[…, 2F] → […, F]`. Shazeer 2020, "GLU Variants Improve Transformer".
//! Slices and pointwise operations say the same. Here it ends the epilogue of the projection before, and its gradient that
//! of the product that computes the gradient of `h`. Where that cannot be, each is one kernel, and the gradient's writes
//! both halves in place, where slices would pad and add.

use super::pointwise::table::rows;
use super::{Operation, PointwiseFunction, Role, Takes, TensorType, require_floats};
use crate::gpu::{AdapterClass, Kernel};
use crate::shape::Shape;
use crate::tape::{Backward, Dispatch, Lowering, Operand, Signature, Var};

/// What the roles' expressions call.
static CALLED: [PointwiseFunction; 1] = [rows::sigmoid.function()];

/// `[…, 2F] → […, F]`
#[derive(Clone, Debug)]
struct Swiglu;

/// The shape of `h`.
#[track_caller]
fn halved(packed: Shape) -> Shape {
    assert!(
        packed.rank() > 0 && packed.last().is_multiple_of(2),
        "swiglu: the last axis of {packed} does not have two halves"
    );
    packed.with_dim(packed.rank() - 1, packed.last() / 2)
}

impl Operation for Swiglu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn identity(&self, _signature: &mut Signature) {}

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        require_floats("swiglu", inputs);
        vec![TensorType {
            shape: halved(inputs[0].shape),
            ..inputs[0]
        }]
    }

    fn takes(&self, _index: usize) -> Takes {
        Takes::Either
    }

    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        let inputs = [node.input(0), node.gradient(0)];
        vec![Some(node.tape().record(SwigluBackward, &inputs))]
    }

    fn role(&self, _output: TensorType) -> Role<'_> {
        Role::Gate {
            wgsl: "gate * pw_sigmoid(gate) * up",
            called: &CALLED,
        }
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        let packed = cx.contiguous(&cx.input(0));
        let hidden = cx.output(0);
        let dispatch = variant(cx, "swiglu", &[packed, hidden]);
        cx.dispatch(dispatch.read(&packed).write(&hidden).cost(
            6 * hidden.elements() as u64,
            packed.bytes() + hidden.bytes(),
        ));
    }
}

/// From the packed rows and the gradient of `h`, with `σ = sigmoid(gate)`:
/// `d gate = dh·up·σ·(1 + gate·(1 − σ))` and `d up = dh·gate·σ`.
#[derive(Clone, Debug)]
struct SwigluBackward;

impl Operation for SwigluBackward {
    fn name(&self) -> &'static str {
        "swiglu_backward"
    }

    fn identity(&self, _signature: &mut Signature) {}

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        vec![inputs[0]]
    }

    fn takes(&self, _index: usize) -> Takes {
        Takes::Either
    }

    /// Recorded from differentiable operations, so that gradients of any order exist.
    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        let (packed, dh, arrived) = (node.input(0), node.input(1), node.gradient(0));
        let axis = packed.shape().rank() - 1;
        let half = dh.shape().last();
        let halves = |x: Var<'t>| (x.slice(axis, 0..half), x.slice(axis, half..2 * half));
        let ((gate, up), (to_gate, to_up)) = (halves(packed), halves(arrived));
        let s = gate.sigmoid();
        let slope = s * (gate * (1.0 - s) + 1.0);
        let of_packed = || {
            let curvature = s * (1.0 - s) * (gate * (1.0 - 2.0 * s) + 2.0);
            let d_gate = dh * (to_gate * up * curvature + to_up * slope);
            let d_up = dh * to_gate * slope;
            d_gate.pad(axis, 0, half) + d_up.pad(axis, half, 0)
        };
        let of_dh = || to_gate * up * slope + to_up * gate * s;
        vec![node.wants(0).then(of_packed), node.wants(1).then(of_dh)]
    }

    fn role(&self, _output: TensorType) -> Role<'_> {
        Role::GateGradient {
            gate: "gradient * up * pw_sigmoid(gate) * (T(1.0) + gate * (T(1.0) - pw_sigmoid(gate)))",
            up: "gradient * gate * pw_sigmoid(gate)",
            called: &CALLED,
        }
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        let packed = cx.contiguous(&cx.input(0));
        let hidden_gradient = cx.contiguous(&cx.input(1));
        let output = cx.output(0);
        let operands = [packed, hidden_gradient, output];
        let dispatch = variant(cx, "swiglu_backward", &operands);
        cx.dispatch(
            dispatch
                .read(&packed)
                .read(&hidden_gradient)
                .write(&output)
                .cost(
                    12 * hidden_gradient.elements() as u64,
                    packed.bytes() + hidden_gradient.bytes() + output.bytes(),
                ),
        );
    }
}

/// The dispatch but for what it binds. The operands are the packed rows, `h` or its gradient, and the
/// packed gradient if there is one.
fn variant(cx: &Lowering<'_>, name: &'static str, operands: &[Operand]) -> Dispatch {
    let hidden = operands[1];
    let half = hidden.shape().last();
    let aligned = |operand: &Operand| operand.layout.offset.is_multiple_of(4);
    let is_vector = half.is_multiple_of(4) && operands.iter().all(aligned);
    let unit = if is_vector { 4 } else { 1 };
    let source = match cx.class() {
        AdapterClass::Software => "swiglu_rows",
        AdapterClass::Gpu => "swiglu",
    };
    let mut kernel = Kernel::builtin(name, source, name);
    if is_vector {
        kernel = kernel.declare("alias T = vec4<f32>;\n");
    }
    let rows = hidden.elements() / half.max(1);
    let half = half / unit;
    let mut iterations = 0;
    let (mut params, groups) = match cx.class() {
        AdapterClass::Software => {
            // Several teams a thread even out what the threads get.
            let of_row = half.div_ceil(8) + 2;
            let most = ((cx.most_iterations() - 1) / of_row).max(1);
            let rows_per_team = rows.div_ceil(16).clamp(1, most);
            iterations = rows_per_team * of_row + 1;
            let words = [rows, rows_per_team, half];
            (words.to_vec(), rows.div_ceil(rows_per_team))
        }
        AdapterClass::Gpu => {
            let count = rows * half;
            (vec![count, half], count.div_ceil(64))
        }
    };
    params.extend(operands.iter().map(|o| o.offset() as usize / unit));
    params.resize(6, 0);
    let params: Vec<u32> = params.into_iter().map(|word| word as u32).collect();
    Dispatch::new(kernel)
        .params(&params)
        .groups(groups)
        .iterations(iterations)
}

impl<'t> Var<'t> {
    /// The gated unit `silu(gate)·up` of rows `[gate, up]`: `[…, 2F] → […, F]`. Shazeer 2020, "GLU Variants Improve
    /// Transformer".
    ///
    /// # Panics
    ///
    /// If the last axis has an odd extent.
    #[track_caller]
    pub fn swiglu(self) -> Var<'t> {
        self.tape.record(Swiglu, &[self])
    }
}
