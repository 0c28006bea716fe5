//! What a [`Gpt`](super::Gpt) is made of, as data.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ops::attention::MAX_HEAD_DIM;

/// Gives an enum the names that it has in configurations, for `FromStr` and `Display`.
macro_rules! named {
    ($type:ident, $setting:literal, $($variant:ident = $name:literal),+) => {
        impl $type {
            /// All kinds.
            pub const ALL: &[$type] = &[$($type::$variant),+];

            /// The name in configurations.
            pub fn name(self) -> &'static str {
                match self {
                    $($type::$variant => $name),+
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }

        impl std::str::FromStr for $type {
            type Err = $crate::Error;

            fn from_str(text: &str) -> $crate::Result<$type> {
                let known = $type::ALL.iter().find(|kind| kind.name() == text);
                known.copied().ok_or_else(|| {
                    let names: Vec<&str> = $type::ALL.iter().map(|kind| kind.name()).collect();
                    let expected = format!("one of {}", names.join(", "));
                    $crate::nn::config::impossible($setting, text, expected)
                })
            }
        }
    };
}
pub(super) use named;

/// Which normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// [`LayerNorm`](super::LayerNorm)
    LayerNorm,
    /// [`RmsNorm`](super::RmsNorm)
    RmsNorm,
}

named!(
    NormKind,
    "norm",
    LayerNorm = "layer_norm",
    RmsNorm = "rms_norm"
);

/// Where a residual branch has its normalisation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormPlacement {
    /// At its beginning: `x + f(norm(x))`.
    #[default]
    Before,
    /// At its end: `x + norm(f(x))`.
    After,
}

named!(
    NormPlacement,
    "norm_placement",
    Before = "before",
    After = "after"
);

/// Which activation the feed-forward layers have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeedForwardKind {
    /// [`Var::relu`](crate::Var::relu)
    Relu,
    /// [`Var::gelu`](crate::Var::gelu)
    Gelu,
    /// [`Var::gelu_tanh`](crate::Var::gelu_tanh)
    GeluTanh,
    /// [`Var::swiglu`](crate::Var::swiglu)
    Swiglu,
    /// There are no feed-forward layers: blocks are attention only, without `norm2` and `ffn`.
    None,
}

named!(
    FeedForwardKind,
    "ffn",
    Relu = "relu",
    Gelu = "gelu",
    GeluTanh = "gelu_tanh",
    Swiglu = "swiglu",
    None = "none"
);

/// Which [`Positions`](super::Positions).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PositionKind {
    /// A trained vector per position.
    Learned,
    /// Fixed sines and cosines.
    Sinusoidal,
    /// Queries and keys are turned.
    Rotary,
}

named!(
    PositionKind,
    "positions",
    Learned = "learned",
    Sinusoidal = "sinusoidal",
    Rotary = "rotary"
);

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
    /// How many heads attention has; divides `d_model`, into heads of at most 128.
    pub n_heads: usize,
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
    /// Whether the linear layers of the blocks and all layer norms have biases.
    pub bias: bool,
    /// Whether the projections of attention have biases, if not as `bias` says.
    #[serde(default)]
    pub attention_bias: Option<bool>,
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
    #[serde(default)]
    pub embedding_dropout: Option<f32>,
    /// The share of attention weights that is dropped, if not `dropout`.
    #[serde(default)]
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

pub(super) fn impossible(name: &str, value: impl ToString, expected: impl Into<String>) -> Error {
    Error::InvalidArgument {
        name: name.to_owned(),
        value: value.to_string(),
        expected: expected.into(),
    }
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
            n_layers: 4,
            norm: NormKind::RmsNorm,
            norm_eps: 1e-6,
            norm_placement: NormPlacement::Before,
            final_norm: true,
            ffn: FeedForwardKind::Swiglu,
            d_ff: 85,
            positions: PositionKind::Learned,
            sinusoidal_base: SINUSOIDAL_BASE,
            bias: false,
            attention_bias: None,
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
    /// [`Error::InvalidArgument`], naming the setting, its value and what is possible.
    pub fn validate(&self) -> Result<()> {
        let sizes = [
            ("vocab_size", self.vocab_size, MOST),
            ("context", self.context, MOST),
            ("d_model", self.d_model, MOST),
            ("n_heads", self.n_heads, MOST),
            ("n_layers", self.n_layers, MOST_LAYERS),
            (
                "d_ff",
                match self.ffn {
                    FeedForwardKind::None => 1,
                    _ => self.d_ff,
                },
                MOST,
            ),
        ];
        for (name, value, most) in sizes {
            if !(1..=most).contains(&value) {
                return Err(impossible(name, value, format!("1 to {most}")));
            }
        }
        let (d_model, n_heads) = (self.d_model, self.n_heads);
        if !d_model.is_multiple_of(n_heads) {
            let expected = format!("a multiple of n_heads = {n_heads}");
            return Err(impossible("d_model", d_model, expected));
        }
        let head_dim = d_model / n_heads;
        if head_dim > MAX_HEAD_DIM {
            let expected = format!(
                "at least {} heads for d_model = {d_model}: a head holds at most {MAX_HEAD_DIM}",
                d_model.div_ceil(MAX_HEAD_DIM)
            );
            return Err(impossible("n_heads", n_heads, expected));
        }
        if self.positions == PositionKind::Rotary && !head_dim.is_multiple_of(2) {
            let expected = format!(
                "heads of even extent for rotary positions, not of d_model / n_heads = {head_dim}"
            );
            return Err(impossible("d_model", d_model, expected));
        }
        if !(self.norm_eps > 0.0 && self.norm_eps.is_finite()) {
            return Err(impossible("norm_eps", self.norm_eps, "a positive number"));
        }
        if !(self.sinusoidal_base > 0.0 && self.sinusoidal_base.is_finite()) {
            let base = self.sinusoidal_base;
            return Err(impossible("sinusoidal_base", base, "a positive number"));
        }
        let shares = [
            ("dropout", self.dropout),
            ("embedding_dropout", self.embedding_dropout()),
            ("attention_dropout", self.attention_dropout()),
        ];
        for (name, share) in shares {
            if !(0.0..1.0).contains(&share) {
                return Err(impossible(name, share, "0 or more, below 1"));
            }
        }
        // The fixed tables count here too: they take memory like parameters do.
        let table = (self.context as u64).saturating_mul(d_model as u64);
        let total = self.count().saturating_add(table);
        if total > MOST_PARAMETERS {
            let expected = format!("sizes with at most {MOST_PARAMETERS} parameters in total");
            return Err(impossible("the model's size", total, expected));
        }
        Ok(())
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
        let bias = u128::from(self.bias);
        let attention_bias = u128::from(self.has_attention_bias());
        let linear = |inputs: u128, outputs: u128| inputs * outputs + bias * outputs;
        let attention = |inputs: u128, outputs: u128| (inputs + attention_bias) * outputs;
        let norm = match self.norm {
            NormKind::LayerNorm => d + bias * d,
            NormKind::RmsNorm => d,
        };
        let ffn = match self.ffn {
            FeedForwardKind::None => 0,
            FeedForwardKind::Swiglu => norm + linear(d, 2 * hidden) + linear(hidden, d),
            _ => norm + linear(d, hidden) + linear(hidden, d),
        };
        let block = norm + attention(d, 3 * d) + attention(d, d) + ffn;
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
