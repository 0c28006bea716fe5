//! Scaled dot-product attention in fused kernels: the scores and weights are never in memory.
//!
//! ```text
//! S = scale · Q·Kᵀ + mask      P = softmax(S), row by row      out = dropout(P)·V
//! ```
//!
//! (Vaswani et al. 2017, <https://arxiv.org/abs/1706.03762>). Forward is an online softmax that saves the output and
//! each row's log-sum-exp; backward computes the weights again from that (Dao et al. 2022,
//! <https://arxiv.org/abs/2205.14135>). Memory grows with the number of rows, not with its square.
//!
//! Operands of `F16` give a result of `F16`. Where the device has [matrix units](crate::Device::matrix_units), these multiply,
//! and weights and the gradients of scores are rounded to halves for it; sums and softmax are `f32` in any case.
//!
//! Two forms share the kernels: [`Var::packed_attention`] reads q, k and v where a packed projection has written them,
//! and [`attention`] takes three tensors, which may be views of anything.

mod backward;
mod blocks;
mod config;
mod forward;
mod fused;
mod launch;
mod parts;
mod problem;
mod text;
mod tiling;
mod units;
mod variants;

use crate::tape::Var;
pub use config::Attention;
use fused::{Fused, Weights};
use problem::{Dropout, LONGEST, MaskKind, Problem};

/// The largest head size: a row of one head is held in registers.
pub const MAX_HEAD_DIM: usize = 256;

/// Which keys queries may attend to, beside causality. The tensor broadcasts to `[batch, heads, queries, keys]`. No
/// gradient flows into it. A query that may attend to nothing gives zeros, and zero gradients.
#[derive(Clone, Copy, Debug)]
pub enum Mask<'t> {
    /// Nonzero (of either element type): may attend.
    Boolean(Var<'t>),
    /// Added to the scaled scores. Where it is −10³⁰ or less, −∞ included, the query may not attend. Scores (with the
    /// mask) must be greater than −10³⁰ elsewhere.
    Additive(Var<'t>),
}

impl<'t> Mask<'t> {
    fn parts(self) -> (Var<'t>, MaskKind) {
        match self {
            Mask::Boolean(var) if var.dtype().is_float() => (var, MaskKind::BooleanF32),
            Mask::Boolean(var) => (var, MaskKind::BooleanU32),
            Mask::Additive(var) => (var, MaskKind::Additive),
        }
    }
}

/// Multi-head attention of `q: [B, H, Tq, Dh]` to `k, v: [B, Hkv, Tk, Dh]`, giving `[B, H, Tq, Dh]`.
///
/// The operands may be views with any strides; only elements of one row must lie in sequence, or else a copy is made.
/// The result and the gradients lie in memory as `[B, T, H, Dh]`, so that
/// `attention(…).permute(&[0, 2, 1, 3]).reshape([B, T, D])` costs nothing, and neither does the way back to a
/// projection that was split into heads by `reshape` and `permute`.
///
/// A NaN shows in every result that depends on it. Scores of hidden keys do not count, whatever they are; their values count
/// zero times, so that a NaN among those may show.
///
/// The gradient cannot be differentiated again; for second derivatives compose [`Var::matmul`] and softmax.
///
/// # Panics
///
/// If the shapes do not fit together, the head size passes [`MAX_HEAD_DIM`], the number of heads is not
/// `config.n_heads`, the mask does not broadcast, or the dropout is not in `0.0..1.0`.
#[track_caller]
pub fn attention<'t>(
    q: Var<'t>,
    k: Var<'t>,
    v: Var<'t>,
    mask: Option<Mask<'t>>,
    config: &Attention,
) -> Var<'t> {
    separate(q, k, v, mask, config).0
}

/// [`attention`], which also returns the weights `[B, H, Tq, Tk]` to look at, before dropout.
///
/// They take a kernel of their own that runs only if somebody reads them. No gradient flows through the weights; to
/// train on them, compose [`Var::matmul`] and softmax. The output is differentiable as usual.
///
/// # Panics
///
/// As [`attention`], and if there are more than `u32::MAX` weights.
#[track_caller]
pub fn attention_with_weights<'t>(
    q: Var<'t>,
    k: Var<'t>,
    v: Var<'t>,
    mask: Option<Mask<'t>>,
    config: &Attention,
) -> (Var<'t>, Var<'t>) {
    let (out, lse, problem) = separate(q, k, v, mask, config);
    (out, weights(q, k, lse, mask, problem))
}

