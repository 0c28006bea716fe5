//! The recorded operations: shapes, gradient rules, and which kernels run.

use super::problem::Problem;
use super::{backward, forward};
use crate::ops::{Operation, Takes, TensorType};
use crate::shape::Shape;
use crate::tape::{Backward, Lowering, Var};

/// What to do instead of differentiating twice.
const COMPOSE: &str = "the fused kernels have no second derivative; compose attention from matmul and softmax instead";

/// Attention. Inputs: q, k and v, or the three packed in one; then the mask and the random key, if there are any.
/// Outputs: the result as `[B, Tq, H, Dh]` (packed: `[B, T, D]`), and the log-sum-exps `[B, H, Tq]`.
#[derive(Clone, Debug, Hash)]
pub(super) struct Fused {
    pub problem: Problem,
}

impl Operation for Fused {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let p = &self.problem;
        let out = if p.is_packed {
            Shape::new(&[p.batch, p.queries, p.heads * p.head_dim])
        } else {
            Shape::new(&[p.batch, p.queries, p.heads, p.head_dim])
        };
        let lse = Shape::new(&[p.batch, p.heads, p.queries]);
        vec![p.result(out, inputs), TensorType::f32(lse)]
    }

    fn takes(&self, index: usize) -> Takes {
        match index < self.problem.operand_count() {
            true => Takes::Half,
            false => Takes::F32,
        }
    }

    /// Nothing differentiates the log-sum-exps: they are not given out.
    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        let p = self.problem;
        let operands = p.operand_count();
        let (operands, others) = node.inputs().split_at(operands);
        let mut inputs = operands.to_vec();
        inputs.extend([node.output(0), node.output(1), node.gradient(0)]);
        inputs.extend(others);
        let operation = FusedGradient {
            problem: p,
            wants_queries: node.wants(0),
            wants_keys: p.is_packed || node.wants(1) || node.wants(2),
        };
        let gradient = node.tape().record(operation, &inputs);
        let mut gradients = vec![None; node.inputs().len()];
        if p.is_packed {
            gradients[0] = Some(gradient);
            return gradients;
        }
        for (index, range) in p.gradient_ranges().into_iter().enumerate() {
            if node.wants(index) {
                let (rows, heads) = match index {
                    0 => (p.queries, p.heads),
                    _ => (p.keys, p.kv_heads),
                };
                let part = gradient.slice(0, range);
                let part = part.reshape([p.batch, rows, heads, p.head_dim]);
                gradients[index] = Some(part.permute(&[0, 2, 1, 3]));
            }
        }
        gradients
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        forward::forward(cx, &self.problem);
    }
}

/// The gradient of [`Fused`]. Inputs: its operands; its two outputs and the gradient at the first; its mask and random
/// key. Output: the gradient of the packed operand, or those of q, k and v, each as `[B, T, H, Dh]`, one after the
/// other in one flat tensor (kernels have few bindings).
#[derive(Clone, Debug, Hash)]
struct FusedGradient {
    problem: Problem,
    wants_queries: bool,
    wants_keys: bool,
}

impl Operation for FusedGradient {
    fn name(&self) -> &'static str {
        "attention_gradient"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        if self.problem.is_packed {
            return vec![self.problem.result(inputs[0].shape, inputs)];
        }
        let [_, _, values] = self.problem.gradient_ranges();
        vec![self.problem.result(Shape::new(&[values.end]), inputs)]
    }

    /// The log-sum-exps lie between the result and its gradient.
    fn takes(&self, index: usize) -> Takes {
        let operands = self.problem.operand_count();
        match index <= operands || index == operands + 2 {
            true => Takes::Half,
            false => Takes::F32,
        }
    }

    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        node.not_differentiable(COMPOSE)
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        backward::backward(cx, &self.problem, self.wants_queries, self.wants_keys);
    }
}

/// The weights before dropout. Inputs: q, k, the log-sum-exps, and the mask if there is one.
#[derive(Clone, Debug, Hash)]
pub(super) struct Weights {
    pub problem: Problem,
}

impl Operation for Weights {
    fn name(&self) -> &'static str {
        "attention_weights"
    }

    fn outputs(&self, _inputs: &[TensorType]) -> Vec<TensorType> {
        vec![TensorType::f32(self.problem.weights_shape())]
    }

    fn takes(&self, index: usize) -> Takes {
        match index < 2 {
            true => Takes::Half,
            false => Takes::F32,
        }
    }

    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        node.not_differentiable(
            "the weights are there to be looked at; to train on them, compose matmul and softmax",
        )
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        forward::weights(cx, &self.problem);
    }
}
