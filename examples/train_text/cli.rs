//! The command line. What it shares with other programs stands in `common::args`.

use std::path::PathBuf;

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::common::Result;
use crate::common::args::{
    BatchArgs, EvaluationArgs, ModelArgs, OffArgs, SamplingArgs, SyncArgs, TrainingArgs,
};
use crate::common::checkpoint::Checkpoint;
use crate::common::settings::{self, require};

/// More tokens in a sample than this are a slip of the keyboard.
const MOST_TOKENS: usize = 1_000_000;

/// What this program does otherwise than the shared flags say.
pub const DEFAULTS: [(&str, &str); 8] = [
    ("context", "64"),
    ("batch_size", "16"),
    ("d_model", "64"),
    ("positions", "rotary"),
    ("steps", "2000"),
    ("lr", "0.005"),
    ("eval_batch_size", "32"),
    ("final_eval_iters", "100"),
];

/// What is trained and how, and what is shown of it.
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub settings: Settings,
    #[command(flatten)]
    off: OffArgs,

    #[command(flatten)]
    pub evaluation: EvaluationArgs,

    /// What samples begin with [default: a line end]
    #[arg(
        allow_hyphen_values = true,
        long,
        value_name = "TEXT",
        help_heading = "Sampling"
    )]
    pub prompt: Option<String>,
    /// Tokens in a sample
    #[arg(
        long,
        default_value_t = 200,
        value_name = "TOKENS",
        help_heading = "Sampling"
    )]
    pub sample_length: usize,
    /// How many samples to print at the end
    #[arg(long, default_value_t = 1, help_heading = "Sampling")]
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
    /// Text to train on, in UTF-8
    #[arg(short, long, value_name = "FILE", help_heading = "Data")]
    pub filename: Option<PathBuf>,
    /// Train on the byte pairs of this tokenizer.json rather than on characters (needs `--features tokenizers`)
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    pub tokenizer: Option<PathBuf>,
    /// A digest of the tokenizer's file.
    #[arg(skip)]
    pub tokenizer_digest: Option<String>,
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

impl settings::Settings for Settings {
    fn spelled_out(&self) -> Settings {
        Settings {
            model: self.model.clone().spelled_out(),
            ..self.clone()
        }
    }
}

impl Settings {
    /// Checks that these settings, as given, do not ask for byte pairs where a checkpoint has characters. Which byte pairs
    /// it has is known by their file's digest, wherever that lies.
    ///
    /// # Errors
    ///
    /// One line that names the flag.
    pub fn fit_tokens_of(&self, checkpoint: &Checkpoint<Settings>) -> Result<()> {
        match (&self.tokenizer, &checkpoint.settings().tokenizer) {
            (Some(path), None) => Err(format!(
                "--tokenizer {} contradicts the checkpoint {}, which has none: leave the flag out",
                path.display(),
                checkpoint.path().display()
            )
            .into()),
            _ => Ok(()),
        }
    }
}

impl RunArgs {
    /// With what flags say about others, when those with these names were given.
    pub fn complete(mut self, given: Vec<String>) -> RunArgs {
        self.given = given;
        self.off.apply(&mut self.settings.model, &mut self.given);
        self
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
        for (name, value) in [
            ("sample-length", self.sample_length),
            ("samples", self.samples),
        ] {
            require(value <= MOST_TOKENS, name, &value, "at most a million")?;
        }
        training.validate()?;
        sync.validate()?;
        self.sampling.validate()?;
        // Whatever the vocabulary will be.
        settings::validate_model(&model.config(1, batch.context))
    }
}
