//! The gated units of feed-forward layers, SwiGLU and GEGLU, on the packed output of one projection.
//!
//! `h = f(gate)·up` where a row is `[gate, up]`, `[…, 2F] → […, F]`. Shazeer 2020, "GLU Variants Improve Transformer".
//! Slices and pointwise operations say the same. Here it ends the epilogue of the projection before, and its gradient that
//! of the product that computes the gradient of `h`. Where that cannot be, the planner writes one kernel for each, and the
//! gradient's stores both halves in place, where slices would pad and add.

use super::pointwise::table::rows;
use super::{Operation, PointwiseFunction, Role, Takes, TensorType, require_floats};
use crate::shape::Shape;
use crate::tape::{Backward, Lowering, Var};

/// `f`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Activation {
    Silu,
    GeluTanh,
}

/// What is computed, over `gate`, `up` and `gradient`: see [`Role::Gate`] and [`Role::GateGradient`].
struct Text {
    gated: &'static str,
    gate_gradient: &'static str,
    up_gradient: &'static str,
    called: &'static [PointwiseFunction],
}

static SILU: Text = Text {
    gated: "gate * pw_sigmoid(gate) * up",
    gate_gradient: "gradient * up * pw_sigmoid(gate) * (T(1.0) + gate * (T(1.0) - pw_sigmoid(gate)))",
    up_gradient: "gradient * gate * pw_sigmoid(gate)",
    called: &[rows::sigmoid.function()],
};

/// The slope is `(1 + t)/2 + x·(1 − t²)·u′/2` for `t = tanh(u)`, `u = √(2/π)·(x + 0.044715·x³)`.
static GELU_TANH: Text = Text {
    gated: "pw_gelu_tanh(gate) * up",
    gate_gradient: "gradient * up * pw_gelu_tanh_slope(gate, pw_gelu_tanh_inner(gate))",
    up_gradient: "gradient * pw_gelu_tanh(gate)",
    called: &[
        rows::gelu_tanh.function(),
        PointwiseFunction {
            name: "gelu_tanh_inner",
            wgsl: "safe_tanh(T(0.7978846) * (x + T(0.044715) * x * x * x))",
            ..rows::gelu_tanh.function()
        },
        PointwiseFunction {
            name: "gelu_tanh_slope",
            inputs: &["x", "t"],
            wgsl: "T(0.5) * (T(1.0) + t) + x * (T(1.0) - t * t) * (T(0.3989423) + T(0.05351613) * x * x)",
            ..rows::gelu_tanh.function()
        },
    ],
};

impl Activation {
    fn text(self) -> &'static Text {
        match self {
            Activation::Silu => &SILU,
            Activation::GeluTanh => &GELU_TANH,
        }
    }

    /// The names of the operation and of its gradient.
    fn names(self) -> [&'static str; 2] {
        match self {
            Activation::Silu => ["swiglu", "swiglu_backward"],
            Activation::GeluTanh => ["geglu_tanh", "geglu_tanh_backward"],
        }
    }

    /// `f` of a gate, and its first and second derivatives.
    fn derivatives<'t>(self, gate: Var<'t>) -> [Var<'t>; 3] {
        match self {
            Activation::Silu => {
                let s = gate.sigmoid();
                let slope = s * (gate * (1.0 - s) + 1.0);
                let curvature = s * (1.0 - s) * (gate * (1.0 - 2.0 * s) + 2.0);
                [gate * s, slope, curvature]
            }
            Activation::GeluTanh => {
                let square = gate * gate;
                let inner = gate * (square * 0.044_715 + 1.0) * SQRT_2_OVER_PI;
                let first = (square * (3.0 * 0.044_715) + 1.0) * SQRT_2_OVER_PI;
                let second = gate * (6.0 * 0.044_715 * SQRT_2_OVER_PI);
                let t = inner.tanh();
                let rest = 1.0 - t * t;
                let slope = (t + 1.0 + gate * rest * first) * 0.5;
                let bend = second - t * first * first * 2.0;
                [
                    gate * (t + 1.0) * 0.5,
                    slope,
                    rest * (first + gate * bend * 0.5),
                ]
            }
        }
    }
}

/// `√(2/π)`.
const SQRT_2_OVER_PI: f32 = 0.797_884_6;

/// `[…, 2F] → […, F]`
#[derive(Clone, Debug, Hash)]
struct Gate(Activation);

/// The shape of `h`.
#[track_caller]
fn halved(name: &str, packed: Shape) -> Shape {
    assert!(
        packed.rank() > 0 && packed.last().is_multiple_of(2),
        "{name}: the last axis of {packed} does not have two halves"
    );
    packed.with_dim(packed.rank() - 1, packed.last() / 2)
}

impl Operation for Gate {
    fn name(&self) -> &'static str {
        self.0.names()[0]
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        require_floats(self.name(), inputs);
        vec![inputs[0].with_shape(halved(self.name(), inputs[0].shape))]
    }

    fn takes(&self, _index: usize) -> Takes {
        Takes::Either
    }

    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        let inputs = [node.input(0), node.gradient(0)];
        vec![Some(node.tape().record(GateBackward(self.0), &inputs))]
    }

    fn role(&self, _output: TensorType) -> Role<'_> {
        Role::Gate {
            wgsl: self.0.text().gated,
            called: self.0.text().called,
        }
    }

    fn lower(&self, _cx: &mut Lowering<'_>) {
        unreachable!("the planner writes gates' kernels");
    }
}

/// From the packed rows and the gradient of `h`: `d gate = dh·up·f′(gate)` and `d up = dh·f(gate)`.
#[derive(Clone, Debug, Hash)]
struct GateBackward(Activation);

impl Operation for GateBackward {
    fn name(&self) -> &'static str {
        self.0.names()[1]
    }

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
        let [value, slope, curvature] = self.0.derivatives(gate);
        let of_packed = || {
            let d_gate = dh * (to_gate * up * curvature + to_up * slope);
            let d_up = dh * to_gate * slope;
            d_gate.pad(axis, 0, half) + d_up.pad(axis, half, 0)
        };
        let of_dh = || to_gate * up * slope + to_up * value;
        vec![node.wants(0).then(of_packed), node.wants(1).then(of_dh)]
    }

    fn role(&self, _output: TensorType) -> Role<'_> {
        Role::GateGradient {
            gate: self.0.text().gate_gradient,
            up: self.0.text().up_gradient,
            called: self.0.text().called,
        }
    }

    fn lower(&self, _cx: &mut Lowering<'_>) {
        unreachable!("the planner writes gates' kernels");
    }
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
        self.tape.record(Gate(Activation::Silu), &[self])
    }

    /// The gated unit `gelu_tanh(gate)·up` of rows `[gate, up]`: `[…, 2F] → […, F]`. Shazeer 2020, "GLU Variants Improve
    /// Transformer".
    ///
    /// # Panics
    ///
    /// If the last axis has an odd extent.
    #[track_caller]
    pub fn geglu_tanh(self) -> Var<'t> {
        self.tape.record(Gate(Activation::GeluTanh), &[self])
    }
}
