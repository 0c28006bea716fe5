//! A decoder-only transformer.

use std::sync::{Arc, Mutex};

use super::block::{Stream, norm};
use super::config::GptConfig;
use super::kinds::PositionKind;
use super::{
    CachedTexts, DecoderBlock, Embedding, KvCache, Linear, Norm, Parameter, ParameterBuilder,
    Positions,
};
use crate::error::{Result, require};
use crate::gpu::{DType, Device};
use crate::ops::CrossEntropy;
use crate::tape::{Precision, Var};

/// A decoder-only transformer: token embedding, [`Positions`], [`DecoderBlock`]s, a final [`Norm`], and a head that gives
/// a logit per token of the vocabulary. Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"; the
/// [`GptConfig`] chooses among what came later.
///
/// Parameters, with linear weights as `[inputs, outputs]`:
///
/// | name | shape | present |
/// | --- | --- | --- |
/// | `token_embedding.weight` | `[vocab_size, d_model]` | always |
/// | `position_embedding.weight` | `[context, d_model]` | with learned positions |
/// | `blocks.{i}.norm1.weight` | `[d_model]` | always |
/// | `blocks.{i}.norm1_after.weight` | `[d_model]` | with norms at both ends |
/// | `blocks.{i}.attention.qkv.weight` | `[d_model, (n_heads + 2·n_kv_heads)·head_dim]` | always |
/// | `blocks.{i}.attention.q_norm.weight`, `.k_norm.weight` | `[head_dim]` | with `qk_norm` |
/// | `blocks.{i}.attention.out.weight` | `[n_heads·head_dim, d_model]` | always |
/// | `blocks.{i}.norm2.weight` | `[d_model]` | with feed-forward layers |
/// | `blocks.{i}.norm2_after.weight` | `[d_model]` | with these and norms at both ends |
/// | `blocks.{i}.ffn.up.weight` | `[d_model, d_ff]` | with feed-forward layers that are not gated |
/// | `blocks.{i}.ffn.gate_up.weight` | `[d_model, 2·d_ff]` | with gated ones |
/// | `blocks.{i}.ffn.down.weight` | `[d_ff, d_model]` | with feed-forward layers |
/// | `norm.weight` | `[d_model]` | with a final norm |
/// | `head.weight` | `[d_model, vocab_size]` | without tied weights |
/// | `head.bias` | `[vocab_size]` | with `head_bias` |
///
/// A token embedding larger than the builder's [limit](ParameterBuilder::with_parameter_limit) is split into several
/// parameters, see [`Embedding`].
///
/// With `bias`, every linear layer of the blocks and every layer norm has a `bias` beside its `weight`; for `attention.out`
/// and `attention.qkv`, `attention_bias` may say otherwise, and for the latter `qkv_bias`.
///
/// What a [trace](crate::Tape::trace) finds, in the order of computation:
///
/// | name | shape | what |
/// | --- | --- | --- |
/// | `token_embedding` | `[B, T, d_model]` | the tokens' vectors |
/// | `position_embedding` | `[T, d_model]` | the positions' vectors, unless they are rotary |
/// | `embedded` | `[B, T, d_model]` | their sum: the residual stream as it enters the first block |
/// | `blocks.{i}.norm1` | `[B, T, d_model]` | the stream, normalised; or what attention made of it |
/// | `blocks.{i}.norm1_after`, `.norm2_after` | `[B, T, d_model]` | the latter, where both are normalised |
/// | `blocks.{i}.attention.scores` | `[B, n_heads, T, T]` | scaled products of queries and keys, before the mask |
/// | `blocks.{i}.attention.weights` | `[B, n_heads, T, T]` | what the mask and softmax make of them |
/// | `blocks.{i}.attention.heads` | `[B, T, n_heads·head_dim]` | the values, weighted, of all heads |
/// | `blocks.{i}.attention` | `[B, T, d_model]` | what is added to the stream |
/// | `blocks.{i}.attended` | `[B, T, d_model]` | the stream with that added |
/// | `blocks.{i}.norm2` | `[B, T, d_model]` | the same for the feed-forward layers; these have no entries if there are none |
/// | `blocks.{i}.ffn.up`, or `.gate_up` if gated | `[B, T, d_ff]`, or twice that | before the activation |
/// | `blocks.{i}.ffn.hidden` | `[B, T, d_ff]` | after the activation |
/// | `blocks.{i}.ffn` | `[B, T, d_model]` | what is added to the stream |
/// | `blocks.{i}` | `[B, T, d_model]` | the stream with that added, as it leaves the block |
/// | `norm` | `[B, T, d_model]` | the stream after the last block, normalised, with a final norm |
/// | `logits` | `[B, T, vocab_size]` | the logits |
///
/// ```
/// # fn main() -> shadegrad::Result<()> {
/// use shadegrad::nn::{Gpt, GptConfig, ParameterBuilder};
/// use shadegrad::{Device, Tape};
///
/// let device = Device::new()?;
/// let mut builder = ParameterBuilder::new(42);
/// let gpt = Gpt::new(&GptConfig { n_layers: 1, ..GptConfig::new(27) }, &mut builder)?;
/// let parameters = builder.build(&device)?;
/// assert_eq!(parameters.element_count(), gpt.config().parameter_count());
///
/// let tape = Tape::inference(&device);
/// let logits = gpt.logits(tape.input([1, 3], &[5u32, 13, 13]));
/// let logits = tape.fetch::<f32>(logits);
/// tape.run()?;
/// assert_eq!(logits.get()?.len(), 3 * 27);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Gpt {
    config: GptConfig,
    token_embedding: Embedding,
    positions: Positions,
    /// Of the layers that see a window only.
    local_positions: Positions,
    blocks: Vec<DecoderBlock>,
    norm: Option<Norm>,
    /// `None` if the weights are tied.
    head: Option<Parameter>,
    head_bias: Option<Parameter>,
    /// Of the last generation, if none is under way: a new one would mean new plans.
    pub(super) cache: Arc<Mutex<Option<CachedTexts>>>,
    checkpoint_blocks: bool,
    precision: Precision,
}

