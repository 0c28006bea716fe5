//! What an attention problem is, apart from its tensors.

use std::ops::Range;

use super::config::Attention;
use crate::gpu::DType;
use crate::ops::TensorType;
use crate::shape::Shape;

/// An attention problem: everything about it that is not a tensor.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) struct Problem {
    /// Whether q, k and v are one packed operand.
    pub is_packed: bool,
    pub batch: usize,
    pub heads: usize,
    /// Heads of keys and values; divides `heads`.
    pub kv_heads: usize,
    pub queries: usize,
    pub keys: usize,
    pub head_dim: usize,
    pub causal: bool,
    pub window: Option<usize>,
    pub alibi: bool,
    pub scale: Option<u32>,
    pub dropout: Option<Dropout>,
    pub mask: Option<MaskKind>,
}

/// Dropout of the weights: the probability's bits, and the stream of random numbers.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) struct Dropout {
    pub probability: u32,
    pub stream: u32,
    /// Whether its batch is what [`Tape::set_rows`](crate::Tape::set_rows) counts the rows of.
    pub is_row_wise: bool,
}

/// How a mask's elements are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum MaskKind {
    BooleanF32,
    BooleanU32,
    Additive,
}

/// A span that no context reaches.
const WITHOUT_WINDOW: i64 = 1 << 30;

/// The longest context: the kernels' arithmetic on positions is done in 32 bits, with sign.
pub(super) const LONGEST: usize = 1 << 29;

impl Problem {
    /// For a batch of so many queries and keys, without mask and dropout.
    pub fn of(
        config: &Attention,
        is_packed: bool,
        [batch, queries, keys, head_dim]: [usize; 4],
    ) -> Problem {
        Problem {
            is_packed,
            batch,
            heads: config.n_heads,
            kv_heads: config.n_kv_heads,
            queries,
            keys,
            head_dim,
            causal: config.causal,
            window: config.window,
            alibi: config.alibi,
            scale: config.scale.map(f32::to_bits),
            dropout: None,
            mask: None,
        }
    }

    /// The type of a result: of halves if all operands are.
    pub fn result(&self, shape: Shape, inputs: &[TensorType]) -> TensorType {
        let mut operands = inputs[..self.operand_count()].iter();
        let is_half = operands.all(|operand| operand.dtype == DType::F16);
        let dtype = if is_half { DType::F16 } else { DType::F32 };
        TensorType { shape, dtype }
    }

    /// The extents of the weights, of which there may be more than a tensor can have.
    pub fn weights_extents(&self) -> [usize; 4] {
        [self.batch, self.heads, self.queries, self.keys]
    }

    /// The shape of the weights, where they are wanted.
    pub fn weights_shape(&self) -> Shape {
        Shape::new(&self.weights_extents())
    }

    /// # Panics
    ///
    /// If no tensor can hold the weights.
    #[track_caller]
    pub fn refuse_weights_beyond_memory(&self) {
        let extents = self.weights_extents();
        let fits = extents
            .iter()
            .try_fold(1u32, |product, &n| product.checked_mul(n.try_into().ok()?));
        assert!(
            fits.is_some(),
            "attention: weights {extents:?} have more than {} elements; without them, attention needs no such tensor",
            u32::MAX
        );
    }

    /// How many of the operation's inputs are q, k and v.
    pub fn operand_count(&self) -> usize {
        if self.is_packed { 1 } else { 3 }
    }

    /// Where the gradients of separate q, k and v lie in their flat tensor.
    pub fn gradient_ranges(&self) -> [Range<usize>; 3] {
        let row = self.batch * self.head_dim;
        let q = row * self.heads * self.queries;
        let k = row * self.kv_heads * self.keys;
        [0..q, q..q + k, q + k..q + 2 * k]
    }

    pub fn heads_in_all(&self) -> usize {
        self.batch * self.heads
    }

    pub fn kv_heads_in_all(&self) -> usize {
        self.batch * self.kv_heads
    }

    /// How many heads share one head of keys and values.
    pub fn share(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Query `i` sees keys up to `i + reach`, that one excluded.
    pub fn reach(&self) -> i64 {
        let shift = self.keys as i64 - self.queries as i64;
        match (self.causal, self.window) {
            (true, _) => shift + 1,
            (false, Some(window)) => shift + window as i64,
            (false, None) => self.keys as i64,
        }
    }

    /// How many keys before that end a query sees at most.
    pub fn span(&self) -> i64 {
        match (self.causal, self.window) {
            (_, None) => WITHOUT_WINDOW,
            (true, Some(window)) => window as i64,
            (false, Some(window)) => 2 * window as i64 - 1,
        }
    }

    /// How far the last key that query `i` may see is ahead of its own position `i + keys − queries`.
    pub fn ahead(&self) -> i64 {
        self.reach() - 1 - (self.keys as i64 - self.queries as i64)
    }

    /// How many pairs of query and key there are to compute.
    pub fn pairs(&self) -> u64 {
        let keys = self.keys as i64;
        let seen = |i: i64| {
            let end = i + self.reach();
            (end.clamp(0, keys) - (end - self.span()).clamp(0, keys)) as u64
        };
        self.heads_in_all() as u64 * (0..self.queries as i64).map(seen).sum::<u64>()
    }

    /// What scores are multiplied by.
    pub fn scale(&self) -> f32 {
        self.scale
            .map_or_else(|| 1.0 / (self.head_dim as f32).sqrt(), f32::from_bits)
    }

    /// Offset and strides of rows of `heads` heads behind one another, dense, from element `offset`: `[B, rows, H, Dh]`.
    pub fn dense_rows(&self, heads: usize, rows: usize, offset: usize) -> [u32; 4] {
        let row = heads * self.head_dim;
        [offset, rows * row, self.head_dim, row].map(|word| word as u32)
    }
}
