//! The flags that training programs share, and how a command line is read.
//!
//! A program flattens the groups that it needs into its own command line, and gives other defaults where it wants some:
//! see [`parse`].

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::RwLock;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Args, CommandFactory, FromArgMatches, ValueEnum};
use serde::{Deserialize, Serialize};
use shadegrad::DType;
use shadegrad::nn::{FeedForwardKind, InitKind, NormKind, PositionKind};
use shadegrad::tape::Precision;

/// How large batches are.
#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
pub struct BatchArgs {
    /// Tokens the model looks at
    #[arg(long, default_value_t = 16, help_heading = "Data")]
    pub context: usize,
    /// Rows in a training batch
    #[arg(short, long, default_value_t = 32, help_heading = "Data")]
    pub batch_size: usize,
}

/// What the model is made of.
#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
pub struct ModelArgs {
    /// Width of the model
    #[arg(short, long, default_value_t = 32, help_heading = "Model")]
    pub d_model: usize,
    /// Attention heads; they divide the width
    #[arg(short, long, default_value_t = 4, help_heading = "Model")]
    pub n_heads: usize,
    /// Heads of keys and values that these share [default: as many]
    #[arg(long, value_name = "HEADS", help_heading = "Model")]
    #[serde(default)]
    pub n_kv_heads: Option<usize>,
    /// Blocks
    #[arg(short = 'l', long, default_value_t = 4, help_heading = "Model")]
    pub n_layers: usize,
    /// Width of the feed-forward layers [default: 4 × width; 8/3 × width for gated ones, rounded up to a multiple of 4]
    #[arg(long, help_heading = "Model")]
    pub d_ff: Option<usize>,
    /// Normalisation
    #[arg(long, value_parser = kinds(NormKind::ALL, NormKind::name), default_value_t = NormKind::RmsNorm, help_heading = "Model")]
    pub norm: NormKind,
    /// What it adds to variance or mean square [default: 1e-6]
    #[arg(long, value_name = "EPS", help_heading = "Model")]
    #[serde(default)]
    pub norm_eps: Option<f32>,
    /// One more normalisation before the head
    #[arg(long, default_value_t = true, action = ArgAction::Set, num_args = 0..=1,
          default_missing_value = "true", value_name = "BOOL", help_heading = "Model")]
    #[serde(default = "yes")]
    pub final_norm: bool,
    /// Feed-forward layer
    #[arg(long, value_parser = kinds(FeedForwardKind::ALL, FeedForwardKind::name), default_value_t = FeedForwardKind::Swiglu,
          help_heading = "Model")]
    pub ffn: FeedForwardKind,
    /// How positions are told apart
    #[arg(long, value_parser = kinds(PositionKind::ALL, PositionKind::name), default_value_t = PositionKind::Learned,
          help_heading = "Model")]
    pub positions: PositionKind,
    /// Biases on the blocks' projections and the layer norms
    #[arg(long, default_value_t = false, action = ArgAction::Set, num_args = 0..=1,
          default_missing_value = "true", value_name = "BOOL", help_heading = "Model")]
    pub bias: bool,
    /// Biases on the projections of attention [default: as --bias]
    #[arg(long, action = ArgAction::Set, num_args = 0..=1,
          default_missing_value = "true", value_name = "BOOL", help_heading = "Model")]
    #[serde(default)]
    pub attention_bias: Option<bool>,
    /// A bias on the head
    #[arg(long, default_value_t = false, action = ArgAction::Set, num_args = 0..=1,
          default_missing_value = "true", value_name = "BOOL", help_heading = "Model")]
    #[serde(default)]
    pub head_bias: bool,
    /// The head shares the weights of the token embedding
    #[arg(long, default_value_t = false, action = ArgAction::Set, num_args = 0..=1,
          default_missing_value = "true", value_name = "BOOL", help_heading = "Model")]
    pub tie: bool,
    /// Probability of dropping an activation in training
    #[arg(long, default_value_t = 0.0, help_heading = "Model")]
    pub dropout: f32,
    /// What the weights start with
    #[arg(long, value_parser = kinds(InitKind::ALL, InitKind::name), default_value_t = InitKind::Pytorch, help_heading = "Model")]
    #[serde(default)]
    pub init: InitKind,
    /// Initial weights of residual projections are smaller by √(2 · layers)
    #[arg(long, default_value_t = false, action = ArgAction::Set, num_args = 0..=1,
          default_missing_value = "true", value_name = "BOOL", help_heading = "Model")]
    pub scale_residual: bool,
}

