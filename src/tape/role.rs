//! What the planner is told of an operation: types, roles, and pointwise functions as data.

use std::fmt;

use crate::gpu::DType;
use crate::shape::Shape;

/// Shape and element type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TensorType {
    /// The shape.
    pub shape: Shape,
    /// The element type.
    pub dtype: DType,
}

impl TensorType {
    /// `F32` of a shape.
    pub(crate) fn f32(shape: Shape) -> TensorType {
        TensorType {
            shape,
            dtype: DType::F32,
        }
    }
}

/// `F32 [2, 3]`
impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.dtype, self.shape)
    }
}

/// How the planner treats an operation.
pub enum Role<'a> {
    /// Runs kernels of its own.
    Kernel,
    /// Only reads its one input in another order: no kernel where strides can express it. See [`Operation::view`](super::Operation::view).
    View,
    /// Makes each element of its output of the elements at the same place of its inputs. Fused with its neighbours.
    Pointwise {
        /// What it computes.
        function: PointwiseFunction,
        /// The values of the function's attributes.
        attributes: &'a [f32],
        /// How often the function's loops go round at most, all of them together.
        iterations: usize,
    },
    /// Runs a kernel that ends by storing through a generated epilogue, so that pointwise operations which follow are
    /// part of it. The output, in row-major order, is seen as `[batch, rows, columns]`.
    Epilogue {
        /// Batch, rows and columns; their product is the number of elements of output 0.
        grid: [usize; 3],
        /// Whether the kernel can have both halves of a row at hand when it stores, for a [`Role::Gate`].
        gates: bool,
    },
    /// Makes one element of two that lie half a row apart: the last axis of its one input has two halves. A kernel is
    /// generated for it, unless it can be the end of the epilogue that stores these rows.
    ///
    /// Input and output are floats, and the output has half the input's columns; anything else is left to
    /// [`Operation::lower`](super::Operation::lower).
    Gate {
        /// The WGSL expression, in one line, over `gate`, from the left half, and `up`, from the right, both of type `T`, a
        /// scalar or a vector. May call pointwise operations, `pw_` and the name.
        wgsl: &'static str,
        /// Those operations.
        called: &'static [PointwiseFunction],
    },
    /// The gradient of a gate: from the rows with both halves (input 0) and the gradient of what was made of them (input
    /// 1), the gradient of the rows. A kernel is generated for it, unless it can be the end of the epilogue that stores input
    /// 1.
    ///
    /// All are floats, the output has the type of input 0, and input 1 half the columns; anything else is left to
    /// [`Operation::lower`](super::Operation::lower).
    GateGradient {
        /// The WGSL expression, in one line, of the left half's gradient, over `gate`, `up` and `gradient`, all of type
        /// `T`. May call pointwise operations, `pw_` and the name.
        gate: &'static str,
        /// That of the right half's.
        up: &'static str,
        /// Those operations.
        called: &'static [PointwiseFunction],
    },
}

/// A function of one element of each operand, from which the planner generates kernels.
#[derive(Clone, Copy, Debug)]
pub struct PointwiseFunction {
    /// The name. Functions of one name are one.
    pub name: &'static str,
    /// Names of the operands, as `wgsl` refers to them.
    pub inputs: &'static [&'static str],
    /// Names of the constants, as `wgsl` refers to them.
    pub attributes: &'static [&'static str],
    /// The value as a WGSL expression over type `T`, which is `f32` or `vec4<f32>`.
    pub wgsl: &'static str,
    /// WGSL functions over `T` that the expression calls, if any.
    pub helpers: &'static str,
}
