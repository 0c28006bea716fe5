//! A residual sum between two RMS norms, in one dispatch: where one branch of a block ends and the next begins, when both
//! are normalised at both ends.

use super::rows::Team;
use super::{Operation, Takes, TensorType, require_floats};
use crate::gpu::{DType, Kernel};
use crate::shape::Shape;
use crate::tape::{Backward, Dispatch, Lowering, Var};

/// Inputs: `x`, the residual, the weights of both norms. Outputs: the sum and its norm.
#[derive(Clone, Debug, Hash)]
struct ResidualNorms {
    /// The bits of both ε.
    epsilons: [u32; 2],
    /// Of what is normalised last.
    dtype: DType,
}

impl Operation for ResidualNorms {
    fn name(&self) -> &'static str {
        "residual_norms"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        require_floats(self.name(), inputs);
        let [x, residual, first, second] = [0, 1, 2, 3].map(|index| inputs[index].shape);
        let weight = || Shape::new(&[x.last()]);
        assert!(
            x.rank() > 0 && residual == x && [first, second] == [weight(); 2],
            "residual_norms: {x} and {residual} do not go with weights {first} and {second}"
        );
        let dtype = self.dtype;
        vec![inputs[1], TensorType { shape: x, dtype }]
    }

    fn takes(&self, _index: usize) -> Takes {
        Takes::Either
    }

    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        node.not_differentiable("compose Var::rms_norm and a sum instead")
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        let inputs = [0, 1, 2, 3].map(|index| cx.contiguous(&cx.input(index)));
        let outputs = [0, 1].map(|index| cx.output(index));
        let shape = inputs[0].shape();
        let (width, rows) = (shape.last(), shape.elements() / shape.last());
        let mut places = inputs.iter().chain(&outputs).map(|it| it.layout.offset);
        let vector = width.is_multiple_of(4) && places.all(|place| place.is_multiple_of(4));
        let unit = if vector { 4 } else { 1 };
        let mut kernel = Kernel::builtin("residual_norms", "residual_norms", "residual_norms");
        if vector {
            kernel = kernel.declare(super::VECTORS);
        }
        let columns = width / unit;
        let team = Team::of(cx, columns);
        let offsets = inputs
            .iter()
            .chain(&outputs)
            .map(|it| it.layout.offset / unit);
        let words = [columns, rows]
            .into_iter()
            .chain(offsets)
            .map(|word| word as u32);
        let params: Vec<u32> = words.collect();
        let mut dispatch = Dispatch::new(team.kernel(kernel));
        for input in &inputs {
            dispatch = dispatch.read(input);
        }
        for output in &outputs {
            dispatch = dispatch.write(output);
        }
        let bytes = inputs.iter().chain(&outputs).map(|it| it.bytes()).sum();
        cx.dispatch(
            dispatch
                .params(&params)
                .params(&[(1.0 / width as f32).to_bits()])
                .params(&self.epsilons)
                .groups(rows.div_ceil(team.teams))
                .iterations(3 * (columns.div_ceil(team.lanes) + 10 + team.lanes.div_ceil(8)))
                .cost(10 * shape.elements() as u64, bytes),
        );
    }
}

impl<'t> Var<'t> {
    /// `residual + self.rms_norm(weight, ε)`, and that sum's [`Var::rms_norm`] with the weight and ε of `next`, in one
    /// dispatch. On a tape of mixed precision the second is `F16`. No gradient flows through either.
    ///
    /// # Panics
    ///
    /// If the shapes differ, or a weight is not of shape `[width]`.
    #[track_caller]
    pub fn residual_norms(
        self,
        residual: Var<'t>,
        (weight, epsilon): (Var<'t>, f32),
        next: (Var<'t>, f32),
    ) -> [Var<'t>; 2] {
        let operation = ResidualNorms {
            epsilons: [epsilon, next.1].map(f32::to_bits),
            dtype: self.tape.precision().dtype(),
        };
        let inputs = [self, residual, weight, next.0];
        let outputs = self.tape.record_all(operation, &inputs);
        [outputs[0], outputs[1]]
    }
}
