//! What training loops are made of: steps that are recorded and submitted, results that are taken as they come, and
//! evaluations. Nothing is shown here, and what waits is `async`: so a page in a browser makes the same steps as a program
//! on a desktop.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;

use shadegrad::data::{Batch, Split};
use shadegrad::gpu::Fetch;
use shadegrad::nn::FlatTensors;
use shadegrad::optim::{Metrics, Optimizer, Report};
use shadegrad::{Device, Tape};

use super::Result;
use super::course::{Data, Evaluation, Model, Options, Ranks};
use super::settings::lower;

/// How many results may be outstanding before the host waits for the oldest.
pub const OUTSTANDING: usize = 4;

/// What is trained, where, on what and how.
pub struct Recorder<'a> {
    /// Where it runs.
    pub device: &'a Device,
    /// What is trained.
    pub model: &'a dyn Model,
    /// What it is trained on.
    pub data: &'a dyn Data,
    /// How.
    pub options: Options,
}

/// Steps that the device is working on, the oldest first.
#[derive(Default)]
pub struct UnderWay {
    steps: VecDeque<Submitted>,
    /// Whether results are taken when they are due, and not before: so that all ranks take them at the same step.
    is_punctual: bool,
}

struct Submitted {
    report: Report,
    /// The losses of the batches before the last.
    earlier: Vec<Fetch<f32>>,
    /// What these losses are multiplied by.
    share: f32,
}

impl UnderWay {
    /// The results of the oldest step if they have arrived, or if more than `most` steps are under way: then this waits.
    ///
    /// # Errors
    ///
    /// Those of [`Report::ready`].
    pub async fn take(&mut self, most: usize) -> Result<Option<Metrics>> {
        let Some(oldest) = self.steps.front() else {
            return Ok(None);
        };
        let may_wait = self.steps.len() <= most;
        if may_wait && (self.is_punctual || matches!(oldest.report.is_ready(), Ok(false))) {
            return Ok(None);
        }
        let Some(submitted) = self.steps.pop_front() else {
            return Ok(None);
        };
        let mut results = submitted.report.ready().await?;
        for loss in submitted.earlier {
            results.loss += loss.ready().await?[0];
        }
        results.loss *= submitted.share;
        Ok(Some(results))
    }
}

