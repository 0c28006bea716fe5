//! Operations: each file holds one family with its formulas, shape rules, gradient rules and lowering to kernels.
//!
//! [`Operation`] is the one way to add an operation, inside this crate and outside it.

pub mod attention;
pub(crate) mod blocks;
mod concat;
mod cross_entropy;
pub(crate) mod dropout;
mod embedding;
pub(crate) mod gates;
mod gather;
mod heads;
mod indices;
pub(crate) mod layout;
mod losses;
pub(crate) mod matmul;
pub(crate) mod norm;
#[cfg(test)]
#[path = "../../tests/unit/ops/overlap.rs"]
mod overlap_tests;
pub(crate) mod pad;
pub mod pointwise;
mod random;
pub(crate) mod reduce;
mod residual_norms;
pub(crate) mod rotary;
mod rows;
pub(crate) mod sample;
pub(crate) mod softmax;
mod types;
mod unrolled;
mod write_rows;

pub use crate::tape::{Operation, PointwiseFunction, Role, Takes, TensorType};
pub use cross_entropy::CrossEntropy;
pub use heads::Heads;
pub use rotary::{rotary_table, rotary_table_of};
use types::{VECTORS, scalar_loads};
pub(crate) use types::{epilogue, require_floats, row_grid, widest};
