//! What operations say about types and shapes.

use crate::gpu::DType;
use crate::shape::Shape;
use crate::tape::{Role, TensorType};

/// Declares that kernels which go by elements of type `T` take four at once.
pub(super) const VECTORS: &str = "\
alias T = vec4<f32>;
fn total(v: T) -> f32 { return (v.x + v.y) + (v.z + v.w); }
";

/// Declares how kernels load four columns of `name`, storage binding 1, where strides do not allow a vec4; its parameters say
/// how far columns are apart.
pub(super) fn scalar_loads(name: &str) -> String {
    let elements = ['x', 'y', 'z', 'w'].map(|axis| format!("{name}[place.{axis}]"));
    format!(
        "@group(0) @binding(1) var<storage, read> {name}: array<f32>;\n\
         fn load4(base: u32, column: u32) -> vec4<f32> {{\n    \
         // Columns past the end are not stored; any address will do.\n    \
         let place = base + min(column + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(p.n - 1u)) * p.{name}_column;\n    \
         return vec4<f32>({});\n}}\n",
        elements.join(", ")
    )
}

/// Checks that all inputs are floating point, for operations that take nothing else: kernels would read other bits as if
/// they were.
#[track_caller]
pub(crate) fn require_floats(operation: &str, inputs: &[TensorType]) {
    for (index, TensorType { shape, dtype }) in inputs.iter().enumerate() {
        assert!(
            dtype.is_float(),
            "{operation}: input {index} is {dtype:?} {shape}, expected F32 or F16; Var::to_f32 converts"
        );
    }
}

/// The type of what is computed element by element: the widest of the inputs that have its shape, so that a bias or a scale
/// in `F32` does not widen a large value; or of all, if none has.
pub(crate) fn widest(inputs: &[TensorType], shape: Shape) -> DType {
    let floats = || inputs.iter().filter(|input| input.dtype.is_float());
    let has_whole = floats().any(|input| input.shape == shape);
    let mut counting = floats().filter(|input| !has_whole || input.shape == shape);
    match counting.all(|input| input.dtype == DType::F16) && floats().next().is_some() {
        true => DType::F16,
        false => DType::F32,
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

/// The role of kernels that store such a grid through an epilogue.
pub(crate) fn epilogue(grid: [usize; 3]) -> Role<'static> {
    let gates = false;
    Role::Epilogue { grid, gates }
}

impl TensorType {
    /// The element type with another shape.
    pub(crate) fn with_shape(self, shape: impl Into<Shape>) -> TensorType {
        let (shape, dtype) = (shape.into(), self.dtype);
        TensorType { shape, dtype }
    }
}
