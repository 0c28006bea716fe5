//! Reductions over any axes: sum, mean, maximum, minimum, variance, and the place of the maximum.
//!
//! The reduced axes disappear from the shape; the `_keep` forms leave them with an extent of one, ready to broadcast
//! against the input.

mod walk;

use super::{Operation, Takes, TensorType};
use crate::gpu::{AdapterClass, DType, Kernel};
use crate::shape::Shape;
use crate::tape::{Backward, Dispatch, Lowering, Operand, Var};
use walk::{Split, Walk};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Fold {
    Sum,
    Max,
    Min,
    /// The place of the first maximum.
    Argmax,
}

/// `Σ x · scale`, `max x`, `min x` or the index of the first maximum over axes, which are dropped.
#[derive(Clone, Debug, Hash)]
struct Reduce {
    fold: Fold,
    axes: Vec<usize>,
    /// Makes a sum a mean: its bits.
    scale: u32,
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

impl Operation for Reduce {
    fn name(&self) -> &'static str {
        match self.fold {
            Fold::Sum => "sum",
            Fold::Max => "max",
            Fold::Min => "min",
            Fold::Argmax => "argmax",
        }
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let shape = without(inputs[0].shape, &self.axes);
        let dtype = match self.fold {
            Fold::Argmax => DType::U32,
            _ => DType::F32,
        };
        vec![TensorType { shape, dtype }]
    }

    fn takes(&self, _index: usize) -> Takes {
        Takes::Either
    }

    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        let (x, gradient) = (node.input(0), node.gradient(0));
        let scale = f32::from_bits(self.scale);
        let (shape, ones) = (x.shape(), with_ones(x.shape(), &self.axes));
        let spread = |value: Var<'t>| value.reshape(ones).broadcast_to(shape);
        vec![match self.fold {
            Fold::Argmax => None,
            // A constant stays one, so that it costs nothing where it is used.
            Fold::Sum => Some(match node.tape().constant_of(gradient) {
                Some(value) => node.tape().full(shape, value * scale),
                None if scale == 1.0 => spread(gradient),
                None => spread(gradient * scale),
            }),
            // Elements that equal the extremum share its gradient.
            Fold::Max | Fold::Min => {
                let chosen = x.equal(spread(node.output(0)));
                Some(spread(gradient / chosen.sum(&self.axes)).pass(chosen))
            }
        }]
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        let (input, output) = (cx.input(0), cx.output(0));
        if self.fold == Fold::Argmax {
            let walk = Walk::single(&input.layout, &self.axes, output.layout.offset);
            let split = Split::single(cx.class(), &walk, cx.most_iterations());
            let kernel = split.kernel(self.kernel(&walk));
            return dispatch(cx, kernel, [&input, &output], &walk, &split, 1.0);
        }
        let walk = Walk::new(&input.layout, &self.axes, output.layout.offset);
        self.emit(cx, &input, &output, &walk);
    }
}

impl Reduce {
    fn emit(&self, cx: &mut Lowering<'_>, input: &Operand, output: &Operand, walk: &Walk) {
        let split = Split::of(cx.class(), walk, cx.most_iterations());
        let kernel = split.kernel(self.kernel(walk));
        if split.chunks == 1 {
            dispatch(
                cx,
                kernel,
                [input, output],
                walk,
                &split,
                f32::from_bits(self.scale),
            );
            return;
        }
        let shape = Shape::new(&[split.chunks, output.elements()]);
        let partial = cx.temp(shape, DType::F32);
        dispatch(cx, kernel, [input, &partial], walk, &split, 1.0);
        let rest = Walk::new(&partial.layout, &[0], output.layout.offset);
        self.emit(cx, &partial, output, &rest);
    }

    fn kernel(&self, walk: &Walk) -> Kernel {
        let kernel = walk.kernel(Kernel::builtin(self.name(), "reduce", "reduce"));
        let extremum = match self.fold {
            Fold::Sum => return kernel,
            Fold::Argmax => return kernel.declare(ARGMAX),
            Fold::Max => "max",
            Fold::Min => "min",
        };
        // With NaN, which these may drop, the sum is NaN. Told by the bits, as compilers may assume that floats are numbers.
        let fold = |of: &str| {
            format!(
                "let bits = max(bitcast<{of}Bits>(a) & {of}Bits(0x7fffffffu), bitcast<{of}Bits>(b) & {of}Bits(0x7fffffffu));
    return select({extremum}(a, b), a + b, bits > {of}Bits(0x7f800000u));"
            )
        };
        kernel.declare(&format!(
            "fn start(first: Step) -> Step {{ return first; }}
fn fold(a: Step, b: Step) -> Step {{
    {}
}}
fn combine(a: Place, b: Place) -> Place {{
    {}
}}
",
            fold("Step"),
            fold("Place")
        ))
    }
}

