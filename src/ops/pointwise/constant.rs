//! What the table's rows of another kind are used for: constants, and integers read as floating point.

use super::row::{Pointwise, apply};
use super::table::rows;
use crate::gpu::DType;
use crate::shape::Shape;
use crate::tape::{Tape, Var};

impl Tape {
    /// A tensor filled with a constant that is part of the tape's structure. Costs nothing where it is fused.
    ///
    /// # Panics
    ///
    /// If the value is not finite.
    #[track_caller]
    pub fn full(&self, shape: impl Into<Shape>, value: f32) -> Var<'_> {
        assert!(
            value.is_finite(),
            "constants must be finite, this is {value}"
        );
        let operation = Pointwise {
            row: &rows::constant,
            attributes: [value, 0.0],
            shape: Some(shape.into()),
        };
        self.record(operation, &[])
    }
}

impl<'t> Var<'t> {
    /// Reads integers as floating point; `F32` values pass unchanged. No gradient.
    pub fn to_f32(self) -> Var<'t> {
        match self.dtype() {
            DType::F32 => self,
            DType::U32 => apply(&rows::to_float, &[self], &[]),
        }
    }
}
