//! What a [`Gpt`](super::Gpt) is made of, as data.

use serde::{Deserialize, Serialize};

use super::kinds::{FeedForwardKind, NormKind, NormPlacement, PositionKind};
use super::rotary::{LocalAttention, Rotary};
use crate::error::{Result, require, require_positive};
use crate::ops::attention::MAX_HEAD_DIM;

/// No single size may pass this: what is larger is a slip of the keyboard.
const MOST: usize = 1 << 24;

/// More layers than this are a slip of the keyboard.
const MOST_LAYERS: usize = 4096;

/// More parameters than this (64 GiB) no adapter holds together with gradients and moments.
const MOST_PARAMETERS: u64 = 1 << 34;

/// The shape of a decoder-only transformer. As JSON it has exactly these keys.
///
/// ```
/// use shadegrad::nn::{GptConfig, PositionKind};
///
/// let config = GptConfig {
///     d_model: 64,
///     d_ff: 256,
///     positions: PositionKind::Rotary,
///     ..GptConfig::new(27)
/// };
/// config.validate()?;
/// # Ok::<(), shadegrad::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GptConfig {
    /// How many tokens there are.
    pub vocab_size: usize,
    /// The window: how many positions the model sees at most.
    pub context: usize,
    /// The extent of the vectors between the layers.
    pub d_model: usize,
    /// How many heads attention has; divides `d_model` where `head_dim` doesn't say how large they are.
    pub n_heads: usize,
    /// How many heads of keys and values these share, if not as many: grouped-query attention, see
    /// [`Attention::n_kv_heads`](crate::ops::attention::Attention::n_kv_heads).
    pub n_kv_heads: Option<usize>,
    /// The extent of a head, if not `d_model / n_heads`; at most [`MAX_HEAD_DIM`].
    pub head_dim: Option<usize>,
    /// How many decoder blocks.
    pub n_layers: usize,
    /// The normalisation.
    pub norm: NormKind,
    /// What normalisations add to variance or mean square.
    pub norm_eps: f32,
    /// Where in a block they stand.
    #[serde(default)]
    pub norm_placement: NormPlacement,
    /// Whether there is one more between the last block and the output head.
    #[serde(default = "yes")]
    pub final_norm: bool,
    /// The activation of the feed-forward layers.
    pub ffn: FeedForwardKind,
    /// The extent of the hidden feed-forward vectors; no matter where there are none.
    pub d_ff: usize,
    /// How the model knows the order of its tokens.
    pub positions: PositionKind,
    /// The base of sinusoidal positions; no matter for other ones.
    #[serde(default = "sinusoidal_base")]
    pub sinusoidal_base: f32,
    /// The angles of rotary positions; no matter for other ones.
    #[serde(default)]
    pub rotary: Rotary,
    /// Which layers see a window only, if any do.
    pub local: Option<LocalAttention>,
    /// Whether queries and keys are normalised, head by head, before they are turned. Henry et al. 2020, "Query-Key
    /// Normalization for Transformers", with an RMS norm.
    #[serde(default)]
    pub qk_norm: bool,
    /// What scores are multiplied by, if not `1/√head_dim`.
    pub attention_scale: Option<f32>,
    /// What the tokens' vectors are multiplied by.
    #[serde(default = "one")]
    pub embedding_scale: f32,
    /// Whether the linear layers of the blocks and all layer norms have biases.
    pub bias: bool,
    /// Whether the projections of attention have biases, if not as `bias` says.
    pub attention_bias: Option<bool>,
    /// Whether those of queries, keys and values have, if not as `attention_bias` says.
    pub qkv_bias: Option<bool>,
    /// Whether the output head has a bias, with tied weights too.
    #[serde(default)]
    pub head_bias: bool,
    /// Whether the output head is the token embedding transposed, rather than a parameter of its own.
    pub tie_weights: bool,
    /// The share of values that training drops: after the embedding, in attention, and before each residual sum. Which
    /// ones differs from tape to tape; [`Tape::set_seed`](crate::Tape::set_seed) makes it a function of seed and step, as
    /// a run needs that is to resume to the same bits.
    pub dropout: f32,
    /// The share that is dropped after the embedding, if not `dropout`.
    pub embedding_dropout: Option<f32>,
    /// The share of attention weights that is dropped, if not `dropout`.
    pub attention_dropout: Option<f32>,
    /// Whether the projections that feed residual sums start with values smaller by `√(2·n_layers)`, as in GPT-2.
    #[serde(default)]
    pub scale_residual_init: bool,
}

