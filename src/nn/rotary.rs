//! The angles of rotary positions, and which layers have angles and windows of their own.

use std::f64::consts::TAU;

use serde::{Deserialize, Serialize};

use crate::error::{Result, require, require_positive};

/// The base of the rotary angles, as published.
pub const ROTARY_BASE: f64 = 10_000.0;

/// The angles by which rotary positions turn: at position `t`, pair `i` of a head of `head_dim` turns by `t·frequencyᵢ`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rotary {
    /// `frequencyᵢ = base^(−2i/head_dim)`, before scaling.
    pub base: f32,
    /// How a context longer than the one that the model was first trained with is reached.
    pub scaling: Option<RotaryScaling>,
}

/// How frequencies change for a longer context.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RotaryScaling {
    /// All are divided by `factor`. Chen et al. 2023, "Extending Context Window of Large Language Models via Positional
    /// Interpolation".
    Linear {
        /// By what they are divided.
        factor: f32,
    },
    /// Slow ones, which turn less than `low_frequency_factor` times within `original_context`, are divided by `factor`;
    /// quick ones, which turn more than `high_frequency_factor` times, stay; between them the share that is divided
    /// changes linearly with the number of turns. Grattafiori et al. 2024, "The Llama 3 Herd of Models", and its code.
    Llama3 {
        /// By what slow ones are divided.
        factor: f32,
        /// Turns within `original_context` of the quickest that are wholly divided.
        low_frequency_factor: f32,
        /// Turns of the slowest that stay; more than `low_frequency_factor`.
        high_frequency_factor: f32,
        /// The context that the model was first trained with.
        original_context: usize,
    },
    /// By the number of turns, too, and what is compared is multiplied by a number.
    Yarn(Yarn),
}

/// Pairs up to the one that turns `beta_fast` times within `original_context` stay, those from the one on that turns
/// `beta_slow` times are divided by `factor`; between them the share that is divided grows linearly with the pair's number.
/// Peng et al. 2023, "YaRN: Efficient Context Window Extension of Large Language Models".
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Yarn {
    /// By what slow pairs are divided.
    pub factor: f32,
    /// What cosines and sines are multiplied by, and with them queries and keys.
    pub attention_factor: f32,
    /// Turns of the last pair that stays.
    pub beta_fast: f32,
    /// Turns of the first pair that is wholly divided.
    pub beta_slow: f32,
    /// Whether these two are the nearest whole pairs outside, or lie between pairs.
    pub truncate: bool,
    /// The context that the model was first trained with.
    pub original_context: usize,
}

impl Yarn {
    /// The share of a pair that is divided.
    fn divided(&self, pair: usize, head_dim: usize, base: f64) -> f64 {
        let last = (head_dim - 1) as f64;
        let [low, high] = [self.beta_fast, self.beta_slow].map(|turns| {
            let ratio = self.original_context as f64 / (f64::from(turns) * TAU);
            head_dim as f64 * ratio.ln() / (2.0 * base.ln())
        });
        let (low, high) = match self.truncate {
            true => (low.floor().max(0.0), high.ceil().min(last)),
            false => (low.max(0.0), high.min(last)),
        };
        let width = if low == high { 0.001 } else { high - low };
        ((pair as f64 - low) / width).clamp(0.0, 1.0)
    }
}

impl Default for Rotary {
    /// As published: base 10,000, no scaling.
    fn default() -> Rotary {
        Rotary {
            base: ROTARY_BASE as f32,
            scaling: None,
        }
    }
}

impl Rotary {
    /// Checks that there are such angles.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) in the name of the setting `name`.
    pub(super) fn validate(&self, name: &str) -> Result<()> {
        require_positive(format!("{name}.base"), self.base)?;
        let setting = |what: &str| format!("{name}.scaling.{what}");
        match self.scaling {
            None => Ok(()),
            Some(RotaryScaling::Linear { factor }) => require_positive(setting("factor"), factor),
            Some(RotaryScaling::Llama3 {
                factor,
                low_frequency_factor: low,
                high_frequency_factor: high,
                original_context: context,
            }) => {
                require_positive(setting("factor"), factor)?;
                require_positive(setting("low_frequency_factor"), low)?;
                let sound = high > low && high.is_finite();
                let expected = format!("more than low_frequency_factor = {low}");
                require(sound, setting("high_frequency_factor"), high, expected)?;
                let name = setting("original_context");
                require(context > 0, name, context, "at least 1")
            }
            Some(RotaryScaling::Yarn(ref yarn)) => {
                // Of base 1, all pairs turn alike.
                let base = self.base;
                require(base != 1.0, format!("{name}.base"), base, "another than 1")?;
                require_positive(setting("factor"), yarn.factor)?;
                require_positive(setting("attention_factor"), yarn.attention_factor)?;
                require_positive(setting("beta_fast"), yarn.beta_fast)?;
                require_positive(setting("beta_slow"), yarn.beta_slow)?;
                let context = yarn.original_context as f32;
                require_positive(setting("original_context"), context)
            }
        }
    }

    /// The angle at position 1 of each pair of a head, in `f64`.
    pub fn frequencies(&self, head_dim: usize) -> Vec<f64> {
        let base = f64::from(self.base);
        let plain = (0..head_dim / 2).map(|i| base.powf(-((2 * i) as f64) / head_dim as f64));
        let scaled = |(pair, frequency): (usize, f64)| match self.scaling {
            None => frequency,
            Some(RotaryScaling::Linear { factor }) => frequency / f64::from(factor),
            Some(RotaryScaling::Llama3 {
                factor,
                low_frequency_factor,
                high_frequency_factor,
                original_context,
            }) => {
                let [factor, low, high] =
                    [factor, low_frequency_factor, high_frequency_factor].map(f64::from);
                let turns = original_context as f64 * frequency / TAU;
                let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                frequency * (kept + (1.0 - kept) / factor)
            }
            Some(RotaryScaling::Yarn(ref yarn)) => {
                let divided = yarn.divided(pair, head_dim, base);
                frequency * (1.0 - divided + divided / f64::from(yarn.factor))
            }
        };
        plain.enumerate().map(scaled).collect()
    }

    /// What cosines and sines are multiplied by.
    pub fn attention_factor(&self) -> f32 {
        match &self.scaling {
            Some(RotaryScaling::Yarn(yarn)) => yarn.attention_factor,
            _ => 1.0,
        }
    }
}

/// Layers whose queries see a window of the last positions only, beside layers that see everything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalAttention {
    /// How many positions a query sees, its own among them. See [`Attention::window`](crate::ops::attention::Attention::window).
    pub window: usize,
    /// For each layer whether it is one of these.
    pub layers: Vec<bool>,
    /// The angles of their rotary positions, if not those of the other layers.
    pub rotary: Option<Rotary>,
}

impl LocalAttention {
    /// Checks that such layers can exist in a model of so many.
    pub(super) fn validate(&self, n_layers: usize) -> Result<()> {
        let window = self.window;
        let sound = (1..=1 << 29).contains(&window);
        require(sound, "local.window", window, "1 to 2²⁹")?;
        let (count, expected) = (
            self.layers.len(),
            format!("an entry for each of {n_layers} layers"),
        );
        require(count == n_layers, "local.layers", count, expected)?;
        match &self.rotary {
            Some(rotary) => rotary.validate("local.rotary"),
            None => Ok(()),
        }
    }
}
