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
            dtype: None,
        };
        self.record(operation, &[])
    }
}

impl<'t> Var<'t> {
    /// Reads integers as floating point, without a gradient; halves are widened, and `F32` values pass unchanged.
    pub fn to_f32(self) -> Var<'t> {
        match self.dtype() {
            DType::U32 => apply(&rows::to_float, &[self], &[]),
            _ => self.cast(DType::F32),
        }
    }

    /// Rounds to `F16`, or widens to `F32`; values of that type pass unchanged. What is too large for halves becomes
    /// infinite.
    ///
    /// # Panics
    ///
    /// If either type is `U32`.
    #[track_caller]
    pub fn cast(self, dtype: DType) -> Var<'t> {
        let own = self.dtype();
        assert!(
            own == dtype || (own.is_float() && dtype.is_float()),
            "cast: {own:?} {} to {dtype:?}: only floats are cast; Var::to_f32 reads integers",
            self.shape()
        );
        if own == dtype {
            return self;
        }
        // A constant stays one.
        let constant = self.tape.constant_of(self);
        let operation = Pointwise {
            row: constant.map_or(&rows::convert, |_| &rows::constant),
            attributes: [constant.unwrap_or_default(), 0.0],
            shape: constant.map(|_| self.shape()),
            dtype: Some(dtype),
        };
        match constant {
            Some(_) => self.tape.record(operation, &[]),
            None => self.tape.record(operation, &[self]),
        }
    }
}
