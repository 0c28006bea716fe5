//! Multi-head attention.

use super::config::GptConfig;
use super::kv_cache::Places;
use super::multi_head_attention::{in_heads, joined};
use super::position::first_rows;
use super::{Linear, ParameterBuilder, Positions, RmsNorm};
use crate::gpu::Tensor;
use crate::ops::Heads;
use crate::ops::attention::{Attention, Mask, attention};
use crate::tape::{Tape, Var};

/// Causal self-attention in several heads, of which groups may share keys and values. Vaswani et al. 2017, "Attention Is
/// All You Need"; Ainslie et al. 2023, "GQA".
///
/// Queries, keys and values of all heads come from one packed projection `qkv`
/// `[width, (n_heads + 2·n_kv_heads)·head_dim]`, which the attention kernel reads in place; `out`
/// `[n_heads·head_dim, width]` mixes the heads. Both are [`Linear`]s. With normalised queries and keys there are the
/// [`RmsNorm`]s `q_norm` and `k_norm` of extent `head_dim`.
#[derive(Clone, Debug)]
pub struct CausalSelfAttention {
    qkv: Linear,
    qk_norm: Option<[RmsNorm; 2]>,
    out: Linear,
    head_dim: usize,
    settings: Attention,
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
        assert!(
            heads > 0 && width.is_multiple_of(heads),
            "attention: a width of {width} does not divide into {heads} heads"
        );
        let config = GptConfig {
            d_model: width,
            n_heads: heads,
            bias,
            dropout,
            ..GptConfig::new(1)
        };
        CausalSelfAttention::of(builder, &config, 0)
    }

    /// The attention of a layer of a model, whose configuration is valid.
    #[track_caller]
    pub(super) fn of(
        builder: &mut ParameterBuilder,
        config: &GptConfig,
        layer: usize,
    ) -> CausalSelfAttention {
        let (width, head_dim) = (config.d_model, config.head_dim());
        let (heads, kv_heads) = (config.n_heads, config.n_kv_heads());
        let slots = heads + 2 * kv_heads;
        let bias = config.has_qkv_bias();
        let qkv = Linear::new(&mut builder.enter("qkv"), width, slots * head_dim, bias);
        let mut norm = |name| RmsNorm::new(&mut builder.enter(name), head_dim, config.norm_eps);
        let qk_norm = config.qk_norm.then(|| ["q_norm", "k_norm"].map(&mut norm));
        let (scope, bias) = (&mut builder.enter("out"), config.has_attention_bias());
        let divisor = config.residual_divisor();
        CausalSelfAttention {
            qkv,
            qk_norm,
            out: Linear::divided(scope, heads * head_dim, width, bias, divisor),
            head_dim,
            settings: Attention {
                n_kv_heads: kv_heads,
                window: config.window(layer),
                scale: config.attention_scale,
                dropout: config.attention_dropout(),
                ..Attention::causal(heads)
            },
        }
    }

    /// `[B, T, width] → [B, T, width]`. `positions` turns queries and keys if it is of the rotary kind.
    ///
    /// # Panics
    ///
    /// If `x` is not of that shape.
    #[track_caller]
    pub fn forward<'t>(&self, x: Var<'t>, positions: &Positions) -> Var<'t> {
        let length = x.shape().dim(x.shape().rank() - 2);
        let qkv = self
            .qkv
            .forward(x)
            .heads(&self.heads(x.tape(), positions, Some(length)));
        self.out.forward(qkv.packed_attention(&self.settings))
    }

    /// Like [`CausalSelfAttention::forward`] for tokens that stand at `places` and see what `cache`
    /// `[B, capacity, 2·n_kv_heads·head_dim]` holds; their keys and values are added to it.
    #[track_caller]
    pub(super) fn forward_cached<'t>(
        &self,
        x: Var<'t>,
        positions: &Positions,
        places: &Places<'t>,
        cache: &Tensor,
    ) -> Var<'t> {
        let tape = x.tape();
        let length = x.shape().dim(1);
        let kv_width = self.settings.n_kv_heads * self.head_dim;
        let q_width = self.settings.n_heads * self.head_dim;
        let qkv = self.qkv.forward(x);
        let Some(seen) = places.seen(self.settings.window) else {
            // New texts, from position 0 on.
            let qkv = qkv.heads(&self.heads(tape, positions, Some(length)));
            let new = qkv.slice(2, q_width..q_width + 2 * kv_width);
            tape.write_rows(cache, new, places.starts);
            return self.out.forward(qkv.packed_attention(&self.settings));
        };
        let q = qkv.cached_heads(&self.heads(tape, positions, None), cache, places.starts);
        let heads =
            |x: Var<'t>, start, width| in_heads(x.slice(2, start..start + width), self.head_dim);
        // Only the places that may hold something: what a token costs grows with its text, not with the capacity.
        let cached = tape.tensor(cache).slice(1, 0..seen.keys);
        let q = heads(q, 0, q_width);
        let [k, v] = [0, kv_width].map(|start| heads(cached, start, kv_width));
        // The mask says what causality and the window say of texts of different lengths.
        let settings = Attention {
            causal: false,
            window: None,
            ..self.settings.clone()
        };
        let attended = attention(q, k, v, Some(Mask::Boolean(seen.mask)), &settings);
        self.out.forward(joined(attended))
    }

    /// Its linear layers.
    pub fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        [&mut self.qkv, &mut self.out].into_iter()
    }

    /// The extent of keys and values of a token together.
    pub(super) fn cached_width(&self) -> usize {
        2 * self.settings.n_kv_heads * self.head_dim
    }

    /// What queries and keys go through: with the angles of so many positions, or of all.
    #[track_caller]
    fn heads<'t>(&self, tape: &'t Tape, positions: &Positions, length: Option<usize>) -> Heads<'t> {
        let angles = positions.angles(tape);
        let norms = self.qk_norm.as_ref();
        Heads {
            n_heads: self.settings.n_heads,
            n_kv_heads: self.settings.n_kv_heads,
            norms: norms.map(|norms| {
                let [(q, epsilon), (k, _)] = norms.each_ref().map(|norm| norm.on(tape));
                ([q, k], epsilon)
            }),
            angles: angles.map(|table| match length {
                Some(length) => first_rows(table, length),
                None => table,
            }),
        }
    }
}
