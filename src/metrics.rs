//! How good a model is: means over many batches, hits, and averages of what is noisy.

use std::collections::VecDeque;

use crate::error::Result;
#[cfg(not(target_family = "wasm"))]
use crate::gpu::block_on;
use crate::gpu::{Device, Fetch};
use crate::tape::{Tape, Var};

/// Results that may be outstanding, so that the device has work while the host records.
const OUTSTANDING: usize = 4;

/// The mean of a value over batches, each weighted by its count: the loss over a test set, or the share of right answers.
/// `record` gives a scalar, the mean over its batch, and how many it is the mean of. Batches of one shape replay one plan,
/// and the host waits for results that are several batches old. Batches of nothing don't count; of nothing at all the mean is
/// not a number.
///
/// ```
/// # fn main() -> shadegrad::Result<()> {
/// use shadegrad::{Device, metrics};
///
/// let batches = [vec![1.0f32, 2.0], vec![3.0, 4.0]];
/// let mean = metrics::mean(&Device::new()?, &batches, |tape, batch| {
///     (tape.input([2], batch).mean_all(), batch.len())
/// })?;
/// assert_eq!(mean, 2.5);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// As [`mean_async`].
///
/// # Panics
///
/// If what `record` gives is no scalar.
#[cfg(not(target_family = "wasm"))]
#[track_caller]
pub fn mean<B>(
    device: &Device,
    batches: impl IntoIterator<Item = B>,
    record: impl for<'t> Fn(&'t Tape, B) -> (Var<'t>, usize),
) -> Result<f64> {
    let mut mean = Mean::default();
    for batch in batches {
        mean.launch(device, batch, &record)?;
        block_on(mean.settle(OUTSTANDING))?;
    }
    block_on(mean.settle(0))?;
    Ok(mean.sum / mean.total as f64)
}

/// [`mean`] where nothing can block.
///
/// # Errors
///
/// What [`Tape::run`] and [`Fetch::ready`] report.
///
/// # Panics
///
/// If what `record` gives is no scalar.
pub async fn mean_async<B>(
    device: &Device,
    batches: impl IntoIterator<Item = B>,
    record: impl for<'t> Fn(&'t Tape, B) -> (Var<'t>, usize),
) -> Result<f64> {
    let mut mean = Mean::default();
    for batch in batches {
        mean.launch(device, batch, &record)?;
        mean.settle(OUTSTANDING).await?;
    }
    mean.settle(0).await?;
    Ok(mean.sum / mean.total as f64)
}

/// A weighted mean of values that are still to come.
#[derive(Default)]
struct Mean {
    outstanding: VecDeque<(Fetch<f32>, usize)>,
    sum: f64,
    total: usize,
}

impl Mean {
    #[track_caller]
    fn launch<B>(
        &mut self,
        device: &Device,
        batch: B,
        record: impl for<'t> Fn(&'t Tape, B) -> (Var<'t>, usize),
    ) -> Result<()> {
        let tape = Tape::inference(device);
        let (value, count) = record(&tape, batch);
        let shape = value.shape();
        assert!(
            shape.rank() == 0,
            "mean: a value of shape {shape}, expected a scalar"
        );
        if count == 0 {
            return Ok(());
        }
        self.outstanding.push_back((tape.fetch(value), count));
        tape.run()
    }

    /// Adds up the oldest values until no more than `most` are outstanding.
    async fn settle(&mut self, most: usize) -> Result<()> {
        while self.outstanding.len() > most
            && let Some((value, count)) = self.outstanding.pop_front()
        {
            self.sum += f64::from(value.ready().await?[0]) * count as f64;
            self.total += count;
        }
        Ok(())
    }
}

/// The share of rows in which the largest logit is the target's, a scalar: `[…, classes]` and `U32 […]`. A target that is no
/// class, such as [`IGNORE_INDEX`](crate::data::IGNORE_INDEX), counts as missed.
///
/// # Panics
///
/// If the shapes don't fit, or the logits are no `F32`.
#[track_caller]
pub fn accuracy<'t>(logits: Var<'t>, targets: Var<'t>) -> Var<'t> {
    assert!(
        logits.shape().rank() > 0,
        "accuracy: logits are a scalar, expected a last axis of classes"
    );
    let guesses = logits.argmax(logits.shape().rank() - 1);
    assert!(
        guesses.shape() == targets.shape(),
        "accuracy: logits of shape {} and targets of shape {}, expected {}",
        logits.shape(),
        targets.shape(),
        guesses.shape()
    );
    // Numbers of classes are whole, so wrong ones are off by one or more.
    let off = (guesses.to_f32() - targets.to_f32()).abs();
    1.0 - off.clamp(0.0, 1.0).mean_all()
}

/// An exponential moving average, without the bias towards its start value, as Adam's moments: of losses, so that they can be
/// read.
///
/// ```
/// let mut loss = shadegrad::metrics::Smoothed::new(0.9);
/// assert_eq!(loss.push(3.0), 3.0);
/// assert!(loss.push(1.0) < 2.0);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Smoothed {
    factor: f64,
    sum: f64,
    weight: f64,
}

impl Smoothed {
    /// A value counts less by `factor` with each one that follows.
    ///
    /// # Panics
    ///
    /// If `factor` is not 0 or more and below 1.
    #[track_caller]
    pub fn new(factor: f64) -> Smoothed {
        assert!(
            (0.0..1.0).contains(&factor),
            "smoothed: a factor of {factor}, expected 0 or more, below 1"
        );
        Smoothed {
            factor,
            sum: 0.0,
            weight: 0.0,
        }
    }

    /// Takes in a value and gives the average with it.
    pub fn push(&mut self, value: f64) -> f64 {
        self.sum = self.factor * self.sum + (1.0 - self.factor) * value;
        self.weight = self.factor * self.weight + (1.0 - self.factor);
        self.sum / self.weight
    }
}
