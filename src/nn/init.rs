//! The values that parameters start with.

use std::f32::consts::SQRT_2;
use std::f64::consts::TAU;

use serde::{Deserialize, Serialize};

use crate::error::named;
use crate::rng;

/// The standard deviation that weights start with, as in GPT-2.
pub const INIT_STD: f32 = 0.02;

/// The values a parameter starts with.
///
/// Random values are a function of the builder's seed and the parameter's full name alone: adding, removing or
/// reordering other parameters changes nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All zero.
    Zeros,
    /// All one.
    Ones,
    /// All the same.
    Constant(f32),
    /// Normally distributed around zero.
    Normal {
        /// The standard deviation.
        std: f32,
    },
    /// Uniformly distributed in `-limit..limit`.
    Uniform {
        /// The largest magnitude.
        limit: f32,
    },
}

impl Init {
    /// Kaiming uniform: the variance is `gain²/fan_in`, where `fan_in` is how many inputs each output adds up. For ReLU the
    /// `gain` is √2. He et al. 2015, "Delving Deep into Rectifiers".
    pub fn kaiming_uniform(fan_in: usize, gain: f32) -> Init {
        Init::uniform_of(gain / (fan_in as f32).sqrt())
    }

    /// The normal distribution of [`Init::kaiming_uniform`]'s variance.
    pub fn kaiming_normal(fan_in: usize, gain: f32) -> Init {
        let std = gain / (fan_in as f32).sqrt();
        Init::Normal { std }
    }

    /// Xavier uniform: the variance is `2·gain²/(fan_in + fan_out)`, between what keeps values and what keeps gradients as
    /// large as they are. For tanh the `gain` is 5/3. Glorot and Bengio 2010, "Understanding the difficulty of training deep
    /// feedforward neural networks".
    pub fn xavier_uniform(fan_in: usize, fan_out: usize, gain: f32) -> Init {
        Init::uniform_of(gain * (2.0 / (fan_in + fan_out) as f32).sqrt())
    }

    /// The normal distribution of [`Init::xavier_uniform`]'s variance.
    pub fn xavier_normal(fan_in: usize, fan_out: usize, gain: f32) -> Init {
        let std = gain * (2.0 / (fan_in + fan_out) as f32).sqrt();
        Init::Normal { std }
    }

    /// The uniform distribution of a standard deviation.
    fn uniform_of(std: f32) -> Init {
        let limit = 3f32.sqrt() * std;
        Init::Uniform { limit }
    }

    /// The same distribution of values that are smaller by a factor.
    pub(super) fn divided(self, divisor: f32) -> Init {
        match self {
            Init::Normal { std } => Init::Normal { std: std / divisor },
            Init::Uniform { limit } => Init::Uniform {
                limit: limit / divisor,
            },
            constant => constant,
        }
    }

    pub(super) fn is_finite(self) -> bool {
        match self {
            Init::Zeros | Init::Ones => true,
            Init::Constant(x) | Init::Normal { std: x } | Init::Uniform { limit: x } => {
                x.is_finite()
            }
        }
    }

    pub(super) fn values(self, seed: u64, name: &str, count: usize) -> Vec<f32> {
        match self {
            Init::Zeros => vec![0.0; count],
            Init::Ones => vec![1.0; count],
            Init::Constant(value) => vec![value; count],
            Init::Normal { std } => normal(seed, name, count, f64::from(std)),
            Init::Uniform { limit } => {
                let mut rng = rng::keyed(seed, "parameter", fnv1a(name));
                let limit = f64::from(limit);
                (0..count)
                    .map(|_| (limit * (2.0 * rng::unit(&mut rng) - 1.0)) as f32)
                    .collect()
            }
        }
    }
}

/// How the layers of a model start: see [`ParameterBuilder::with_init`](super::ParameterBuilder::with_init).
///
/// Norms start at one and their biases at zero, whatever the kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InitKind {
    /// As in GPT-2: weights and embeddings are normally distributed with a standard deviation of [`INIT_STD`], biases zero.
    #[default]
    Normal,
    /// PyTorch's defaults: weights and biases of linear layers are uniformly distributed up to `1/√inputs`, embeddings
    /// normally with a standard deviation of 1.
    Pytorch,
    /// Weights by [`Init::kaiming_uniform`] with a gain of √2; otherwise as [`InitKind::Normal`].
    KaimingUniform,
    /// Weights by [`Init::kaiming_normal`] with a gain of √2; otherwise as [`InitKind::Normal`].
    KaimingNormal,
    /// Weights by [`Init::xavier_uniform`] with a gain of 1; otherwise as [`InitKind::Normal`].
    XavierUniform,
    /// Weights by [`Init::xavier_normal`] with a gain of 1; otherwise as [`InitKind::Normal`].
    XavierNormal,
}

named!(
    InitKind,
    "init",
    Normal = "normal",
    Pytorch = "pytorch",
    KaimingUniform = "kaiming_uniform",
    KaimingNormal = "kaiming_normal",
    XavierUniform = "xavier_uniform",
    XavierNormal = "xavier_normal"
);

impl InitKind {
    /// The weight `[inputs, outputs]` of a linear layer.
    pub fn weight(self, inputs: usize, outputs: usize) -> Init {
        match self {
            InitKind::Normal => Init::Normal { std: INIT_STD },
            // √5 as the slope of a leaky ReLU: a gain of √(2/(1 + 5)).
            InitKind::Pytorch => Init::kaiming_uniform(inputs, (1.0f32 / 3.0).sqrt()),
            InitKind::KaimingUniform => Init::kaiming_uniform(inputs, SQRT_2),
            InitKind::KaimingNormal => Init::kaiming_normal(inputs, SQRT_2),
            InitKind::XavierUniform => Init::xavier_uniform(inputs, outputs, 1.0),
            InitKind::XavierNormal => Init::xavier_normal(inputs, outputs, 1.0),
        }
    }

    /// The bias of a linear layer of so many inputs.
    pub fn bias(self, inputs: usize) -> Init {
        match self {
            InitKind::Pytorch => self.weight(inputs, 1),
            _ => Init::Zeros,
        }
    }

    /// A table of embeddings.
    pub fn embedding(self) -> Init {
        let std = match self {
            InitKind::Pytorch => 1.0,
            _ => INIT_STD,
        };
        Init::Normal { std }
    }
}

/// Box and Muller, *A Note on the Generation of Random Normal Deviates* (1958): two uniform numbers give two normal
/// ones.
fn normal(seed: u64, name: &str, count: usize, std: f64) -> Vec<f32> {
    let mut rng = rng::keyed(seed, "parameter", fnv1a(name));
    let mut values = Vec::with_capacity(count + 1);
    while values.len() < count {
        // In (0, 1]: the logarithm of zero must not be taken.
        let radius = std * (-2.0 * (1.0 - rng::unit(&mut rng)).ln()).sqrt();
        let angle = TAU * rng::unit(&mut rng);
        values.push((radius * angle.cos()) as f32);
        values.push((radius * angle.sin()) as f32);
    }
    values.truncate(count);
    values
}

/// The 64-bit FNV-1a hash, spelled out because the standard library's hash may change between versions.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
