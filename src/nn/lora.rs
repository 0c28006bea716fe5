//! Low-rank adapters of linear layers.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::{Init, InitKind, Parameter, ParameterBuilder};
use crate::error::{Result, require};
use crate::ops::blocks::MOST_BLOCKS;
use crate::tape::{Tape, Var};

/// The shape of low-rank adapters, see [`Lora`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoraConfig {
    /// `r`, how many directions an adapter has.
    pub rank: usize,
    /// `α`: what adapters add is scaled by `α/r`.
    pub alpha: f32,
    /// The share of an adapter's inputs that training tapes drop.
    pub dropout: f32,
    /// Scale by `α/√r` instead, which keeps the size of gradients at high ranks. Kalajdzievski 2023, "A Rank Stabilization
    /// Scaling Factor for Fine-Tuning with LoRA".
    pub rank_stabilized: bool,
}

impl LoraConfig {
    /// Adapters of this rank that are scaled by 2, without dropout.
    pub fn new(rank: usize) -> LoraConfig {
        LoraConfig {
            rank,
            alpha: 2.0 * rank as f32,
            dropout: 0.0,
            rank_stabilized: false,
        }
    }

    /// What the product of an adapter's factors is multiplied with.
    pub fn scale(&self) -> f32 {
        let rank = self.rank as f32;
        match self.rank_stabilized {
            true => self.alpha / rank.sqrt(),
            false => self.alpha / rank,
        }
    }

    /// Checks that there can be such adapters.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) if the rank is zero, alpha not finite, or dropout no share.
    pub fn validate(&self) -> Result<()> {
        let (rank, alpha, dropout) = (self.rank, self.alpha, self.dropout);
        require(rank > 0, "rank", rank, "at least 1")?;
        require(alpha.is_finite(), "alpha", alpha, "a finite number")?;
        let is_share = (0.0..1.0).contains(&dropout);
        require(is_share, "dropout", dropout, "0 or more, below 1")
    }
}

/// A low-rank adapter: what it adds to the outputs of a [`Linear`](super::Linear) layer is all that is trained of it. Hu et
/// al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models".
///
/// ```text
/// y = x·W + b + s·dropout(x)·A·B          A: [inputs, r]   B: [r, outputs]   s = α/r
/// ```
///
/// `A` starts as PyTorch's linear layers do and `B` at zero, so that nothing has changed at first.
///
/// A layer that packs several projections side by side, such as queries, keys and values, may get adapters for some of
/// them, each for its range of the outputs and with factors of its own. They are parameters `lora_a`
/// `[inputs, adapters·r]` and `lora_b` `[r, outputs of all ranges]`, side by side as well: so they take two products
/// together, as one does. They share one draw of dropout.
#[derive(Clone, Debug)]
pub struct Lora {
    a: Parameter,
    b: Parameter,
    columns: Vec<Range<usize>>,
    /// Of the layer.
    outputs: usize,
    config: LoraConfig,
}

impl Lora {
    #[track_caller]
    pub(super) fn new(
        builder: &mut ParameterBuilder,
        [inputs, outputs]: [usize; 2],
        config: &LoraConfig,
        columns: &[Range<usize>],
    ) -> Lora {
        let ends = columns.iter().map(|range| range.end);
        let starts = columns.iter().skip(1).map(|range| range.start);
        let fits = (1..=MOST_BLOCKS).contains(&columns.len())
            && columns.iter().all(|range| !range.is_empty())
            && ends
                .zip(starts.chain([outputs]))
                .all(|(end, start)| end <= start);
        assert!(
            fits,
            "lora: {columns:?} are not 1 to {MOST_BLOCKS} ranges of {outputs} outputs, in order and apart"
        );
        if let Err(error) = config.validate() {
            panic!("lora: {error}");
        }
        let width = columns.iter().map(Range::len).sum();
        let a = InitKind::Pytorch.weight(inputs, 1);
        Lora {
            a: builder.parameter("lora_a", [inputs, columns.len() * config.rank], a),
            b: builder.parameter("lora_b", [config.rank, width], Init::Zeros),
            columns: columns.to_vec(),
            outputs,
            config: config.clone(),
        }
    }

    /// `A`, `[inputs, adapters·rank]`.
    pub fn a(&self) -> &Parameter {
        &self.a
    }

    /// `B`, `[rank, outputs]`, of the outputs that have an adapter.
    pub fn b(&self) -> &Parameter {
        &self.b
    }

    /// The layer's outputs that each adapter adds to.
    pub fn columns(&self) -> &[Range<usize>] {
        &self.columns
    }

    /// Their shape.
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// What is added to the layer's outputs.
    #[track_caller]
    pub(super) fn forward<'t>(&self, x: Var<'t>) -> Var<'t> {
        let tape = x.tape();
        let low = x.dropout(self.config.dropout).matmul(self.a.on(tape));
        (low * self.config.scale()).matmul(self.b_on(tape))
    }

    /// What is added to the layer's weight where it is merged.
    pub(super) fn product<'t>(&self, tape: &'t Tape) -> Var<'t> {
        let low = self.a.on(tape) * self.config.scale();
        low.matmul(self.b_on(tape))
    }

    /// With a block of rows for each adapter.
    fn b_on<'t>(&self, tape: &'t Tape) -> Var<'t> {
        self.b.on(tape).in_blocks(&self.columns, self.outputs)
    }
}