impl Recorder<'_> {
    /// Records one step, counted from 0, and submits it. Gives the number of its tokens, on all ranks.
    ///
    /// Where ranks make steps apart from one another, this one makes its own from the mean loss of its rows. What is told of
    /// it is their share of the mean over all targets: all ranks' add up to that.
    ///
    /// # Errors
    ///
    /// What the device reports; then the optimizer has not made this step.
    pub fn launch(
        &self,
        optimizer: &mut dyn Optimizer,
        under_way: &mut UnderWay,
        step: u64,
    ) -> Result<usize> {
        let ranks = self.options.ranks.as_deref();
        if let Some(ranks) = ranks.filter(|_| self.options.sync_every == 0) {
            return self.launch_shared(ranks, optimizer, under_way, step);
        }
        let mut batches = self.batches(step);
        let count =
            |batches: &[(u64, Batch)]| batches.iter().map(|(_, batch)| targets(batch)).sum();
        let of_all_ranks: f32 = count(&batches);
        let tokens = batches.iter().map(|(_, batch)| batch.inputs.len()).sum();
        let mut rows = Vec::new();
        if let Some(ranks) = ranks {
            for (_, batch) in &mut batches {
                let own = ranks.share(batch.batch_size);
                *batch = rows_of(batch, own.clone());
                rows.push(own);
            }
        }
        let all = count(&batches);
        let (mut earlier, mut report) = (Vec::new(), None);
        for (index, (number, batch)) in batches.iter().enumerate() {
            let left = batches.len() - 1 - index;
            let tape = Tape::training(self.device);
            tape.set_precision(self.options.precision);
            if let Some(rows) = rows.get(index) {
                tape.set_rows(rows.start, rows.len());
            }
            tape.set_seed(self.options.seed, *number);
            let mut loss = self.model.loss(&tape, batch);
            if batches.len() > 1 {
                // Its share of the mean over all targets.
                loss = loss * tape.scalar(targets(batch) / all);
            }
            if left > 0 {
                earlier.push(tape.fetch(loss));
                optimizer.accumulate(&tape, loss)?;
            } else {
                let update = optimizer.step(&tape, loss, self.options.lr(step));
                report = Some(update.fetch());
            }
            if let Err(error) = tape.run() {
                // The step has been recorded, but is none to go on from.
                optimizer.resume(step);
                let [flags, _] = self.options.size_flags;
                return Err(lower(error, "a training step", flags));
            }
        }
        under_way.steps.push_back(Submitted {
            report: report.expect("a step has a batch at least"),
            earlier,
            share: all / of_all_ranks,
        });
        Ok(tokens)
    }

    /// The numbered batches of a step.
    fn batches(&self, step: u64) -> Vec<(u64, Batch)> {
        let first = step * self.options.accumulate;
        let numbers = first..first + self.options.accumulate;
        let batches = numbers.map(|number| (number, self.data.train_batch(number)));
        batches.collect()
    }

    /// [`Recorder::launch`] where several ranks make a step: of each batch this one records its rows, whose gradients and
    /// losses are shares of those of all targets, and all ranks' add up.
    fn launch_shared(
        &self,
        ranks: &dyn Ranks,
        optimizer: &mut dyn Optimizer,
        under_way: &mut UnderWay,
        step: u64,
    ) -> Result<usize> {
        under_way.is_punctual = true;
        if step > 0 && step.is_multiple_of(CHECK_INTERVAL) {
            ranks.check(optimizer.parameters(), step)?;
        }
        let batches = self.batches(step);
        let all: f32 = batches.iter().map(|(_, batch)| targets(batch)).sum();
        let total = ranks.loss(self.device)?;
        let [flags, _] = self.options.size_flags;
        let explained = |ran: shadegrad::Result<()>| {
            ran.map_err(|error| lower(error, "a training step", flags))
        };
        let tape_of = || {
            let tape = Tape::training(self.device);
            tape.set_precision(self.options.precision);
            tape
        };
        let (mut tokens, mut last) = (0, None);
        for (index, (number, batch)) in batches.iter().enumerate() {
            let rows = ranks.share(batch.batch_size);
            let own = rows_of(batch, rows.clone());
            let tape = tape_of();
            tape.set_rows(rows.start, rows.len());
            tape.set_seed(self.options.seed, *number);
            let share = own.target_count() as f32 / all;
            let loss = self.model.loss(&tape, &own) * tape.scalar(share);
            let sum = match index {
                0 => loss.reshape([1]),
                _ => tape.tensor(&total) + loss.reshape([1]),
            };
            tape.assign(&total, sum);
            optimizer.accumulate(&tape, loss)?;
            tokens += batch.inputs.len();
            match index + 1 < batches.len() {
                true => explained(tape.run())?,
                false => last = Some(tape),
            }
        }
        let last = last.expect("a step has a batch at least");
        let gradient = optimizer.accumulated().map(FlatTensors::segments);
        let gradient = gradient.unwrap_or_default();
        explained(ranks.run_and_sum(last, gradient, &total, self.options.reduce_dtype))?;
        let tape = tape_of();
        let loss = tape.tensor(&total).sum_all();
        let update = optimizer.step_accumulated(&tape, loss, self.options.lr(step));
        let report = update.fetch();
        explained(tape.run())?;
        under_way.steps.push_back(Submitted {
            report,
            earlier: Vec::new(),
            share: 1.0,
        });
        Ok(tokens)
    }

    /// Estimates the losses over both splits after `step` steps, each from about so many batches. Before each batch,
    /// `goes_on` is told the split, the batch's number from 1, and how many there are; `None` if it said no.
    ///
    /// # Errors
    ///
    /// What the device reports; [`Diverged`].
    pub async fn evaluate(
        &self,
        step: u64,
        batches: usize,
        mut goes_on: impl AsyncFnMut(Split, usize, usize) -> bool,
    ) -> Result<Option<Evaluation>> {
        let mut losses = [0.0; 2];
        for (loss, split) in losses.iter_mut().zip([Split::Train, Split::Test]) {
            let batches = self.data.evaluation(split, batches);
            let all = batches.size_hint().0;
            let goes_on = async |number| goes_on(split, number, all).await;
            let ranks = self.options.ranks.as_deref();
            let Some(mean) = self.mean(batches, ranks, goes_on).await? else {
                return Ok(None);
            };
            *loss = mean;
        }
        let [train, test] = losses;
        finite("the train loss", train, step)?;
        finite("the test loss", test, step)?;
        Ok(Some(Evaluation { train, test }))
    }

    /// Checks that evaluations are possible, and the loss of a batch finite after `step` steps.
    ///
    /// # Errors
    ///
    /// What the device reports; [`Diverged`].
    pub async fn sound_loss(&self, step: u64) -> Result<()> {
        let batch = self.data.evaluation(Split::Train, 1).take(1);
        let loss = self.mean(batch, None, async |_| true).await?;
        finite("the loss", loss.unwrap_or(f64::NAN), step)
    }

    /// The mean loss over all targets of some batches, which the ranks share if there are some.
    async fn mean(
        &self,
        batches: impl Iterator<Item = Batch>,
        ranks: Option<&dyn Ranks>,
        mut goes_on: impl AsyncFnMut(usize) -> bool,
    ) -> Result<Option<f64>> {
        let mut outstanding: VecDeque<(Fetch<f32>, usize)> = VecDeque::new();
        let (mut sum, mut total) = (0.0, 0);
        let is_own =
            |number: usize| ranks.is_none_or(|ranks| (number - 1) % ranks.size() == ranks.rank());
        let mut numbered = (1..).zip(batches).filter(|(number, _)| is_own(*number));
        loop {
            let next = numbered.next();
            let most = if next.is_some() { OUTSTANDING } else { 0 };
            while outstanding.len() > most
                && let Some((loss, count)) = outstanding.pop_front()
            {
                sum += f64::from(loss.ready().await?[0]) * count as f64;
                total += count;
            }
            let Some((number, batch)) = next else {
                let mut sums = [sum, total as f64];
                if let Some(ranks) = ranks {
                    ranks.sum_numbers(&mut sums);
                }
                return Ok(Some(sums[0] / sums[1]));
            };
            if !goes_on(number).await {
                return Ok(None);
            }
            let count = batch.target_count();
            if count == 0 {
                continue;
            }
            let tape = Tape::inference(self.device);
            tape.set_precision(self.options.precision);
            let loss = tape.fetch(self.model.loss(&tape, &batch));
            let [_, flags] = self.options.size_flags;
            tape.run()
                .map_err(|error| lower(error, "an evaluation", flags))?;
            outstanding.push_back((loss, count));
        }
    }
}

