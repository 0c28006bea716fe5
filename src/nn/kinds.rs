//! The choices of a configuration, by name.

use serde::{Deserialize, Serialize};

use crate::error::named;

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
    /// Both: `x + norm(f(norm(x)))`, with a norm of its own at each end.
    Both,
}

named!(
    NormPlacement,
    "norm_placement",
    Before = "before",
    After = "after",
    Both = "both"
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
    /// `gelu_tanh(gate)·up`: a gated layer like SwiGLU. Shazeer 2020, "GLU Variants Improve Transformer".
    GegluTanh,
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
    GegluTanh = "geglu_tanh",
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

impl FeedForwardKind {
    /// Whether the first projection makes a gate beside the vectors that it lets through.
    pub fn is_gated(self) -> bool {
        matches!(self, FeedForwardKind::Swiglu | FeedForwardKind::GegluTanh)
    }
}
