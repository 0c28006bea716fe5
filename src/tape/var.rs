//! Handles to recorded values.

use super::{Tape, ValueId};
use crate::gpu::DType;
use crate::ops::TensorType;
use crate::shape::Shape;

/// A handle to one recorded value. `Copy`, so that model code reads like the formula it implements:
/// `x + attention.forward(norm.forward(x))`.
///
/// The operations are methods, defined next to their gradients in [`ops`](crate::ops).
#[derive(Clone, Copy)]
pub struct Var<'t> {
    pub(crate) tape: &'t Tape,
    pub(crate) id: ValueId,
}

impl<'t> Var<'t> {
    /// The tape that this value was recorded on.
    pub fn tape(self) -> &'t Tape {
        self.tape
    }

    /// Shape and element type.
    pub fn tensor_type(self) -> TensorType {
        self.tape.value(self.id, |value| value.ty)
    }

    /// The shape.
    pub fn shape(self) -> Shape {
        self.tensor_type().shape
    }

    /// The element type.
    pub fn dtype(self) -> DType {
        self.tensor_type().dtype
    }

    /// Whether a gradient can flow through this value: it depends on a variable or a parameter.
    pub fn needs_gradient(self) -> bool {
        self.tape.value(self.id, |value| value.needs_gradient)
    }
}

impl std::fmt::Debug for Var<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let TensorType { shape, dtype } = self.tensor_type();
        write!(f, "Var(%{} {dtype:?} {shape})", self.id.index())
    }
}