/// What settings mean by not mentioning [`ModelArgs::final_norm`].
fn yes() -> bool {
    true
}

/// How it is trained.
#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
pub struct TrainingArgs {
    /// Training steps
    #[arg(
        short = 'e',
        long,
        visible_alias = "epochs",
        default_value_t = 1500,
        help_heading = "Training"
    )]
    pub steps: u64,
    /// Learning rate at its highest
    #[arg(long, default_value_t = 6e-3, help_heading = "Training")]
    pub lr: f32,
    /// How the learning rate goes on after the warm-up
    #[arg(long, value_enum, default_value = "cosine", help_heading = "Training")]
    pub schedule: ScheduleKind,
    /// Steps over which the learning rate rises [default: 100, at most a tenth of all]
    #[arg(long, value_name = "STEPS", help_heading = "Training")]
    pub warmup: Option<u64>,
    /// The last learning rate as a fraction of the highest
    #[arg(long, default_value_t = 0.1, help_heading = "Training")]
    pub min_lr_ratio: f32,
    /// AdamW's decay of the first moment
    #[arg(long, default_value_t = 0.9, help_heading = "Training")]
    pub beta1: f64,
    /// AdamW's decay of the second moment
    #[arg(long, default_value_t = 0.95, help_heading = "Training")]
    pub beta2: f64,
    /// Weight decay of matrices
    #[arg(long, default_value_t = 0.1, help_heading = "Training")]
    pub weight_decay: f32,
    /// The largest norm of the gradient, longer ones are scaled down; 0 for no limit
    #[arg(long, default_value_t = 1.0, help_heading = "Training")]
    pub grad_clip: f32,
    /// What products and attention compute with: f32, or mixed (f16, sums and weights in f32)
    #[arg(long, default_value_t = Precision::F32, help_heading = "Training")]
    #[serde(default)]
    pub precision: Precision,
    /// Decides initial weights, batches, dropout and samples
    #[arg(long, default_value_t = 42, help_heading = "Training")]
    pub seed: u64,
}

/// Where help has the flags of several ranks.
pub const RANKS: &str = "Several ranks";

/// How several ranks train together.
#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
pub struct SyncArgs {
    /// Steps that each of several ranks makes alone before their models are averaged, for slow networks (DiLoCo); 0: they
    /// make each step together
    #[arg(
        long,
        default_value_t = 0,
        value_name = "STEPS",
        help_heading = RANKS
    )]
    #[serde(default)]
    pub sync_every: u64,
    /// Learning rate of the outer step, which averages them
    #[arg(long, value_name = "LR", default_value_t = outer_lr(), help_heading = RANKS)]
    #[serde(default = "outer_lr")]
    pub outer_lr: f32,
    /// Its momentum
    #[arg(long, value_name = "MOMENTUM", default_value_t = outer_momentum(), help_heading = RANKS)]
    #[serde(default = "outer_momentum")]
    pub outer_momentum: f32,
    /// What gradients travel between ranks as: f32, or f16, half the bytes, which needs --precision mixed
    #[arg(
        long,
        value_enum,
        default_value = "f32",
        value_name = "DTYPE",
        help_heading = RANKS
    )]
    #[serde(default)]
    pub reduce_dtype: ReduceDtype,
}

/// What gradients travel as; they are added up in `f32`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReduceDtype {
    /// As they are
    #[default]
    F32,
    /// Rounded to halves
    F16,
}

