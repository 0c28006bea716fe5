//! Multi-head attention of queries to keys and values that come from anywhere.

use super::{Linear, ParameterBuilder};
use crate::ops::attention::{Attention, Mask, attention, attention_with_weights};
use crate::tape::Var;

/// The shape of a [`MultiHeadAttention`].
///
/// ```
/// use shadegrad::nn::MultiHeadAttentionConfig;
///
/// // Four heads share two heads of keys and values.
/// let config = MultiHeadAttentionConfig {
///     n_kv_heads: 2,
///     ..MultiHeadAttentionConfig::new(64, 4)
/// };
/// assert_eq!(config.head_dim(), 16);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct MultiHeadAttentionConfig {
    /// The extent of queries and of the result; a multiple of `n_heads`.
    pub d_model: usize,
    /// The extent of the vectors that keys and values are made from.
    pub d_source: usize,
    /// How many heads there are.
    pub n_heads: usize,
    /// How many heads of keys and values these share; divides `n_heads`. See [`Attention::n_kv_heads`].
    pub n_kv_heads: usize,
    /// Whether a query sees keys up to its own position only. See [`Attention::causal`].
    pub causal: bool,
    /// Whether the projections have biases.
    pub bias: bool,
    /// Whether the three projections are one parameter. Self-attention then takes one product, which the attention kernel
    /// reads in place. Needs `d_source` equal to `d_model`.
    pub packed: bool,
    /// The share of attention weights that training tapes drop.
    pub dropout: f32,
}

impl MultiHeadAttentionConfig {
    /// As many heads of keys and values as of queries, all vectors of extent `d_model`; every key is seen; packed
    /// projections with biases; no dropout.
    pub fn new(d_model: usize, n_heads: usize) -> MultiHeadAttentionConfig {
        MultiHeadAttentionConfig {
            d_model,
            d_source: d_model,
            n_heads,
            n_kv_heads: n_heads,
            causal: false,
            bias: true,
            packed: true,
            dropout: 0.0,
        }
    }

    /// The extent of one head.
    pub fn head_dim(&self) -> usize {
        self.d_model / self.n_heads
    }

    /// The extent of the keys of all heads.
    fn kv_width(&self) -> usize {
        self.n_kv_heads * self.head_dim()
    }

    fn attention(&self) -> Attention {
        let attention = match self.causal {
            true => Attention::causal(self.n_heads),
            false => Attention::full(self.n_heads),
        };
        attention
            .with_kv_heads(self.n_kv_heads)
            .with_dropout(self.dropout)
    }
}

/// Multi-head attention with separate inputs for queries, keys and values: self-attention where they are one, cross
/// attention where keys and values come from elsewhere. Vaswani et al. 2017, "Attention Is All You Need".
///
/// ```text
/// headₕ = softmax(Q·Wqₕ·(K·Wkₕ)ᵀ/√head_dim + mask)·V·Wvₕ      out = [head₀, head₁, …]·Wo
/// ```
///
/// Parameters, linear weights as `[inputs, outputs]`, with a `bias` beside each `weight` on request:
///
/// | name | shape | present |
/// | --- | --- | --- |
/// | `qkv.weight` | `[d_model, (n_heads + 2·n_kv_heads)·head_dim]` | packed |
/// | `query.weight` | `[d_model, d_model]` | not packed |
/// | `key.weight`, `value.weight` | `[d_source, n_kv_heads·head_dim]` | not packed |
/// | `out.weight` | `[d_model, d_model]` | always |
///
/// ```
/// # fn main() -> shadegrad::Result<()> {
/// use shadegrad::nn::{MultiHeadAttention, MultiHeadAttentionConfig, ParameterBuilder};
/// use shadegrad::ops::attention::Mask;
/// use shadegrad::{Device, Tape};
///
/// let device = Device::new()?;
/// let mut builder = ParameterBuilder::new(42);
/// let attention = MultiHeadAttention::new(&mut builder, &MultiHeadAttentionConfig::new(8, 2));
/// builder.build(&device)?;
///
/// let tape = Tape::inference(&device);
/// let x = tape.full([1, 3, 8], 0.5); // three queries
/// let source = tape.full([1, 5, 8], 0.25); // five keys, of which the last is padding
/// let is_there = tape.input([1, 1, 1, 5], &[1u32, 1, 1, 1, 0]);
/// let y = attention.forward(x, source, source, Some(Mask::Boolean(is_there)));
/// assert_eq!(y.shape().dims(), [1, 3, 8]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct MultiHeadAttention {
    config: MultiHeadAttentionConfig,
    projections: Projections,
    out: Linear,
}

#[derive(Clone, Debug)]
enum Projections {
    Packed(Linear),
    /// Query, key, value.
    Separate([Linear; 3]),
}

