//! The learning rate as a function of the step.

use std::f64::consts::PI;

use crate::error::{Result, require};

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
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) if the warm-up is longer than the whole, or if a ratio is outside 0..=1.
    pub fn validate(&self) -> Result<()> {
        let (warmup, total, ratio, name) = self.course();
        let expected = format!("at most the total number of steps, {total}");
        require(warmup <= total, "warmup", warmup, expected)?;
        let is_fraction = (0.0..=1.0).contains(&ratio);
        let expected = "a fraction of the base learning rate, between 0 and 1";
        require(is_fraction, name, ratio, expected)
    }

    /// The learning rate of a step, counted from 0.
    pub fn lr(&self, base: f32, step: u64) -> f32 {
        // In f64 throughout, because an f32 cannot count the steps of a long run.
        let (warmup, total, ratio, _) = self.course();
        let (p, ratio) = (progress(step, warmup, total), f64::from(ratio));
        let factor = match self {
            Self::Constant { .. } => 1.0,
            Self::WarmupCosine { .. } => ratio + (1.0 - ratio) * (1.0 + (PI * p).cos()) / 2.0,
            Self::Linear { .. } => 1.0 + (ratio - 1.0) * p,
        };
        let factor = if step < warmup {
            (step as f64 + 1.0) / (warmup as f64 + 1.0)
        } else {
            factor
        };
        (f64::from(base) * factor) as f32
    }

    /// The steps of warm-up, all steps, the last rate as a fraction of the base rate, and what that is called.
    fn course(&self) -> (u64, u64, f32, &'static str) {
        match *self {
            Self::Constant { warmup } => (warmup, u64::MAX, 1.0, ""),
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
        }
    }
}

/// How much of the way from `warmup` to `total` is done, from 0 to 1. Nothing is left of an empty way.
fn progress(step: u64, warmup: u64, total: u64) -> f64 {
    if step >= total {
        return 1.0;
    }
    step.saturating_sub(warmup) as f64 / (total - warmup.min(total)).max(1) as f64
}
