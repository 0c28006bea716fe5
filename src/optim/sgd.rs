//! Stochastic gradient descent with momentum.

use serde_json::{Value, json};

use super::adamw::require_clip;
use super::gradients::Gradients;
use super::{Optimizer, Update, require};
use crate::error::Result;
use crate::nn::{FlatTensors, Parameters};
use crate::shape::Shape;
use crate::tape::{Tape, Var};

/// Settings of [`Sgd`]. The default has no momentum, no decay and no clipping.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SgdConfig {
    /// `μ`, how much of the last velocity is kept. Zero needs no storage for velocities.
    pub momentum: f32,
    /// `λ`, the strength of the L2 penalty, before the factors of [`Sgd::with_decay`].
    pub weight_decay: f32,
    /// The largest norm of the whole gradient; longer ones are scaled down to it.
    pub clip_norm: Option<f32>,
}

/// Stochastic gradient descent with momentum (Polyak 1964), computed as PyTorch does.
///
/// ```text
/// g ← g · min(1, clip / (‖g‖ + 10⁻⁶))                over all parameters together
/// u ← μ · u + g + λ · factor · p
/// p ← p − lr · u
/// ```
///
/// The factor comes from a rule: by default, only matrices decay, see [`default_decay`](super::default_decay). The
/// update is one dispatch per segment of flat storage, usually one.
#[derive(Debug)]
pub struct Sgd {
    config: SgdConfig,
    gradients: Gradients,
    velocity: Option<FlatTensors>,
}

impl Sgd {
    /// An optimizer at step 0, with velocities of zero.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for settings that make no sense or if there are no
    /// parameters, [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub fn new(parameters: &Parameters, config: SgdConfig) -> Result<Sgd> {
        let momentum = config.momentum;
        let sound = (0.0..1.0).contains(&momentum);
        require(sound, "momentum", momentum, "0 ≤ momentum < 1")?;
        let decay = config.weight_decay;
        let sound = decay.is_finite() && decay >= 0.0;
        require(sound, "weight_decay", decay, "a finite number, at least 0")?;
        require_clip(config.clip_norm)?;
        Ok(Sgd {
            config,
            gradients: Gradients::new(parameters)?,
            velocity: (momentum > 0.0).then(|| parameters.mirror()).transpose()?,
        })
    }

    /// Replaces the rule that gives each parameter, by full name and shape, its factor on the weight decay.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for a factor that is negative or not finite.
    pub fn with_decay(mut self, rule: impl Fn(&str, Shape) -> f32) -> Result<Sgd> {
        self.gradients.set_decay(rule)?;
        Ok(self)
    }

    /// The settings.
    pub fn config(&self) -> SgdConfig {
        self.config
    }
}

impl Optimizer for Sgd {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn settings(&self) -> Value {
        let config = self.config;
        json!({
            "momentum": config.momentum,
            "weight_decay": config.weight_decay,
            "clip_norm": config.clip_norm,
        })
    }

    fn parameters(&self) -> &Parameters {
        &self.gradients.parameters
    }

    #[track_caller]
    fn step<'t>(&mut self, tape: &'t Tape, loss: Var<'t>, learning_rate: f32) -> Update<'t> {
        let SgdConfig {
            momentum,
            weight_decay,
            clip_norm,
        } = self.config;
        let step = self.gradients.step(tape, loss, clip_norm);
        let values = [learning_rate, momentum, weight_decay, 0.0];
        match &self.velocity {
            Some(velocity) => {
                self.gradients
                    .update(&step, "sgd_momentum", &values, &[velocity]);
            }
            None => self.gradients.update(&step, "sgd", &values, &[]),
        }
        Update {
            loss,
            grad_norm: step.grad_norm,
            step: self.gradients.steps,
        }
    }

    #[track_caller]
    fn accumulate<'t>(&mut self, tape: &'t Tape, loss: Var<'t>) -> Result<()> {
        self.gradients.accumulate(tape, loss)
    }

    fn steps(&self) -> u64 {
        self.gradients.steps
    }

    fn state(&self) -> Vec<(&'static str, &FlatTensors)> {
        self.velocity
            .iter()
            .map(|flat| ("velocity", flat))
            .collect()
    }

    fn memory(&self) -> u64 {
        self.gradients.memory() + self.velocity.as_ref().map_or(0, FlatTensors::bytes)
    }

    fn resume(&mut self, steps: u64) {
        self.gradients.resume(steps);
    }
}
