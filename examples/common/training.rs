//! The training loop. The host never waits for the device but to read losses that are several steps old, so it can
//! record the next steps while the device computes.

use std::time::Instant;

use shadegrad::Error;
use shadegrad::data::Split;
use shadegrad::gpu::block_on;
use shadegrad::optim::{self, Optimizer};
use shadegrad::profile::Profile;

use super::course::{Evaluation, Options, Pace, Trainer};
use super::local_steps::LocalSteps;
use super::metrics::{Metrics, Record};
use super::profiling::Profiling;
use super::progress::{Progress, Stopwatch};
use super::steps::{Diverged, OUTSTANDING, Recorder, UnderWay, rounded};
use super::{Result, interrupt};

/// Results may arrive several at once. So those of so many milliseconds are taken together, and each gets the mean time.
const STRETCH_MS: f64 = 100.0;

/// What writes a checkpoint.
pub type Save<'a> = &'a mut dyn FnMut(&dyn Optimizer) -> Result<()>;

/// All that a run needs.
pub struct Training<'a> {
    /// What is trained, where, on what and how.
    pub recorder: Recorder<'a>,
    /// What trains it; at the step where the run starts.
    pub optimizer: &'a mut (dyn Trainer + 'static),
    /// Where the records go.
    pub metrics: &'a mut Metrics,
    /// Writes a checkpoint, if there is to be one.
    pub save: Option<Save<'a>>,
    /// Gives something to read of what the model can do by now.
    pub sample: &'a mut dyn FnMut() -> Result<String>,
}

/// What became of a run.
pub struct Summary {
    /// Whether a signal ended it.
    pub interrupted: bool,
    /// Steps at its end.
    pub steps: u64,
    /// Losses at its end, unless it was interrupted.
    pub losses: Option<Evaluation>,
    /// Time and tokens of its steps but the first, which compiles the kernels.
    pub pace: Pace,
    /// When the results of the first step had arrived.
    pub first_step: Option<Instant>,
    /// What was seen of the steps that were watched.
    pub profile: Option<Profile>,
}

/// What the loop keeps from step to step.
struct State {
    under_way: UnderWay,
    /// Steps whose results have arrived, but not their time.
    landed: Vec<optim::Metrics>,
    /// In a step.
    tokens: usize,
    progress: Progress,
    watch: Stopwatch,
    start: u64,
    /// The step that the last checkpoint holds.
    saved: u64,
    pace: Pace,
    first_landed: Option<Instant>,
    profiling: Profiling,
    local: LocalSteps,
}

impl State {
    /// Takes in the results that have arrived, and waits until no more than `most` are outstanding.
    fn land(&mut self, most: usize) -> Result<()> {
        while let Some(results) = block_on(self.under_way.take(most))? {
            self.first_landed.get_or_insert_with(Instant::now);
            self.landed.push(results);
        }
        Ok(())
    }
}

