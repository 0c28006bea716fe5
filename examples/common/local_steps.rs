//! Steps that each rank makes alone, on its rows of every batch, and the synchronisations after every so many of them.

use std::time::Instant;

use shadegrad::optim::{AdamW, Metrics};

use super::Result;
use super::args::SyncArgs;
use super::checkpoint::Checkpoint;
use super::course::{Ranks, Trainer};
use super::settings::Settings;
use super::steps::CHECK_INTERVAL;
use super::terminal::note;

/// What trains as the flags say, at the step of the checkpoint if there is one.
///
/// # Errors
///
/// Those of [`Checkpoint::restore`], what the device reports.
pub fn trainer<S: Settings>(
    mut inner: AdamW,
    sync: &SyncArgs,
    ranks: Option<&dyn Ranks>,
    checkpoint: Option<&Checkpoint<S>>,
) -> Result<Box<dyn Trainer>> {
    let has_momentum = checkpoint.is_some_and(Checkpoint::has_outer_momentum);
    let Some(ranks) = ranks.filter(|_| sync.sync_every > 0) else {
        if let Some(checkpoint) = checkpoint {
            checkpoint.restore(&mut inner)?;
        }
        if has_momentum {
            note(format_args!(
                "--sync-every is 0: the checkpoint's outer momentum is left behind"
            ));
        }
        return Ok(Box::new(inner));
    };
    if let Some(checkpoint) = checkpoint.filter(|_| !has_momentum) {
        checkpoint.restore(&mut inner)?;
        note(format_args!(
            "the checkpoint is of a run without --sync-every: the outer momentum begins at zero"
        ));
    }
    let mut trainer = ranks.apart(inner, sync)?;
    if let Some(checkpoint) = checkpoint.filter(|_| has_momentum) {
        checkpoint.restore(&mut *trainer)?;
    }
    Ok(trainer)
}

/// Prints how ranks train, if they do so apart from one another.
pub fn describe(sync: &SyncArgs, ranks: Option<&dyn Ranks>) {
    let SyncArgs {
        sync_every,
        outer_lr,
        outer_momentum,
        ..
    } = sync;
    if let Some(ranks) = ranks.filter(|_| *sync_every > 0) {
        say!(
            "ranks: {}, averaged every {sync_every} steps, outer learning rate {outer_lr}, momentum {outer_momentum}",
            ranks.size()
        );
    }
}

/// Whether ranks are apart, and since when.
pub struct LocalSteps {
    /// Steps between two synchronisations; 0 where all ranks make each step together.
    every: u64,
    /// When they parted, while they are.
    parted: Option<Instant>,
    /// The step after which all ranks' parameters were last compared.
    checked: u64,
}

impl LocalSteps {
    /// For a run that begins after `start` steps.
    pub fn new(every: u64, start: u64) -> LocalSteps {
        LocalSteps {
            every,
            parted: None,
            checked: start,
        }
    }

    /// Whether all ranks have the same state: they may evaluate it, save it and stop.
    pub fn are_together(&self) -> bool {
        self.parted.is_none()
    }

    /// To be called before each step.
    pub fn part(&mut self) {
        if self.every > 0 {
            self.parted.get_or_insert_with(Instant::now);
        }
    }

    /// Whether the ranks are to come together after so many steps.
    pub fn is_due(&self, done: u64) -> bool {
        !self.are_together() && done.is_multiple_of(self.every)
    }

    /// Brings all ranks to the same state after `done` steps. The results are those of this rank's steps since the last time;
    /// their losses become those of the whole batches.
    ///
    /// # Errors
    ///
    /// What the device reports; a rank that has other parameters.
    pub fn synchronise(
        &mut self,
        ranks: &dyn Ranks,
        optimizer: &mut (dyn Trainer + 'static),
        done: u64,
        results: &mut [Metrics],
    ) -> Result<()> {
        let took = self.parted.map(|parted| parted.elapsed());
        let mut losses: Vec<f64> = results.iter().map(|step| f64::from(step.loss)).collect();
        ranks.synchronise(optimizer, &mut losses, took.unwrap_or_default())?;
        for (step, loss) in results.iter_mut().zip(losses) {
            step.loss = loss as f32;
        }
        if done - self.checked >= CHECK_INTERVAL {
            ranks.check(optimizer.parameters(), done)?;
            self.checked = done;
        }
        self.parted = None;
        Ok(())
    }
}
