//! Multi-head attention.

use super::linear::INIT_STD;
use super::{Init, Linear, ParameterBuilder, Positions};
use crate::ops::attention::Attention;
use crate::tape::Var;

/// Causal self-attention in several heads. Vaswani et al. 2017, "Attention Is All You Need".
///
/// Queries, keys and values of all heads come from one packed projection `qkv` `[width, 3·width]`, which the attention
/// kernel reads in place; `out` `[width, width]` mixes the heads. Both are [`Linear`]s.
#[derive(Clone, Debug)]
pub struct MultiHeadAttention {
    qkv: Linear,
    out: Linear,
    heads: usize,
    dropout: f32,
}

impl MultiHeadAttention {
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
    ) -> MultiHeadAttention {
        MultiHeadAttention::with_out_std(builder, width, heads, bias, dropout, INIT_STD)
    }

    /// Like [`MultiHeadAttention::new`], the weights of `out` starting with another standard deviation.
    #[track_caller]
    pub fn with_out_std(
        builder: &mut ParameterBuilder,
        width: usize,
        heads: usize,
        bias: bool,
        dropout: f32,
        std: f32,
    ) -> MultiHeadAttention {
        assert!(
            heads > 0 && width.is_multiple_of(heads),
            "attention: a width of {width} does not divide into {heads} heads"
        );
        MultiHeadAttention {
            qkv: builder.scope("qkv", |b| Linear::new(b, width, 3 * width, bias)),
            out: builder.scope("out", |b| {
                Linear::with_init(b, width, width, bias, Init::Normal { std })
            }),
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
}
