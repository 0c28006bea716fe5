//! Concatenation along an axis.
//!
//! Every input is copied to its part of the output; the gradient of an input is that part of the gradient, a view.

use super::{Operation, Takes, TensorType};
use crate::gpu::DType;
use crate::tape::{Backward, Lowering, Var};

#[derive(Clone, Debug, Hash)]
struct Concat {
    axis: usize,
}

impl Operation for Concat {
    fn name(&self) -> &'static str {
        "concat"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let extent = inputs.iter().map(|input| input.shape.dim(self.axis)).sum();
        let shape = inputs[0].shape.with_dim(self.axis, extent);
        vec![inputs[0].with_shape(shape)]
    }

    fn takes(&self, _index: usize) -> Takes {
        Takes::Either
    }

    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        let mut start = 0;
        let part = |(index, input): (usize, &Var<'t>)| {
            let range = start..start + input.shape().dim(self.axis);
            start = range.end;
            node.wants(index)
                .then(|| node.gradient(0).slice(self.axis, range))
        };
        node.inputs().iter().enumerate().map(part).collect()
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        let output = cx.output(0);
        let mut start = 0;
        for index in 0..cx.input_count() {
            let input = cx.input(index);
            let extent = input.shape().dim(self.axis);
            let part = output.layout.slice(self.axis, start, extent);
            cx.copy(&input, &output.with_layout(part));
            start += extent;
        }
    }
}

impl<'t> Var<'t> {
    /// The inputs one after the other along an axis: any number of them, of one element type, with shapes that differ at
    /// most in that axis. Among floats of both types, halves are widened.
    ///
    /// # Panics
    ///
    /// If there are no inputs or no such axis, or if shapes differ otherwise, or integers meet floats.
    #[track_caller]
    pub fn concat(inputs: &[Var<'t>], axis: usize) -> Var<'t> {
        let &[first, ..] = inputs else {
            panic!("concat: there are no inputs");
        };
        let expected = first.tensor_type();
        for input in inputs {
            let TensorType { shape, dtype } = input.tensor_type();
            let fits = (dtype == expected.dtype || (dtype.is_float() && expected.dtype.is_float()))
                && axis < shape.rank()
                && shape.rank() == expected.shape.rank()
                && shape.with_dim(axis, 1) == expected.shape.with_dim(axis, 1);
            assert!(
                fits,
                "concat along axis {axis}: {:?} {} and {dtype:?} {shape} do not fit together",
                expected.dtype, expected.shape
            );
        }
        if inputs.len() == 1 {
            return first;
        }
        let widest = match inputs.iter().all(|input| input.dtype() == expected.dtype) {
            true => expected.dtype,
            false => DType::F32,
        };
        let inputs: Vec<Var<'t>> = inputs.iter().map(|input| input.cast(widest)).collect();
        first.tape.record(Concat { axis }, &inputs)
    }

    /// The inputs, all of one shape and element type, along a new axis. Among floats of both types, halves are widened.
    ///
    /// # Panics
    ///
    /// If there are no inputs, shapes differ, integers meet floats, or `axis` is beyond the rank.
    #[track_caller]
    pub fn stack(inputs: &[Var<'t>], axis: usize) -> Var<'t> {
        let Some(first) = inputs.first() else {
            panic!("stack: there are no inputs");
        };
        let shape = first.shape();
        assert!(
            axis <= shape.rank(),
            "stack: {shape} gets no axis {axis} when one is added"
        );
        let mut dims = shape.dims().to_vec();
        dims.insert(axis, 1);
        // No closure: its panics would not point at the caller.
        let mut raised = Vec::with_capacity(inputs.len());
        for input in inputs {
            assert!(
                input.shape() == shape,
                "stack: {shape} and {} differ",
                input.shape()
            );
            raised.push(input.reshape(&dims));
        }
        Var::concat(&raised, axis)
    }
}
