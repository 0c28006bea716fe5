//! The training loop. The host never waits for the device but to read losses that are several steps old, so it can
//! record the next steps while the device computes.

use std::collections::VecDeque;
use std::time::Instant;

use shadegrad::data::{Batch, Split};
use shadegrad::gpu::Fetch;
use shadegrad::nn::Gpt;
use shadegrad::ops::CrossEntropy;
use shadegrad::optim::{AdamW, Optimizer, Report, Schedule};
use shadegrad::profile::Profile;
use shadegrad::{Device, Tape, Var};

use super::args::{EvaluationArgs, FileArgs, ProgramArgs, TrainingArgs};
use super::metrics::{Evaluation, Metrics, Record};
use super::profiling::Profiling;
use super::progress::{Progress, Stopwatch};
use super::{Result, interrupt};

/// How many results may be outstanding before the host waits for the oldest.
const OUTSTANDING: usize = 4;

/// Where batches come from.
pub trait Data {
    /// Training batch number `step`, counted from 0: a function of the data and the step alone.
    fn train_batch(&self, step: u64) -> Batch;

    /// About `batches` batches to estimate the loss of a split with, of equal size and the same ones every time.
    fn evaluation(&self, split: Split, batches: usize) -> Box<dyn Iterator<Item = Batch> + '_>;
}

/// What is trained.
pub trait Model {
    /// The mean loss of a batch over its targets, as a scalar.
    fn loss<'t>(&self, tape: &'t Tape, batch: &Batch) -> Var<'t>;
}

/// A decoder, which learns to predict the next token at every position.
pub struct NextToken<'a> {
    /// The decoder.
    pub gpt: &'a Gpt,
    /// Which targets count.
    pub criterion: CrossEntropy,
}

impl Model for NextToken<'_> {
    fn loss<'t>(&self, tape: &'t Tape, batch: &Batch) -> Var<'t> {
        let shape = [batch.batch_size, batch.context];
        let tokens = tape.input(shape, &batch.inputs);
        let targets = tape.input(shape, &batch.targets);
        self.gpt.loss(tokens, targets, self.criterion)
    }
}

/// The course of a training run.
pub struct Options {
    /// The number of steps at the end of the run, those before a resumed checkpoint included.
    pub total: u64,
    /// The base learning rate.
    pub lr: f32,
    /// What becomes of it.
    pub schedule: Schedule,
    /// What dropout is drawn from, with the step.
    pub seed: u64,
    /// Steps between evaluations; 0 for none but the last.
    pub eval_interval: u64,
    /// Batches in an evaluation.
    pub eval_iters: usize,
    /// Batches in the last evaluation.
    pub final_eval_iters: usize,
    /// Steps between checkpoints; 0 for none but the last.
    pub checkpoint_interval: u64,
    /// Steps between two lines of progress.
    pub log_interval: u64,
    /// Steps between two samples; 0 for none.
    pub sample_interval: u64,
    /// Whether evaluations are shown with their perplexity.
    pub perplexity: bool,
    /// Whether some steps are watched.
    pub profile: bool,
}

impl Options {
    /// A course that is watched by its progress alone, and evaluated once at its end on one batch per split.
    pub fn plain(training: &TrainingArgs) -> Options {
        Options {
            total: training.steps,
            lr: training.lr,
            schedule: training.schedule(),
            seed: training.seed,
            eval_interval: 0,
            eval_iters: 1,
            final_eval_iters: 1,
            checkpoint_interval: 0,
            log_interval: training.steps.div_ceil(20),
            sample_interval: 0,
            perplexity: false,
            profile: false,
        }
    }

    /// The course that the flags ask for, without samples and perplexity.
    pub fn new(
        training: &TrainingArgs,
        evaluation: &EvaluationArgs,
        files: &FileArgs,
        program: &ProgramArgs,
    ) -> Options {
        let plain = Options::plain(training);
        Options {
            eval_interval: evaluation.eval_interval,
            eval_iters: evaluation.eval_iters,
            final_eval_iters: evaluation.final_eval_iters,
            checkpoint_interval: files.checkpoint_interval,
            log_interval: program.log_interval.unwrap_or(plain.log_interval),
            profile: files.profile.is_some(),
            ..plain
        }
    }
}

