//! A transformer encoder.

use serde::{Deserialize, Serialize};

use super::block::{Branches, norm};
use super::config::{GptConfig, SINUSOIDAL_BASE};
use super::kinds::{FeedForwardKind, NormKind, PositionKind};
use super::{
    Embedding, Linear, MultiHeadAttention, MultiHeadAttentionConfig, Norm, ParameterBuilder,
    Positions,
};
use crate::error::Result;
use crate::ops::attention::Mask;
use crate::tape::Var;

/// The shape of an [`Encoder`]. As JSON it has exactly these keys.
///
/// ```
/// use shadegrad::nn::EncoderConfig;
///
/// let config = EncoderConfig { dropout: 0.1, ..EncoderConfig::new(27) };
/// config.validate()?;
/// # Ok::<(), shadegrad::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderConfig {
    /// How many tokens there are.
    pub vocab_size: usize,
    /// How many positions a text has at most.
    pub context: usize,
    /// The extent of the vectors between the layers.
    pub d_model: usize,
    /// How many heads attention has; divides `d_model`, into heads of at most 256.
    pub n_heads: usize,
    /// How many encoder blocks.
    pub n_layers: usize,
    /// The normalisation.
    pub norm: NormKind,
    /// What normalisations add to variance or mean square.
    pub norm_eps: f32,
    /// The activation of the feed-forward layers.
    pub ffn: FeedForwardKind,
    /// The extent of the hidden feed-forward vectors.
    pub d_ff: usize,
    /// Whether linear layers and layer norms have biases.
    pub bias: bool,
    /// The share of values that training drops: after the embedding, in attention, and before each residual sum.
    pub dropout: f32,
}

impl EncoderConfig {
    /// A small encoder as published, but with the norms in front: context 16, two layers of four heads, `d_model` 32,
    /// layer norm, ReLU with `d_ff` 128, biases, no dropout.
    pub fn new(vocab_size: usize) -> EncoderConfig {
        EncoderConfig {
            vocab_size,
            context: 16,
            d_model: 32,
            n_heads: 4,
            n_layers: 2,
            norm: NormKind::LayerNorm,
            norm_eps: 1e-5,
            ffn: FeedForwardKind::Relu,
            d_ff: 128,
            bias: true,
            dropout: 0.0,
        }
    }

    /// Checks that such a model can exist.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument), naming the setting, its value and what is possible.
    pub fn validate(&self) -> Result<()> {
        self.decoder().validate()
    }

    /// A decoder of these sizes, which is possible if and only if an encoder is. But for attention, its blocks are the same.
    fn decoder(&self) -> GptConfig {
        GptConfig {
            context: self.context,
            d_model: self.d_model,
            n_heads: self.n_heads,
            n_layers: self.n_layers,
            norm: self.norm,
            norm_eps: self.norm_eps,
            ffn: self.ffn,
            d_ff: self.d_ff,
            positions: PositionKind::Sinusoidal,
            bias: self.bias,
            dropout: self.dropout,
            ..GptConfig::new(self.vocab_size)
        }
    }
}

/// An encoder block with its norms in front: `x + attention(norm1(x))`, then `x + ffn(norm2(x))`, in which every position
/// sees every other. Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture".
///
/// The parameters are those of `norm1`, `attention` (a packed [`MultiHeadAttention`]), `norm2` and `ffn`
/// (a [`FeedForward`](super::FeedForward)); the last two are not there with [`FeedForwardKind::None`].
#[derive(Clone, Debug)]
pub struct EncoderBlock {
    attention: MultiHeadAttention,
    branches: Branches,
}

impl EncoderBlock {
    /// One block of the encoder that `config` describes.
    ///
    /// # Panics
    ///
    /// If the configuration is [not valid](EncoderConfig::validate).
    #[track_caller]
    pub fn new(builder: &mut ParameterBuilder, config: &EncoderConfig) -> EncoderBlock {
        let attention = MultiHeadAttentionConfig {
            bias: config.bias,
            dropout: config.dropout,
            ..MultiHeadAttentionConfig::new(config.d_model, config.n_heads)
        };
        let attention = |scope: &mut ParameterBuilder| MultiHeadAttention::new(scope, &attention);
        let (attention, branches) = Branches::around(attention, builder, &config.decoder());
        EncoderBlock {
            attention,
            branches,
        }
    }

    /// `[B, T, d_model] → [B, T, d_model]`. The mask broadcasts to `[B, n_heads, T, T]`.
    ///
    /// # Panics
    ///
    /// If `x` is not of that shape, or the mask does not broadcast.
    #[track_caller]
    pub fn forward<'t>(&self, x: Var<'t>, mask: Option<Mask<'t>>) -> Var<'t> {
        let attention = |input| self.attention.self_attention(input, mask);
        self.branches.forward(x, attention)
    }

