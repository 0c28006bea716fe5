//! Pointwise operations: one [`TABLE`] row each. From a row come the method on [`Var`](crate::Var), the kernel, the fusion
//! with neighbours, the gradient, and the rows of the oracle test and the gradient check.

mod constant;
mod gradient;
mod operators;
mod row;
pub(crate) mod table;

pub use gradient::Rule;
pub use row::{Pointwise, Row};
pub use table::TABLE;