impl MultiHeadAttention {
    /// The projections start as [`ParameterBuilder::with_init`] says.
    ///
    /// # Panics
    ///
    /// If `d_model` is not a multiple of `n_heads`, `n_heads` none of `n_kv_heads`, packed projections have inputs of
    /// different extents, or the builder has such a layer in this scope already.
    #[track_caller]
    pub fn new(
        builder: &mut ParameterBuilder,
        config: &MultiHeadAttentionConfig,
    ) -> MultiHeadAttention {
        let &MultiHeadAttentionConfig {
            d_model,
            d_source,
            n_heads,
            n_kv_heads,
            bias,
            ..
        } = config;
        assert!(
            n_heads > 0 && d_model.is_multiple_of(n_heads),
            "attention: d_model = {d_model} does not divide into {n_heads} heads"
        );
        assert!(
            n_kv_heads > 0 && n_heads.is_multiple_of(n_kv_heads),
            "attention: {n_heads} heads cannot share {n_kv_heads} heads of keys and values"
        );
        assert!(
            !config.packed || d_source == d_model,
            "attention: a packed projection has one extent of inputs, not d_model = {d_model} and d_source = {d_source}"
        );
        let kv_width = config.kv_width();
        let projections = if config.packed {
            let width = d_model + 2 * kv_width;
            Projections::Packed(Linear::new(&mut builder.enter("qkv"), d_model, width, bias))
        } else {
            let query = Linear::new(&mut builder.enter("query"), d_model, d_model, bias);
            let key = Linear::new(&mut builder.enter("key"), d_source, kv_width, bias);
            let value = Linear::new(&mut builder.enter("value"), d_source, kv_width, bias);
            Projections::Separate([query, key, value])
        };
        let out = Linear::new(&mut builder.enter("out"), d_model, d_model, bias);
        MultiHeadAttention {
            config: config.clone(),
            projections,
            out,
        }
    }

    /// Its linear layers.
    pub fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        let projections = match &mut self.projections {
            Projections::Packed(qkv) => std::slice::from_mut(qkv),
            Projections::Separate(all) => all,
        };
        projections.iter_mut().chain([&mut self.out])
    }

    /// What it is made of.
    pub fn config(&self) -> &MultiHeadAttentionConfig {
        &self.config
    }

    /// Attention of `query` `[B, Tq, d_model]` to `key` and `value` `[B, Tk, d_source]`, giving `[B, Tq, d_model]`. The
    /// mask broadcasts to `[B, n_heads, Tq, Tk]`.
    ///
    /// # Panics
    ///
    /// If the shapes do not fit together.
    #[track_caller]
    pub fn forward<'t>(
        &self,
        query: Var<'t>,
        key: Var<'t>,
        value: Var<'t>,
        mask: Option<Mask<'t>>,
    ) -> Var<'t> {
        let [q, k, v] = self.heads(query, key, value);
        let heads = attention(q, k, v, mask, &self.config.attention());
        self.out.forward(joined(heads))
    }

    /// [`MultiHeadAttention::forward`], which also returns the weights `[B, n_heads, Tq, Tk]` to look at, before dropout.
    /// No gradient flows through them: see [`attention_with_weights`].
    ///
    /// # Panics
    ///
    /// As [`MultiHeadAttention::forward`].
    #[track_caller]
    pub fn forward_with_weights<'t>(
        &self,
        query: Var<'t>,
        key: Var<'t>,
        value: Var<'t>,
        mask: Option<Mask<'t>>,
    ) -> (Var<'t>, Var<'t>) {
        let [q, k, v] = self.heads(query, key, value);
        let (out, weights) = attention_with_weights(q, k, v, mask, &self.config.attention());
        (self.out.forward(joined(out)), weights)
    }

    /// Attention of `x` `[B, T, d_model]` to itself.
    ///
    /// # Panics
    ///
    /// As [`MultiHeadAttention::forward`].
    #[track_caller]
    pub fn self_attention<'t>(&self, x: Var<'t>, mask: Option<Mask<'t>>) -> Var<'t> {
        let Projections::Packed(qkv) = &self.projections else {
            return self.forward(x, x, x, mask);
        };
        let (qkv, attention) = (qkv.forward(x), self.config.attention());
        let attended = match mask {
            Some(mask) => qkv.masked_packed_attention(mask, &attention),
            None => qkv.packed_attention(&attention),
        };
        self.out.forward(attended)
    }

    /// The three inputs, projected and split into heads: `[B, H, T, head_dim]` each.
    #[track_caller]
    fn heads<'t>(&self, query: Var<'t>, key: Var<'t>, value: Var<'t>) -> [Var<'t>; 3] {
        let (width, kv_width) = (self.config.d_model, self.config.kv_width());
        let projected = match &self.projections {
            Projections::Separate([q, k, v]) => {
                [q.forward(query), k.forward(key), v.forward(value)]
            }
            Projections::Packed(qkv) => {
                let tape = query.tape();
                let part = |x: Var<'t>, start: usize, columns: usize| {
                    let range = start..start + columns;
                    if qkv.lora().is_some() {
                        return qkv.forward(x).slice(x.shape().rank() - 1, range);
                    }
                    let y = x.matmul(qkv.weight().on(tape).slice(1, range.clone()));
                    match qkv.bias() {
                        Some(bias) => y + bias.on(tape).slice(0, range),
                        None => y,
                    }
                };
                [
                    part(query, 0, width),
                    part(key, width, kv_width),
                    part(value, width + kv_width, kv_width),
                ]
            }
        };
        projected.map(|x| in_heads(x, self.config.head_dim()))
    }
}

/// `[B, T, H·head_dim]` as `[B, H, T, head_dim]`.
#[track_caller]
pub(super) fn in_heads(x: Var<'_>, head_dim: usize) -> Var<'_> {
    let &[batch, length, columns] = x.shape().dims() else {
        panic!("attention: {} is not [batch, length, extent]", x.shape());
    };
    let split = x.reshape([batch, length, columns / head_dim, head_dim]);
    split.permute(&[0, 2, 1, 3])
}

/// `[B, H, T, head_dim]` as `[B, T, H·head_dim]`.
#[track_caller]
pub(super) fn joined(heads: Var<'_>) -> Var<'_> {
    let [batch, count, length, head_dim] = [0, 1, 2, 3].map(|axis| heads.shape().dim(axis));
    let rows = heads.permute(&[0, 2, 1, 3]);
    rows.reshape([batch, length, count * head_dim])
}