    /// Its linear layers, in the order of computation.
    pub fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        let attention = self.attention.linears_mut();
        attention.chain(self.branches.linears_mut())
    }
}

/// A transformer encoder: token embedding times `√d_model`, sinusoidal positions, [`EncoderBlock`]s and a final norm.
/// Vaswani et al. 2017, "Attention Is All You Need", with the norms in front of the branches.
///
/// Parameters: `token_embedding.weight` `[vocab_size, d_model]`, those of `blocks.{i}` and `norm`.
///
/// ```
/// # fn main() -> shadegrad::Result<()> {
/// use shadegrad::nn::{Encoder, EncoderConfig, ParameterBuilder};
/// use shadegrad::{Device, Tape};
///
/// let device = Device::new()?;
/// let mut builder = ParameterBuilder::new(42);
/// let encoder = Encoder::new(&EncoderConfig { n_layers: 1, ..EncoderConfig::new(27) }, &mut builder)?;
/// builder.build(&device)?;
///
/// let tape = Tape::inference(&device);
/// // Two texts, the second shorter by one token.
/// let tokens = tape.input([2, 3], &[5u32, 13, 13, 1, 2, 0]);
/// let is_token = tape.input([2, 3], &[1u32, 1, 1, 1, 1, 0]);
/// let encoded = encoder.forward(tokens, Some(is_token));
/// assert_eq!(encoded.shape().dims(), [2, 3, 32]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Encoder {
    config: EncoderConfig,
    token_embedding: Embedding,
    positions: Positions,
    blocks: Vec<EncoderBlock>,
    norm: Norm,
}

impl Encoder {
    /// Describes the encoder's parameters to `builder`. They start as [`ParameterBuilder::with_init`] says.
    ///
    /// # Errors
    ///
    /// Those of [`EncoderConfig::validate`].
    #[track_caller]
    pub fn new(config: &EncoderConfig, builder: &mut ParameterBuilder) -> Result<Encoder> {
        config.validate()?;
        let (vocab_size, context, d_model) = (config.vocab_size, config.context, config.d_model);
        let token_embedding =
            Embedding::new(&mut builder.enter("token_embedding"), vocab_size, d_model);
        let positions = Positions::sinusoidal(builder, context, d_model, SINUSOIDAL_BASE);
        let mut blocks = Vec::new();
        for i in 0..config.n_layers {
            let scope = &mut builder.enter(format!("blocks.{i}"));
            blocks.push(EncoderBlock::new(scope, config));
        }
        Ok(Encoder {
            config: config.clone(),
            token_embedding,
            positions,
            blocks,
            norm: norm(builder, "norm", &config.decoder()),
        })
    }

    /// The linear layers of the blocks, in the order of computation.
    pub fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        self.blocks.iter_mut().flat_map(EncoderBlock::linears_mut)
    }

    /// What the encoder is made of.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// The vectors of a text: `U32 [B, T] → [B, T, d_model]`, with `T` up to the context. `is_token` `[B, T]`, of either
    /// element type, is nonzero where there is a token and zero where there is padding, which no position sees. What comes
    /// out in the places of padding means nothing: leave it out of what you compute from the result.
    ///
    /// Tokens beyond the vocabulary are an error, as with [`Var::embedding`].
    ///
    /// # Panics
    ///
    /// If the shapes are others, or the parameters have not been built yet.
    #[track_caller]
    pub fn forward<'t>(&self, tokens: Var<'t>, is_token: Option<Var<'t>>) -> Var<'t> {
        let shape = tokens.shape();
        assert!(
            shape.rank() == 2 && shape.dim(1) <= self.config.context,
            "encoder: tokens of shape {shape} are not [batch, up to {} positions]",
            self.config.context
        );
        if let Some(is_token) = is_token {
            assert!(
                is_token.shape() == shape,
                "encoder: the padding mask {} is not of the tokens' shape {shape}",
                is_token.shape()
            );
        }
        let [batch, length] = [0, 1].map(|axis| shape.dim(axis));
        let mask = is_token.map(|var| Mask::Boolean(var.reshape([batch, 1, 1, length])));
        let tape = tokens.tape();
        let embedded = self.token_embedding.forward(tokens).tap("token_embedding");
        let scale = (self.config.d_model as f32).sqrt();
        let embedded = self.positions.add_to(embedded * scale);
        let x = embedded.dropout(self.config.dropout).tap("embedded");
        let x = self.blocks.iter().enumerate().fold(x, |x, (i, block)| {
            tape.scope(format_args!("blocks.{i}"), || block.forward(x, mask))
        });
        self.norm.forward(x).tap("norm")
    }
}
