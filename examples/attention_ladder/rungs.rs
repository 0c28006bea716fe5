//! Five ways to let every position look at those before it, each faster or cleverer than the last.
//!
//! The first three compute the same average of `x: [B, T, C]` over positions `0..=t`; the last two compute one head of
//! causal self-attention.

use shadegrad::ops::attention::Attention;
use shadegrad::{Device, Result, Tape, Tensor, Var};

/// The constants that rungs need: what they are timed with must not include making them.
pub struct Constants {
    /// `[T, T]`: one where key `s ≤ t`, else zero.
    lower: Tensor,
    head_size: usize,
}

impl Constants {
    pub fn new(device: &Device, positions: usize, head_size: usize) -> Result<Constants> {
        let lower: Vec<f32> = (0..positions * positions)
            .map(|i| f32::from(i % positions <= i / positions))
            .collect();
        let lower = Tensor::new(device, [positions, positions], &lower)?;
        Ok(Constants { lower, head_size })
    }

    fn lower<'t>(&self, tape: &'t Tape) -> Var<'t> {
        tape.tensor(&self.lower)
    }

    /// The scores, but −10³⁰ where a query would see what comes after it: WGSL has no infinity, and the softmax of
    /// −10³⁰ is exactly zero too.
    fn masked<'t>(&self, scores: Var<'t>) -> Var<'t> {
        let tape = scores.tape();
        let out_of_sight = tape.full(scores.shape(), -1e30);
        self.lower(tape)
            .broadcast_to(scores.shape())
            .select(scores, out_of_sight)
    }
}

/// Rung 1, a loop: the mean of each prefix, one position after the other.
///
/// A script loops over the batch too. On a tape that would only be a longer way to write the same: a slice of a batch is
/// one view, however many rows it has, so one reduction serves them all. What is left of the loop is one reduction and
/// one copy a position.
pub fn looped<'t>(_: &Constants, x: Var<'t>) -> Var<'t> {
    let positions = x.shape().dim(1);
    let means: Vec<Var<'t>> = (0..positions)
        .map(|t| x.slice(1, 0..t + 1).mean_keep(&[1]))
        .collect();
    Var::concat(&means, 1)
}

/// Rung 2, a matrix product: row `t` of the weights holds `1/(t + 1)` up to column `t`.
pub fn averaged<'t>(constants: &Constants, x: Var<'t>) -> Var<'t> {
    let lower = constants.lower(x.tape());
    (lower / lower.sum_keep(&[1])).matmul(x)
}

/// Rung 3, the same weights as a softmax: of zeros, with −∞ where a position may not look.
pub fn softmax_averaged<'t>(constants: &Constants, x: Var<'t>) -> Var<'t> {
    let tape = x.tape();
    let positions = x.shape().dim(1);
    constants
        .masked(tape.full([positions, positions], 0.0))
        .softmax()
        .matmul(x)
}

/// Rung 4, self-attention of one head: the scores come from the data. `w: [C, 3·H]` holds the projections to queries,
/// keys and values side by side.
pub fn attended<'t>(constants: &Constants, x: Var<'t>, w: Var<'t>) -> Var<'t> {
    let h = constants.head_size;
    let [q, k, v] = [0, 1, 2].map(|part| x.matmul(w.slice(1, part * h..(part + 1) * h)));
    let scores = q.matmul(k.transpose()) * (h as f32).sqrt().recip();
    constants.masked(scores).softmax().matmul(v)
}

/// Rung 5, the same in one fused kernel: no scores in memory, and nothing computed above the diagonal.
pub fn fused<'t>(_: &Constants, x: Var<'t>, w: Var<'t>) -> Var<'t> {
    x.matmul(w).packed_attention(&Attention::causal(1))
}
