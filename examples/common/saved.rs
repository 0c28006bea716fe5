//! What training programs do with a checkpoint but to go on with it: `sample`, `info` and `export`.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use shadegrad::Error;
use shadegrad::checkpoint::Checkpoint;
use shadegrad::gpu::block_on;
use shadegrad::hugging_face;
use shadegrad::tape::Precision;

use super::args::{DeviceArgs, SamplingArgs};
use super::settings::require;
use super::words::HumanCount;
use super::{Result, program, texts};

/// More texts, or tokens in a text, than this are a slip of the keyboard.
const MOST: usize = 1_000_000;

/// What to do with a checkpoint.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Prints texts from the model of a checkpoint; nothing else is read, and nothing is trained
    #[command(args_override_self = true, allow_negative_numbers = true)]
    Sample(SampleArgs),
    /// Says what is in a checkpoint: its model, its training, its parameters
    Info(InfoArgs),
    /// Saves the model of a checkpoint as a directory that the transformers library opens
    Export(ExportArgs),
}

/// The command line of `sample`.
#[derive(Clone, Debug, Args)]
pub struct SampleArgs {
    /// The checkpoint
    checkpoint: PathBuf,
    /// What each text begins with [default: a line end]
    #[arg(allow_hyphen_values = true, long, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// How many texts
    #[arg(short = 'n', long, visible_alias = "samples")]
    count: Option<usize>,
    /// The most tokens of a text, the prompt not counted
    #[arg(long, visible_alias = "sample-length", value_name = "TOKENS")]
    max_tokens: Option<usize>,
    /// What the texts are drawn from, beside the model
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// What the model computes with: f32, or mixed (weights, products and cache in f16)
    #[arg(long, default_value_t = Precision::F32)]
    precision: Precision,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

/// The command line of `info`.
#[derive(Clone, Debug, Args)]
pub struct InfoArgs {
    /// The checkpoint
    checkpoint: PathBuf,
    #[command(flatten)]
    device: DeviceArgs,
}

/// The command line of `export`.
#[derive(Clone, Debug, Args)]
pub struct ExportArgs {
    /// The checkpoint
    checkpoint: PathBuf,
    /// The directory, which is made if there is none
    directory: PathBuf,
    #[command(flatten)]
    device: DeviceArgs,
}

impl SampleArgs {
    /// Reads the checkpoint.
    ///
    /// # Errors
    ///
    /// One line about a flag that makes no sense; those of [`Checkpoint::open`].
    pub fn open(&self) -> Result<Checkpoint> {
        for (name, value) in [("count", self.count), ("max-tokens", self.max_tokens)] {
            let value = value.unwrap_or(0);
            require(value <= MOST, name, &value, "at most a million")?;
        }
        self.sampling.validate()?;
        Ok(Checkpoint::open(&self.checkpoint)?)
    }

    /// What follows the prompt in each text, so many and so long as the flags say, or these numbers.
    ///
    /// # Errors
    ///
    /// Those of the checkpoint and of the device.
    pub fn draw(
        &self,
        checkpoint: &Checkpoint,
        prompt: &[u32],
        (count, most): (usize, usize),
        stop: Option<u32>,
    ) -> Result<Vec<Vec<u32>>> {
        if most == 0 && self.max_tokens.is_none() {
            let reason = "--prompt: it fills the model's window; --max-tokens N goes on beyond it";
            return Err(reason.into());
        }
        let device = program::open_device_aside(&self.device)?;
        let (gpt, _) = checkpoint.gpt_as(self.precision.dtype(), &device)?;
        let (count, most) = (self.count.unwrap_or(count), self.max_tokens.unwrap_or(most));
        block_on(texts::texts(
            &gpt,
            prompt,
            (count, most),
            self.sampling.config(),
            self.seed,
            stop,
        ))
    }
}

impl Command {
    /// Does it; `sample` in the manner of the program, whose texts end with `end`.
    ///
    /// # Errors
    ///
    /// Those of the checkpoint and of the device.
    pub fn run(
        &self,
        end: Option<char>,
        sample: impl FnOnce(&SampleArgs) -> Result<()>,
    ) -> Result<ExitCode> {
        let device = match self {
            Command::Sample(args) => &args.device,
            Command::Info(args) => &args.device,
            Command::Export(args) => &args.device,
        };
        if device.list_adapters {
            return program::list_adapters();
        }
        match self {
            Command::Sample(args) => sample(args)?,
            Command::Info(args) => info(args)?,
            Command::Export(args) => export(args, end)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn info(args: &InfoArgs) -> Result<()> {
    let checkpoint = Checkpoint::open(&args.checkpoint)?;
    let device = program::open_device_aside(&args.device)?;
    let (_, parameters) = checkpoint.gpt(&device)?;
    let metadata = &checkpoint.metadata;
    say!("model: {}", metadata.config);
    match (&metadata.tokenizer, metadata.vocabulary.len()) {
        (Some(_), _) => say!("tokens: byte pairs"),
        (None, 0) => say!("tokens: no vocabulary"),
        (None, count) => {
            let characters: String = metadata.vocabulary.iter().collect();
            say!("tokens: {count} characters, {characters:?}");
        }
    }
    let optimizer = checkpoint.optimizer.as_ref();
    say!(
        "training: {} steps, seed {}, {}",
        HumanCount(metadata.step),
        metadata.seed,
        optimizer.map_or("no optimizer", |optimizer| &optimizer.name),
    );
    say!("{}", parameters.summary());
    Ok(())
}

fn export(args: &ExportArgs, end: Option<char>) -> Result<()> {
    let checkpoint = Checkpoint::open(&args.checkpoint)?;
    let device = program::open_device_aside(&args.device)?;
    let (gpt, parameters) = checkpoint.gpt(&device)?;
    let directory = &args.directory;
    let characters = match &checkpoint.metadata.tokenizer {
        Some(_) => None,
        None => Some(checkpoint.tokenizer()?),
    };
    let token = |character| characters.as_ref()?.token(character);
    let end = end.and_then(token);
    hugging_face::export(directory, gpt.config(), &parameters, end)?;
    if let Some(characters) = &characters {
        hugging_face::export_characters(directory, characters, end)?;
    } else if let Some(text) = &checkpoint.metadata.tokenizer {
        let path = directory.join("tokenizer.json");
        fs::write(&path, text).map_err(|source| Error::File { path, source })?;
    }
    say!("the model: {}", directory.display());
    Ok(())
}