/// The base of sinusoidal positions, as published.
pub const SINUSOIDAL_BASE: f32 = 10_000.0;

/// [`SINUSOIDAL_BASE`] for configurations that do not say.
fn sinusoidal_base() -> f32 {
    SINUSOIDAL_BASE
}

/// What configurations mean by not mentioning [`GptConfig::final_norm`].
fn yes() -> bool {
    true
}

/// And [`GptConfig::embedding_scale`].
fn one() -> f32 {
    1.0
}

impl GptConfig {
    /// A small model for a vocabulary: context 16, four layers of four heads, `d_model` 32, RMS norm, SwiGLU with
    /// `d_ff` 85 (`⌊8/3·d_model⌋`), learned positions, no biases, tied weights, no dropout.
    pub fn new(vocab_size: usize) -> GptConfig {
        GptConfig {
            vocab_size,
            context: 16,
            d_model: 32,
            n_heads: 4,
            n_kv_heads: None,
            head_dim: None,
            n_layers: 4,
            norm: NormKind::RmsNorm,
            norm_eps: 1e-6,
            norm_placement: NormPlacement::Before,
            final_norm: true,
            ffn: FeedForwardKind::Swiglu,
            d_ff: 85,
            positions: PositionKind::Learned,
            sinusoidal_base: SINUSOIDAL_BASE,
            rotary: Rotary::default(),
            local: None,
            qk_norm: false,
            attention_scale: None,
            embedding_scale: 1.0,
            bias: false,
            attention_bias: None,
            qkv_bias: None,
            head_bias: false,
            tie_weights: true,
            dropout: 0.0,
            embedding_dropout: None,
            attention_dropout: None,
            scale_residual_init: false,
        }
    }

    /// Checks that such a model can exist.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument), naming the setting, its value and what is possible.
    pub fn validate(&self) -> Result<()> {
        let d_ff = match self.ffn {
            FeedForwardKind::None => 1,
            _ => self.d_ff,
        };
        let sizes = [
            ("vocab_size", self.vocab_size, MOST),
            ("context", self.context, MOST),
            ("d_model", self.d_model, MOST),
            ("n_heads", self.n_heads, MOST),
            ("n_layers", self.n_layers, MOST_LAYERS),
            ("d_ff", d_ff, MOST),
        ];
        for (name, value, most) in sizes {
            let expected = format!("1 to {most}");
            require((1..=most).contains(&value), name, value, expected)?;
        }
        self.validate_heads()?;
        if let Some(local) = &self.local {
            local.validate(self.n_layers)?;
        }
        self.rotary.validate("rotary")?;
        for (name, value) in [
            ("norm_eps", self.norm_eps),
            ("sinusoidal_base", self.sinusoidal_base),
            ("embedding_scale", self.embedding_scale),
            ("attention_scale", self.attention_scale.unwrap_or(1.0)),
        ] {
            require_positive(name, value)?;
        }
        let shares = [
            ("dropout", self.dropout),
            ("embedding_dropout", self.embedding_dropout()),
            ("attention_dropout", self.attention_dropout()),
        ];
        for (name, share) in shares {
            let is_share = (0.0..1.0).contains(&share);
            require(is_share, name, share, "0 or more, below 1")?;
        }
        // The fixed tables count here too: they take memory like parameters do.
        let table = (self.context as u64).saturating_mul(self.d_model as u64);
        let total = self.count().saturating_add(table);
        let expected = format!("sizes with at most {MOST_PARAMETERS} parameters in total");
        require(
            total <= MOST_PARAMETERS,
            "the model's size",
            total,
            expected,
        )
    }

    fn validate_heads(&self) -> Result<()> {
        let (d_model, n_heads, kv_heads) = (self.d_model, self.n_heads, self.n_kv_heads());
        let is_whole = self.head_dim.is_some() || d_model.is_multiple_of(n_heads);
        let expected = format!("a multiple of n_heads = {n_heads}");
        require(is_whole, "d_model", d_model, expected)?;
        let is_divisor = kv_heads > 0 && n_heads.is_multiple_of(kv_heads);
        let expected = format!("a divisor of n_heads = {n_heads}");
        require(is_divisor, "n_kv_heads", kv_heads, expected)?;
        let head_dim = self.head_dim();
        let fits = (1..=MAX_HEAD_DIM).contains(&head_dim);
        if self.head_dim.is_some() {
            require(fits, "head_dim", head_dim, format!("1 to {MAX_HEAD_DIM}"))?;
        }
        let least = d_model.div_ceil(MAX_HEAD_DIM);
        let expected = format!(
            "at least {least} heads for d_model = {d_model}: a head holds at most {MAX_HEAD_DIM}"
        );
        require(fits, "n_heads", n_heads, expected)?;
        let turns = self.positions == PositionKind::Rotary;
        let (name, value) = match self.head_dim {
            Some(_) => ("head_dim", head_dim),
            None => ("d_model", d_model),
        };
        let expected = format!("heads of even extent for rotary positions, not of {head_dim}");
        require(!turns || head_dim.is_multiple_of(2), name, value, expected)
    }

