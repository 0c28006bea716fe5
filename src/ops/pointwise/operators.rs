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

/// Implements operators, each by an expression for its two operands.
macro_rules! operators {
    ($($(#[$doc:meta])* $operator:ident::$method:ident($x:ident: $left:ty, $y:ident: $right:ty) $value:block)*) => {$(
        impl<'t> $operator<$right> for $left {
            type Output = Var<'t>;

            $(#[$doc])*
            #[track_caller]
            fn $method(self, $y: $right) -> Var<'t> {
                let $x = self;
                $value
            }
        }
    )*};
}

operators! {
    /// Element by element, broadcasting.
    Add::add(x: Var<'t>, y: Var<'t>) {
        if y.is_neutral(0.0, x) {
            return x;
        }
        if x.is_neutral(0.0, y) {
            return y;
        }
        apply(&rows::add, &[x, y], &[])
    }

    /// Element by element, broadcasting.
    Sub::sub(x: Var<'t>, y: Var<'t>) {
        if y.is_neutral(0.0, x) {
            return x;
        }
        apply(&rows::sub, &[x, y], &[])
    }

    /// Element by element, broadcasting.
    Mul::mul(x: Var<'t>, y: Var<'t>) {
        if y.is_neutral(1.0, x) {
            return x;
        }
        if x.is_neutral(1.0, y) {
            return y;
        }
        apply(&rows::mul, &[x, y], &[])
    }

    /// Element by element, broadcasting.
    Div::div(x: Var<'t>, y: Var<'t>) {
        if y.is_neutral(1.0, x) {
            return x;
        }
        apply(&rows::div, &[x, y], &[])
    }

    Add::add(x: Var<'t>, number: f32) { x.shift(number) }
    Sub::sub(x: Var<'t>, number: f32) { x.shift(-number) }
    Mul::mul(x: Var<'t>, number: f32) { x.scale(number) }

    /// Divides, rather than multiplying with a rounded reciprocal.
    Div::div(x: Var<'t>, number: f32) { apply(&rows::div_by, &[x], &[number]) }

    Add::add(number: f32, x: Var<'t>) { x.shift(number) }
    Sub::sub(number: f32, x: Var<'t>) { (-x).shift(number) }
    Mul::mul(number: f32, x: Var<'t>) { x.scale(number) }
    Div::div(number: f32, x: Var<'t>) { x.recip().scale(number) }
}

impl<'t> Neg for Var<'t> {
    type Output = Var<'t>;

    #[track_caller]
    fn neg(self) -> Var<'t> {
        apply(&rows::scale, &[self], &[-1.0])
    }
}
