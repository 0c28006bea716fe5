//! What all optimizers have in common.

use crate::error::{Error, Result};
use crate::gpu::{Fetch, Tensor};
use crate::nn::{FlatTensors, Parameters};
use crate::tape::{Tape, Var};

/// What changes parameters so that a loss falls.
pub trait Optimizer {
    /// Its name in checkpoints.
    fn name(&self) -> &'static str;

    /// Its settings, for checkpoints.
    fn settings(&self) -> serde_json::Value;

    /// The parameters it changes.
    fn parameters(&self) -> &Parameters;

    /// Records a whole update: the gradient of `loss`, to which earlier [accumulated](Optimizer::accumulate) ones are
    /// added, clipping, and the change of the parameters. Parameters that are frozen, or that the loss of no micro-batch
    /// depends on, keep their values and moments, and count as having a gradient of zero.
    ///
    /// If the loss, the norm of the gradient or the learning rate as the kernel takes it (divided by `1 − β₁ᵗ` in
    /// [`AdamW`](super::AdamW)) is infinite or not a number, the tape changes neither parameters nor moments; [`Report::get`] says so.
    /// The step counts nevertheless, since the host goes on without waiting to hear of it. (PyTorch's `GradScaler` leaves the
    /// optimizer's count as it is then; the two differ in [`AdamW`](super::AdamW)'s corrections, `1 − βᵗ`, for the first
    /// hundreds of steps.)
    ///
    /// The learning rate is data: changing it costs nothing. The tape must be run, or the optimizer's step count is
    /// ahead of its moments. On a tape that cannot run because of [indices](Error::IndexOutOfRange) that were recorded
    /// before, neither a step nor a micro-batch counts.
    ///
    /// A tape has one step: a second one, of another optimizer, would differentiate with the first one's new values
    /// where the loss depends on both, and panics. Parameters that are to be treated differently belong to
    /// [groups](super::ParameterGroups) of one optimizer.
    ///
    /// # Panics
    ///
    /// If `loss` is no scalar or depends on no parameter that is trained, the learning rate is negative or not finite, an
    /// operation on the way has no gradient, or a tensor that the gradient is computed from was overwritten since the loss
    /// read it.
    #[track_caller]
    fn step<'t>(&mut self, tape: &'t Tape, loss: Var<'t>, learning_rate: f32) -> Update<'t>;

    /// Records the gradient of one micro-batch's loss, to be part of the next [`Optimizer::step`]. For a batch cut in
    /// `n`: `accumulate` for the first `n − 1` micro-batches, each on a tape of its own that is run, then `step` for
    /// the last.
    ///
    /// Gradients are **added**, so each loss must come scaled by its share: by `1/n` for the mean over micro-batches
    /// of equal size, or by its part of the tokens where they differ.
    ///
    /// The first call allocates storage for one more gradient. From the second micro-batch on, each costs one more
    /// dispatch per segment. What is being accumulated is not part of a checkpoint.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`], [`Error::DeviceLost`].
    ///
    /// # Panics
    ///
    /// As [`Optimizer::step`].
    #[track_caller]
    fn accumulate<'t>(&mut self, tape: &'t Tape, loss: Var<'t>) -> Result<()>;

    /// What has been accumulated since the last step, if anything has: the sum over micro-batches, times the
    /// [loss scale](super::LossScale) if there is one. It may be changed before [`Optimizer::step_accumulated`], for
    /// example to the sum over several devices, once the tapes that accumulate it have run.
    fn accumulated(&self) -> Option<&FlatTensors>;

    /// Records a whole update, as [`Optimizer::step`], from what has been [accumulated](Optimizer::accumulated) alone: no
    /// gradient is computed. `loss` is what the step reports, and what must be finite for it to change anything. It goes on a
    /// tape of its own, of the micro-batches' [precision](Tape::set_precision).
    ///
    /// # Panics
    ///
    /// If nothing has been accumulated, `loss` is no scalar, or the learning rate is negative or not finite.
    #[track_caller]
    fn step_accumulated<'t>(
        &mut self,
        tape: &'t Tape,
        loss: Var<'t>,
        learning_rate: f32,
    ) -> Update<'t>;

    /// How many steps have been recorded.
    fn steps(&self) -> u64;

    /// The moments by name, each laid out like the parameters.
    fn state(&self) -> Vec<(&'static str, &FlatTensors)>;

    /// The state of the loss scale, if losses are or may be [scaled](super::LossScale), and the scale at the beginning. The state
    /// is four numbers: the scale, the good steps since it last changed, the steps skipped in all, and the scale at the
    /// beginning.
    fn loss_scale(&self) -> Option<(&Tensor, f32)> {
        None
    }

    /// Bytes of device memory that training takes from step to step: parameters, gradients, moments, and what
    /// [`Optimizer::accumulate`] has added.
    fn memory(&self) -> u64;

    /// Continues after `steps` steps, the moments having been restored; forgets what has been accumulated.
    fn resume(&mut self, steps: u64);
}

