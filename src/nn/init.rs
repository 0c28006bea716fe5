//! The values that parameters start with.

use std::f64::consts::TAU;

use crate::rng;

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