impl Gpt {
    /// Describes the model's parameters to `builder`. They start as [`ParameterBuilder::with_init`] says.
    ///
    /// # Errors
    ///
    /// Those of [`GptConfig::validate`].
    ///
    /// # Panics
    ///
    /// If the builder has such a model in this scope already.
    #[track_caller]
    pub fn new(config: &GptConfig, builder: &mut ParameterBuilder) -> Result<Gpt> {
        config.validate()?;
        let (vocab_size, context, d_model) = (config.vocab_size, config.context, config.d_model);
        let token_embedding =
            Embedding::new(&mut builder.enter("token_embedding"), vocab_size, d_model);
        let positions = match config.positions {
            PositionKind::Sinusoidal => {
                Positions::sinusoidal(builder, context, d_model, config.sinusoidal_base)
            }
            PositionKind::Learned => {
                let scope = &mut builder.enter("position_embedding");
                Positions::learned(scope, context, d_model)
            }
            PositionKind::Rotary => {
                Positions::rotary(builder, context, config.head_dim(), &config.rotary)
            }
        };
        let local = config.local.as_ref();
        let local_positions = match local.and_then(|local| local.rotary.as_ref()) {
            Some(rotary) if config.positions == PositionKind::Rotary => {
                Positions::rotary(builder, context, config.head_dim(), rotary)
            }
            _ => positions.clone(),
        };
        let mut blocks = Vec::new();
        for i in 0..config.n_layers {
            let scope = &mut builder.enter(format!("blocks.{i}"));
            blocks.push(DecoderBlock::new(scope, config, i));
        }
        let norm = match config.final_norm {
            true => Some(norm(builder, "norm", config)),
            false => None,
        };
        let init = builder.init();
        let mut head = None;
        if !config.tie_weights {
            let weight = init.weight(d_model, vocab_size);
            head = Some(builder.parameter("head.weight", [d_model, vocab_size], weight));
        }
        let mut head_bias = None;
        if config.head_bias {
            head_bias = Some(builder.parameter("head.bias", [vocab_size], init.bias(d_model)));
        }
        Ok(Gpt {
            config: config.clone(),
            token_embedding,
            positions,
            local_positions,
            blocks,
            norm,
            head,
            head_bias,
            cache: Arc::default(),
            checkpoint_blocks: false,
            precision: match builder.dtype() {
                DType::F16 => Precision::Mixed,
                _ => Precision::F32,
            },
        })
    }

    /// What the model is made of.
    pub fn config(&self) -> &GptConfig {
        &self.config
    }

    /// Sets whether training [computes every block again](crate::Tape::checkpoint) in the backward pass rather than keeping
    /// what it computed: less memory, one more forward pass through the blocks, the same results. Off at first.
    pub fn set_checkpoint_blocks(&mut self, checkpoint_blocks: bool) {
        self.checkpoint_blocks = checkpoint_blocks;
    }

