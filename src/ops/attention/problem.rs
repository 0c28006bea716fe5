//! What an attention problem is, apart from its tensors.

use std::ops::Range;

use super::Attention;
use crate::shape::Shape;

/// An attention problem: everything about it that is not a tensor.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) struct Problem {
    /// Whether q, k and v are one packed operand.
    pub is_packed: bool,
    pub batch: usize,
    pub heads: usize,
    pub queries: usize,
    pub keys: usize,
    pub head_dim: usize,
    pub causal: bool,
    pub scale: Option<u32>,
    pub dropout: Option<Dropout>,
    pub mask: Option<MaskKind>,
}

/// Dropout of the weights: the probability's bits, and the stream of random numbers.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) struct Dropout {
    pub probability: u32,
    pub stream: u32,
}

/// How a mask's elements are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum MaskKind {
    BooleanF32,
    BooleanU32,
    Additive,
}

impl Problem {
    /// What the attributes say; the extents are still to be filled in.
    pub fn of(config: &Attention) -> Problem {
        Problem {
            is_packed: false,
            batch: 1,
            heads: config.n_heads,
            queries: 1,
            keys: 1,
            head_dim: 1,
            causal: config.causal,
            scale: config.scale.map(f32::to_bits),
            dropout: None,
            mask: None,
        }
    }

    pub fn weights_shape(&self) -> Shape {
        Shape::new(&[self.batch, self.heads, self.queries, self.keys])
    }

    /// How many of the operation's inputs are q, k and v.
    pub fn operand_count(&self) -> usize {
        if self.is_packed { 1 } else { 3 }
    }

    /// Where the gradients of separate q, k and v lie in their flat tensor.
    pub fn gradient_ranges(&self) -> [Range<usize>; 3] {
        let width = self.batch * self.heads * self.head_dim;
        let (q, k) = (width * self.queries, width * self.keys);
        [0..q, q..q + k, q + k..q + 2 * k]
    }

    pub fn heads_in_all(&self) -> usize {
        self.batch * self.heads
    }

    /// Query `i` sees keys `0..i + reach`.
    pub fn reach(&self) -> i64 {
        let (queries, keys) = (self.queries as i64, self.keys as i64);
        if self.causal {
            keys - queries + 1
        } else {
            keys
        }
    }

    /// How many pairs of query and key there are to compute.
    pub fn pairs(&self) -> u64 {
        let seen = |i: i64| (i + self.reach()).clamp(0, self.keys as i64) as u64;
        self.heads_in_all() as u64 * (0..self.queries as i64).map(seen).sum::<u64>()
    }

    /// What scores are multiplied by.
    pub fn scale(&self) -> f32 {
        self.scale
            .map_or_else(|| 1.0 / (self.head_dim as f32).sqrt(), f32::from_bits)
    }

    /// Offset and strides of rows of `heads` heads behind one another, dense, from element `offset`: `[B, rows, H, Dh]`.
    pub fn dense_rows(&self, rows: usize, offset: usize) -> [u32; 4] {
        let row = self.heads * self.head_dim;
        [offset, rows * row, self.head_dim, row].map(|word| word as u32)
    }
}