fn dispatch(
    cx: &mut Lowering<'_>,
    kernel: Kernel,
    [input, output]: [&Operand; 2],
    walk: &Walk,
    split: &Split,
    scale: f32,
) {
    let name = kernel.name;
    let dispatch = Dispatch::new(kernel)
        .read(input)
        .write(output)
        .params(&walk.params(split, scale))
        .groups(split.groups(walk))
        .iterations(split.iterations(walk))
        .cost(input.elements() as u64, input.bytes() + output.bytes());
    // Gradients of biases are not needed before the optimizer runs. Three arrays of partial results take 12 KiB at most.
    cx.dispatch(match cx.class() {
        AdapterClass::Software => dispatch,
        AdapterClass::Gpu => dispatch.fusable(name, split.invocations()).deferrable(),
    });
}

/// What is reduced are elements with their places.
const ARGMAX: &str = "\
alias Step = Candidate;
alias Place = Candidate;
@group(0) @binding(2) var<storage, read_write> output: array<u32>;
fn element(at: u32, step: u32) -> Step { return Candidate(input[at], step); }
fn put(at: u32, value: Place) { output[at] = value.step; }
fn start(first: Step) -> Step { return first; }
fn fold(a: Step, b: Step) -> Step { return better(a, b); }
fn combine(a: Place, b: Place) -> Place { return better(a, b); }
";

/// Checks the arguments of a reduction.
#[track_caller]
fn check(name: &str, x: Var<'_>, axes: &[usize]) {
    let TensorType { shape, dtype } = x.tensor_type();
    assert!(
        dtype.is_float(),
        "{name}: the input is {dtype:?} {shape}, expected F32 or F16; Var::to_f32 converts"
    );
    for (position, axis) in axes.iter().enumerate() {
        assert!(
            *axis < shape.rank() && !axes[..position].contains(axis),
            "{name}: axes {axes:?} are not distinct axes of {shape}"
        );
    }
}

#[track_caller]
fn reduce<'t>(x: Var<'t>, fold: Fold, axes: &[usize], scale: f32) -> Var<'t> {
    let mut axes = axes.to_vec();
    axes.sort_unstable();
    let operation = Reduce {
        fold,
        axes,
        scale: scale.to_bits(),
    };
    check(operation.name(), x, &operation.axes);
    // Axes of extent one hold nothing to reduce.
    let holds_nothing = operation.axes.iter().all(|&axis| x.shape().dim(axis) == 1);
    if holds_nothing && scale == 1.0 && fold != Fold::Argmax {
        return x.reshape(without(x.shape(), &operation.axes));
    }
    x.tape.record(operation, &[x])
}

impl<'t> Var<'t> {
    fn all_axes(self) -> Vec<usize> {
        (0..self.shape().rank()).collect()
    }

    /// How many elements lie along `axes`.
    fn extent_of(self, axes: &[usize]) -> usize {
        axes.iter().map(|&axis| self.shape().dim(axis)).product()
    }