    /// Sets the precision of what [`Gpt::generate`] records, and with it the type of its [`KvCache`]. It is
    /// [`Precision::Mixed`] at first where parameters are [stored in `F16`](ParameterBuilder::with_dtype), else
    /// [`Precision::F32`]. Other tapes have [their own](crate::Tape::set_precision). Weights in `F32` are rounded once, to a copy
    /// that stays: two bytes more a parameter.
    pub fn set_precision(&mut self, precision: Precision) {
        self.precision = precision;
    }

    /// The precision that it generates in.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The linear layers of the blocks, in the order of computation: to give some of them [adapters](Linear::add_lora), or to
    /// [merge](Linear::merge_lora) these.
    pub fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        self.blocks.iter_mut().flat_map(DecoderBlock::linears_mut)
    }

    /// The device that holds the parameters.
    ///
    /// # Panics
    ///
    /// If the parameters have not been built yet.
    #[track_caller]
    pub fn device(&self) -> &Device {
        self.token_embedding.parts()[0].tensor().device()
    }

    /// The vectors behind the last block, before the final norm: `U32 [B, T] → [B, T, d_model]`, with `T` up to the
    /// context.
    ///
    /// Tokens beyond the vocabulary are an error, as with [`Var::embedding`].
    ///
    /// # Panics
    ///
    /// If `tokens` is not of that shape, or the parameters have not been built yet.
    #[track_caller]
    pub fn hidden<'t>(&self, tokens: Var<'t>) -> Var<'t> {
        let shape = tokens.shape();
        assert!(
            shape.rank() == 2 && shape.dim(1) <= self.config.context,
            "gpt: tokens of shape {shape} are not [batch, up to {} positions]",
            self.config.context
        );
        let tape = tokens.tape();
        let x = self.embedded(self.positions.add_to(self.tokens(tokens)));
        self.blocks.iter().enumerate().fold(x, |x, (i, block)| {
            let positions = self.positions_of(i);
            let forward = || match self.checkpoint_blocks {
                true => tape.checkpoint(|_| block.forward(x, positions)),
                false => block.forward(x, positions),
            };
            tape.scope(format_args!("blocks.{i}"), forward)
        })
    }

    /// The vectors of tokens, without positions.
    #[track_caller]
    fn tokens<'t>(&self, tokens: Var<'t>) -> Var<'t> {
        let vectors = self.token_embedding.forward(tokens);
        let vectors = match self.config.embedding_scale {
            1.0 => vectors,
            scale => vectors * scale,
        };
        vectors.tap("token_embedding")
    }

    /// What enters the first block.
    #[track_caller]
    fn embedded<'t>(&self, vectors: Var<'t>) -> Var<'t> {
        let share = self.config.embedding_dropout();
        vectors.dropout(share).tap("embedded")
    }

    fn positions_of(&self, layer: usize) -> &Positions {
        match self.config.window(layer) {
            None => &self.positions,
            Some(_) => &self.local_positions,
        }
    }

    /// An empty [`KvCache`] for `batch` texts of up to `capacity` tokens, of halves where the model
    /// [generates](Gpt::set_precision) in mixed precision.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) unless both are at least 1 and the capacity is at most the context;
    /// [`Error::Limit`](crate::Error::Limit) or [`Error::OutOfMemory`](crate::Error::OutOfMemory) where it does not fit the device.
    ///
    /// # Panics
    ///
    /// If the parameters have not been built yet.
    pub fn kv_cache(&self, batch: usize, capacity: usize) -> Result<KvCache> {
        let &GptConfig {
            context, n_layers, ..
        } = &self.config;
        for (name, value, most) in [
            ("batch", batch, usize::MAX),
            ("capacity", capacity, context),
        ] {
            let expected = format!("1 to {most}");
            require((1..=most).contains(&value), name, value, expected)?;
        }
        let dtype = self.precision.dtype();
        let width = self.config.n_kv_heads() * self.config.head_dim();
        KvCache::new(self.device(), n_layers, batch, capacity, width, dtype)
    }

    /// [`Gpt::hidden`] for the next `T` tokens of the texts in `cache`, which see what went before, and are added to it:
    /// they count as seen from here on, so the tape must be run.
    ///
    /// Texts of different lengths may be padded to one `T`: padding behind a text does not reach it. Afterwards
    /// [`KvCache::truncate`] takes it from the cache.
    ///
    /// # Panics
    ///
    /// If `tokens` is not `[cache.batch(), T]`, there is no room for so many, or the cache is one of another model.
    #[track_caller]
    pub fn cached_hidden<'t>(&self, tokens: Var<'t>, cache: &mut KvCache) -> Var<'t> {
        let (shape, tape) = (tokens.shape(), tokens.tape());
        let batch = cache.batch();
        assert!(
            shape.rank() == 2 && shape.dim(0) == batch,
            "gpt: tokens of shape {shape} are not [{batch}, T] for a cache of {batch} texts"
        );
        let fits = cache.capacity() <= self.config.context
            && cache.layers.len() == self.blocks.len()
            && cache.layers[0].shape().last() == self.blocks[0].cached_width();
        assert!(fits, "gpt: the cache was made for another model");
        let local = self.config.local.as_ref();
        let places = cache.extend(tape, shape.dim(1), local.map(|local| local.window));
        let x = self.embedded(self.positions.add_at(self.tokens(tokens), places.ids));
        let layers = self.blocks.iter().zip(&cache.layers).enumerate();
        let stream = layers.fold(Stream::from(x), |stream, (i, (block, layer))| {
            let (positions, next) = (self.positions_of(i), self.blocks.get(i + 1));
            let mut normed = None;
            let forward = || {
                let stream = block.forward_cached(stream, positions, &places, layer, next);
                normed = stream.normed;
                stream.x
            };
            let x = tape.scope(format_args!("blocks.{i}"), forward);
            Stream { x, normed }
        });
        stream.x
    }

    /// [`Gpt::logits`] for the next tokens of the texts in a cache: see [`Gpt::cached_hidden`].
    ///
    /// ```
    /// # fn main() -> shadegrad::Result<()> {
    /// use shadegrad::nn::{Gpt, GptConfig, ParameterBuilder};
    /// use shadegrad::{Device, Tape};
    ///
    /// let device = Device::new()?;
    /// let mut builder = ParameterBuilder::new(42);
    /// let gpt = Gpt::new(&GptConfig { n_layers: 1, ..GptConfig::new(27) }, &mut builder)?;
    /// builder.build(&device)?;
    ///
    /// let mut cache = gpt.kv_cache(1, 16)?;
    /// for tokens in [&[5, 13, 13][..], &[1], &[0]] {
    ///     let tape = Tape::inference(&device);
    ///     let logits = gpt.cached_logits(tape.input([1, tokens.len()], tokens), &mut cache);
    ///     let logits = tape.fetch::<f32>(logits);
    ///     tape.run()?;
    ///     assert_eq!(logits.get()?.len(), tokens.len() * 27);
    /// }
    /// assert_eq!(cache.lengths(), [5]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// As [`Gpt::cached_hidden`].
    #[track_caller]
    pub fn cached_logits<'t>(&self, tokens: Var<'t>, cache: &mut KvCache) -> Var<'t> {
        self.head(self.cached_hidden(tokens, cache))
    }

    /// The logits for what [`Gpt::hidden`] gives, or for some of its rows: `[…, d_model] → […, vocab_size]`. On a tape of
    /// mixed precision they are `F16`; what is fetched is better [cast](Var::cast) to `F32`, which costs nothing.
    ///
    /// # Panics
    ///
    /// If `hidden` has another last extent or fewer than two axes.
    #[track_caller]
    pub fn head<'t>(&self, hidden: Var<'t>) -> Var<'t> {
        let tape = hidden.tape();
        let normed = match &self.norm {
            Some(norm) => norm.forward(hidden).tap("norm"),
            None => hidden,
        };
        let logits = match &self.head {
            Some(weight) => normed.matmul(weight.on(tape)),
            None => self.token_embedding.project(normed),
        };
        let logits = match &self.head_bias {
            Some(bias) => logits + bias.on(tape),
            None => logits,
        };
        logits.tap("logits")
    }

    /// A logit for every token that may follow each position: `U32 [B, T] → [B, T, vocab_size]`.
    ///
    /// # Panics
    ///
    /// As [`Gpt::hidden`].
    #[track_caller]
    pub fn logits<'t>(&self, tokens: Var<'t>) -> Var<'t> {
        self.head(self.hidden(tokens))
    }

    /// The mean cross-entropy of `targets` (`U32 [B, T]`) under the logits for `tokens`, as a scalar.
    ///
    /// # Panics
    ///
    /// As [`Gpt::hidden`], or if the shapes differ.
    #[track_caller]
    pub fn loss<'t>(&self, tokens: Var<'t>, targets: Var<'t>, options: CrossEntropy) -> Var<'t> {
        self.logits(tokens).cross_entropy(targets, options)
    }
}