/// Records attention to separate operands; gives the result, the log-sum-exps and the problem.
#[track_caller]
fn separate<'t>(
    q: Var<'t>,
    k: Var<'t>,
    v: Var<'t>,
    mask: Option<Mask<'t>>,
    config: &Attention,
) -> (Var<'t>, Var<'t>, Problem) {
    let [sq, sk, sv] = [q, k, v].map(Var::shape);
    let fits = sq.rank() == 4
        && sk == sv
        && sk.rank() == 4
        && sq.dim(0) == sk.dim(0)
        && sq.last() == sk.last();
    assert!(
        fits,
        "attention: queries {sq}, keys {sk} and values {sv} are not [B, H, Tq, Dh], [B, Hkv, Tk, Dh] and [B, Hkv, Tk, Dh]"
    );
    assert!(
        [sq.dim(1), sk.dim(1)] == [config.n_heads, config.n_kv_heads],
        "attention: queries {sq} and keys {sk} have not the configured {} and {} heads",
        config.n_heads,
        config.n_kv_heads
    );
    let extents = [sq.dim(0), sq.dim(2), sk.dim(2), sq.last()];
    let problem = Problem::of(config, false, extents);
    let (out, lse, problem) = record(&[q, k, v], problem, mask, config);
    (out.permute(&[0, 2, 1, 3]), lse, problem)
}