impl ReduceDtype {
    /// The library's word for it.
    pub fn dtype(self) -> DType {
        match self {
            ReduceDtype::F32 => DType::F32,
            ReduceDtype::F16 => DType::F16,
        }
    }
}

/// That of Douillard et al. 2023, as the next.
fn outer_lr() -> f32 {
    0.7
}

fn outer_momentum() -> f32 {
    0.9
}

/// The course of the learning rate after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[value(rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// It stays
    Constant,
    /// It falls along half a cosine
    Cosine,
    /// It falls along a line
    Linear,
}

/// The flags that turn off what another flag turns on.
#[derive(Clone, Copy, Debug, Args)]
pub struct OffArgs {
    /// Turn weight tying off: the head gets weights of its own
    #[arg(long, conflicts_with = "tie", help_heading = "Model")]
    no_tie: bool,
    /// Turn biases off
    #[arg(long, conflicts_with = "bias", help_heading = "Model")]
    no_bias: bool,
}

impl OffArgs {
    /// Turns off what is to be off, and adds its name to the settings that were `given`.
    pub fn apply(self, model: &mut ModelArgs, given: &mut Vec<String>) {
        for (off, setting, name) in [
            (self.no_tie, &mut model.tie, "tie"),
            (self.no_bias, &mut model.bias, "bias"),
        ] {
            if off {
                *setting = false;
                given.push(name.to_owned());
            }
        }
    }
}

/// When the losses over the splits are estimated, and from how much.
#[derive(Clone, Debug, Args)]
pub struct EvaluationArgs {
    /// Steps between two evaluations; 0 evaluates at the end only
    #[arg(long, default_value_t = 500, help_heading = "Evaluation")]
    pub eval_interval: u64,
    /// Batches per split and evaluation
    #[arg(long, default_value_t = 20, help_heading = "Evaluation")]
    pub eval_iters: usize,
    /// The same for the evaluation at the end
    #[arg(long, default_value_t = 200, help_heading = "Evaluation")]
    pub final_eval_iters: usize,
    /// Rows in a batch of an evaluation
    #[arg(long, default_value_t = 64, help_heading = "Evaluation")]
    pub eval_batch_size: usize,
}

/// How tokens are drawn.
#[derive(Clone, Debug, Args)]
pub struct SamplingArgs {
    /// Below 1 sharpens the distribution, above 1 flattens it, 0 takes the most likely token
    #[arg(short, long, default_value_t = 0.8, help_heading = "Sampling")]
    pub temperature: f32,
    /// Sample among this many of the most likely tokens
    #[arg(short = 'k', long, value_name = "K", help_heading = "Sampling")]
    pub top_k: Option<usize>,
    /// Sample among the most likely tokens that together have this probability
    #[arg(short = 'p', long, value_name = "P", help_heading = "Sampling")]
    pub top_p: Option<f32>,
}

impl FileArgs {
    /// Writes nothing: another process does.
    pub fn write_nothing(&mut self) {
        (self.checkpoint, self.metrics, self.plot, self.profile) = (None, None, None, None);
    }
}

/// The files of a run.
#[derive(Clone, Debug, Args)]
pub struct FileArgs {
    /// Write model, optimizer and settings here at intervals, at the end, on Ctrl-C and when told to end
    #[arg(long, value_name = "PATH", help_heading = "Files")]
    pub checkpoint: Option<PathBuf>,
    /// Steps between two checkpoints; 0 writes none but the last
    #[arg(long, default_value_t = 1000, help_heading = "Files")]
    pub checkpoint_interval: u64,
    /// Continue from a checkpoint, with its settings where no flag says otherwise
    #[arg(long, value_name = "PATH", help_heading = "Files")]
    pub resume: Option<PathBuf>,
    /// Write one JSON object per step to this file
    #[arg(long, value_name = "FILE", help_heading = "Files")]
    pub metrics: Option<PathBuf>,
    /// Draw the loss curves into this file, .svg or .png
    #[arg(long, value_name = "FILE", help_heading = "Files")]
    pub plot: Option<PathBuf>,
    /// Time some steps kernel by kernel, print a table, and write a trace that ui.perfetto.dev opens [default file:
    /// trace.json]
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "trace.json",
          help_heading = "Files")]
    pub profile: Option<PathBuf>,
}

