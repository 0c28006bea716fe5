//! The command line. What it shares with other programs stands in `common::args`.

use std::path::PathBuf;

use clap::{Args, Parser, ValueEnum};
use serde::{Deserialize, Serialize};

use super::preset::Preset;
use crate::common::args::{
    self, BatchArgs, EvaluationArgs, FileArgs, ModelArgs, OffArgs, ProgramArgs, SamplingArgs,
    TrainingArgs,
};
use crate::common::saved;
use crate::common::settings::{self, require};
use crate::common::{Result, settings::Settings as _};

/// More samples than this are a slip of the keyboard.
const MOST_SAMPLES: usize = 1_000_000;

/// Trains a small GPT on names, on the GPU, and prints new ones.
///
/// Without arguments it trains on the names that come with the project. Flags may be written with `-` or `_`.
#[derive(Debug, Parser)]
#[command(
    name = "train_names",
    version,
    args_override_self = true,
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<saved::Command>,
    #[command(flatten)]
    pub settings: Settings,
    #[command(flatten)]
    off: OffArgs,
    /// Begin with the settings of a published model; other flags change single ones
    #[arg(long, value_enum, help_heading = "Model")]
    preset: Option<Preset>,

    #[command(flatten)]
    pub evaluation: EvaluationArgs,

    /// How many samples to print at the end
    #[arg(long, default_value_t = 20, help_heading = "Sampling")]
    pub samples: usize,
    #[command(flatten)]
    pub sampling: SamplingArgs,

    #[command(flatten)]
    pub files: FileArgs,
    #[command(flatten)]
    pub program: ProgramArgs,

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
    #[command(flatten)]
    #[serde(flatten)]
    pub batch: BatchArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub training: TrainingArgs,
}

/// How batches are cut from the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[value(rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum Batching {
    /// Random windows of one long text, the last 10 % of it for the test
    Stream,
    /// One name a row, terminated and padded; 1,000 names (at most 10 %) for the test, all of them in every evaluation
    Names,
}

impl settings::Settings for Settings {
    const FIXED: &'static [&'static str] = &["batching"];

    fn spelled_out(&self) -> Settings {
        Settings {
            model: self.model.clone().spelled_out(),
            ..self.clone()
        }
    }
}

impl Cli {
    /// Reads the command line; prints help or a usage error and exits where that is all there is to do.
    ///
    /// # Errors
    ///
    /// If a preset is not made of settings, which it is.
    pub fn read() -> Result<Cli> {
        let (mut cli, given) = args::read::<Cli>(&[]);
        cli.given = given;
        cli.off.apply(&mut cli.settings.model, &mut cli.given);
        if let Some(preset) = cli.preset {
            let values = preset.settings();
            let names = values.keys().filter(|name| !cli.given.contains(name));
            let names: Vec<String> = names.cloned().collect();
            cli.settings = cli.settings.with(&values, &names)?;
            cli.given.extend(names);
        }
        Ok(cli)
    }

    /// Checks everything that can be checked without the data.
    ///
    /// # Errors
    ///
    /// One line that names the flag, its value and what is possible.
    pub fn validate(&self) -> Result<()> {
        let Settings {
            batch,
            model,
            training,
            ..
        } = &self.settings;
        batch.validate(&self.evaluation)?;
        let samples = self.samples;
        require(
            samples <= MOST_SAMPLES,
            "samples",
            &samples,
            "at most a million",
        )?;
        training.validate()?;
        self.sampling.validate()?;
        // Whatever the vocabulary will be.
        settings::validate_model(&model.config(1, batch.context))
    }
}
