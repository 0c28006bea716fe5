//! Elements by index along an axis, as PyTorch's `gather` and `index_select`.
//!
//! ```text
//! gather:        out[i, j, k] = x[i, ids[i, j, k], k]       (along axis 1 of 3)
//! index_select:  out[i, j, k] = x[i, ids[j], k]
//! ```
//!
//! The gradients sum over equal indices in a fixed order.

use super::indices::Bounds;
use super::{Operation, Takes, TensorType};
use crate::gpu::{DType, Kernel};
use crate::shape::Shape;
use crate::tape::{Backward, Dispatch, Lowering, Var};

/// `x`, indices of the same shape but for the axis → elements of `x`; or the gradient at what was gathered, the indices → the
/// gradient of `x`.
#[derive(Clone, Debug, Hash)]
struct Gather {
    axis: usize,
    bounds: Bounds,
    is_gradient: bool,
}

impl Operation for Gather {
    fn name(&self) -> &'static str {
        match self.is_gradient {
            true => "gather_gradient",
            false => "gather",
        }
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let shape = inputs[0].shape;
        vec![match self.is_gradient {
            true => TensorType::f32(shape.with_dim(self.axis, self.bounds.extent)),
            false => inputs[0].with_shape(inputs[1].shape),
        }]
    }

    fn takes(&self, _index: usize) -> Takes {
        Takes::Either
    }

    /// Both are linear, and each is the other's transpose.
    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        let transpose = Gather {
            is_gradient: !self.is_gradient,
            ..self.clone()
        };
        let inputs = [node.gradient(0), node.input(1)];
        vec![Some(node.tape().record(transpose, &inputs)), None]
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        let [input, indices] = [0, 1].map(|index| cx.contiguous(&cx.input(index)));
        let output = cx.output(0);
        let picked = indices.shape().dim(self.axis);
        // The gradient looks at every index along the axis, as many in one dispatch as loops may go round.
        let part = if self.is_gradient {
            picked.min(cx.most_iterations() - 1)
        } else {
            picked
        };
        // The gradient reads the indices again, but they are counted once.
        let counter = (!self.is_gradient).then(|| self.bounds.counter(cx, "gather"));
        for first in (0..picked).step_by(part) {
            let params = [
                output.elements(),
                output.shape().dims()[self.axis + 1..].iter().product(),
                picked,
                self.bounds.extent,
                input.layout.offset,
                indices.layout.offset,
                output.layout.offset,
                first,
                picked.min(first + part),
            ];
            let mut kernel = Kernel::builtin(self.name(), "gather", self.name());
            if let Some(counter) = &counter {
                kernel = counter.kernel(kernel, 4);
            }
            let mut dispatch = Dispatch::new(kernel)
                .read(&input)
                .read(&indices)
                .write(&output);
            if let Some(counter) = &counter {
                dispatch = counter.bind(dispatch);
            }
            cx.dispatch(
                dispatch
                    .params(&params.map(|word| word as u32))
                    .params(&[f32::NAN.to_bits()])
                    .iterations(if self.is_gradient { part + 1 } else { 0 })
                    .groups(output.elements().div_ceil(64))
                    .cost(0, indices.bytes() + 2 * input.bytes().min(output.bytes())),
            );
        }
    }
}

impl<'t> Var<'t> {
    /// Elements by index along an axis: `out[.., j, ..] = self[.., indices[.., j, ..], ..]`, of the shape of `indices`
    /// (of type `U32`), whose extents beside the axis may be smaller than this tensor's. An index beyond the axis is
    /// an error, as with [`Var::embedding`].
    ///
    /// The gradient looks, for every element of this tensor, at all indices along the axis: where both are long,
    /// [`Var::index_select`] is cheaper, if it will do.
    ///
    /// # Panics
    ///
    /// If an element type is wrong, there is no such axis, or the shapes do not fit.
    #[track_caller]
    pub fn gather(self, axis: usize, indices: Var<'t>) -> Var<'t> {
        let (x, ids) = (self.tensor_type(), indices.tensor_type());
        let rank = x.shape.rank();
        let fits = axis < rank
            && ids.shape.rank() == rank
            && (0..rank).all(|a| a == axis || ids.shape.dim(a) <= x.shape.dim(a));
        assert!(
            fits && x.dtype.is_float() && ids.dtype == DType::U32,
            "gather along axis {axis}: {:?} {} and indices {:?} {} do not fit",
            x.dtype,
            x.shape,
            ids.dtype,
            ids.shape
        );
        let mut read = self;
        for a in (0..rank).filter(|&a| a != axis) {
            let extent = ids.shape.dim(a);
            if extent < x.shape.dim(a) {
                read = read.slice(a, 0..extent);
            }
        }
        let bounds = Bounds::check("gather", indices, x.shape.dim(axis), None);
        let gather = Gather {
            axis,
            bounds,
            is_gradient: false,
        };
        self.tape.record(gather, &[read, indices])
    }

    /// The parts of this tensor at the given positions of an axis: `out[.., j, ..] = self[.., indices[j], ..]`. An index
    /// beyond the axis is an error, as with [`Var::embedding`].
    ///
    /// # Panics
    ///
    /// If there is no such axis, an element type is wrong, or `indices` has not one axis.
    #[track_caller]
    pub fn index_select(self, axis: usize, indices: Var<'t>) -> Var<'t> {
        let (x, ids) = (self.tensor_type(), indices.tensor_type());
        assert!(
            axis < x.shape.rank()
                && x.dtype.is_float()
                && ids.dtype == DType::U32
                && ids.shape.rank() == 1,
            "index_select along axis {axis}: {:?} {} and indices {:?} {} do not fit, expected U32 [n]",
            x.dtype,
            x.shape,
            ids.dtype,
            ids.shape
        );
        // Rows of a table, once the axis comes first.
        let mut order: Vec<usize> = (0..x.shape.rank()).filter(|&a| a != axis).collect();
        order.insert(0, axis);
        let turned = self.permute(&order);
        let extent = x.shape.dim(axis);
        let table = turned.reshape([extent, x.shape.elements() / extent]);
        let picked = table.embedding(indices);
        let shape: Shape = turned.shape().with_dim(0, ids.shape.dim(0));
        let mut back: Vec<usize> = (1..=axis).collect();
        back.push(0);
        back.extend(axis + 1..x.shape.rank());
        picked.reshape(shape).permute(&back)
    }
}
