//! Affine maps.

use super::{Init, Parameter, ParameterBuilder};
use crate::tape::Var;

/// The standard deviation that weights start with, as in GPT-2.
pub const INIT_STD: f32 = 0.02;

/// `y = x·W + b` over the last axis: `[…, inputs] → […, outputs]`.
///
/// The parameters are `weight` `[inputs, outputs]` and, if there is one, `bias` `[outputs]`.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Parameter,
    bias: Option<Parameter>,
}

impl Linear {
    /// Weights normally distributed with a standard deviation of [`INIT_STD`], biases zero.
    #[track_caller]
    pub fn new(
        builder: &mut ParameterBuilder,
        inputs: usize,
        outputs: usize,
        bias: bool,
    ) -> Linear {
        Linear::with_init(
            builder,
            inputs,
            outputs,
            bias,
            Init::Normal { std: INIT_STD },
        )
    }

    /// Weights of the given distribution, biases zero.
    #[track_caller]
    pub fn with_init(
        builder: &mut ParameterBuilder,
        inputs: usize,
        outputs: usize,
        bias: bool,
        init: Init,
    ) -> Linear {
        Linear {
            weight: builder.parameter("weight", [inputs, outputs], init),
            bias: bias.then(|| builder.parameter("bias", [outputs], Init::Zeros)),
        }
    }

    /// The weight, `[inputs, outputs]`.
    pub fn weight(&self) -> &Parameter {
        &self.weight
    }

    /// The bias, `[outputs]`.
    pub fn bias(&self) -> Option<&Parameter> {
        self.bias.as_ref()
    }

    /// `[…, inputs] → […, outputs]`. Bias and pointwise operations that follow run in the product's epilogue.
    ///
    /// # Panics
    ///
    /// If `x` has fewer than two axes or another last extent.
    #[track_caller]
    pub fn forward<'t>(&self, x: Var<'t>) -> Var<'t> {
        let y = x.matmul(self.weight.on(x.tape()));
        match &self.bias {
            Some(bias) => y + bias.on(x.tape()),
            None => y,
        }
    }
}
