//! The command line. What it shares with other programs stands in `common::args`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use super::preset::Preset;
use crate::common::args::{
    BatchArgs, EvaluationArgs, ModelArgs, OffArgs, SamplingArgs, SyncArgs, TrainingArgs,
};
use crate::common::settings::{self, require};
use crate::common::{Result, settings::Settings as _};

/// More samples than this are a slip of the keyboard.
const MOST_SAMPLES: usize = 1_000_000;

/// What is trained and how, and what is shown of it.
#[derive(Debug, Args)]
pub struct RunArgs {
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
    #[command(flatten)]
    #[serde(flatten)]
    pub sync: SyncArgs,
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

impl RunArgs {
    /// With what flags say about others, when those with these names were given.
    ///
    /// # Errors
    ///
    /// If a preset is not made of settings, which it is.
    pub fn complete(mut self, given: Vec<String>) -> Result<RunArgs> {
        self.given = given;
        self.off.apply(&mut self.settings.model, &mut self.given);
        if let Some(preset) = self.preset {
            let values = preset.settings();
            let names = values.keys().filter(|name| !self.given.contains(name));
            let names: Vec<String> = names.cloned().collect();
            self.settings = self.settings.with(&values, &names)?;
            self.given.extend(names);
        }
        Ok(self)
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
            sync,
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
        sync.validate()?;
        self.sampling.validate()?;
        // Whatever the vocabulary will be.
        settings::validate_model(&model.config(1, batch.context))
    }
}