    /// How many heads of keys and values there are: `n_kv_heads`, else `n_heads`.
    pub fn n_kv_heads(&self) -> usize {
        self.n_kv_heads.unwrap_or(self.n_heads)
    }

    /// The extent of a head: `head_dim`, else `d_model / n_heads`.
    ///
    /// # Panics
    ///
    /// If neither is there: the configuration is [not valid](GptConfig::validate).
    pub fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.d_model / self.n_heads)
    }

    /// How far back the queries of a layer see; `None` is as far as the context goes.
    pub fn window(&self, layer: usize) -> Option<usize> {
        let local = self.local.as_ref()?;
        local.layers[layer].then_some(local.window)
    }

    /// Whether the projections of queries, keys and values have biases: `qkv_bias`, else as the others of attention.
    pub fn has_qkv_bias(&self) -> bool {
        self.qkv_bias.unwrap_or(self.has_attention_bias())
    }

    /// Whether the projections of attention have biases: `attention_bias`, else `bias`.
    pub fn has_attention_bias(&self) -> bool {
        self.attention_bias.unwrap_or(self.bias)
    }

    /// The share that is dropped after the embedding: `embedding_dropout`, else `dropout`.
    pub fn embedding_dropout(&self) -> f32 {
        self.embedding_dropout.unwrap_or(self.dropout)
    }

    /// The share of attention weights that is dropped: `attention_dropout`, else `dropout`.
    pub fn attention_dropout(&self) -> f32 {
        self.attention_dropout.unwrap_or(self.dropout)
    }

    /// How many numbers the model trains. Tied weights count once.
    pub fn parameter_count(&self) -> usize {
        usize::try_from(self.count()).unwrap_or(usize::MAX)
    }

    fn count(&self) -> u64 {
        let [vocab, context, d, layers, hidden] = [
            self.vocab_size,
            self.context,
            self.d_model,
            self.n_layers,
            self.d_ff,
        ]
        .map(|size| size as u128);
        let [heads, kv_heads] = [self.n_heads, self.n_kv_heads()].map(|count| count as u128);
        let head = self.head_dim() as u128;
        let linear =
            |inputs: u128, outputs: u128, bias: bool| (inputs + u128::from(bias)) * outputs;
        let norm = match self.norm {
            NormKind::LayerNorm => d + u128::from(self.bias) * d,
            NormKind::RmsNorm => d,
        };
        let norms = match self.norm_placement {
            NormPlacement::Both => 2 * norm,
            _ => norm,
        };
        let columns = hidden * if self.ffn.is_gated() { 2 } else { 1 };
        let ffn = match self.ffn {
            FeedForwardKind::None => 0,
            _ => norms + linear(d, columns, self.bias) + linear(hidden, d, self.bias),
        };
        let qkv = linear(d, (heads + 2 * kv_heads) * head, self.has_qkv_bias());
        let out = linear(heads * head, d, self.has_attention_bias());
        let qk_norms = u128::from(self.qk_norm) * 2 * head;
        let block = norms + qkv + qk_norms + out + ffn;
        let positions = match self.positions {
            PositionKind::Learned => context * d,
            PositionKind::Sinusoidal | PositionKind::Rotary => 0,
        };
        let tables = if self.tie_weights { 1 } else { 2 };
        let head_bias = u128::from(self.head_bias) * vocab;
        let final_norm = u128::from(self.final_norm) * norm;
        let total = tables * vocab * d + positions + layers * block + final_norm + head_bias;
        u64::try_from(total).unwrap_or(u64::MAX)
    }

    /// By what the initial values of the projections before residual sums are divided.
    pub(super) fn residual_divisor(&self) -> f32 {
        match self.scale_residual_init {
            true => (2.0 * self.n_layers as f32).sqrt(),
            false => 1.0,
        }
    }
}
