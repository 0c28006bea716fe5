//! The learning rate as a function of the step.

use std::f64::consts::PI;

use crate::error::{Error, Result};

/// How the learning rate changes over a run.
///
/// Steps count from 0. All schedules may begin with a linear warm-up over `warmup` steps, which is never zero and
/// meets the base rate at step `warmup`:
///
/// ```text
/// lr(s) = base · (s + 1) / (warmup + 1)                                    s < warmup
/// ```
///
/// After it, with the progress `p = (s − warmup) / (total − warmup)`, which stays at 1 from step `total` on:
///
/// ```text
/// Constant       lr(s) = base
/// WarmupCosine   lr(s) = base · (min_ratio + (1 − min_ratio) · (1 + cos(π·p)) / 2)
/// Linear         lr(s) = base · (1 + (end_ratio − 1) · p)
/// ```
///
/// The cosine is that of Loshchilov and Hutter, *SGDR* (2017), without restarts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Schedule {
    /// The base rate throughout.
    Constant {
        /// Steps of warm-up; 0 for none.
        warmup: u64,
    },
    /// Down to `min_ratio` of the base rate along half a cosine.
    WarmupCosine {
        /// Steps of warm-up; 0 for none.
        warmup: u64,
        /// The step at which the smallest rate is reached, warm-up included.
        total: u64,
        /// The smallest rate as a fraction of the base rate.
        min_ratio: f32,
    },
    /// To `end_ratio` of the base rate along a line.
    Linear {
        /// Steps of warm-up; 0 for none.
        warmup: u64,
        /// The step at which the last rate is reached, warm-up included.
        total: u64,
        /// The last rate as a fraction of the base rate.
        end_ratio: f32,
    },
}

impl Default for Schedule {
    /// The base rate from the first step to the last.
    fn default() -> Self {
        Self::Constant { warmup: 0 }
    }
}

impl Schedule {
    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] if the warm-up is longer than the whole, or if a ratio is outside 0..=1.
    pub fn validate(&self) -> Result<()> {
        let (warmup, total, ratio, name) = match *self {
            Self::Constant { .. } => return Ok(()),
            Self::WarmupCosine {
                warmup,
                total,
                min_ratio,
            } => (warmup, total, min_ratio, "min_ratio"),
            Self::Linear {
                warmup,
                total,
                end_ratio,
            } => (warmup, total, end_ratio, "end_ratio"),
        };
        if warmup > total {
            return Err(Error::InvalidArgument {
                name: "warmup".into(),
                value: warmup.to_string(),
                expected: format!("at most the total number of steps, {total}"),
            });
        }
        if !(0.0..=1.0).contains(&ratio) {
            return Err(Error::InvalidArgument {
                name: name.into(),
                value: ratio.to_string(),
                expected: "a fraction of the base learning rate, between 0 and 1".into(),
            });
        }
        Ok(())
    }

    /// The learning rate of a step, counted from 0.
    pub fn lr(&self, base: f32, step: u64) -> f32 {
        // In f64 throughout, because an f32 cannot count the steps of a long run.
        let (warmup, factor) = match *self {
            Self::Constant { warmup } => (warmup, 1.0),
            Self::WarmupCosine {
                warmup,
                total,
                min_ratio,
            } => {
                let min = f64::from(min_ratio);
                let cosine = (1.0 + (PI * progress(step, warmup, total)).cos()) / 2.0;
                (warmup, min + (1.0 - min) * cosine)
            }
            Self::Linear {
                warmup,
                total,
                end_ratio,
            } => {
                let slope = f64::from(end_ratio) - 1.0;
                (warmup, 1.0 + slope * progress(step, warmup, total))
            }
        };
        let factor = if step < warmup {
            (step as f64 + 1.0) / (warmup as f64 + 1.0)
        } else {
            factor
        };
        (f64::from(base) * factor) as f32
    }
}

/// How much of the way from `warmup` to `total` is done, from 0 to 1. Nothing is left of an empty way.
fn progress(step: u64, warmup: u64, total: u64) -> f64 {
    if step >= total {
        return 1.0;
    }
    step.saturating_sub(warmup) as f64 / (total - warmup.min(total)).max(1) as f64
}
