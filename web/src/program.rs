//! What the page's programs have in common, and where they differ.

use std::ffi::OsString;
use std::path::Path;
use std::pin::Pin;

use clap::{CommandFactory, FromArgMatches};
use serde_json::{Map, Value};
use shadegrad::checkpoint::{self, Metadata};
use shadegrad::data::{CharTokenizer, parse_text};
use shadegrad::nn::{Gpt, GptConfig};
use shadegrad::ops::CrossEntropy;
use shadegrad::optim::AdamW;
use shadegrad::sampling::SamplingConfig;

use crate::common::args::{self, BatchArgs, EvaluationArgs, ModelArgs, SyncArgs, TrainingArgs};
use crate::common::{Result, course};
use crate::flags;

/// What a program is asked to train.
pub struct Request {
    /// The flags of its command line.
    pub flags: Vec<String>,
    /// The text, if it is not the program's own.
    pub text: Option<String>,
    /// What to go on from.
    pub checkpoint: Option<checkpoint::Checkpoint>,
    /// What errors call that.
    pub checkpoint_name: String,
}

/// A run of a program: its settings and its text.
pub trait Program {
    /// The program's name.
    fn name(&self) -> &'static str;

    /// Its settings.
    fn settings(&self) -> Settings<'_>;

    /// The same as JSON, by the names of the flags with `_` for `-`.
    ///
    /// # Errors
    ///
    /// If one of them is no JSON.
    fn fields(&self) -> Result<Value>;

    /// The text in batches.
    fn data(&self) -> &dyn course::Data;

    /// Which targets count.
    fn criterion(&self) -> CrossEntropy;

    /// The characters of the text.
    fn tokenizer(&self) -> &CharTokenizer;

    /// One line about the text.
    fn summary(&self) -> String;

    /// What is to be said about a text that is not the checkpoint's.
    fn note(&self) -> Option<&str>;

    /// Puts the state of the checkpoint, if the run goes on from one, into the optimizer and its parameters.
    ///
    /// # Errors
    ///
    /// If the checkpoint does not fit.
    fn restore(&mut self, optimizer: &mut AdamW) -> Result<()>;

    /// What a checkpoint says beside its tensors.
    ///
    /// # Errors
    ///
    /// If a setting has no place there.
    fn metadata(&self, config: &GptConfig, optimizer: &AdamW) -> Result<Metadata>;

    /// How texts with this beginning begin, and how they go on.
    ///
    /// # Errors
    ///
    /// If the vocabulary lacks something of it.
    fn beginning(&self, text: &str, context: usize) -> Result<Beginning>;

    /// Draws as many samples as the settings say, as the program does it, from a seed.
    fn samples<'a>(&'a self, gpt: &'a Gpt, config: SamplingConfig, seed: u64) -> Samples<'a>;

    /// Whether a sample is not in the text that is trained on.
    fn is_new(&self, sample: &str) -> bool;
}

/// The settings that all programs have.
pub struct Settings<'a> {
    pub batch: &'a BatchArgs,
    pub model: &'a ModelArgs,
    pub training: &'a TrainingArgs,
    pub evaluation: &'a EvaluationArgs,
    pub sampling: SamplingConfig,
}

/// How texts begin and go on.
pub struct Beginning {
    /// The tokens to begin with.
    pub tokens: Vec<u32>,
    /// How many may follow.
    pub most: usize,
    /// Which token ends a text.
    pub stop: Option<u32>,
}

/// Samples being drawn.
pub type Samples<'a> = Pin<Box<dyn Future<Output = Result<Vec<String>>> + 'a>>;

/// Flags of files, which a page does not have.
pub const FILES: [&str; 2] = ["filename", "tokenizer"];

/// Reads a program's flags. The second part of the answer is the names of the settings that were given.
///
/// # Errors
///
/// One line about a flag.
pub fn parse<C: CommandFactory + FromArgMatches>(
    name: &str,
    flags: &[String],
    defaults: &[(&'static str, &'static str)],
) -> Result<(C, Vec<String>)> {
    let words = std::iter::once(name).chain(flags.iter().map(String::as_str));
    let (parsed, given) = args::parse::<C>(words.map(OsString::from), defaults)
        .map_err(|error| flags::line(&error))?;
    match given.iter().find(|name| FILES.contains(&name.as_str())) {
        Some(name) => Err(format!(
            "--{name} names a file, which a page cannot read: give it the text itself"
        )
        .into()),
        None => Ok((parsed, given)),
    }
}

/// A text that somebody has pasted, as the programs read files.
///
/// # Errors
///
/// If it is empty.
pub fn pasted(text: String) -> Result<String> {
    Ok(parse_text(text.into_bytes(), Path::new(PASTED))?)
}

/// What messages call such a text.
pub const PASTED: &str = "your text";

/// Checks that a run, such as a checkpoint's, is not one of ranks that are apart: there is one process in a tab.
///
/// # Errors
///
/// With what to do elsewhere.
pub fn require_one(sync: &SyncArgs) -> Result<()> {
    match sync.sync_every {
        0 => Ok(()),
        every => Err(format!(
            "several ranks made this run, averaged every {every} steps, and a tab is one process: go on with it on a desktop by \
             --sync-every 0, and open the checkpoint that this writes"
        )
        .into()),
    }
}

/// The settings that a JSON object has.
///
/// # Errors
///
/// If it is none.
pub fn object(value: Value) -> Result<Map<String, Value>> {
    match value {
        Value::Object(fields) => Ok(fields),
        other => Err(format!("settings are not an object: {other}").into()),
    }
}
