//! Operations: each file holds one family with its formulas, shape rules, gradient rules and lowering to kernels.
//!
//! [`Operation`] is the one way to add an operation, inside this crate and outside it.

pub mod attention;
mod concat;
mod cross_entropy;
pub(crate) mod dropout;
mod embedding;
mod gather;
mod indices;
pub(crate) mod layout;
pub(crate) mod matmul;
pub(crate) mod norm;
#[cfg(test)]
mod overlap_tests;
pub(crate) mod pad;
pub mod pointwise;
mod random;
pub(crate) mod reduce;
pub(crate) mod rotary;
mod rows;
pub(crate) mod softmax;
pub(crate) mod swiglu;
mod write_rows;

use std::fmt;

pub use cross_entropy::CrossEntropy;
pub(crate) use layout::Assign;
pub use rotary::rotary_table;

use crate::gpu::DType;
use crate::shape::{Layout, Shape};
use crate::tape::{Backward, Lowering, Signature, Var};
use pointwise::{Pointwise, Row};

/// Shape and element type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TensorType {
    /// The shape.
    pub shape: Shape,
    /// The element type.
    pub dtype: DType,
}

/// How the planner treats an operation.
pub enum Role<'a> {
    /// Runs kernels of its own.
    Kernel,
    /// Only reads its one input in another order: no kernel where strides can express it. See [`Operation::view`].
    View,
    /// One row of the [pointwise table](pointwise), fused with its neighbours.
    Pointwise(&'a Pointwise),
    /// Runs a kernel that ends by storing through a generated epilogue, so that pointwise operations which follow are
    /// part of it. The output, in row-major order, is seen as `[batch, rows, columns]`.
    Epilogue {
        /// Batch, rows and columns; their product is the number of elements of output 0.
        grid: [usize; 3],
        /// Whether the kernel can have both halves of a row at hand when it stores, for a [`Role::Gate`].
        gates: bool,
    },
    /// Makes one element of two that lie half a row apart: the last axis of its one input has two halves. Runs a kernel of
    /// its own, unless it can be the end of the epilogue that stores these rows.
    ///
    /// Input and output are `f32`, and the output has half the input's columns; anything else is left to the kernel.
    Gate {
        /// The WGSL expression, in one line, over `gate`, from the left half, and `up`, from the right, both of type `T`, a
        /// scalar or a vector. May call pointwise operations, `pw_` and the name.
        wgsl: &'static str,
        /// The rows of those.
        rows: &'static [&'static Row],
    },
    /// The gradient of a gate: from the rows with both halves (input 0, dense) and the gradient of what was made of them
    /// (input 1), the gradient of the rows. Runs a kernel of its own, unless it can be the end of the epilogue that stores
    /// input 1.
    ///
    /// All are `f32`, the output has the shape of input 0, and input 1 half the columns; anything else is left to the
    /// kernel.
    GateGradient {
        /// The WGSL expression, in one line, of the left half's gradient, over `gate`, `up` and `gradient`, all of type
        /// `T`. May call pointwise operations, `pw_` and the name.
        gate: &'static str,
        /// That of the right half's.
        up: &'static str,
        /// The rows of those operations.
        rows: &'static [&'static Row],
    },
}

/// An operation: shape rule, gradient rule, kernels. The same trait serves the built-in operations and those of other
/// crates; `docs/adding-an-op.md` walks through one.
pub trait Operation: fmt::Debug + 'static {
    /// The name used in panics, profiles and plan identities. Must be unique.
    fn name(&self) -> &'static str;

    /// Adds to `signature` everything about this operation that is not a tensor and that its kernels or shapes depend
    /// on. Usually `self.hash(signature)` with a derived `Hash`. What varies from step to step must be an input tensor
    /// instead.
    fn identity(&self, signature: &mut Signature);

    /// Checks the inputs and gives the outputs' shapes and types.
    ///
    /// # Panics
    ///
    /// If the inputs do not fit, naming the operation and the shapes. Panics point at the caller of the method on
    /// [`Var`] if that method carries `#[track_caller]` too (and this one does not panic from within a closure).
    #[track_caller]
    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType>;

    /// Records the gradient: one entry per input, `None` where there is none to give.
    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>>;

    /// Whether gradients flow through this operation at all. Where not, its outputs count as constants.
    fn passes_gradients(&self) -> bool {
        true
    }

    /// Emits the dispatches that compute the outputs from the inputs.
    fn lower(&self, cx: &mut Lowering<'_>);

    /// Inputs (by position) that the kernels overwrite; each must be a persistent tensor. An operation that overwrites
    /// something is always run, and in the order of recording.
    fn mutates(&self) -> &[usize] {
        &[]
    }

    /// How the planner treats this operation, given the type of its output 0.
    fn role(&self, _output: TensorType) -> Role<'_> {
        Role::Kernel
    }

    /// For [`Role::Epilogue`]: how many storage bindings the kernel has beside those of its epilogue. One for each of the
    /// `inputs`, if not said otherwise.
    fn bindings(&self, inputs: usize) -> usize {
        inputs
    }

    /// For [`Role::View`]: where the output's elements lie, given where the input's do; `None` if only a copy will do.
    fn view(&self, _input: &Layout) -> Option<Layout> {
        None
    }

    /// The value, for operations that fill their output with one constant.
    fn constant(&self) -> Option<f32> {
        None
    }
}

/// Checks that all inputs are `F32`, for operations that take nothing else: kernels would read other bits as if they were.
#[track_caller]
pub(crate) fn require_f32(operation: &str, inputs: &[TensorType]) {
    for (index, TensorType { shape, dtype }) in inputs.iter().enumerate() {
        assert!(
            *dtype == DType::F32,
            "{operation}: input {index} is {dtype:?} {shape}, expected F32; Var::to_f32 converts"
        );
    }
}

/// A shape as `[batch, rows, columns]`, for the epilogues of kernels that work row by row.
pub(crate) fn row_grid(shape: Shape) -> [usize; 3] {
    match shape.dims() {
        [] => [1, 1, 1],
        [columns] => [1, 1, *columns],
        [batch @ .., rows, columns] => [batch.iter().product(), *rows, *columns],
    }
}
