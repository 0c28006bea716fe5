//! Rotary position embedding of the heads of a packed projection.
//!
//! The pair `(xᵢ, xᵢ₊ₕ)`, `h` being half the head's extent, turns by the angle `t·base^(−i/h)` at position `t`. Su et
//! al. 2021, "RoFormer: Enhanced Transformer with Rotary Position Embedding"; the pairs are those of GPT-NeoX.
//!
//! Cosines and sines come from a [table](rotary_table) that the host computes in `f64`: on GPUs, neither `t·base^(−i/h)`
//! nor the sine of a large angle is good enough in `f32`.

use super::heads::Attributes;
use crate::tape::Var;

/// The table that [`Var::rotary`] takes, `[positions, head_dim]` in row-major order: for each position `t` the cosines
/// of `t·base^(−2i/head_dim)` for `i` up to half of `head_dim`, then the sines. Computed in `f64`.
///
/// # Panics
///
/// If `head_dim` is odd, or `base` is not a finite number above 0.
#[track_caller]
pub fn rotary_table(positions: usize, head_dim: usize, base: f64) -> Vec<f32> {
    assert!(
        head_dim.is_multiple_of(2),
        "rotary_table: a head of {head_dim} has no pairs"
    );
    assert!(
        base.is_finite() && base > 0.0,
        "rotary_table: the base {base} is not a finite number above 0"
    );
    let frequency = |i: usize| base.powf(-((2 * i) as f64) / head_dim as f64);
    let frequencies: Vec<f64> = (0..head_dim / 2).map(frequency).collect();
    rotary_table_of(positions, &frequencies)
}

/// [`rotary_table`] of any frequencies: the angle of each pair at position 1.
pub fn rotary_table_of(positions: usize, frequencies: &[f64]) -> Vec<f32> {
    let mut table = Vec::with_capacity(positions * frequencies.len() * 2);
    for t in 0..positions {
        let angles = frequencies.iter().map(|frequency| t as f64 * frequency);
        table.extend(angles.clone().map(|angle| angle.cos() as f32));
        table.extend(angles.map(|angle| angle.sin() as f32));
    }
    table
}

impl<'t> Var<'t> {
    /// Rotary position embedding: turns the first `heads` heads of every row `[…, T, heads·D + rest]` by the angles of
    /// `table`, a [`rotary_table`] as a tensor `[T, D]`; the rest of the row passes unchanged. For a packed projection
    /// `[q, k, v]` pass twice the number of heads. No gradient flows to the table.
    ///
    /// # Panics
    ///
    /// If the table's rows are not as many as the positions, or the row is not made of heads of the table's extent.
    #[track_caller]
    pub fn rotary(self, table: Var<'t>, heads: usize) -> Var<'t> {
        // None where there is no telling: the operation says what is wrong.
        let extent = |of: Var<'t>| of.shape().dims().last().copied().unwrap_or(0);
        let operation = Attributes {
            name: "rotary",
            queries: 0,
            turned: heads,
            slots: extent(self).checked_div(extent(table)).unwrap_or(0),
            is_turned: true,
            is_inverse: false,
            epsilon: None,
            is_cached: false,
        };
        self.tape.record_all(operation, &[self, table])[0]
    }
}