/// What became of a run.
pub struct Summary {
    /// Whether Ctrl-C ended it.
    pub interrupted: bool,
    /// Steps at its end.
    pub steps: u64,
    /// Losses at its end, unless it was interrupted.
    pub losses: Option<Evaluation>,
    /// Mean time of a step but the first, which compiles the kernels; 0 if there was no other.
    pub step_ms: f64,
    /// Tokens per second at that pace.
    pub tokens_per_second: f64,
    /// When the results of the first step had arrived.
    pub first_step: Option<Instant>,
    /// What was seen of the steps that were watched.
    pub profile: Option<Profile>,
}

/// All that a run needs.
pub struct Training<'a> {
    /// Where it runs.
    pub device: &'a Device,
    /// What is trained.
    pub model: &'a dyn Model,
    /// What trains it; at the step where the run starts.
    pub optimizer: &'a mut AdamW,
    /// What it is trained on.
    pub data: &'a dyn Data,
    /// How.
    pub options: Options,
    /// Where the records go.
    pub metrics: &'a mut Metrics,
    /// Writes a checkpoint.
    pub save: &'a mut dyn FnMut(&AdamW) -> Result<()>,
    /// Gives something to read of what the model can do by now.
    pub sample: &'a mut dyn FnMut() -> Result<String>,
}

/// A step that the device is working on.
struct Launched {
    report: Report,
    lr: f32,
    tokens: usize,
}

/// What the loop keeps from step to step.
struct State {
    launched: VecDeque<Launched>,
    /// The newest record whose loss has arrived. It is held back because an evaluation may be added to it.
    newest: Option<Record>,
    progress: Progress,
    watch: Stopwatch,
    /// Time, tokens and number of the steps but the first.
    timed: (f64, usize, u64),
    first: u64,
    first_landed: Option<Instant>,
    profiling: Profiling,
}

