//! Adam with decoupled weight decay.

use serde_json::{Value, json};

use super::gradients::Gradients;
use super::groups::ParameterGroups;
use super::loss_scale::LossScale;
use super::optimizer::{Optimizer, Update, require_rate};
use crate::error::{Result, require};
use crate::gpu::Tensor;
use crate::nn::{FlatTensors, Parameters};
use crate::tape::{Tape, Var};

/// Settings of [`AdamW`].
#[derive(Clone, Debug)]
pub struct AdamWConfig {
    /// `β₁`, the decay of the first moment. (`f64`, because `1 − β` is what counts.)
    pub beta1: f64,
    /// `β₂`, the decay of the second moment.
    pub beta2: f64,
    /// `ε`, added to the denominator.
    pub eps: f32,
    /// `λ`, how fast weights decay, before the factors of `groups`.
    pub weight_decay: f32,
    /// The largest norm of the whole gradient; longer ones are scaled down to it.
    pub clip_norm: Option<f32>,
    /// By parameter, factors on the learning rate and the weight decay. By default, only matrices decay.
    pub groups: ParameterGroups,
    /// By what the loss is multiplied before it is differentiated.
    pub loss_scale: LossScale,
}

impl Default for AdamWConfig {
    /// As PyTorch: 0.9, 0.999, 10⁻⁸, 0.01, no clipping.
    fn default() -> AdamWConfig {
        AdamWConfig {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.01,
            clip_norm: None,
            groups: ParameterGroups::DEFAULT,
            loss_scale: LossScale::Auto,
        }
    }
}

/// Adam with decoupled weight decay: Loshchilov and Hutter, *Decoupled Weight Decay Regularization* (2019), computed as
/// PyTorch does.
///
/// ```text
/// g ← g · min(1, clip / (‖g‖ + 10⁻⁶))                over all parameters together
/// m ← m + (1 − β₁) · (g − m)
/// v ← β₂ · v + (1 − β₂) · g²
/// p ← p · (1 − r · λ · d) − r · (m / (1 − β₁ᵗ)) / (√(v / (1 − β₂ᵗ)) + ε)      r = lr · factor
/// ```
///
/// The factors on the learning rate and the decay, `d`, come from a rule, [`ParameterGroups`]: by default, only matrices
/// decay, see [`default_decay`](super::default_decay). However many parameters there are, the update is one dispatch per
/// segment of flat storage, usually one. Parameters, gradient and both moments take 16 bytes a parameter, 4 where it is
/// frozen.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    gradients: Gradients,
    first: FlatTensors,
    second: FlatTensors,
}

impl AdamW {
    /// An optimizer at step 0, with moments of zero.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for settings that make no sense or if there are no
    /// parameters, or if they are [stored in `F16`](crate::nn::ParameterBuilder::with_dtype),
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub fn new(parameters: &Parameters, config: AdamWConfig) -> Result<AdamW> {
        for (name, beta) in [("beta1", config.beta1), ("beta2", config.beta2)] {
            require((0.0..1.0).contains(&beta), name, beta, "0 ≤ beta < 1")?;
        }
        // Zero would make 0/0 of parameters without a gradient.
        let sound = config.eps.is_normal() && config.eps > 0.0;
        require(sound, "eps", config.eps, "a positive number")?;
        require_decay_and_clip(config.weight_decay, config.clip_norm)?;
        let gradients = Gradients::new(parameters, &config.groups, config.loss_scale)?;
        Ok(AdamW {
            first: gradients.mirror()?,
            second: gradients.mirror()?,
            config,
            gradients,
        })
    }

    /// The settings.
    pub fn config(&self) -> &AdamWConfig {
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
        let (beta1, beta2) = (config.beta1, config.beta2);
        require_rate(learning_rate);
        let step = self
            .gradients
            .step(tape, loss, config.clip_norm, is_accumulated);
        let t = self.gradients.steps as f64;
        let rate = f64::from(learning_rate);
        let values = [
            rate / (1.0 - beta1.powf(t)),
            (1.0 - beta2.powf(t)).sqrt(),
            f64::from(config.eps),
            rate * f64::from(config.weight_decay),
            1.0 - beta1,
            beta2,
            1.0 - beta2,
            0.0,
        ];
        let values = values.map(|value| value as f32);
        let moments = [&self.first, &self.second];
        self.gradients.update(&step, "adamw", values, &moments)
    }
}

pub(super) fn require_decay_and_clip(decay: f32, clip: Option<f32>) -> Result<()> {
    let sound = decay.is_finite() && decay >= 0.0;
    require(sound, "weight_decay", decay, "a finite number, at least 0")?;
    let value = clip.unwrap_or(1.0);
    let sound = value.is_normal() && value > 0.0;
    require(sound, "clip_norm", value, "a positive number")
}

impl Optimizer for AdamW {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn settings(&self) -> Value {
        let config = &self.config;
        json!({
            "beta1": config.beta1,
            "beta2": config.beta2,
            "eps": config.eps,
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
        vec![("m", &self.first), ("v", &self.second)]
    }

    fn loss_scale(&self) -> Option<(&Tensor, f32)> {
        self.gradients.scale.state()
    }

    fn memory(&self) -> u64 {
        self.gradients.memory() + self.first.bytes() + self.second.bytes()
    }

    fn resume(&mut self, steps: u64) {
        self.gradients.resume(steps);
    }
}
