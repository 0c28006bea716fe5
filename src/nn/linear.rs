//! Affine maps.

use super::{Init, Parameter, ParameterBuilder};
use crate::tape::Var;

/// `y = x·W + b` over the last axis: `[…, inputs] → […, outputs]`.
///
/// The parameters are `weight` `[inputs, outputs]` and, if there is one, `bias` `[outputs]`.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Parameter,
    bias: Option<Parameter>,
}

impl Linear {
    /// Weights and biases start as [`ParameterBuilder::with_init`] says.
    ///
    /// # Panics
    ///
    /// If the builder has a `weight` in this scope already.
    #[track_caller]
    pub fn new(
        builder: &mut ParameterBuilder,
        inputs: usize,
        outputs: usize,
        bias: bool,
    ) -> Linear {
        Linear::divided(builder, inputs, outputs, bias, 1.0)
    }

    /// [`Linear::new`] with values that are smaller by a factor.
    #[track_caller]
    pub(super) fn divided(
        builder: &mut ParameterBuilder,
        inputs: usize,
        outputs: usize,
        bias: bool,
        divisor: f32,
    ) -> Linear {
        let kind = builder.init();
        let weight = kind.weight(inputs, outputs).divided(divisor);
        let bias = bias.then(|| kind.bias(inputs).divided(divisor));
        Linear::of(builder, [inputs, outputs], weight, bias)
    }

    /// Weights of the given distribution, biases zero.
    ///
    /// # Panics
    ///
    /// As [`Linear::new`].
    #[track_caller]
    pub fn with_init(
        builder: &mut ParameterBuilder,
        inputs: usize,
        outputs: usize,
        bias: bool,
        init: Init,
    ) -> Linear {
        let bias = bias.then_some(Init::Zeros);
        Linear::of(builder, [inputs, outputs], init, bias)
    }

    #[track_caller]
    fn of(
        builder: &mut ParameterBuilder,
        shape: [usize; 2],
        weight: Init,
        bias: Option<Init>,
    ) -> Linear {
        Linear {
            weight: builder.parameter("weight", shape, weight),
            bias: bias.map(|init| builder.parameter("bias", [shape[1]], init)),
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