impl Training<'_> {
    /// Trains to the end or until a signal.
    ///
    /// # Errors
    ///
    /// Those of the device and of the files; [`shadegrad::Error::NonFinite`] if the training diverges. The metrics up
    /// to then are in their file, and an older checkpoint is left as it was. Whatever else ends the run, a checkpoint is
    /// written first.
    pub fn run(mut self) -> Result<Summary> {
        let start = self.optimizer.steps();
        let options = &self.recorder.options;
        let mut state = State {
            under_way: UnderWay::default(),
            landed: Vec::new(),
            tokens: 0,
            progress: Progress::new(start, options.total, options.log_interval),
            watch: Stopwatch::start(),
            start,
            saved: start,
            pace: Pace::default(),
            first_landed: None,
            profiling: Profiling::new(options.profile, start, options.total),
            local: LocalSteps::new(options.sync_every, start),
        };
        let outcome = self.steps(&mut state);
        let outcome = outcome.and_then(|()| self.finish(&mut state));
        let outcome = outcome.map_err(|error| self.rescue(&mut state, error));
        // Also after an error, whose own message matters more than one about the metrics.
        let written = self.show(&mut state);
        let written = written.and_then(|()| self.metrics.finish());
        outcome.and_then(|summary| written.map(|()| summary))
    }

    /// Trains.
    fn steps(&mut self, state: &mut State) -> Result<()> {
        let Options {
            total,
            eval_interval,
            eval_iters,
            checkpoint_interval,
            sample_interval,
            ..
        } = self.recorder.options;
        let due = |done: u64, interval: u64| {
            interval > 0 && done.is_multiple_of(interval) && done < total
        };
        // What can't be evaluated is found before the training, not after it.
        state.progress.note("compiling …");
        self.sound_loss()?;
        state.watch.lap_ms();
        for step in state.start..total {
            let ranks = self.recorder.options.ranks.as_ref();
            if let Some(ranks) = ranks.filter(|_| state.local.are_together()) {
                ranks.share_interruption();
            }
            if interrupt::requested() {
                break;
            }
            state.profiling.before(self.recorder.device, step)?;
            state.local.part();
            state.tokens = self
                .recorder
                .launch(self.optimizer, &mut state.under_way, step)?;
            // Waiting for the first one, which compiles the kernels, keeps its time apart from the others'.
            let most = if step == state.start { 0 } else { OUTSTANDING };
            let done = step + 1;
            match state.local.are_together() {
                true => self.land(state, most)?,
                false => self.land_apart(state, most, done)?,
            }
            let (evaluate, save) = (due(done, eval_interval), due(done, checkpoint_interval));
            let sample = due(done, sample_interval);
            if !evaluate && !save && !sample {
                continue;
            }
            self.land(state, 0)?;
            if evaluate && let Some(losses) = self.evaluate(state, eval_iters)? {
                self.metrics.evaluated(losses);
                let words = losses.words(self.recorder.options.perplexity);
                state.progress.line(&format!("step {done}: {words}"));
            }
            // In this order, so that a run that goes on from the checkpoint lacks no metrics.
            self.metrics.write()?;
            if save {
                self.save(state)?;
            }
            if sample {
                state.progress.note("sampling …");
                self.alone(|training| {
                    let text = (training.sample)()?;
                    state.progress.line(&text);
                    Ok(())
                })?;
            }
            state.watch.lap_ms();
        }
        self.land(state, 0)?;
        state.profiling.finish()
    }

    /// Writes the last checkpoint and evaluates.
    fn finish(&mut self, state: &mut State) -> Result<Summary> {
        let interrupted = interrupt::requested();
        self.metrics.write()?;
        // A run that was interrupted before its first step has nothing to replace an older checkpoint with.
        if !interrupted || self.optimizer.steps() > state.start {
            self.save(state)?;
        }
        let losses = match interrupted {
            true => None,
            false => self.evaluate(state, self.recorder.options.final_eval_iters)?,
        };
        if let Some(losses) = losses {
            self.metrics.evaluated(losses);
        }
        Ok(Summary {
            interrupted: interrupt::requested(),
            steps: self.optimizer.steps(),
            losses,
            pace: state.pace,
            first_step: state.first_landed,
            profile: state.profiling.take(),
        })
    }

    /// Writes a checkpoint, if there is to be one, unless no run could go on from it.
    fn save(&mut self, state: &mut State) -> Result<()> {
        self.alone(|training| training.save_here(state))
    }

    /// Does something that one rank does for all, if there are several. All hear how it went.
    fn alone(&mut self, work: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let Some(ranks) = self.recorder.options.ranks.clone() else {
            return work(self);
        };
        let outcome = match ranks.rank() {
            0 => work(self),
            _ => Ok(()),
        };
        let settled = ranks.settle(outcome.as_ref().err().map(ToString::to_string));
        outcome.and(settled)
    }

    fn save_here(&mut self, state: &mut State) -> Result<()> {
        if self.save.is_none() {
            return Ok(());
        }
        state.progress.note("saving …");
        // The loss of a step is that before its update, which may have made the loss what no number is.
        self.sound_loss()?;
        if let Some(save) = &mut self.save {
            save(self.optimizer)?;
            state.saved = self.optimizer.steps();
        }
        Ok(())
    }

    /// What ended a run is not to cost what was learnt up to then.
    fn rescue(
        &mut self,
        state: &mut State,
        error: Box<dyn std::error::Error>,
    ) -> Box<dyn std::error::Error> {
        let step = self.optimizer.steps();
        let diverged = matches!(error.downcast_ref(), Some(Error::NonFinite { .. }));
        let has_nothing = self.save.is_none() || step == state.saved;
        if diverged || error.is::<Diverged>() || has_nothing || !state.local.are_together() {
            return error;
        }
        let saved = state.land(0).and_then(|()| self.save_here(state));
        match saved {
            Ok(()) => format!("{error} (the checkpoint holds everything up to step {step})").into(),
            Err(_) => error,
        }
    }

    /// Takes in the results of steps that this rank makes alone, and synchronises all ranks if it is time: then they are shown.
    fn land_apart(&mut self, state: &mut State, most: usize, done: u64) -> Result<()> {
        let is_due = state.local.is_due(done);
        let landed = state.land(if is_due { 0 } else { most });
        // What this rank alone may find, it tells as its own.
        landed.map_err(|error| error.to_string())?;
        let ranks = self.recorder.options.ranks.clone();
        let Some(ranks) = ranks.filter(|_| is_due) else {
            return Ok(());
        };
        let State { local, landed, .. } = state;
        local.synchronise(&*ranks, self.optimizer, done, landed)?;
        self.show(state)
    }

    /// Takes in the results that have arrived, as [`State::land`], and shows them if it is time.
    fn land(&mut self, state: &mut State, most: usize) -> Result<()> {
        state.land(most)?;
        let mut landed = state.landed.iter();
        let due = landed.any(|landed| state.progress.is_due(landed.step));
        match most == 0 || due || state.watch.ms() > STRETCH_MS {
            true => self.show(state),
            false => Ok(()),
        }
    }

    /// Shows and records the steps whose results have arrived. The time since the last ones is theirs together.
    fn show(&mut self, state: &mut State) -> Result<()> {
        if !state.local.are_together() {
            // The run ends here, and what the others lost is not known.
            state.landed.clear();
        }
        let Some(first) = state.landed.first() else {
            return Ok(());
        };
        let stretch = Pace {
            steps: state.landed.len(),
            ms: state.watch.lap_ms(),
            tokens: state.landed.len() * state.tokens,
        };
        if first.step > state.start + 1 {
            state.pace.steps += stretch.steps;
            state.pace.ms += stretch.ms;
            state.pace.tokens += stretch.tokens;
        }
        for results in state.landed.drain(..) {
            let record = Record {
                step: results.step,
                train_loss: results.loss,
                train_split_loss: None,
                test_loss: None,
                grad_norm: Some(results.grad_norm).filter(|norm| norm.is_finite()),
                loss_scale: results.loss_scale,
                skipped: results.skipped,
                lr: self.recorder.options.lr(results.step - 1),
                step_ms: rounded(stretch.step_ms()),
                tokens_per_second: rounded(stretch.tokens_per_second()),
            };
            state.progress.step(&record);
            if let (true, Some(scale)) = (record.skipped, record.loss_scale) {
                state.progress.line(&format!(
                    "step {}: gradients overflowed at a loss scale of {scale}, so the update was skipped; the next is {}",
                    record.step,
                    scale / 2.0
                ));
            }
            self.metrics.push(record);
        }
        self.metrics.write()
    }

    /// Estimates the losses over both splits; `None` if a signal came in between.
    fn evaluate(&self, state: &mut State, batches: usize) -> Result<Option<Evaluation>> {
        let goes_on = async |split, number, all| {
            let name = match split {
                Split::Train => "training",
                Split::Test => "test",
            };
            let text = format!("evaluating: {name} batch {number} of {all}");
            state.progress.note(&text);
            !interrupt::requested()
        };
        let step = self.optimizer.steps();
        let losses = block_on(self.recorder.evaluate(step, batches, goes_on))?;
        Ok(losses.filter(|_| !interrupt::requested()))
    }

    /// Checks that evaluations are possible, and the loss of a batch finite.
    fn sound_loss(&self) -> Result<()> {
        block_on(self.recorder.sound_loss(self.optimizer.steps()))
    }
}
