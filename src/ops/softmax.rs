//! Softmax and log-softmax over the last axis, each one fused kernel forward and one backward.
//!
//! For another axis, permute it to the end and back.

use super::rows::{Loops, Rows, Sharing, grid, load};
use super::{Operation, Role, Takes, TensorType, epilogue};
use crate::gpu::Kernel;
use crate::tape::{Backward, Dispatch, Lowering, Var};

/// Softmax, or with `log` its logarithm.
#[derive(Clone, Debug, Hash)]
struct Softmax {
    log: bool,
}

/// The gradient of [`Softmax`], from the arriving gradient and the result.
#[derive(Clone, Debug, Hash)]
struct SoftmaxBackward {
    log: bool,
}

impl Operation for Softmax {
    fn name(&self) -> &'static str {
        if self.log { "log_softmax" } else { "softmax" }
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let TensorType { shape, dtype } = inputs[0];
        assert!(
            dtype.is_float() && shape.rank() > 0,
            "{}: needs F32 or F16 with a last axis, not {dtype:?} {shape}",
            self.name()
        );
        vec![TensorType::f32(shape)]
    }

    fn takes(&self, _index: usize) -> Takes {
        Takes::Either
    }

    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        let operation = SoftmaxBackward { log: self.log };
        let inputs = [node.gradient(0), node.output(0)];
        vec![Some(node.tape().record(operation, &inputs))]
    }

    fn role(&self, output: TensorType) -> Role<'_> {
        epilogue(grid(output.shape))
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        lower(cx, self.log, "forward");
    }
}

impl Operation for SoftmaxBackward {
    fn name(&self) -> &'static str {
        if self.log {
            "log_softmax_backward"
        } else {
            "softmax_backward"
        }
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        vec![inputs[0]]
    }

    fn takes(&self, _index: usize) -> Takes {
        Takes::Either
    }

    /// With `u` arriving and all sums along the row:
    ///
    /// - `dx = y·(g − Σ g·y)` has the gradients `y·(u − Σ u·y)` to `g` and `u·(g − Σ g·y) − g·Σ u·y` to `y`;
    /// - `dx = g − exp(y)·Σ g` has `u − Σ exp(y)·u` to `g` and `−exp(y)·u·Σ g` to `y`.
    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        let (g, y, u) = (node.input(0), node.input(1), node.gradient(0));
        let last = [g.shape().rank() - 1];
        let sum = |value: Var<'t>| value.sum_keep(&last);
        if self.log {
            let share = y.exp() * u;
            return vec![
                node.wants(0).then(|| u - sum(share)),
                node.wants(1).then(|| -(share * sum(g))),
            ];
        }
        let along = sum(u * y);
        vec![
            node.wants(0).then(|| y * (u - along)),
            node.wants(1).then(|| u * (g - sum(g * y)) - g * along),
        ]
    }

    fn role(&self, output: TensorType) -> Role<'_> {
        epilogue(grid(output.shape))
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        lower(cx, self.log, "backward");
    }
}

/// One kernel over all rows of the inputs.
fn lower(cx: &mut Lowering<'_>, log: bool, entry: &'static str) {
    let name = match (log, entry) {
        (false, "forward") => "softmax",
        (true, "forward") => "log_softmax",
        (false, _) => "softmax_backward",
        (true, _) => "log_softmax_backward",
    };
    let [_, rows, columns] = grid(cx.input(0).shape());
    let inputs: Vec<Rows> = (0..cx.input_count())
        .map(|index| Rows::of(cx, cx.input(index), columns))
        .collect();
    let vector = columns.is_multiple_of(4) && inputs.iter().all(Rows::is_aligned);
    let loads: String = ["x", "result"]
        .iter()
        .zip(1..=inputs.len())
        .map(|(name, binding)| load(name, binding, vector))
        .collect();
    let epilogue = cx.epilogue(inputs.len() + 1);
    let loops = Loops {
        passes: 2,
        stores: epilogue.iterations,
    };
    let sharing = Sharing::of(cx, rows, columns, loops);
    let kernel = sharing
        .kernel(Kernel::builtin(name, "softmax", entry))
        .constant("LOG", usize::from(log))
        .declare(&loads)
        .declare(&epilogue.wgsl);
    let mut params = sharing.params.to_vec();
    let mut dispatch = Dispatch::new(kernel);
    let mut bytes = epilogue.bytes;
    for input in &inputs {
        params.extend(input.place());
        dispatch = dispatch.read(&input.operand);
        bytes += input.operand.bytes();
    }
    params.resize(8, 0);
    cx.dispatch(
        dispatch
            .params(&params)
            .epilogue(&epilogue)
            .groups(sharing.groups)
            .iterations(sharing.iterations)
            .cost(5 * (rows * columns) as u64, bytes),
    );
}

impl<'t> Var<'t> {
    /// `exp(xᵢ) / Σⱼ exp(xⱼ)` along the last axis, safe for elements of any size. A row of nothing but −∞ gives zeros.
    ///
    /// # Panics
    ///
    /// If this is a scalar, or not `F32`.
    #[track_caller]
    pub fn softmax(self) -> Var<'t> {
        self.tape.record(Softmax { log: false }, &[self])
    }

    /// `xᵢ − ln Σⱼ exp(xⱼ)` along the last axis: the logarithm of [`Var::softmax`], accurate where that is close to zero
    /// or one.
    ///
    /// # Panics
    ///
    /// If this is a scalar, or not `F32`.
    #[track_caller]
    pub fn log_softmax(self) -> Var<'t> {
        self.tape.record(Softmax { log: true }, &[self])
    }
}
