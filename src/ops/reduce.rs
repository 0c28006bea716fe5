//! Reductions over any axes.

use std::hash::Hash;

use super::{Operation, TensorType};
use crate::gpu::Kernel;
use crate::shape::Shape;
use crate::tape::{Backward, Dispatch, Lowering, Signature, Tape, Var};

/// `Σ x` over axes, which are dropped.
#[derive(Clone, Debug, Hash)]
struct Sum {
    axes: Vec<usize>,
}

/// The shape with the axes removed.
fn without(shape: Shape, axes: &[usize]) -> Shape {
    let kept: Vec<usize> = (0..shape.rank())
        .filter(|axis| !axes.contains(axis))
        .map(|axis| shape.dim(axis))
        .collect();
    Shape::new(&kept)
}

/// The shape with the axes' extents set to one.
fn with_ones(shape: Shape, axes: &[usize]) -> Shape {
    axes.iter()
        .fold(shape, |shape, &axis| shape.with_dim(axis, 1))
}

impl Operation for Sum {
    fn name(&self) -> &'static str {
        "sum"
    }

    fn identity(&self, signature: &mut Signature) {
        self.hash(signature);
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        vec![Tape::f32(without(inputs[0].shape, &self.axes))]
    }

    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        let shape = node.input(0).shape();
        let gradient = node.gradient(0).reshape(with_ones(shape, &self.axes));
        vec![Some(gradient.broadcast_to(shape))]
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        let (input, output) = (cx.input(0), cx.output(0));
        let layout = input.layout;
        let pairs = |wanted: bool| -> Vec<[u32; 4]> {
            (0..layout.shape.rank())
                .rev()
                .filter(|axis| self.axes.contains(axis) == wanted)
                .map(|axis| {
                    [
                        layout.shape.dim(axis) as u32,
                        layout.strides()[axis] as u32,
                        0,
                        0,
                    ]
                })
                .collect()
        };
        let (kept, folded) = (pairs(false), pairs(true));
        let reduced: u32 = folded.iter().map(|[extent, ..]| extent).product();
        let mut params = vec![
            output.elements() as u32,
            reduced,
            input.offset(),
            output.offset(),
            1f32.to_bits(),
            kept.len() as u32,
            folded.len() as u32,
            0,
        ];
        for pairs in [kept, folded] {
            let mut padded = pairs;
            padded.resize(6, [0; 4]);
            params.extend(padded.concat());
        }
        let kernel = Kernel::builtin("sum", include_str!("../../shaders/reduce.wgsl"), "sum");
        cx.dispatch(
            Dispatch::new(kernel)
                .read(&input)
                .write(&output)
                .params(&params)
                .groups(output.elements().div_ceil(64))
                .cost(input.elements() as u64, input.bytes() + output.bytes()),
        );
    }
}

impl<'t> Var<'t> {
    /// The sum over `axes`, which disappear from the shape.
    ///
    /// # Panics
    ///
    /// If an axis does not exist.
    #[track_caller]
    pub fn sum(self, axes: &[usize]) -> Var<'t> {
        self.tape.record(
            Sum {
                axes: axes.to_vec(),
            },
            &[self],
        )
    }

    /// The sum of all elements, as a scalar.
    pub fn sum_all(self) -> Var<'t> {
        let axes: Vec<usize> = (0..self.shape().rank()).collect();
        self.sum(&axes)
    }
}
