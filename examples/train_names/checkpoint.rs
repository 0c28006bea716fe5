//! What this program keeps in its checkpoints beside the model: its settings and which text it read.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shadegrad::Error;
use shadegrad::checkpoint::{self, Metadata};
use shadegrad::data::CharTokenizer;
use shadegrad::nn::GptConfig;
use shadegrad::optim::{AdamW, Optimizer};

use super::cli::Settings;
use super::data::Data;
use crate::common::Result;

/// The `extra` part of the metadata.
#[derive(Serialize, Deserialize)]
struct Extra {
    program: String,
    settings: Settings,
    text_digest: String,
}

const PROGRAM: &str = "train_names";

/// Writes everything that a run needs to continue to the same bits.
///
/// # Errors
///
/// Those of [`checkpoint::save`].
pub fn save(
    path: &Path,
    optimizer: &AdamW,
    config: &GptConfig,
    settings: &Settings,
    data: &Data,
) -> Result<()> {
    let extra = Extra {
        program: PROGRAM.to_owned(),
        settings: settings.clone(),
        text_digest: data.digest().to_owned(),
    };
    let metadata = Metadata {
        config: serde_json::to_value(config)?,
        vocabulary: data.tokenizer().vocabulary().to_vec(),
        step: optimizer.steps(),
        seed: settings.seed,
        extra: serde_json::to_value(extra)?,
    };
    checkpoint::save(path, optimizer.parameters(), Some(optimizer), &metadata)?;
    Ok(())
}

/// A checkpoint that this program wrote.
pub struct Checkpoint {
    path: PathBuf,
    inner: checkpoint::Checkpoint,
    extra: Extra,
}

impl Checkpoint {
    /// Reads and checks a checkpoint.
    ///
    /// # Errors
    ///
    /// Those of [`checkpoint::Checkpoint::open`]; also if another program wrote it.
    pub fn open(path: &Path) -> Result<Checkpoint> {
        let inner = checkpoint::Checkpoint::open(path)?;
        let refuse = |reason: String| Error::Checkpoint {
            path: path.to_owned(),
            reason,
        };
        let extra: Extra = serde_json::from_value(inner.metadata.extra.clone())
            .map_err(|error| refuse(format!("it was not written by {PROGRAM} ({error})")))?;
        if extra.program != PROGRAM {
            return Err(refuse(format!(
                "it was written by {}, not {PROGRAM}",
                extra.program
            ))
            .into());
        }
        Ok(Checkpoint {
            path: path.to_owned(),
            inner,
            extra,
        })
    }

    /// The settings of the run that wrote it.
    pub fn settings(&self) -> &Settings {
        &self.extra.settings
    }

    /// The steps that it has behind it.
    pub fn step(&self) -> u64 {
        self.inner.metadata.step
    }

    /// The vocabulary of its model.
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`] if it is not one.
    pub fn tokenizer(&self) -> Result<CharTokenizer> {
        let vocabulary = self.inner.metadata.vocabulary.clone();
        let refuse = |error: Error| Error::Checkpoint {
            path: self.path.clone(),
            reason: error.to_string(),
        };
        Ok(CharTokenizer::from_vocabulary(vocabulary).map_err(refuse)?)
    }

    /// Whether the run that wrote it read the same text.
    pub fn is_of(&self, data: &Data) -> bool {
        self.extra.text_digest == data.digest()
    }

    /// Puts its state into the optimizer and the optimizer's parameters.
    ///
    /// # Errors
    ///
    /// Those of [`checkpoint::Checkpoint::restore`].
    pub fn restore(&self, optimizer: &mut AdamW) -> Result<()> {
        let parameters = optimizer.parameters().clone();
        self.inner.restore(&parameters, Some(optimizer))?;
        Ok(())
    }
}
