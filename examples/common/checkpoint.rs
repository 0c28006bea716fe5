//! What training programs keep in their checkpoints beside the model: their settings and which text they read.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shadegrad::Error;
use shadegrad::checkpoint::{self, Metadata};
use shadegrad::data::CharTokenizer;
use shadegrad::nn::GptConfig;
use shadegrad::optim::Optimizer;

use super::Result;
use super::settings::Settings;

/// The `extra` part of the metadata.
#[derive(Serialize, Deserialize)]
struct Extra<S> {
    program: String,
    settings: S,
    text_digest: String,
}

/// What a run's checkpoints say about it.
pub struct Contents<'a, S> {
    /// The program's name.
    pub program: &'static str,
    /// What decides the course of the run.
    pub settings: &'a S,
    /// Its seed.
    pub seed: u64,
    /// The model.
    pub config: &'a GptConfig,
    /// The characters of its tokens, if they are characters.
    pub vocabulary: &'a [char],
    /// The text of the tokenizer.json otherwise.
    pub tokenizer: Option<&'a str>,
    /// A [`digest`] of the text.
    pub text_digest: &'a str,
}

impl<S: Settings> Contents<'_, S> {
    /// What a checkpoint says beside its tensors, so that a run can continue to the same bits.
    ///
    /// # Errors
    ///
    /// If a setting has no place in a checkpoint.
    pub fn metadata(&self, optimizer: &dyn Optimizer) -> Result<Metadata> {
        let extra = Extra {
            program: self.program.to_owned(),
            settings: self.settings.clone(),
            text_digest: self.text_digest.to_owned(),
        };
        Ok(Metadata {
            config: serde_json::to_value(self.config)?,
            vocabulary: self.vocabulary.to_vec(),
            tokenizer: self.tokenizer.map(str::to_owned),
            step: optimizer.steps(),
            seed: self.seed,
            extra: serde_json::to_value(extra)?,
        })
    }
}

/// A checkpoint that the program wrote.
pub struct Checkpoint<S> {
    path: PathBuf,
    inner: checkpoint::Checkpoint,
    extra: Extra<S>,
}

impl<S: Settings> Checkpoint<S> {
    /// A checkpoint of `program`, as read from `path`.
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`] if another program wrote it.
    pub fn new(inner: checkpoint::Checkpoint, path: &Path, program: &str) -> Result<Checkpoint<S>> {
        let refuse = |reason: String| Error::Checkpoint {
            path: path.to_owned(),
            reason,
        };
        let writer = inner.metadata.extra["program"].as_str();
        if let Some(other) = writer.filter(|&name| name != program) {
            return Err(refuse(format!("it was written by {other}, not {program}")).into());
        }
        let extra: Extra<S> = serde_json::from_value(inner.metadata.extra.clone())
            .map_err(|error| refuse(format!("it was not written by {program} ({error})")))?;
        Ok(Checkpoint {
            path: path.to_owned(),
            inner,
            extra,
        })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The settings of the run that wrote it.
    pub fn settings(&self) -> &S {
        &self.extra.settings
    }

    /// The steps that it has behind it.
    pub fn step(&self) -> u64 {
        self.inner.metadata.step
    }

    /// The vocabulary of its model, if its tokens are characters.
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`] if it is not one.
    pub fn tokenizer(&self) -> Result<CharTokenizer> {
        Ok(self.inner.tokenizer()?)
    }

    /// What to say if the run that wrote it did not read the text with this [`digest`].
    pub fn on_other_text(&self, text_digest: &str, source: &str) -> Option<String> {
        (self.extra.text_digest != text_digest).then(|| {
            format!("{source} is not the text that the checkpoint was trained on; the test split is another one too")
        })
    }

    /// Whether a run of local steps wrote it: [`SyncArgs::sync_every`].
    ///
    /// [`SyncArgs::sync_every`]: super::args::SyncArgs::sync_every
    pub fn has_outer_momentum(&self) -> bool {
        let optimizer = self.inner.optimizer.as_ref();
        optimizer.is_some_and(|optimizer| optimizer.settings["outer"].is_object())
    }

    /// Puts its state into the optimizer and the optimizer's parameters.
    ///
    /// # Errors
    ///
    /// Those of [`checkpoint::Checkpoint::restore`].
    pub fn restore(&self, optimizer: &mut dyn Optimizer) -> Result<()> {
        let parameters = optimizer.parameters().clone();
        self.inner.restore(&parameters, Some(optimizer))?;
        Ok(())
    }
}

/// Which files a run that is resumed reads because its checkpoint names them, and not a flag.
#[derive(Default)]
pub struct Stored {
    checkpoint: Option<PathBuf>,
    given: Vec<String>,
}

impl Stored {
    /// For the settings that were `given`, and a checkpoint if there is one.
    pub fn new(checkpoint: Option<&Path>, given: &[String]) -> Stored {
        Stored {
            checkpoint: checkpoint.map(Path::to_owned),
            given: given.to_vec(),
        }
    }

    /// What went wrong with the file of a setting; and who named it, if that was the checkpoint.
    pub fn explain(&self, setting: &str, error: impl std::fmt::Display) -> String {
        match &self.checkpoint {
            Some(checkpoint) if !self.given.iter().any(|name| name == setting) => format!(
                "{error}; the checkpoint {} names this file: say with --{setting} where it is now",
                checkpoint.display()
            ),
            _ => error.to_string(),
        }
    }
}

/// A fingerprint of a text: its 64-bit FNV-1a hash, in hexadecimal.
pub fn digest(text: &str) -> String {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{hash:016x}")
}