/// Steps between two checks that all ranks have the same parameters.
pub const CHECK_INTERVAL: u64 = 100;

/// The targets of a batch, at least one.
fn targets(batch: &Batch) -> f32 {
    batch.target_count().max(1) as f32
}

/// Some rows of a batch.
fn rows_of(batch: &Batch, rows: Range<usize>) -> Batch {
    let tokens = rows.start * batch.context..rows.end * batch.context;
    Batch {
        inputs: batch.inputs[tokens.clone()].to_vec(),
        targets: batch.targets[tokens].to_vec(),
        batch_size: rows.len(),
        context: batch.context,
    }
}

/// To three decimals: a clock is no more exact than that.
pub fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// A number that no training comes back from.
#[derive(Debug)]
pub struct Diverged {
    what: String,
    value: f64,
    step: u64,
}

impl fmt::Display for Diverged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Diverged { what, value, step } = self;
        write!(
            f,
            "{what} is {value} after step {step}: lower --lr or --grad-clip, or go on from an older checkpoint"
        )
    }
}

impl std::error::Error for Diverged {}

fn finite(what: &str, value: f64, step: u64) -> Result<()> {
    match value.is_finite() {
        true => Ok(()),
        false => Err(Box::new(Diverged {
            what: what.to_owned(),
            value,
            step,
        })),
    }
}
