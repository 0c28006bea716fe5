//! What operations are given and give, by the precision that a tape is recorded in.
//!
//! Micikevicius et al. 2018, "Mixed Precision Training". On a tape of [`Precision::Mixed`]:
//!
//! | operation | takes | gives |
//! | --- | --- | --- |
//! | matrix products, attention and their gradients | `F16`; sums are `f32` | `F16`; an attention's statistics are `F32` |
//! | pointwise operations, dropout, rotary positions, gates | what there is | the widest of its inputs that have the output's shape |
//! | views, slices, concatenation, padding, gathered rows, embeddings | what there is | the same |
//! | norms, softmax, sums and means, losses | what there is | `F32` |
//! | gradients | what the rule is given | the type of the value that they belong to |
//! | operations of other crates | `F32`, unless [`Operation::takes`](super::Operation::takes) says otherwise | what they say |
//! | assignments, optimizers' updates | what they declare | master weights and moments are `F32` |
//!
//! Arithmetic is `f32` in all of them, but for what matrix units multiply. Fusion leaves out roundings: a value that is
//! only read in the kernel that computes it is never stored, and stays `f32`.

use serde::{Deserialize, Serialize};

use crate::error::named;
use crate::gpu::DType;

/// In which precision operations are recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// As given: operations take their inputs as they are, and nothing is rounded that was not asked for.
    #[default]
    F32,
    /// Products and attention take and give `F16`; what adds up is `F32`.
    Mixed,
}

impl Precision {
    /// What products take in it.
    pub fn dtype(self) -> DType {
        match self {
            Precision::F32 => DType::F32,
            Precision::Mixed => DType::F16,
        }
    }
}

named!(Precision, "precision", F32 = "f32", Mixed = "mixed");

/// Which floating-point elements an operation takes for one of its inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// `F32`: halves are widened for it.
    F32,
    /// Either. [`Dispatch::read`](super::Dispatch::read) and `write` do the rest.
    Either,
    /// Either, and `F16` on tapes of mixed precision.
    Half,
}
