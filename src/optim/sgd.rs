//! Stochastic gradient descent with momentum.

use serde_json::{Value, json};

use super::adamw::require_decay_and_clip;
use super::gradients::Gradients;
use super::groups::ParameterGroups;
use super::loss_scale::LossScale;
use super::optimizer::{Optimizer, Update, require_rate};
use crate::error::{Result, require};
use crate::gpu::Tensor;
use crate::nn::{FlatTensors, Parameters};
use crate::tape::{Tape, Var};

/// Settings of [`Sgd`]. The default has no momentum, no decay and no clipping.
#[derive(Clone, Debug, Default)]
pub struct SgdConfig {
    /// `μ`, how much of the last velocity is kept. Zero needs no storage for velocities.
    pub momentum: f32,
    /// `λ`, the strength of the L2 penalty, before the factors of `groups`.
    pub weight_decay: f32,
    /// The largest norm of the whole gradient; longer ones are scaled down to it.
    pub clip_norm: Option<f32>,
    /// By parameter, factors on the learning rate and the weight decay. By default, only matrices decay.
    pub groups: ParameterGroups,
    /// By what the loss is multiplied before it is differentiated.
    pub loss_scale: LossScale,
}

/// Stochastic gradient descent with momentum (Polyak 1964), computed as PyTorch does.
///
/// ```text
/// g ← g · min(1, clip / (‖g‖ + 10⁻⁶))                over all parameters together
/// u ← μ · u + g + λ · d · p
/// p ← p − lr · factor · u
/// ```
///
/// The factors on the learning rate and the decay, `d`, come from a rule, [`ParameterGroups`]: by default, only matrices
/// decay, see [`default_decay`](super::default_decay). The update is one dispatch per segment of flat storage, usually
/// one.
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
    /// parameters, or if they are [stored in `F16`](crate::nn::ParameterBuilder::with_dtype),
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub fn new(parameters: &Parameters, config: SgdConfig) -> Result<Sgd> {
        let momentum = config.momentum;
        let sound = (0.0..1.0).contains(&momentum);
        require(sound, "momentum", momentum, "0 ≤ momentum < 1")?;
        require_decay_and_clip(config.weight_decay, config.clip_norm)?;
        let gradients = Gradients::new(parameters, &config.groups, config.loss_scale)?;
        Ok(Sgd {
            velocity: (momentum > 0.0).then(|| gradients.mirror()).transpose()?,
            config,
            gradients,
        })
    }

    /// The settings.
    pub fn config(&self) -> &SgdConfig {
        &self.config
    }

    #[track_caller]
    fn update<'t>(
        &mut self,
        tape: &'t Tape,
        loss: Var<'t>,
        learning_rate: f32,
        is_accumulated: bool,
    ) -> Update<'t> {
        let config = &self.config;
        require_rate(learning_rate);
        let step = self
            .gradients
            .step(tape, loss, config.clip_norm, is_accumulated);
        let values = [learning_rate, config.momentum, config.weight_decay, 0.0];
        let gradients = &self.gradients;
        match &self.velocity {
            Some(velocity) => gradients.update(&step, "sgd_momentum", values, &[velocity]),
            None => gradients.update(&step, "sgd", values, &[]),
        }
    }
}

impl Optimizer for Sgd {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn settings(&self) -> Value {
        let config = &self.config;
        json!({
            "momentum": config.momentum,
            "weight_decay": config.weight_decay,
            "clip_norm": config.clip_norm,
            "groups": self.gradients.settings(),
        })
    }

    fn parameters(&self) -> &Parameters {
        &self.gradients.parameters
    }

    #[track_caller]
    fn step<'t>(&mut self, tape: &'t Tape, loss: Var<'t>, learning_rate: f32) -> Update<'t> {
        self.update(tape, loss, learning_rate, false)
    }

    #[track_caller]
    fn accumulate<'t>(&mut self, tape: &'t Tape, loss: Var<'t>) -> Result<()> {
        self.gradients.accumulate(tape, loss)
    }

    fn accumulated(&self) -> Option<&FlatTensors> {
        self.gradients.accumulated()
    }

    #[track_caller]
    fn step_accumulated<'t>(
        &mut self,
        tape: &'t Tape,
        loss: Var<'t>,
        learning_rate: f32,
    ) -> Update<'t> {
        self.update(tape, loss, learning_rate, true)
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

    fn loss_scale(&self) -> Option<(&Tensor, f32)> {
        self.gradients.scale.state()
    }

    fn memory(&self) -> u64 {
        self.gradients.memory() + self.velocity.as_ref().map_or(0, FlatTensors::bytes)
    }

    fn resume(&mut self, steps: u64) {
        self.gradients.resume(steps);
    }
}
