//! Views: reshape, permute, slice, broadcast.
//!
//! Views cost nothing: kernels read through strides. Where no strides can express one, a copy is made.

use std::ops::Range;

use super::reduce::sum_to;
use super::{Operation, Role, Takes, TensorType};
use crate::shape::{Layout, Shape};
use crate::tape::{Backward, Lowering, Var};

/// One of the ways to look at the same elements.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum View {
    Reshape(Shape),
    Permute(Vec<usize>),
    /// A part of an axis.
    Slice(usize, Range<usize>),
    Broadcast(Shape),
    /// The value itself, with no gradient flowing back.
    Detach,
}

impl Operation for View {
    fn name(&self) -> &'static str {
        match self {
            View::Reshape(_) => "reshape",
            View::Permute(_) => "permute",
            View::Slice(..) => "slice",
            View::Broadcast(_) => "broadcast_to",
            View::Detach => "detach",
        }
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let TensorType { shape, dtype } = inputs[0];
        let shape = match self {
            View::Reshape(to) => {
                assert!(
                    shape.elements() == to.elements(),
                    "reshape: {shape} and {to} have different numbers of elements"
                );
                *to
            }
            View::Permute(axes) => {
                let mut sorted = axes.clone();
                sorted.sort_unstable();
                assert!(
                    sorted.iter().copied().eq(0..shape.rank()),
                    "permute: {axes:?} does not name each axis of {shape} once"
                );
                Layout::contiguous(shape, 0).permute(axes).shape
            }
            View::Slice(axis, range) => {
                assert!(
                    *axis < shape.rank() && range.end <= shape.dim(*axis) && !range.is_empty(),
                    "slice: {range:?} of axis {axis} is not within {shape}"
                );
                shape.with_dim(*axis, range.len())
            }
            View::Broadcast(to) => {
                assert!(
                    shape.broadcast(to) == Some(*to),
                    "broadcast_to: {shape} does not broadcast to {to}"
                );
                *to
            }
            View::Detach => shape,
        };
        vec![TensorType { shape, dtype }]
    }

    fn takes(&self, _index: usize) -> Takes {
        Takes::Either
    }

    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        let gradient = node.gradient(0);
        let shape = node.input(0).shape();
        vec![match self {
            View::Reshape(_) => Some(gradient.reshape(shape)),
            View::Permute(axes) => {
                let mut inverse = vec![0; axes.len()];
                for (to, &from) in axes.iter().enumerate() {
                    inverse[from] = to;
                }
                Some(gradient.permute(&inverse))
            }
            View::Slice(axis, range) => {
                Some(gradient.pad(*axis, range.start, shape.dim(*axis) - range.end))
            }
            View::Broadcast(_) => Some(sum_to(gradient, shape)),
            View::Detach => None,
        }]
    }

    fn passes_gradients(&self) -> bool {
        *self != View::Detach
    }

    fn lower(&self, _cx: &mut Lowering<'_>) {
        unreachable!("the planner resolves views");
    }

    fn role(&self, _output: TensorType) -> Role<'_> {
        Role::View
    }

    fn view(&self, input: &Layout) -> Option<Layout> {
        match self {
            View::Reshape(shape) => input.reshape(*shape),
            View::Permute(axes) => Some(input.permute(axes)),
            View::Slice(axis, range) => Some(input.slice(*axis, range.start, range.len())),
            View::Broadcast(shape) => input.broadcast_to(*shape),
            View::Detach => Some(*input),
        }
    }
}

impl<'t> Var<'t> {
    #[track_caller]
    fn look(self, view: View) -> Var<'t> {
        self.tape.record(view, &[self])
    }

    /// The same elements in the same order under another shape.
    ///
    /// # Panics
    ///
    /// If the numbers of elements differ.
    #[track_caller]
    pub fn reshape(self, shape: impl Into<Shape>) -> Var<'t> {
        let shape = shape.into();
        if shape == self.shape() {
            return self;
        }
        self.look(View::Reshape(shape))
    }

    /// The same elements with the axes in another order: axis `i` of the result is axis `axes[i]`.
    ///
    /// # Panics
    ///
    /// If `axes` does not name each axis once.
    #[track_caller]
    pub fn permute(self, axes: &[usize]) -> Var<'t> {
        self.look(View::Permute(axes.to_vec()))
    }

    /// The last two axes swapped.
    ///
    /// # Panics
    ///
    /// If the rank is below two.
    #[track_caller]
    pub fn transpose(self) -> Var<'t> {
        let rank = self.shape().rank();
        assert!(
            rank >= 2,
            "transpose: shape {} has no two axes",
            self.shape()
        );
        let mut axes: Vec<usize> = (0..rank).collect();
        axes.swap(rank - 2, rank - 1);
        self.permute(&axes)
    }

    /// The part of an axis in `range`.
    ///
    /// # Panics
    ///
    /// If the range is empty or reaches beyond the axis.
    #[track_caller]
    pub fn slice(self, axis: usize, range: Range<usize>) -> Var<'t> {
        self.look(View::Slice(axis, range))
    }

    /// The elements repeated to a larger shape, by the broadcasting rule.
    ///
    /// # Panics
    ///
    /// If the shape does not broadcast to `shape`.
    #[track_caller]
    pub fn broadcast_to(self, shape: impl Into<Shape>) -> Var<'t> {
        let shape = shape.into();
        if shape == self.shape() {
            return self;
        }
        self.look(View::Broadcast(shape))
    }

    /// The same value as a constant: no gradient flows back through it.
    pub fn detach(self) -> Var<'t> {
        self.look(View::Detach)
    }
}
