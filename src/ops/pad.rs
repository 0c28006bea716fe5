//! Zeros around one axis: the gradient of a slice.

use super::{Operation, Takes, TensorType};
use crate::gpu::Kernel;
use crate::tape::{Backward, Dispatch, Lowering, Var};

#[derive(Clone, Debug, Hash)]
struct Pad {
    axis: usize,
    before: usize,
    after: usize,
}

impl Operation for Pad {
    fn name(&self) -> &'static str {
        "pad"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let TensorType { shape, dtype } = inputs[0];
        assert!(
            self.axis < shape.rank(),
            "pad: {shape} has no axis {}",
            self.axis
        );
        assert!(
            dtype.is_float(),
            "pad: {shape} holds {dtype:?}, only floats are padded"
        );
        let extent = self.before + shape.dim(self.axis) + self.after;
        vec![inputs[0].with_shape(shape.with_dim(self.axis, extent))]
    }

    fn takes(&self, _index: usize) -> Takes {
        Takes::Either
    }

    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        let extent = node.input(0).shape().dim(self.axis);
        let range = self.before..self.before + extent;
        vec![Some(node.gradient(0).slice(self.axis, range))]
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        let input = cx.contiguous(&cx.input(0));
        let output = cx.output(0);
        let inner: usize = input.shape().dims()[self.axis + 1..].iter().product();
        let params = [
            output.elements() as u32,
            input.offset(),
            output.offset(),
            inner as u32,
            input.shape().dim(self.axis) as u32,
            output.shape().dim(self.axis) as u32,
            self.before as u32,
        ];
        let kernel = Kernel::builtin("pad", "pad", "pad");
        cx.dispatch(
            Dispatch::new(kernel)
                .iterations(0)
                .read(&input)
                .write(&output)
                .params(&params)
                .groups(output.elements().div_ceil(64))
                .cost(0, input.bytes() + output.bytes()),
        );
    }
}

impl<'t> Var<'t> {
    /// This tensor with `before` zeros before and `after` zeros behind it along an axis.
    ///
    /// # Panics
    ///
    /// If there is no such axis.
    #[track_caller]
    pub fn pad(self, axis: usize, before: usize, after: usize) -> Var<'t> {
        if before + after == 0 {
            return self;
        }
        let pad = Pad {
            axis,
            before,
            after,
        };
        self.tape.record(pad, &[self])
    }
}
