//! What a check allows and draws.

use crate::gpu::DType;

/// How close is close enough, and what is drawn. [`Check::default`] suits operations of ordinary conditioning.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Check {
    /// Allowed error relative to the element expected.
    pub relative: f64,
    /// Allowed error relative to the largest element expected in the same tensor (or to 1, if that is larger).
    pub absolute: f64,
    /// The half-width of central differences, for values of size 1; second differences take ten times as much.
    pub step: f64,
    /// What the weights of the loss are drawn from.
    pub seed: u64,
    /// What the operation is given its inputs in: `F16` rounds them before operation and oracle see them, and the gradient
    /// that arrives.
    pub dtype: DType,
}

impl Check {
    /// For an operation that is given halves. What it gives and what arrives there is rounded to 11 bits, by 2⁻¹¹ of its size
    /// at most, and so is its gradient; the arriving gradient depends on the output. Together four roundings.
    pub const HALF: Check = Check {
        relative: 4.0 / 2048.0,
        absolute: 4.0 / 2048.0,
        step: 1e-5,
        seed: 0,
        dtype: DType::F16,
    };
}

impl Default for Check {
    fn default() -> Check {
        Check {
            relative: 2e-4,
            absolute: 2e-5,
            step: 1e-5,
            seed: 0,
            dtype: DType::F32,
        }
    }
}
