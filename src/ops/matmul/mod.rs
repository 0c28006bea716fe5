//! Matrix products, batched, of operands with any strides.
//!
//! A transposed operand is a view: `x.matmul(w.transpose())` reads `w` in place. Pointwise operations that follow (bias,
//! activation, residual) become the kernel's epilogue.

mod cut;
mod gpu;
mod operands;
mod software;
mod units;

use super::{Operation, Role, Takes, TensorType, require_floats};
use crate::gpu::{DType, MOST_ITERATIONS};
use crate::ops::reduce::sum_to;
use crate::shape::Shape;
use crate::tape::{Backward, Dispatch, Lowering, Var};
use operands::{LEFT_FOR_STORES, matrices};

/// `C[b] = A[b]·B[b]` for every `b` of the batch.
#[derive(Clone, Debug, Hash)]
struct Matmul {
    /// The output's shape.
    shape: Shape,
    /// Batch, rows and columns as the kernel sees them: where `B` has no batch, `A`'s is part of the rows.
    grid: [usize; 3],
    depth: usize,
}

impl Operation for Matmul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        require_floats("matmul", inputs);
        let is_half = inputs.iter().all(|input| input.dtype == DType::F16);
        vec![TensorType {
            shape: self.shape,
            dtype: if is_half { DType::F16 } else { DType::F32 },
        }]
    }

    fn takes(&self, _index: usize) -> Takes {
        Takes::Half
    }

    /// `dA = dC·Bᵀ` and `dB = Aᵀ·dC`, summed over what was broadcast.
    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        let (a, b, gradient) = (node.input(0), node.input(1), node.gradient(0));
        let da = || sum_to(gradient.matmul(b.transpose()), a.shape());
        let db = || {
            if self.grid[0] == 1 && b.shape().rank() == 2 {
                // One product over all rows of the batch.
                let [_, rows, columns] = self.grid;
                let a = a.reshape([rows, a.shape().last()]);
                let layout = node.tape().layout_of(b);
                let is_turned =
                    layout.is_some_and(|it| it.strides()[0] == 1 && it.strides()[1] > 1);
                if b.dtype() == DType::F32 && is_turned {
                    // Laid out as what `b` is a view of, so that what else arrives there is added as it is stored.
                    let gradient = gradient.reshape([rows, columns]);
                    return gradient.transpose().matmul(a).transpose();
                }
                return a.transpose().matmul(gradient.reshape([rows, columns]));
            }
            sum_to(a.transpose().matmul(gradient), b.shape())
        };
        vec![node.wants(0).then(da), node.wants(1).then(db)]
    }

    fn role(&self, _output: TensorType) -> Role<'_> {
        Role::Epilogue {
            grid: self.grid,
            gates: gpu::can_gate(self.grid, self.depth),
        }
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        let ([batch, rows, columns], depth) = (self.grid, self.depth);
        let a = matrices(cx, 0, self.shape, [batch, rows, depth]);
        let b = matrices(cx, 1, self.shape, [batch, depth, columns]);
        // A tile's work for a single row would be wasted; the form for GPUs reads the matrix once and no more. It can also
        // cut the depth.
        let is_deep = depth.div_ceil(4) > MOST_ITERATIONS - LEFT_FOR_STORES;
        let gated = cx.has_gate();
        let is_register_tile = cx.device().has_subgroups_of(8)
            && units::configuration(cx.device(), &a, &b, self.grid).is_none();
        if rows == 1 || is_deep || !is_register_tile {
            let product = gpu::Product {
                a: &a,
                b: &b,
                grid: self.grid,
                depth,
                gated,
            };
            return product.lower(cx);
        }
        let epilogue = cx.epilogue(3);
        let (kernel, params, groups) = software::subgroup8(&a, &b, self.grid, depth, gated);
        let flops = 2 * (batch * rows * columns * depth) as u64;
        let bytes = a.operand.bytes() + b.operand.bytes() + epilogue.bytes;
        cx.dispatch(
            Dispatch::new(kernel.declare(&epilogue.wgsl_by_rows))
                .read(&a.operand)
                .read(&b.operand)
                .params(&params)
                .epilogue(&epilogue)
                .groups(groups)
                .iterations(depth.div_ceil(4) + 64 * (1 + epilogue.iterations))
                .cost(flops, bytes)
                .fusable("matmul_pair", 8),
        );
    }
}

impl<'t> Var<'t> {
    /// The matrix product over the last two axes: `[…, M, K]·[…, K, N] → […, M, N]`. The leading axes are a batch and
    /// broadcast. Transposed operands cost nothing: pass `x.transpose()`.
    ///
    /// # Panics
    ///
    /// If an operand has fewer than two axes, the inner extents differ, or the batch axes do not broadcast.
    #[track_caller]
    pub fn matmul(self, other: Var<'t>) -> Var<'t> {
        let (a, b) = (self.shape(), other.shape());
        assert!(
            a.rank() >= 2 && b.rank() >= 2 && a.last() == b.dim(b.rank() - 2),
            "matmul: {a} and {b} do not multiply"
        );
        let split = |shape: Shape| -> (Shape, usize, usize) {
            let (batch, matrix) = shape.dims().split_at(shape.rank() - 2);
            (Shape::new(batch), matrix[0], matrix[1])
        };
        let ((batch_a, rows, _), (batch_b, _, columns)) = (split(a), split(b));
        let Some(batch) = batch_a.broadcast(&batch_b) else {
            panic!("matmul: the leading axes of {a} and {b} do not broadcast");
        };
        let mut dims = batch.dims().to_vec();
        dims.extend([rows, columns]);
        let grid = if batch_b.elements() == 1 {
            [1, batch.elements() * rows, columns]
        } else {
            [batch.elements(), rows, columns]
        };
        let operation = Matmul {
            shape: Shape::new(&dims),
            grid,
            depth: a.last(),
        };
        self.tape.record(operation, &[self, other])
    }
}
