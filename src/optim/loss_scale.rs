//! Loss scaling: gradients that halves can hold.
//!
//! ```text
//! S·L is differentiated, so that all gradients are S times as large; the norm of the gradient is divided by S, the update
//! takes g/S.  A norm that is not finite: nothing is updated, S ← max(S/2, 1).  2,000 steps without: S ← min(2·S, 2²⁴).
//! ```
//!
//! The squares that the norm is made of are `f32`: they overflow where S·‖g‖ reaches 1.8·10¹⁹, far beyond what halves hold.
//! Where S is 1, nothing is scaled, and a norm that is not finite is an error as it is without loss scaling.
//!
//! Micikevicius et al. 2018, "Mixed Precision Training", with the factors of PyTorch's `GradScaler`. `S` is a power of two,
//! so that it rounds nothing. It is data on the device, and so is the rule: a step that overflows changes what the next
//! one is scaled by, and the host hears of it with the step's report.

use crate::error::{Result, require};
use crate::gpu::{Device, Tensor};
use crate::shape::Shape;
use crate::tape::{Tape, Var};

/// Whether an optimizer scales the loss that it differentiates.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum LossScale {
    /// On tapes that anything was recorded on in [`Precision::Mixed`](crate::tape::Precision::Mixed), beginning with 65,536.
    #[default]
    Auto,
    /// Never.
    Off,
    /// On all tapes, beginning with this power of two, 1 to 2²⁴.
    From(f32),
}

/// Where scales begin.
const FIRST: f32 = 65_536.0;

/// Where they end, as in `SCALED` of `clip.rs`.
const LARGEST: f32 = 16_777_216.0;

/// Whether this may be a scale.
pub(crate) fn is_scale(value: f32) -> bool {
    (1.0..=LARGEST).contains(&value) && value.log2().fract() == 0.0
}

/// The scale of one optimizer.
#[derive(Debug)]
pub(super) struct Scale {
    when: LossScale,
    first: f32,
    /// The scale, the steps since it last changed, those that were skipped, and where it began.
    state: Tensor,
}

impl Scale {
    pub fn new(device: &Device, when: LossScale) -> Result<Scale> {
        let first = match when {
            LossScale::From(first) => first,
            _ => FIRST,
        };
        let expected = "a power of two from 1 to 16,777,216";
        require(is_scale(first), "loss_scale", first, expected)?;
        let state = Tensor::new(device, [4], &[first, 0.0, 0.0, first])?;
        Ok(Scale { when, first, state })
    }

    /// The state and where it began, if losses are or may be scaled.
    pub fn state(&self) -> Option<(&Tensor, f32)> {
        (self.when != LossScale::Off).then_some((&self.state, self.first))
    }

    /// The state on a tape, if its loss is scaled.
    pub fn on<'t>(&self, tape: &'t Tape) -> Option<Var<'t>> {
        let is_scaled = match self.when {
            LossScale::Auto => tape.is_mixed(),
            LossScale::Off => false,
            LossScale::From(_) => true,
        };
        is_scaled.then(|| tape.tensor(&self.state))
    }

    /// What is differentiated.
    pub fn applied<'t>(&self, loss: Var<'t>) -> Var<'t> {
        match self.on(loss.tape()) {
            Some(state) => loss * state.slice(0, 0..1).reshape(Shape::SCALAR),
            None => loss,
        }
    }
}
