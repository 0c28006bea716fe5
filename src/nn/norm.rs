//! Normalisation over the last axis, with learned scale.

use super::kinds::NormKind;
use super::{Init, Parameter, ParameterBuilder};
use crate::tape::{Tape, Var};

/// `(x − mean)/√(variance + ε)·weight + bias`. Ba et al. 2016, "Layer Normalization".
///
/// The parameters are `weight` `[width]` and, if there is one, `bias` `[width]`.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weight: Parameter,
    bias: Option<Parameter>,
    epsilon: f32,
}

impl LayerNorm {
    /// Weights one, biases zero.
    #[track_caller]
    pub fn new(
        builder: &mut ParameterBuilder,
        width: usize,
        bias: bool,
        epsilon: f32,
    ) -> LayerNorm {
        LayerNorm {
            weight: builder.parameter("weight", [width], Init::Ones),
            bias: bias.then(|| builder.parameter("bias", [width], Init::Zeros)),
            epsilon,
        }
    }

    /// `[…, width] → […, width]`
    ///
    /// # Panics
    ///
    /// If `x` has another last extent.
    #[track_caller]
    pub fn forward<'t>(&self, x: Var<'t>) -> Var<'t> {
        let bias = self.bias.as_ref().map(|bias| bias.on(x.tape()));
        x.layer_norm(self.weight.on(x.tape()), bias, self.epsilon)
    }
}

/// `x/√(mean(x²) + ε)·weight`. Zhang and Sennrich 2019, "Root Mean Square Layer Normalization".
///
/// The parameter is `weight` `[width]`.
#[derive(Clone, Debug)]
pub struct RmsNorm {
    weight: Parameter,
    epsilon: f32,
}

impl RmsNorm {
    /// Weights one.
    #[track_caller]
    pub fn new(builder: &mut ParameterBuilder, width: usize, epsilon: f32) -> RmsNorm {
        RmsNorm {
            weight: builder.parameter("weight", [width], Init::Ones),
            epsilon,
        }
    }

    /// `[…, width] → […, width]`
    ///
    /// # Panics
    ///
    /// If `x` has another last extent.
    #[track_caller]
    pub fn forward<'t>(&self, x: Var<'t>) -> Var<'t> {
        x.rms_norm(self.weight.on(x.tape()), self.epsilon)
    }

    /// The weight, for what is computed along with others, and ε.
    #[track_caller]
    pub(super) fn on<'t>(&self, tape: &'t Tape) -> (Var<'t>, f32) {
        (self.weight.on(tape), self.epsilon)
    }
}

/// Whichever normalisation a configuration names.
#[derive(Clone, Debug)]
pub enum Norm {
    /// See [`LayerNorm`].
    LayerNorm(LayerNorm),
    /// See [`RmsNorm`].
    RmsNorm(RmsNorm),
}

impl Norm {
    /// A norm of the given kind; RMS norms have no bias, whatever `bias` says.
    #[track_caller]
    pub fn new(
        builder: &mut ParameterBuilder,
        kind: NormKind,
        width: usize,
        bias: bool,
        epsilon: f32,
    ) -> Norm {
        match kind {
            NormKind::LayerNorm => Norm::LayerNorm(LayerNorm::new(builder, width, bias, epsilon)),
            NormKind::RmsNorm => Norm::RmsNorm(RmsNorm::new(builder, width, epsilon)),
        }
    }

    /// `[…, width] → […, width]`
    ///
    /// # Panics
    ///
    /// If `x` has another last extent.
    #[track_caller]
    pub fn forward<'t>(&self, x: Var<'t>) -> Var<'t> {
        match self {
            Norm::LayerNorm(norm) => norm.forward(x),
            Norm::RmsNorm(norm) => norm.forward(x),
        }
    }
}
