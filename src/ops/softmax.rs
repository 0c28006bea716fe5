//! Softmax and log-softmax over the last axis, each one fused kernel forward and one backward.
//!
//! For another axis, permute it to the end and back.

use super::rows::{Loops, Rows, Sharing, grid, load};
use super::{Operation, Role, Takes, TensorType, epilogue};
use crate::gpu::Kernel;
use crate::tape::{Backward, Dispatch, Lowering, Var};

/// Softmax, or with `log` its logarithm; or the gradient of that, from the arriving gradient and the result.
#[derive(Clone, Debug, Hash)]
struct Softmax {
    log: bool,
    is_gradient: bool,
}

impl Operation for Softmax {
    fn name(&self) -> &'static str {
        match (self.log, self.is_gradient) {
            (false, false) => "softmax",
            (true, false) => "log_softmax",
            (false, true) => "softmax_backward",
            (true, true) => "log_softmax_backward",
        }
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let TensorType { shape, dtype } = inputs[0];
        assert!(
            dtype.is_float() && shape.rank() > 0,
            "{}: needs F32 or F16 with a last axis, not {dtype:?} {shape}",
            self.name()
        );
        match self.is_gradient {
            true => vec![inputs[0]],
            false => vec![TensorType::f32(shape)],
        }
    }

    fn takes(&self, _index: usize) -> Takes {
        Takes::Either
    }

    /// Of the gradient, with `u` arriving and all sums along the row:
    ///
    /// - `dx = y·(g − Σ g·y)` has the gradients `y·(u − Σ u·y)` to `g` and `u·(g − Σ g·y) − g·Σ u·y` to `y`;
    /// - `dx = g − exp(y)·Σ g` has `u − Σ exp(y)·u` to `g` and `−exp(y)·u·Σ g` to `y`.
    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        if !self.is_gradient {
            let gradient = Softmax {
                is_gradient: true,
                ..*self
            };
            let inputs = [node.gradient(0), node.output(0)];
            return vec![Some(node.tape().record(gradient, &inputs))];
        }
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

    /// One kernel over all rows of the inputs.
    fn lower(&self, cx: &mut Lowering<'_>) {
        let entry = match self.is_gradient {
            true => "backward",
            false => "forward",
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
            .kernel(Kernel::builtin(self.name(), "softmax", entry))
            .constant("LOG", usize::from(self.log))
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
}

impl<'t> Var<'t> {
    /// `exp(xᵢ) / Σⱼ exp(xⱼ)` along the last axis, safe for elements of any size. A row of nothing but −∞ gives zeros.
    ///
    /// # Panics
    ///
    /// If this is a scalar, or not `F32`.
    #[track_caller]
    pub fn softmax(self) -> Var<'t> {
        self.softened(false)
    }

    /// `xᵢ − ln Σⱼ exp(xⱼ)` along the last axis: the logarithm of [`Var::softmax`], accurate where that is close to zero
    /// or one.
    ///
    /// # Panics
    ///
    /// If this is a scalar, or not `F32`.
    #[track_caller]
    pub fn log_softmax(self) -> Var<'t> {
        self.softened(true)
    }

    #[track_caller]
    fn softened(self, log: bool) -> Var<'t> {
        let is_gradient = false;
        self.tape.record(Softmax { log, is_gradient }, &[self])
    }
}
