//! The command line. All defaults stand here.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::parser::ValueSource;
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, ValueEnum};
use serde::{Deserialize, Serialize};
use shadegrad::nn::{FeedForwardKind, NormKind, PositionKind};

/// Trains a small GPT on names, on the GPU, and prints new ones.
///
/// Without arguments it trains on the names that come with the project. Flags may be written with `-` or `_`.
#[derive(Debug, Parser)]
#[command(name = "train_names", version, args_override_self = true)]
pub struct Cli {
    #[command(flatten)]
    pub settings: Settings,

    /// Turn weight tying off: the head gets weights of its own
    #[arg(long, conflicts_with = "tie", help_heading = "Model")]
    no_tie: bool,
    /// Turn biases off
    #[arg(long, conflicts_with = "bias", help_heading = "Model")]
    no_bias: bool,

    /// Steps between two evaluations; 0 evaluates at the end only
    #[arg(long, default_value_t = 500, help_heading = "Evaluation")]
    pub eval_interval: u64,
    /// Batches per split and evaluation (`names` always takes the whole test split)
    #[arg(long, default_value_t = 20, help_heading = "Evaluation")]
    pub eval_iters: usize,
    /// The same for the evaluation at the end
    #[arg(long, default_value_t = 200, help_heading = "Evaluation")]
    pub final_eval_iters: usize,
    /// Windows or names in a batch of an evaluation
    #[arg(long, default_value_t = 64, help_heading = "Evaluation")]
    pub eval_batch_size: usize,

    /// How many samples to print at the end
    #[arg(long, default_value_t = 20, help_heading = "Sampling")]
    pub samples: usize,
    /// Below 1 sharpens the distribution, above 1 flattens it, 0 takes the most likely token
    #[arg(short, long, default_value_t = 0.8, help_heading = "Sampling")]
    pub temperature: f32,
    /// Sample among this many of the most likely tokens
    #[arg(short = 'k', long, value_name = "K", help_heading = "Sampling")]
    pub top_k: Option<usize>,
    /// Sample among the most likely tokens that together have this probability
    #[arg(short = 'p', long, value_name = "P", help_heading = "Sampling")]
    pub top_p: Option<f32>,

    /// Write model, optimizer and settings here at intervals, at the end and on Ctrl-C
    #[arg(long, value_name = "PATH", help_heading = "Files")]
    pub checkpoint: Option<PathBuf>,
    /// Steps between two checkpoints; 0 writes at the end and on Ctrl-C only
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

    /// Steps between two lines of progress where there is no terminal to draw a bar on [default: a twentieth of all]
    #[arg(long, value_name = "STEPS", help_heading = "Program")]
    pub log_interval: Option<u64>,
    /// The adapter to run on: its number in --list-adapters, or a part of its name
    #[arg(long, value_name = "SELECTOR", help_heading = "Program")]
    pub adapter: Option<String>,
    /// List the adapters and exit
    #[arg(long, help_heading = "Program")]
    pub list_adapters: bool,

    /// The names of the settings that were given on the command line.
    #[arg(skip)]
    pub given: Vec<String>,
}

/// What decides the course of a training run, to the last bit; kept in checkpoints.
#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
pub struct Settings {
    /// Text to train on, one name a line [default: the project's data/names.txt]
    #[arg(short, long, value_name = "FILE", help_heading = "Data")]
    pub filename: Option<PathBuf>,
    /// How batches are cut from it
    #[arg(long, value_enum, default_value = "names", help_heading = "Data")]
    pub batching: Batching,
    /// Tokens the model looks at
    #[arg(long, default_value_t = 16, help_heading = "Data")]
    pub context: usize,
    /// Rows in a training batch
    #[arg(short, long, default_value_t = 32, help_heading = "Data")]
    pub batch_size: usize,

