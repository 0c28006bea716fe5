//! `+ - * /` between tensors, and between tensors and numbers.

use std::ops::{Add, Div, Mul, Neg, Sub};

use super::row::apply;
use super::table::rows;
use crate::tape::Var;

impl<'t> Var<'t> {
    /// Whether this is the constant `value` and adds nothing to `other`'s shape.
    fn is_neutral(self, value: f32, other: Var<'t>) -> bool {
        self.tape.constant_of(self) == Some(value)
            && self.shape().broadcast(&other.shape()) == Some(other.shape())
    }
}

impl<'t> Add for Var<'t> {
    type Output = Var<'t>;

    /// Element by element, broadcasting.
    #[track_caller]
    fn add(self, other: Var<'t>) -> Var<'t> {
        if other.is_neutral(0.0, self) {
            return self;
        }
        if self.is_neutral(0.0, other) {
            return other;
        }
        apply(&rows::add, &[self, other], &[])
    }
}

impl<'t> Sub for Var<'t> {
    type Output = Var<'t>;

    /// Element by element, broadcasting.
    #[track_caller]
    fn sub(self, other: Var<'t>) -> Var<'t> {
        if other.is_neutral(0.0, self) {
            return self;
        }
        apply(&rows::sub, &[self, other], &[])
    }
}

impl<'t> Mul for Var<'t> {
    type Output = Var<'t>;

    /// Element by element, broadcasting.
    #[track_caller]
    fn mul(self, other: Var<'t>) -> Var<'t> {
        if other.is_neutral(1.0, self) {
            return self;
        }
        if self.is_neutral(1.0, other) {
            return other;
        }
        apply(&rows::mul, &[self, other], &[])
    }
}

impl<'t> Div for Var<'t> {
    type Output = Var<'t>;

    /// Element by element, broadcasting.
    #[track_caller]
    fn div(self, other: Var<'t>) -> Var<'t> {
        if other.is_neutral(1.0, self) {
            return self;
        }
        apply(&rows::div, &[self, other], &[])
    }
}

impl<'t> Neg for Var<'t> {
    type Output = Var<'t>;

    #[track_caller]
    fn neg(self) -> Var<'t> {
        apply(&rows::scale, &[self], &[-1.0])
    }
}

impl<'t> Add<f32> for Var<'t> {
    type Output = Var<'t>;

    #[track_caller]
    fn add(self, number: f32) -> Var<'t> {
        self.shift(number)
    }
}

impl<'t> Sub<f32> for Var<'t> {
    type Output = Var<'t>;

    #[track_caller]
    fn sub(self, number: f32) -> Var<'t> {
        self.shift(-number)
    }
}

impl<'t> Mul<f32> for Var<'t> {
    type Output = Var<'t>;

    #[track_caller]
    fn mul(self, number: f32) -> Var<'t> {
        self.scale(number)
    }
}

impl<'t> Div<f32> for Var<'t> {
    type Output = Var<'t>;

    /// Divides, rather than multiplying with a rounded reciprocal.
    #[track_caller]
    fn div(self, number: f32) -> Var<'t> {
        apply(&rows::div_by, &[self], &[number])
    }
}

impl<'t> Add<Var<'t>> for f32 {
    type Output = Var<'t>;

    #[track_caller]
    fn add(self, tensor: Var<'t>) -> Var<'t> {
        tensor.shift(self)
    }
}

impl<'t> Sub<Var<'t>> for f32 {
    type Output = Var<'t>;

    #[track_caller]
    fn sub(self, tensor: Var<'t>) -> Var<'t> {
        (-tensor).shift(self)
    }
}

impl<'t> Mul<Var<'t>> for f32 {
    type Output = Var<'t>;

    #[track_caller]
    fn mul(self, tensor: Var<'t>) -> Var<'t> {
        tensor.scale(self)
    }
}

impl<'t> Div<Var<'t>> for f32 {
    type Output = Var<'t>;

    #[track_caller]
    fn div(self, tensor: Var<'t>) -> Var<'t> {
        tensor.recip().scale(self)
    }
}
