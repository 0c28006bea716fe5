//! One layer of a decoder, and what layers of encoders have in common with it.

use super::attention::CausalSelfAttention;
use super::config::{FeedForwardKind, GptConfig, NormPlacement};
use super::kv_cache::Places;
use super::{FeedForward, Norm, ParameterBuilder, Positions};
use crate::gpu::Tensor;
use crate::tape::Var;

/// A decoder block: `x + attention(norm1(x))`, then `x + ffn(norm2(x))`. Xiong et al. 2020, "On Layer Normalization in the
/// Transformer Architecture".
///
/// With [`NormPlacement::After`] it is `x + norm1(attention(x))` and so on; with [`FeedForwardKind::None`] the second part
/// is not there.
#[derive(Clone, Debug)]
pub struct DecoderBlock {
    attention: CausalSelfAttention,
    branches: Branches,
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
        let divisor = config.residual_divisor();
        let (kind, eps) = (config.norm, config.norm_eps);
        let norm1 = Norm::new(&mut builder.enter("norm1"), kind, d_model, bias, eps);
        let attention = CausalSelfAttention::with_residual_divisor(
            &mut builder.enter("attention"),
            d_model,
            config.n_heads,
            config.has_attention_bias(),
            config.attention_dropout(),
            divisor,
        );
        let ffn = match config.ffn {
            FeedForwardKind::None => None,
            ffn => {
                let norm2 = Norm::new(&mut builder.enter("norm2"), kind, d_model, bias, eps);
                let (scope, hidden) = (&mut builder.enter("ffn"), config.d_ff);
                Some((
                    norm2,
                    FeedForward::with_residual_divisor(scope, ffn, d_model, hidden, bias, divisor),
                ))
            }
        };
        DecoderBlock {
            attention,
            branches: Branches {
                norm1,
                ffn,
                placement: config.norm_placement,
                dropout,
            },
        }
    }

    /// `[B, T, d_model] → [B, T, d_model]`
    ///
    /// # Panics
    ///
    /// If `x` is not of that shape.
    #[track_caller]
    pub fn forward<'t>(&self, x: Var<'t>, positions: &Positions) -> Var<'t> {
        let attention = |input| self.attention.forward(input, positions);
        self.branches.forward(x, attention)
    }

    /// Like [`DecoderBlock::forward`] for tokens that stand at `places` and see what `cache`, a layer of a
    /// [`KvCache`](super::KvCache), holds; their keys and values are added to it.
    #[track_caller]
    pub(super) fn forward_cached<'t>(
        &self,
        x: Var<'t>,
        positions: &Positions,
        places: &Places<'t>,
        cache: &Tensor,
    ) -> Var<'t> {
        let attention = |input| {
            self.attention
                .forward_cached(input, positions, places, cache)
        };
        self.branches.forward(x, attention)
    }
}

/// A block but for its attention: the two residual sums, norms before or after their branches, the feed-forward layer.
#[derive(Clone, Debug)]
pub(super) struct Branches {
    pub norm1: Norm,
    /// With its norm.
    pub ffn: Option<(Norm, FeedForward)>,
    pub placement: NormPlacement,
    pub dropout: f32,
}

impl Branches {
    /// `[B, T, d_model] → [B, T, d_model]`, as `attention` is.
    #[track_caller]
    pub fn forward<'t>(&self, x: Var<'t>, attention: impl FnOnce(Var<'t>) -> Var<'t>) -> Var<'t> {
        let tape = x.tape();
        let before = |norm: &Norm, name: &str, x: Var<'t>| match self.placement {
            NormPlacement::Before => norm.forward(x).tap(name),
            NormPlacement::After => x,
        };
        let after = |norm: &Norm, name: &str, x: Var<'t>| match self.placement {
            NormPlacement::Before => x,
            NormPlacement::After => norm.forward(x).tap(name),
        };
        // Each sum, being the only reader of a product, runs in that product's epilogue.
        let input = before(&self.norm1, "norm1", x);
        let attended = tape.scope("attention", || attention(input).dropout(self.dropout));
        let x = (x + after(&self.norm1, "norm1", attended)).tap("attended");
        let Some((norm, ffn)) = &self.ffn else {
            return x;
        };
        let input = before(norm, "norm2", x);
        let fed = tape.scope("ffn", || ffn.forward(input).dropout(self.dropout));
        x + after(norm, "norm2", fed)
    }
}
