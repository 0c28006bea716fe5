//! Multi-head attention.

use super::kv_cache::Places;
use super::{Linear, ParameterBuilder, Positions};
use crate::gpu::Tensor;
use crate::ops::attention::{Attention, Mask, attention};
use crate::tape::Var;

/// Causal self-attention in several heads. Vaswani et al. 2017, "Attention Is All You Need".
///
/// Queries, keys and values of all heads come from one packed projection `qkv` `[width, 3·width]`, which the attention
/// kernel reads in place; `out` `[width, width]` mixes the heads. Both are [`Linear`]s.
#[derive(Clone, Debug)]
pub struct CausalSelfAttention {
    qkv: Linear,
    out: Linear,
    heads: usize,
    dropout: f32,
}

impl CausalSelfAttention {
    /// Attention in `heads` heads over vectors of extent `width`; `dropout` is the share of attention weights that
    /// training tapes drop.
    ///
    /// # Panics
    ///
    /// If `width` is not a multiple of `heads`.
    #[track_caller]
    pub fn new(
        builder: &mut ParameterBuilder,
        width: usize,
        heads: usize,
        bias: bool,
        dropout: f32,
    ) -> CausalSelfAttention {
        CausalSelfAttention::with_residual_divisor(builder, width, heads, bias, dropout, 1.0)
    }

    /// Like [`CausalSelfAttention::new`], the initial values of `out` smaller by this factor.
    #[track_caller]
    pub fn with_residual_divisor(
        builder: &mut ParameterBuilder,
        width: usize,
        heads: usize,
        bias: bool,
        dropout: f32,
        divisor: f32,
    ) -> CausalSelfAttention {
        assert!(
            heads > 0 && width.is_multiple_of(heads),
            "attention: a width of {width} does not divide into {heads} heads"
        );
        let qkv = Linear::new(&mut builder.enter("qkv"), width, 3 * width, bias);
        let out = Linear::divided(&mut builder.enter("out"), width, width, bias, divisor);
        CausalSelfAttention {
            qkv,
            out,
            heads,
            dropout,
        }
    }

    /// `[B, T, width] → [B, T, width]`. `positions` turns queries and keys if it is of the rotary kind.
    ///
    /// # Panics
    ///
    /// If `x` is not of that shape.
    #[track_caller]
    pub fn forward<'t>(&self, x: Var<'t>, positions: &Positions) -> Var<'t> {
        let qkv = positions.turn(self.qkv.forward(x));
        let attention = Attention::causal(self.heads).with_dropout(self.dropout);
        self.out.forward(qkv.packed_attention(&attention))
    }

    /// Like [`CausalSelfAttention::forward`] for tokens that stand at `places` and see what `cache`
    /// `[B, capacity, 2·width]` holds; their keys and values are added to it.
    #[track_caller]
    pub(super) fn forward_cached<'t>(
        &self,
        x: Var<'t>,
        positions: &Positions,
        places: &Places<'t>,
        cache: &Tensor,
    ) -> Var<'t> {
        let tape = x.tape();
        let [batch, length, width] = [0, 1, 2].map(|axis| x.shape().dim(axis));
        let qkv = positions.turn_at(self.qkv.forward(x), places.ids);
        tape.write_rows(cache, qkv.slice(2, width..3 * width), places.starts);
        let Some(seen) = &places.seen else {
            let attention = Attention::causal(self.heads).with_dropout(self.dropout);
            return self.out.forward(qkv.packed_attention(&attention));
        };
        let heads = |x: Var<'t>, part: usize, length: usize| {
            let x = x.slice(2, part * width..(part + 1) * width);
            let x = x.reshape([batch, length, self.heads, width / self.heads]);
            x.permute(&[0, 2, 1, 3])
        };
        // Only the places that may hold something: what a token costs grows with its text, not with the capacity.
        let cached = tape.tensor(cache).slice(1, 0..seen.keys);
        let (q, k) = (heads(qkv, 0, length), heads(cached, 0, seen.keys));
        let v = heads(cached, 1, seen.keys);
        let settings = Attention::full(self.heads).with_dropout(self.dropout);
        let attended = attention(q, k, v, Some(Mask::Boolean(seen.mask)), &settings);
        let attended = attended.permute(&[0, 2, 1, 3]).reshape(x.shape());
        self.out.forward(attended)
    }
}