/// Where and how the program itself runs.
#[derive(Clone, Debug, Args)]
pub struct ProgramArgs {
    /// Steps between two lines of progress where there is no terminal to draw a bar on [default: a twentieth of all]
    #[arg(long, value_name = "STEPS", value_parser = clap::value_parser!(u64).range(1..), help_heading = "Program")]
    pub log_interval: Option<u64>,
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// Where a program runs.
#[derive(Clone, Debug, Args)]
pub struct DeviceArgs {
    /// The adapter to run on: its number in --list-adapters, or a part of its name
    #[arg(long, value_name = "SELECTOR", help_heading = "Program")]
    pub adapter: Option<String>,
    /// List the adapters and exit
    #[arg(long, help_heading = "Program")]
    pub list_adapters: bool,
}

/// The program's flags, with `_` for `-`, once its command line has been read.
static FLAGS: RwLock<BTreeSet<String>> = RwLock::new(BTreeSet::new());

/// Whether the program has a flag of this name, written with `_` for `-`.
pub fn is_flag(name: &str) -> bool {
    FLAGS.read().is_ok_and(|flags| flags.contains(name))
}

/// Reads words, of which the first is the program's name. Flags may be written with `-` or `_`; `defaults` replace those of
/// single flags.
///
/// The second part of the answer is the names of the settings that were given, for [`Settings::adopt`].
///
/// [`Settings::adopt`]: super::settings::Settings::adopt
///
/// # Errors
///
/// What clap has to say about them.
pub fn parse<C>(
    words: impl Iterator<Item = OsString>,
    defaults: &[(&'static str, &'static str)],
) -> std::result::Result<(C, Vec<String>), clap::Error>
where
    C: CommandFactory + FromArgMatches,
{
    let command = command::<C>(defaults);
    if let Ok(mut flags) = FLAGS.write() {
        let names = command.get_arguments().map(|arg| arg.get_id().to_string());
        *flags = names.collect();
    }
    let matches = command.try_get_matches_from(words.map(dashed))?;
    let given = given(&matches);
    Ok((C::from_arg_matches(&matches)?, given))
}

/// The command line of a program that has other `defaults` for single flags.
pub fn command<C: CommandFactory>(defaults: &[(&'static str, &'static str)]) -> clap::Command {
    // `--lr -1` is a number that is refused with its flag, not an unknown flag.
    let command = C::command().allow_negative_numbers(true);
    defaults.iter().fold(command, |command, &(id, value)| {
        command.mut_arg(id, |arg| arg.default_value(value))
    })
}

/// The names of the settings that were given on a command line.
pub fn given(matches: &ArgMatches) -> Vec<String> {
    let explicit =
        |id: &clap::Id| matches.value_source(id.as_str()) == Some(ValueSource::CommandLine);
    let given = matches.ids().filter(|id| explicit(id));
    given.map(|id| id.to_string()).collect()
}

/// A parser for the kinds that the library has, which lists them in the help.
pub fn kinds<T>(all: &'static [T], name: fn(T) -> &'static str) -> impl TypedValueParser<Value = T>
where
    T: Copy + FromStr + Send + Sync,
    T::Err: std::error::Error + Send + Sync,
{
    let names: Vec<&'static str> = all.iter().map(|&kind| name(kind)).collect();
    PossibleValuesParser::new(names).try_map(|name| name.parse::<T>())
}

/// `--d_model` means `--d-model`; what stands behind a `=` stays as it is.
pub fn dashed(word: OsString) -> OsString {
    match word.to_str() {
        Some(text) if text.starts_with("--") => {
            let (flag, value) = text.split_at(text.find('=').unwrap_or(text.len()));
            format!("{}{value}", flag.replace('_', "-")).into()
        }
        _ => word,
    }
}
