//! What a training run is given: data, model and course; and how its losses and its pace are told.

use std::any::Any;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use shadegrad::data::{Batch, Split};
use shadegrad::nn::{Gpt, Parameters};
use shadegrad::ops::CrossEntropy;
use shadegrad::optim::{AdamW, Optimizer, Schedule};
use shadegrad::tape::Precision;
use shadegrad::{DType, Device, Tape, Tensor, Var};

use super::Result;
use super::args::{EvaluationArgs, FileArgs, ProgramArgs, SyncArgs, TrainingArgs};

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
        let (tokens, targets) = batch.on(tape);
        self.gpt.loss(tokens, targets, self.criterion)
    }
}

/// What changes a model's parameters, of a kind that [`Ranks::synchronise`] may ask for.
pub trait Trainer: Optimizer + Any {}

impl<T: Optimizer + Any> Trainer for T {}

/// The processes of a run in several, as one of them sees them. All of them call the same methods in the same order.
pub trait Ranks {
    /// This process's number, from 0.
    fn rank(&self) -> usize;

    /// Its number among those of its machine, from 0.
    fn local_rank(&self) -> usize;

    /// How many there are.
    fn size(&self) -> usize;

    /// Which of so many rows are this one's.
    fn share(&self, rows: usize) -> Range<usize>;

    /// Hears whether any of them has an error.
    ///
    /// # Errors
    ///
    /// That, on all of them.
    fn settle(&self, error: Option<String>) -> Result<()>;

    /// Checks that all have the same value of something.
    ///
    /// # Errors
    ///
    /// Who has not.
    fn agree(&self, what: &str, value: &str) -> Result<()>;

    /// A tensor of one number, in which the loss of a step adds up.
    ///
    /// # Errors
    ///
    /// What the device reports.
    fn loss(&self, device: &Device) -> Result<Tensor>;

    /// Runs the tape that ends the computation of gradient and loss, and adds them up over all of them, in place. The
    /// gradient travels as `dtype`.
    ///
    /// # Errors
    ///
    /// What the device reports.
    fn run_and_sum(
        &self,
        tape: Tape,
        gradient: &[Tensor],
        loss: &Tensor,
        dtype: DType,
    ) -> shadegrad::Result<()>;

    /// Adds up numbers over all of them.
    fn sum_numbers(&self, values: &mut [f64]);

    /// An optimizer for steps that each of them makes alone: see [`Ranks::synchronise`].
    ///
    /// # Errors
    ///
    /// What the device reports.
    fn apart(&self, inner: AdamW, sync: &SyncArgs) -> Result<Box<dyn Trainer>>;

    /// Averages what all of them have learnt by such an optimizer, in steps that took so long here, and adds up their losses.
    ///
    /// # Errors
    ///
    /// What the device reports.
    fn synchronise(
        &self,
        optimizer: &mut (dyn Trainer + 'static),
        losses: &mut [f64],
        took: Duration,
    ) -> Result<()>;

    /// Checks that all have the same parameters after so many steps.
    ///
    /// # Errors
    ///
    /// Who has not; what the device reports.
    fn check(&self, parameters: &Parameters, step: u64) -> Result<()>;

    /// Interrupts all of them if one has been interrupted.
    fn share_interruption(&self);
}

/// The course of a training run.
pub struct Options {
    /// The number of steps at the end of the run, those before a resumed checkpoint included.
    pub total: u64,
    /// Batches whose gradients make a step.
    pub accumulate: u64,
    /// The base learning rate.
    pub lr: f32,
    /// What becomes of it.
    pub schedule: Schedule,
    /// What steps and evaluations are recorded in.
    pub precision: Precision,
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
    /// The flags that make training steps smaller, and evaluations.
    pub size_flags: [&'static str; 2],
    /// Steps that each rank makes alone before they are averaged; 0 where all ranks make each step together.
    pub sync_every: u64,
    /// Who trains along, if anybody does.
    pub ranks: Option<Rc<dyn Ranks>>,
    /// What gradients travel to them as.
    pub reduce_dtype: DType,
}

impl Options {
    /// The learning rate of a step, counted from 0.
    pub fn lr(&self, step: u64) -> f32 {
        self.schedule.lr(self.lr, step)
    }

    /// A course that is watched by its progress alone, and evaluated once at its end on one batch per split.
    pub fn plain(training: &TrainingArgs) -> Options {
        Options {
            total: training.steps,
            accumulate: 1,
            lr: training.lr,
            schedule: training.schedule(),
            precision: training.precision,
            seed: training.seed,
            eval_interval: 0,
            eval_iters: 1,
            final_eval_iters: 1,
            checkpoint_interval: 0,
            log_interval: training.steps.div_ceil(20),
            sample_interval: 0,
            perplexity: false,
            profile: false,
            size_flags: ["--batch-size"; 2],
            sync_every: 0,
            ranks: None,
            reduce_dtype: DType::F32,
        }
    }

    /// A course that is evaluated as the flags say.
    pub fn evaluated(training: &TrainingArgs, evaluation: &EvaluationArgs) -> Options {
        Options {
            eval_interval: evaluation.eval_interval,
            eval_iters: evaluation.eval_iters,
            final_eval_iters: evaluation.final_eval_iters,
            size_flags: ["--batch-size or --context", "--eval-batch-size"],
            ..Options::plain(training)
        }
    }

    /// The course that the flags ask for, without samples and perplexity.
    pub fn new(
        training: &TrainingArgs,
        evaluation: &EvaluationArgs,
        files: &FileArgs,
        program: &ProgramArgs,
    ) -> Options {
        let evaluated = Options::evaluated(training, evaluation);
        Options {
            checkpoint_interval: files.checkpoint_interval,
            log_interval: program.log_interval.unwrap_or(evaluated.log_interval),
            profile: files.profile.is_some(),
            ..evaluated
        }
    }
}

/// Loss estimates over the two splits at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// Mean loss over the training split or a sample of it.
    pub train: f64,
    /// Mean loss over the test split or a sample of it.
    pub test: f64,
}

impl Evaluation {
    /// The losses in words, with the perplexity of the test split if it is asked for.
    pub fn words(self, perplexity: bool) -> String {
        let Evaluation { train, test } = self;
        let losses = format!("train loss {train:.4} | test loss {test:.4}");
        match perplexity {
            true => format!("{losses} | test perplexity {:.2}", test.exp()),
            false => losses,
        }
    }
}

/// Time and tokens of some steps.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// How many.
    pub steps: usize,
    /// How long they took together.
    pub ms: f64,
    /// Tokens of their batches.
    pub tokens: usize,
}

impl Pace {
    /// The mean time of a step. Of none there is none.
    pub fn step_ms(self) -> f64 {
        self.ms / self.steps as f64
    }

    /// Tokens per second.
    pub fn tokens_per_second(self) -> f64 {
        self.tokens as f64 / (self.ms / 1e3)
    }
}
