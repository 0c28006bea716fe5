//! Lookup tables.

use super::linear::INIT_STD;
use super::{Init, Parameter, ParameterBuilder};
use crate::tape::Var;

/// One vector per token: ids `[…]` → `[…, width]`. The parameter is `weight` `[count, width]`.
#[derive(Clone, Debug)]
pub struct Embedding {
    weight: Parameter,
}

impl Embedding {
    /// Normally distributed with a standard deviation of [`INIT_STD`](super::INIT_STD).
    pub fn new(builder: &mut ParameterBuilder, count: usize, width: usize) -> Embedding {
        Embedding {
            weight: builder.parameter("weight", [count, width], Init::Normal { std: INIT_STD }),
        }
    }

    /// The table, `[count, width]`. Giving it to an output projection ties the two.
    pub fn weight(&self) -> &Parameter {
        &self.weight
    }

    /// The rows that `ids` (`U32`) name.
    #[track_caller]
    pub fn forward<'t>(&self, ids: Var<'t>) -> Var<'t> {
        self.weight.on(ids.tape()).embedding(ids)
    }
}