impl<'t> Var<'t> {
    /// Multi-head self-attention of a packed projection: `[B, T, (H + 2·Hkv)·Dh] → [B, T, H·Dh]`, where the last axis
    /// is q, k and v behind one another: `n_heads` heads of q, `n_kv_heads` of k and of v. They are read in place, and their gradient is written
    /// as one packed tensor.
    ///
    /// The gradient cannot be differentiated again; for second derivatives compose [`Var::matmul`] and softmax.
    ///
    /// # Panics
    ///
    /// If the last axis is not divisible by `n_heads + 2·n_kv_heads`, the head size passes [`MAX_HEAD_DIM`], or the
    /// dropout is not in `0.0..1.0`.
    #[track_caller]
    pub fn packed_attention(self, config: &Attention) -> Var<'t> {
        self.packed(None, config)
    }

    /// [`Var::packed_attention`] with a mask that broadcasts to `[B, n_heads, T, T]`.
    ///
    /// # Panics
    ///
    /// As [`Var::packed_attention`], and if the mask does not broadcast.
    #[track_caller]
    pub fn masked_packed_attention(self, mask: Mask<'t>, config: &Attention) -> Var<'t> {
        self.packed(Some(mask), config)
    }

    #[track_caller]
    fn packed(self, mask: Option<Mask<'t>>, config: &Attention) -> Var<'t> {
        let shape = self.shape();
        let (heads, kv_heads) = (config.n_heads, config.n_kv_heads);
        let slots = heads + 2 * kv_heads;
        assert!(
            shape.rank() == 3 && heads > 0 && shape.last().is_multiple_of(slots),
            "packed_attention: {shape} is not [B, T, (H + 2·Hkv)·Dh] for {heads} heads, {kv_heads} of keys and values"
        );
        let [batch, rows] = [0, 1].map(|axis| shape.dim(axis));
        let problem = Problem::of(config, true, [batch, rows, rows, shape.last() / slots]);
        record(&[self], problem, mask, config).0
    }
}

/// Checks the attributes and records the operation: the result (as `[B, Tq, …]`), the log-sum-exps and the problem.
#[track_caller]
fn record<'t>(
    operands: &[Var<'t>],
    mut problem: Problem,
    mask: Option<Mask<'t>>,
    config: &Attention,
) -> (Var<'t>, Var<'t>, Problem) {
    let tape = operands[0].tape();
    assert!(
        (1..=problem.heads).contains(&problem.kv_heads)
            && problem.heads.is_multiple_of(problem.kv_heads),
        "attention: {} heads cannot share {} heads of keys and values",
        problem.heads,
        problem.kv_heads
    );
    assert!(
        problem.window != Some(0),
        "attention: a window of 0 shows no key; leave it out for no window"
    );
    assert!(
        problem.queries.max(problem.keys) <= LONGEST
            && problem.window.is_none_or(|window| window <= LONGEST),
        "attention: contexts and windows have at most {LONGEST} positions"
    );
    assert!(
        problem.head_dim <= MAX_HEAD_DIM,
        "attention: head size {} is larger than {MAX_HEAD_DIM}",
        problem.head_dim
    );
    assert!(
        (0.0..1.0).contains(&config.dropout),
        "attention: dropout {} is not in 0.0..1.0",
        config.dropout
    );
    if operands.iter().any(|operand| !operand.dtype().is_float()) {
        panic!("attention: queries, keys and values must be F32 or F16");
    }
    let mut inputs = operands.to_vec();
    if let Some(mask) = mask {
        let (var, kind) = mask.parts();
        let (shape, weights) = (var.shape(), problem.weights_extents());
        let missing = weights.len().checked_sub(shape.rank());
        let fits = missing.is_some_and(|missing| {
            let pairs = shape.dims().iter().zip(&weights[missing..]);
            pairs.into_iter().all(|(&own, &all)| own == 1 || own == all)
        });
        assert!(
            fits,
            "attention: mask {shape} does not broadcast to {weights:?}"
        );
        if kind == MaskKind::Additive && !var.dtype().is_float() {
            panic!("attention: an additive mask must be F32");
        }
        problem.mask = Some(kind);
        inputs.push(var);
    }
    if config.dropout > 0.0 && tape.is_training() {
        problem.dropout = Some(Dropout {
            probability: config.dropout.to_bits(),
            stream: tape.next_random_stream(),
            is_row_wise: tape
                .is_row_wise(crate::shape::Shape::from([problem.batch, problem.queries])),
        });
        inputs.push(tape.random_key());
    }
    let outputs = tape.record_all(Fused { problem }, &inputs);
    if tape.is_tracing() {
        trace(operands, outputs[1], mask, &problem);
        outputs[0].tap("heads");
    }
    (outputs[0], outputs[1], problem)
}

/// Names scores and weights, which fused attention doesn't compute otherwise.
#[track_caller]
fn trace<'t>(operands: &[Var<'t>], lse: Var<'t>, mask: Option<Mask<'t>>, problem: &Problem) {
    let &Problem {
        batch,
        heads,
        kv_heads,
        queries,
        keys,
        head_dim,
        ..
    } = problem;
    problem.refuse_weights_beyond_memory();
    let (q, k) = if problem.is_packed {
        let slots = operands[0].reshape([batch, queries, heads + 2 * kv_heads, head_dim]);
        let part = |range| slots.slice(2, range).permute(&[0, 2, 1, 3]);
        (part(0..heads), part(heads..heads + kv_heads))
    } else {
        (operands[0], operands[1])
    };
    let shared = k
        .reshape([batch, kv_heads, 1, keys, head_dim])
        .broadcast_to([batch, kv_heads, problem.share(), keys, head_dim])
        .reshape([batch, heads, keys, head_dim]);
    (q.matmul(shared.transpose()) * problem.scale()).tap("scores");
    weights(q, k, lse, mask, *problem).tap("weights");
}

/// Records the weights of an attention that has been recorded.
#[track_caller]
fn weights<'t>(
    q: Var<'t>,
    k: Var<'t>,
    lse: Var<'t>,
    mask: Option<Mask<'t>>,
    problem: Problem,
) -> Var<'t> {
    problem.refuse_weights_beyond_memory();
    let mut inputs = vec![q, k, lse];
    inputs.extend(mask.map(|mask| mask.parts().0));
    let problem = Problem {
        is_packed: false,
        ..problem
    };
    q.tape().record(Weights { problem }, &inputs)
}
