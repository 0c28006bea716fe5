//! Lookup tables.

use super::{Parameter, ParameterBuilder};
use crate::gpu::DType;
use crate::tape::Var;

/// A part's largest size is rounded down to a multiple of this many elements. The names in checkpoints depend on it.
const BLOCK: u64 = 64;

/// One vector per token: ids `[…]` → `[…, width]`. The parameter is `weight` `[count, width]`.
///
/// A table of more bytes than the builder's [limit](ParameterBuilder::with_parameter_limit) is split by rows into as few
/// parameters as can be, `weight.0`, `weight.1`, …: GPT-2's takes 154 MB, and some adapters bind 128 MiB at most.
#[derive(Clone, Debug)]
pub struct Embedding {
    parts: Vec<Parameter>,
}

impl Embedding {
    /// The table starts as [`ParameterBuilder::with_init`] says.
    ///
    /// # Panics
    ///
    /// If the builder has a `weight` in this scope already.
    #[track_caller]
    pub fn new(builder: &mut ParameterBuilder, count: usize, width: usize) -> Embedding {
        let limit = builder.parameter_limit / (builder.dtype().bytes() as u64 * BLOCK) * BLOCK;
        let most_rows = usize::try_from(limit / width as u64).unwrap_or(usize::MAX);
        if count <= most_rows {
            return Embedding::whole(builder, count, width);
        }
        let rows = count.div_ceil(count.div_ceil(most_rows.max(1)));
        let init = builder.init().embedding();
        let mut parts = Vec::new();
        for (part, first) in (0..count).step_by(rows).enumerate() {
            let shape = [rows.min(count - first), width];
            parts.push(builder.parameter(format!("weight.{part}"), shape, init));
        }
        Embedding { parts }
    }

    /// A table in one parameter, whatever its size.
    #[track_caller]
    pub(super) fn whole(builder: &mut ParameterBuilder, count: usize, width: usize) -> Embedding {
        let init = builder.init().embedding();
        Embedding {
            parts: vec![builder.parameter("weight", [count, width], init)],
        }
    }

    /// The table, `[count, width]`.
    ///
    /// # Panics
    ///
    /// If it is split.
    #[track_caller]
    pub fn weight(&self) -> &Parameter {
        match self.parts.as_slice() {
            [weight] => weight,
            parts => panic!("embedding: the table is split into {} parts", parts.len()),
        }
    }

    /// The parts of the table, one after the other; usually it is the only one.
    pub fn parts(&self) -> &[Parameter] {
        &self.parts
    }

    /// The rows that `ids` (`U32`) name. They are `F32`, whatever the table holds: a residual stream adds up from here on.
    #[track_caller]
    pub fn forward<'t>(&self, ids: Var<'t>) -> Var<'t> {
        let tape = ids.tape();
        if let [weight] = self.parts.as_slice() {
            return weight.on(tape).embedding(ids).cast(DType::F32);
        }
        let count = self.parts.iter().map(|part| part.shape().dim(0)).sum();
        let mut first = 0;
        let rows = self.parts.iter().map(|part| {
            let rows = part.on(tape).embedding_part(ids, first, count);
            first += part.shape().dim(0);
            rows
        });
        let rows = rows.reduce(|sum, rows| sum + rows);
        rows.expect("a table has a part at least").cast(DType::F32)
    }

    /// How much `x` is like each row: `x·weightᵀ`, `[…, width] → […, count]`. The output head of a model with tied
    /// weights.
    ///
    /// # Panics
    ///
    /// If `x` has fewer than two axes or another last extent.
    #[track_caller]
    pub fn project<'t>(&self, x: Var<'t>) -> Var<'t> {
        let product = |part: &Parameter| x.matmul(part.on(x.tape()).transpose());
        match self.parts.as_slice() {
            [weight] => product(weight),
            parts => {
                let products: Vec<Var<'t>> = parts.iter().map(product).collect();
                Var::concat(&products, x.shape().rank() - 1)
            }
        }
    }
}
