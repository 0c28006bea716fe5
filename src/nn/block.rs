//! One layer of a decoder.

use super::config::GptConfig;
use super::{FeedForward, MultiHeadAttention, Norm, ParameterBuilder, Positions};
use crate::tape::Var;

/// A pre-norm decoder block: `x + attention(norm1(x))`, then `x + ffn(norm2(x))`. Xiong et al. 2020, "On Layer
/// Normalization in the Transformer Architecture".
#[derive(Clone, Debug)]
pub struct DecoderBlock {
    norm1: Norm,
    attention: MultiHeadAttention,
    norm2: Norm,
    ffn: FeedForward,
    dropout: f32,
}

impl DecoderBlock {
    /// One block of the model that `config` describes.
    ///
    /// # Panics
    ///
    /// If the configuration is [not valid](GptConfig::validate).
    #[track_caller]
    pub fn new(builder: &mut ParameterBuilder, config: &GptConfig) -> DecoderBlock {
        let &GptConfig {
            d_model,
            bias,
            dropout,
            ..
        } = config;
        let std = config.residual_std();
        let norm =
            |b: &mut ParameterBuilder| Norm::new(b, config.norm, d_model, bias, config.norm_eps);
        DecoderBlock {
            norm1: builder.scope("norm1", norm),
            attention: builder.scope("attention", |b| {
                let heads = config.n_heads;
                MultiHeadAttention::with_out_std(b, d_model, heads, bias, dropout, std)
            }),
            norm2: builder.scope("norm2", norm),
            ffn: builder.scope("ffn", |b| {
                FeedForward::with_down_std(b, config.ffn, d_model, config.d_ff, bias, std)
            }),
            dropout,
        }
    }

    /// `[B, T, d_model] → [B, T, d_model]`
    ///
    /// # Panics
    ///
    /// If `x` is not of that shape.
    #[track_caller]
    pub fn forward<'t>(&self, x: Var<'t>, positions: &Positions) -> Var<'t> {
        let tape = x.tape();
        // Each sum, being the only reader of a product, runs in that product's epilogue.
        let normed = self.norm1.forward(x).tap("norm1");
        let attended = tape.scope("attention", || {
            let attended = self.attention.forward(normed, positions);
            attended.dropout(self.dropout)
        });
        let x = (x + attended).tap("attended");
        let normed = self.norm2.forward(x).tap("norm2");
        x + tape.scope("ffn", || self.ffn.forward(normed).dropout(self.dropout))
    }
}
