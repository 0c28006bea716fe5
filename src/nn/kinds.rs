//! The choices of a configuration, by name.

use serde::{Deserialize, Serialize};

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
                    $crate::Error::invalid($setting, text, expected)
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