    /// The input's rank again: the axes come back with an extent of one.
    fn keeping(self, shape: Shape, axes: &[usize]) -> Var<'t> {
        self.reshape(with_ones(shape, axes))
    }

    /// The sum over `axes`, which disappear from the shape: `[2, 3, 4]` over `&[0, 2]` gives `[3]`.
    ///
    /// # Panics
    ///
    /// If the axes are not distinct axes of the shape, or the elements are not `F32`; so for all reductions.
    #[track_caller]
    pub fn sum(self, axes: &[usize]) -> Var<'t> {
        reduce(self, Fold::Sum, axes, 1.0)
    }

    /// [`Var::sum`] with the reduced axes left as extents of one.
    #[track_caller]
    pub fn sum_keep(self, axes: &[usize]) -> Var<'t> {
        self.sum(axes).keeping(self.shape(), axes)
    }

    /// The sum of all elements, as a scalar.
    #[track_caller]
    pub fn sum_all(self) -> Var<'t> {
        self.sum(&self.all_axes())
    }

    /// The arithmetic mean over `axes`, which disappear from the shape.
    ///
    /// # Panics
    ///
    /// As [`Var::sum`].
    #[track_caller]
    pub fn mean(self, axes: &[usize]) -> Var<'t> {
        check("mean", self, axes);
        reduce(self, Fold::Sum, axes, 1.0 / self.extent_of(axes) as f32)
    }

    /// [`Var::mean`] with the reduced axes left as extents of one.
    #[track_caller]
    pub fn mean_keep(self, axes: &[usize]) -> Var<'t> {
        self.mean(axes).keeping(self.shape(), axes)
    }

    /// The arithmetic mean of all elements, as a scalar.
    #[track_caller]
    pub fn mean_all(self) -> Var<'t> {
        self.mean(&self.all_axes())
    }

    /// The largest element over `axes`, which disappear from the shape. Elements that equal it share its gradient
    /// evenly. Between two tensors, see [`Var::maximum`].
    ///
    /// # Panics
    ///
    /// As [`Var::sum`].
    #[track_caller]
    pub fn max(self, axes: &[usize]) -> Var<'t> {
        reduce(self, Fold::Max, axes, 1.0)
    }

    /// [`Var::max`] with the reduced axes left as extents of one.
    #[track_caller]
    pub fn max_keep(self, axes: &[usize]) -> Var<'t> {
        self.max(axes).keeping(self.shape(), axes)
    }

    /// The smallest element over `axes`, which disappear from the shape. Elements that equal it share its gradient
    /// evenly. Between two tensors, see [`Var::minimum`].
    ///
    /// # Panics
    ///
    /// As [`Var::sum`].
    #[track_caller]
    pub fn min(self, axes: &[usize]) -> Var<'t> {
        reduce(self, Fold::Min, axes, 1.0)
    }

    /// [`Var::min`] with the reduced axes left as extents of one.
    #[track_caller]
    pub fn min_keep(self, axes: &[usize]) -> Var<'t> {
        self.min(axes).keeping(self.shape(), axes)
    }

    /// The variance of a whole population over `axes`, which disappear from the shape: `mean((x − mean(x))²)`. Computed
    /// in two passes, so that a large mean costs no precision.
    ///
    /// # Panics
    ///
    /// As [`Var::sum`].
    #[track_caller]
    pub fn var(self, axes: &[usize]) -> Var<'t> {
        check("var", self, axes);
        self.squares_around_mean(axes, self.extent_of(axes))
    }

    /// The variance estimated from a sample over `axes`, which disappear from the shape: `Σ (x − mean(x))² / (n − 1)`
    /// (Bessel's correction).
    ///
    /// # Panics
    ///
    /// As [`Var::sum`], and if there is only one element to estimate from.
    #[track_caller]
    pub fn var_unbiased(self, axes: &[usize]) -> Var<'t> {
        check("var_unbiased", self, axes);
        let count = self.extent_of(axes);
        assert!(
            count > 1,
            "var_unbiased: axes {axes:?} of {} hold a single element",
            self.shape()
        );
        self.squares_around_mean(axes, count - 1)
    }

    #[track_caller]
    fn squares_around_mean(self, axes: &[usize], divisor: usize) -> Var<'t> {
        // Halves don't hold the squares of what they hold.
        let centred = self.cast(DType::F32) - self.mean_keep(axes);
        reduce(centred * centred, Fold::Sum, axes, 1.0 / divisor as f32)
    }

    /// The index of the largest element along an axis, which disappears from the shape; the first such index if there
    /// are several, and that of the first that is not a number if there is one. `U32`, no gradient.
    ///
    /// # Panics
    ///
    /// If there is no such axis, or the elements are not `F32`.
    #[track_caller]
    pub fn argmax(self, axis: usize) -> Var<'t> {
        reduce(self, Fold::Argmax, &[axis], 1.0)
    }
}

/// Sums a gradient over the axes along which its operand was broadcast.
pub(crate) fn sum_to<'t>(gradient: Var<'t>, shape: Shape) -> Var<'t> {
    let from = gradient.shape();
    if from == shape {
        return gradient;
    }
    let missing = from.rank() - shape.rank();
    let axes: Vec<usize> = (0..from.rank())
        .filter(|&axis| axis < missing || (shape.dim(axis - missing) == 1 && from.dim(axis) != 1))
        .collect();
    gradient.sum(&axes).reshape(shape)
}