impl Training<'_> {
    /// Trains to the end or until Ctrl-C.
    ///
    /// # Errors
    ///
    /// Those of the device and of the files; [`shadegrad::Error::NonFinite`] if the training diverges. The metrics up
    /// to then are in their file; checkpoints only ever hold finite numbers.
    pub fn run(mut self) -> Result<Summary> {
        let start = self.optimizer.steps();
        let mut state = State {
            launched: VecDeque::new(),
            newest: None,
            progress: Progress::new(start, self.options.total, self.options.log_interval),
            watch: Stopwatch::start(),
            timed: (0.0, 0, 0),
            first: start + 1,
            first_landed: None,
            profiling: Profiling::new(self.options.profile, start, self.options.total),
        };
        let outcome = self.steps(&mut state);
        let outcome = outcome.and_then(|interrupted| self.finish(&mut state, interrupted));
        // Also after an error, whose own message matters more than one about the metrics.
        let written = self.write_newest(&mut state);
        let written = written.and_then(|()| self.metrics.flush());
        outcome.and_then(|summary| written.map(|()| summary))
    }

    /// Trains; whether Ctrl-C was pressed.
    fn steps(&mut self, state: &mut State) -> Result<bool> {
        let Options {
            total,
            eval_interval,
            eval_iters,
            checkpoint_interval,
            sample_interval,
            ..
        } = self.options;
        let due = |done: u64, interval: u64| {
            interval > 0 && done.is_multiple_of(interval) && done < total
        };
        for step in self.optimizer.steps()..total {
            if interrupt::requested() {
                break;
            }
            state.profiling.before(self.device, step)?;
            let launched = self.launch(step)?;
            state.launched.push_back(launched);
            if state.launched.len() > OUTSTANDING {
                self.land(state)?;
            }
            let done = step + 1;
            let (evaluate, save) = (due(done, eval_interval), due(done, checkpoint_interval));
            let sample = due(done, sample_interval);
            if !evaluate && !save && !sample {
                continue;
            }
            self.land_all(state)?;
            if save {
                (self.save)(self.optimizer)?;
            }
            if evaluate && let Some(losses) = self.evaluate(eval_iters)? {
                report(state, losses, self.options.perplexity);
                self.write_newest(state)?;
                self.metrics.flush()?;
            }
            if sample {
                state.progress.line(&(self.sample)()?);
            }
            state.watch.lap_ms();
        }
        self.land_all(state)?;
        state.profiling.finish()?;
        Ok(interrupt::requested())
    }

    /// Writes the last checkpoint and evaluates.
    fn finish(&mut self, state: &mut State, interrupted: bool) -> Result<Summary> {
        state.progress.note("evaluating …");
        (self.save)(self.optimizer)?;
        let losses = match interrupted {
            true => None,
            false => self.evaluate(self.options.final_eval_iters)?,
        };
        if let (Some(losses), Some(newest)) = (losses, &mut state.newest) {
            newest.train_split_loss = Some(losses.train);
            newest.test_loss = Some(losses.test);
        }
        let (milliseconds, tokens, steps) = state.timed;
        Ok(Summary {
            interrupted: interrupt::requested(),
            steps: self.optimizer.steps(),
            losses,
            step_ms: milliseconds / steps.max(1) as f64,
            tokens_per_second: tokens as f64 / (milliseconds / 1e3).max(1e-9),
            first_step: state.first_landed,
            profile: state.profiling.take(),
        })
    }

    /// Records one step and submits it.
    fn launch(&mut self, step: u64) -> Result<Launched> {
        let batch = self.data.train_batch(step);
        let lr = self.options.schedule.lr(self.options.lr, step);
        let tape = Tape::training(self.device);
        tape.set_seed(self.options.seed, step);
        let loss = self.model.loss(&tape, &batch);
        let report = self.optimizer.step(&tape, loss, lr).fetch();
        tape.run()?;
        Ok(Launched {
            report,
            lr,
            tokens: batch.inputs.len(),
        })
    }

    /// Takes in the results of the oldest step that is under way.
    fn land(&mut self, state: &mut State) -> Result<()> {
        let Some(Launched { report, lr, tokens }) = state.launched.pop_front() else {
            return Ok(());
        };
        let metrics = report.get()?;
        let step_ms = state.watch.lap_ms();
        state.first_landed.get_or_insert_with(Instant::now);
        if metrics.step > state.first {
            state.timed.0 += step_ms;
            state.timed.1 += tokens;
            state.timed.2 += 1;
        }
        let record = Record {
            step: metrics.step,
            train_loss: metrics.loss,
            train_split_loss: None,
            test_loss: None,
            grad_norm: metrics.grad_norm,
            lr,
            step_ms: rounded(step_ms),
            tokens_per_second: rounded(tokens as f64 / (step_ms / 1e3).max(1e-9)),
        };
        state.progress.step(&record);
        self.write_newest(state)?;
        state.newest = Some(record);
        Ok(())
    }

    fn land_all(&mut self, state: &mut State) -> Result<()> {
        while !state.launched.is_empty() {
            self.land(state)?;
        }
        Ok(())
    }

    fn write_newest(&mut self, state: &mut State) -> Result<()> {
        match state.newest.take() {
            Some(record) => self.metrics.push(record),
            None => Ok(()),
        }
    }

    /// Estimates the losses over both splits; `None` if Ctrl-C came in between.
    fn evaluate(&self, batches: usize) -> Result<Option<Evaluation>> {
        let mean = |split| mean_loss(self.device, self.model, self.data, split, batches);
        let (Some(train), Some(test)) = (mean(Split::Train)?, mean(Split::Test)?) else {
            return Ok(None);
        };
        Ok(Some(Evaluation { train, test }))
    }
}

/// To three decimals: a clock is no more exact than that.
fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// Adds an evaluation to the newest record and shows it.
fn report(state: &mut State, losses: Evaluation, perplexity: bool) {
    let Some(newest) = &mut state.newest else {
        return;
    };
    newest.train_split_loss = Some(losses.train);
    newest.test_loss = Some(losses.test);
    let step = newest.step;
    let words = losses.words(perplexity);
    state.progress.line(&format!("step {step}: {words}"));
}

/// The mean loss over all targets of some batches; `None` if Ctrl-C comes in between.
fn mean_loss(
    device: &Device,
    model: &dyn Model,
    data: &dyn Data,
    split: Split,
    batches: usize,
) -> Result<Option<f64>> {
    let (mut sum, mut count) = (0.0, 0);
    let mut land = |(loss, targets): (Fetch<f32>, usize)| -> Result<()> {
        sum += f64::from(loss.item()?) * targets as f64;
        count += targets;
        Ok(())
    };
    let mut launched = VecDeque::new();
    for batch in data.evaluation(split, batches) {
        if interrupt::requested() {
            return Ok(None);
        }
        let tape = Tape::inference(device);
        let loss = tape.fetch(model.loss(&tape, &batch));
        tape.run()?;
        launched.push_back((loss, batch.target_count()));
        if launched.len() > OUTSTANDING
            && let Some(oldest) = launched.pop_front()
        {
            land(oldest)?;
        }
    }
    launched.into_iter().try_for_each(&mut land)?;
    Ok(Some(sum / f64::max(count as f64, 1.0)))
}
