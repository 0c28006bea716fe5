//! How a transformer knows the order of its tokens.

use super::{Constant, Embedding, ParameterBuilder, Rotary};
use crate::ops::rotary_table_of;
use crate::tape::{Tape, Var};

/// Positions that are added to the token embeddings, or that turn queries and keys.
#[derive(Clone, Debug)]
pub enum Positions {
    /// A trained vector per position, `[context, width]`.
    Learned(Embedding),
    /// The fixed vectors of Vaswani et al. 2017, "Attention Is All You Need", `[context, width]`.
    Sinusoidal(Constant),
    /// Queries and keys are turned: see [`Var::rotary`]. The table is `[context, head_dim]`.
    Rotary(Constant),
}

impl Positions {
    /// Learned positions up to `context` for vectors of extent `width`, a parameter `weight`.
    #[track_caller]
    pub fn learned(builder: &mut ParameterBuilder, context: usize, width: usize) -> Positions {
        Positions::Learned(Embedding::whole(builder, context, width))
    }

    /// Sinusoidal positions up to `context` for vectors of extent `width`, whose slowest wave has nearly `base` times the
    /// length of the quickest.
    pub fn sinusoidal(
        builder: &mut ParameterBuilder,
        context: usize,
        width: usize,
        base: f32,
    ) -> Positions {
        let table = move || sinusoidal_table(context, width, f64::from(base));
        Positions::Sinusoidal(builder.constant_with([context, width], table))
    }

    /// Rotary positions up to `context` for heads of `head_dim`.
    ///
    /// # Panics
    ///
    /// If `head_dim` is odd.
    #[track_caller]
    pub fn rotary(
        builder: &mut ParameterBuilder,
        context: usize,
        head_dim: usize,
        rotary: &Rotary,
    ) -> Positions {
        assert!(
            head_dim.is_multiple_of(2),
            "rotary positions: a head of {head_dim} has no pairs"
        );
        let frequencies = rotary.frequencies(head_dim);
        let factor = rotary.attention_factor();
        let table = move || {
            let table = rotary_table_of(context, &frequencies).into_iter();
            table.map(|number| factor * number).collect()
        };
        Positions::Rotary(builder.constant_with([context, head_dim], table))
    }

    /// Token embeddings `[…, T, width]` with the positions `0..T` added, if they are of a kind that is added.
    ///
    /// # Panics
    ///
    /// If there are fewer positions than `T`.
    #[track_caller]
    pub fn add_to<'t>(&self, x: Var<'t>) -> Var<'t> {
        let length = x.shape().dim(x.shape().rank() - 2);
        match self.added(x.tape()) {
            Some(table) => x + first_rows(table, length).tap("position_embedding"),
            None => x,
        }
    }

    /// Like [`Positions::add_to`], the tokens `[B, T, width]` standing at the positions `ids` (`U32 [B·T]`).
    #[track_caller]
    pub(super) fn add_at<'t>(&self, x: Var<'t>, ids: Var<'t>) -> Var<'t> {
        let Some(table) = self.added(x.tape()) else {
            return x;
        };
        let rows = table.embedding(ids).reshape(x.shape());
        x + rows.tap("position_embedding")
    }

    /// The table of what is added.
    #[track_caller]
    fn added<'t>(&self, tape: &'t Tape) -> Option<Var<'t>> {
        match self {
            Positions::Learned(table) => Some(table.weight().on(tape)),
            Positions::Sinusoidal(table) => Some(table.on(tape)),
            Positions::Rotary(_) => None,
        }
    }

    /// The angles of all positions, `[context, head_dim]`, if they are of a kind that turns: see
    /// [`Heads`](crate::ops::Heads).
    #[track_caller]
    pub fn angles<'t>(&self, tape: &'t Tape) -> Option<Var<'t>> {
        match self {
            Positions::Rotary(table) => Some(table.on(tape)),
            _ => None,
        }
    }
}

/// The first rows of a table.
#[track_caller]
pub(super) fn first_rows(table: Var<'_>, rows: usize) -> Var<'_> {
    if table.shape().dim(0) == rows {
        return table;
    }
    table.slice(0, 0..rows)
}

/// `[positions, width]` in row-major order: `sin(t/base^(2i/width))` at column `2i`, the cosine of the same at
/// `2i + 1`. Computed in `f64`.
fn sinusoidal_table(positions: usize, width: usize, base: f64) -> Vec<f32> {
    let mut table = Vec::with_capacity(positions * width);
    for t in 0..positions {
        table.extend((0..width).map(|column| {
            let exponent = (column - column % 2) as f64 / width as f64;
            let angle = t as f64 / base.powf(exponent);
            let value = if column % 2 == 0 {
                angle.sin()
            } else {
                angle.cos()
            };
            value as f32
        }));
    }
    table
}