    /// Width of the model
    #[arg(short, long, default_value_t = 32, help_heading = "Model")]
    pub d_model: usize,
    /// Attention heads; they divide the width
    #[arg(short, long, default_value_t = 4, help_heading = "Model")]
    pub n_heads: usize,
    /// Blocks
    #[arg(short = 'l', long, default_value_t = 4, help_heading = "Model")]
    pub n_layers: usize,
    /// Width of the feed-forward layers [default: 4 × width; 8/3 × width for swiglu, rounded up to a multiple of 4]
    #[arg(long, help_heading = "Model")]
    pub d_ff: Option<usize>,
    /// Normalisation
    #[arg(long, value_parser = kinds(NormKind::ALL, NormKind::name), default_value_t = NormKind::RmsNorm, help_heading = "Model")]
    pub norm: NormKind,
    /// Feed-forward layer
    #[arg(long, value_parser = kinds(FeedForwardKind::ALL, FeedForwardKind::name), default_value_t = FeedForwardKind::Swiglu,
          help_heading = "Model")]
    pub ffn: FeedForwardKind,
    /// How positions are told apart
    #[arg(long, value_parser = kinds(PositionKind::ALL, PositionKind::name), default_value_t = PositionKind::Learned,
          help_heading = "Model")]
    pub positions: PositionKind,
    /// Biases on the projections and layer norms
    #[arg(long, default_value_t = false, action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_name = "BOOL", help_heading = "Model")]
    pub bias: bool,
    /// The head shares the weights of the token embedding
    #[arg(long, default_value_t = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_name = "BOOL", help_heading = "Model")]
    pub tie: bool,
    /// Probability of dropping an activation in training
    #[arg(long, default_value_t = 0.0, help_heading = "Model")]
    pub dropout: f32,
    /// Initial weights of residual projections are smaller by √(2 · layers)
    #[arg(long, default_value_t = false, action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_name = "BOOL", help_heading = "Model")]
    pub scale_residual: bool,

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
    #[arg(long, default_value_t = 4e-3, help_heading = "Training")]
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
    /// Decides initial weights, batches, dropout and samples
    #[arg(long, default_value_t = 42, help_heading = "Training")]
    pub seed: u64,
}

/// How batches are cut from the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[value(rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum Batching {
    /// Random windows of one long text, the last 10 % of it for the test
    Stream,
    /// One name a row, terminated and padded; 1,000 names (at most 10 %) for the test
    Names,
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

impl Cli {
    /// Reads the command line; prints help or a usage error and exits where that is all there is to do.
    pub fn read() -> Cli {
        Cli::from_words(std::env::args_os()).unwrap_or_else(|error| error.exit())
    }

    fn from_words(words: impl Iterator<Item = OsString>) -> std::result::Result<Cli, clap::Error> {
        let matches = Cli::command().try_get_matches_from(words.map(dashed))?;
        let mut cli = Cli::from_arg_matches(&matches)?;
        let explicit =
            |id: &clap::Id| matches.value_source(id.as_str()) == Some(ValueSource::CommandLine);
        cli.given = matches
            .ids()
            .filter(|id| explicit(id))
            .map(|id| id.to_string())
            .collect();
        for (off, setting, name) in [
            (cli.no_tie, &mut cli.settings.tie, "tie"),
            (cli.no_bias, &mut cli.settings.bias, "bias"),
        ] {
            if off {
                *setting = false;
                cli.given.push(name.to_owned());
            }
        }
        Ok(cli)
    }
}

/// A parser for the kinds that the library has, which lists them in the help.
fn kinds<T>(all: &'static [T], name: fn(T) -> &'static str) -> impl TypedValueParser<Value = T>
where
    T: Copy + FromStr + Send + Sync,
    T::Err: std::error::Error + Send + Sync,
{
    let names: Vec<&'static str> = all.iter().map(|&kind| name(kind)).collect();
    PossibleValuesParser::new(names).try_map(|name| name.parse::<T>())
}

/// `--d_model` means `--d-model`; what stands behind a `=` stays as it is.
fn dashed(word: OsString) -> OsString {
    match word.to_str() {
        Some(text) if text.starts_with("--") => {
            let (flag, value) = text.split_at(text.find('=').unwrap_or(text.len()));
            format!("{}{value}", flag.replace('_', "-")).into()
        }
        _ => word,
    }
}