/// A recorded update, before the tape is run. Made by [`Optimizer::step`].
#[derive(Clone, Copy, Debug)]
pub struct Update<'t> {
    /// The loss that the step was given.
    pub loss: Var<'t>,
    /// The Euclidean norm of the whole gradient before clipping, a scalar.
    pub grad_norm: Var<'t>,
    /// What the loss was multiplied by to be differentiated, if it was.
    pub loss_scale: Option<Var<'t>>,
    /// The number of this step, counted from 1.
    pub step: u64,
    /// The learning rate as the update takes it, such as corrected for the step; not finite if it overflowed.
    pub learning_rate: f32,
}

impl<'t> Update<'t> {
    /// Asks for loss and gradient norm. Without this call nothing is read back.
    pub fn fetch(self) -> Report {
        let tape = self.loss.tape();
        Report {
            loss: tape.fetch(self.loss),
            grad_norm: tape.fetch(self.grad_norm),
            loss_scale: self.loss_scale.map(|scale| tape.fetch(scale)),
            step: self.step,
            learning_rate: self.learning_rate,
        }
    }
}

/// Loss and gradient norm on their way to the host. They may be taken any number of steps later.
pub struct Report {
    loss: Fetch<f32>,
    grad_norm: Fetch<f32>,
    loss_scale: Option<Fetch<f32>>,
    step: u64,
    learning_rate: f32,
}

/// What a step reports.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Metrics {
    /// The number of the step, counted from 1.
    pub step: u64,
    /// The loss before the update.
    pub loss: f32,
    /// The Euclidean norm of the whole gradient before clipping; not finite if the step was skipped.
    pub grad_norm: f32,
    /// What the loss was multiplied by to be differentiated, if it was.
    pub loss_scale: Option<f32>,
    /// Whether the scaled gradient overflowed: then this step changed nothing, and the next is scaled by half as much.
    pub skipped: bool,
}

impl Report {
    /// The number of the step, counted from 1.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Whether the values have arrived. Never blocks.
    ///
    /// # Errors
    ///
    /// As [`Fetch::is_ready`].
    pub fn is_ready(&self) -> Result<bool> {
        self.loss.is_ready()
    }

    /// The values, waiting for them if need be.
    ///
    /// # Errors
    ///
    /// As [`Report::ready`].
    #[cfg(not(target_family = "wasm"))]
    pub fn get(&self) -> Result<Metrics> {
        crate::gpu::block_on(self.ready())
    }

    /// The values, once they have arrived.
    ///
    /// # Errors
    ///
    /// [`Error::NonFinite`] if the loss, the gradient's norm or the learning rate is infinite or not a number: then this
    /// step changed nothing. With a [loss scale](super::LossScale) above 1, a norm that is not finite is a skipped step
    /// rather than an error: [`Metrics::skipped`]. [`Error::Readback`] if the tape has not run, [`Error::DeviceLost`].
    pub async fn ready(&self) -> Result<Metrics> {
        let (loss, grad_norm) = (
            self.loss.ready().await?[0],
            self.grad_norm.ready().await?[0],
        );
        let loss_scale = match &self.loss_scale {
            Some(scale) => Some(scale.ready().await?[0]),
            None => None,
        };
        // At the smallest scale, which is none, there is nothing left to halve.
        let can_halve = loss_scale.is_some_and(|scale| scale > 1.0);
        let metrics = Metrics {
            step: self.step,
            loss,
            grad_norm,
            loss_scale,
            skipped: can_halve && !grad_norm.is_finite(),
        };
        // A skipped step says so itself.
        let norm = if metrics.skipped { 0.0 } else { grad_norm };
        let rate = "the learning rate, corrected for its step,";
        let values = [loss, norm, self.learning_rate];
        for (what, value) in ["the loss", "the gradient norm", rate]
            .into_iter()
            .zip(values)
        {
            if !value.is_finite() {
                return Err(Error::NonFinite {
                    what: what.to_owned(),
                    value,
                    step: self.step,
                });
            }
        }
        Ok(metrics)
    }
}

/// # Panics
///
/// If a learning rate is no finite number, or negative.
#[track_caller]
pub(super) fn require_rate(learning_rate: f32) {
    assert!(
        learning_rate.is_finite() && learning_rate >= 0.0,
        "step: the learning rate is {learning_rate}, expected a finite number, at least 0"
    );
}
