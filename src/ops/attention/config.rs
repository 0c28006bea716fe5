//! How attention attends.

/// What attention computes, apart from its tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// The number of heads.
    pub n_heads: usize,
    /// The number of heads of keys and values, which divides `n_heads`: query heads `h·n_heads/n_kv_heads …` share head
    /// `h`. As many as `n_heads` is multi-head attention, one is multi-query attention (Shazeer 2019), what is between
    /// is grouped-query attention (Ainslie et al. 2023).
    pub n_kv_heads: usize,
    /// Whether queries see only keys up to their own position. The last query is aligned with the last key: query `i`
    /// of `Tq` sees keys `0..=i + Tk − Tq` of `Tk`.
    pub causal: bool,
    /// How far queries see: a query at position `i` sees keys `i − window + 1 ..= i` of those that it sees anyway, and
    /// without causality as far ahead too. Positions are counted so that the last query is aligned with the last key.
    /// Keys outside the window are not visited. Beltagy et al. 2020, "Longformer".
    pub window: Option<usize>,
    /// Whether the linear biases of Press et al. 2022, "Train Short, Test Long" (ALiBi), are added to the scaled scores:
    /// `−slope·|i − j|` for a query at position `i` and a key at `j`. The slope of head `h` of `n` is `2^(−8(h+1)/n)` if
    /// `n` is a power of two; else the heads take those of the power of two below `n`, then every other one of the power
    /// of two above.
    pub alibi: bool,
    /// What scores are multiplied by; `None` is `1/√head_dim`. It is part of the tape's structure.
    pub scale: Option<f32>,
    /// The probability with which a weight is dropped, on training tapes; the others grow by `1/(1 − p)`. It is part of
    /// the tape's structure. Which weights are dropped depends on [`Tape::set_seed`](crate::Tape::set_seed) and on how many random operations
    /// the tape has recorded before.
    pub dropout: f32,
}

impl Attention {
    /// Causal attention with `n_heads` heads, the usual scale and no dropout.
    pub fn causal(n_heads: usize) -> Attention {
        Attention {
            n_heads,
            n_kv_heads: n_heads,
            causal: true,
            window: None,
            alibi: false,
            scale: None,
            dropout: 0.0,
        }
    }

    /// Attention in which every query sees every key.
    pub fn full(n_heads: usize) -> Attention {
        Attention {
            causal: false,
            ..Attention::causal(n_heads)
        }
    }

    /// The same with dropout of the weights.
    pub fn with_dropout(self, dropout: f32) -> Attention {
        Attention { dropout, ..self }
    }

    /// The same with fewer heads of keys and values.
    pub fn with_kv_heads(self, n_kv_heads: usize) -> Attention {
        Attention { n_kv_heads, ..self }
    }

    /// The same with a window.
    pub fn with_window(self, window: usize) -> Attention {
        Attention {
            window: Some(window),
            ..self
        }
    }

    /// The same with linear biases.
    pub fn with_alibi(self) -> Attention {
        Attention {
            alibi: true,
            ..self
        }
    }

    /// The same with another scale.
    pub fn with_scale(self, scale: f32) -> Attention {
        Attention {
            scale: Some(scale),
            ..self
        }
    }
}
