//! What a check allows and draws.

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
}

impl Default for Check {
    fn default() -> Check {
        Check {
            relative: 2e-4,
            absolute: 2e-5,
            step: 1e-5,
            seed: 0,
        }
    }
}
