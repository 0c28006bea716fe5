//! `train_text` on the page.

#![allow(dead_code)]

#[path = "../../examples/train_text/cli.rs"]
mod cli;
#[path = "../../examples/train_text/data.rs"]
mod data;
#[path = "../../examples/train_text/tokens.rs"]
mod tokens;

use clap::Parser;
use serde_json::Value;
use shadegrad::checkpoint::Metadata;
use shadegrad::data::{CharTokenizer, IGNORE_INDEX};
use shadegrad::nn::{Gpt, GptConfig};
use shadegrad::ops::CrossEntropy;
use shadegrad::optim::AdamW;
use shadegrad::sampling::SamplingConfig;

use crate::common::checkpoint::{Checkpoint, Contents};
use crate::common::settings::Settings as _;
use crate::common::{Result, course, texts};
use crate::program::{self, Beginning, PASTED, Program, Request, Samples};
pub use cli::DEFAULTS;
use cli::{RunArgs, Settings};
use data::Data;
use tokens::Tokens;

/// The program's name.
pub const NAME: &str = "train_text";

/// The program's command line, as far as a page has it.
#[derive(Debug, Parser)]
#[command(name = "train_text", args_override_self = true)]
pub struct Cli {
    #[command(flatten)]
    run: RunArgs,
}

impl Cli {
    /// The settings, as JSON.
    ///
    /// # Errors
    ///
    /// If one of them is no JSON.
    pub fn fields(&self) -> Result<Value> {
        Ok(serde_json::to_value(&self.run.settings)?)
    }
}

/// A run of it.
pub struct Text {
    run: RunArgs,
    data: Data,
    tokenizer: CharTokenizer,
    text: String,
    prompt: Vec<u32>,
    checkpoint: Option<Checkpoint<Settings>>,
    note: Option<String>,
}

impl Text {
    /// Everything that can be wrong with the flags, the text and the checkpoint is found here.
    ///
    /// # Errors
    ///
    /// One line about it.
    pub fn new(request: Request) -> Result<Text> {
        let (cli, given) = program::parse::<Cli>(NAME, &request.flags, &DEFAULTS)?;
        let mut run = cli.run.complete(given);
        run.validate()?;
        let name = request.checkpoint_name;
        let checkpoint = request.checkpoint;
        let checkpoint =
            checkpoint.map(|inner| Checkpoint::<Settings>::new(inner, name.as_ref(), NAME));
        let checkpoint = checkpoint.transpose()?;
        if let Some(checkpoint) = &checkpoint {
            if checkpoint.settings().tokenizer.is_some() {
                return Err(format!(
                    "{} has byte pairs for tokens, a page has characters only: go on with the program on a desktop",
                    checkpoint.path().display()
                )
                .into());
            }
            run.settings
                .adopt(checkpoint.settings(), &run.given, checkpoint.path())?;
            run.validate()?;
        }
        let vocabulary = checkpoint.as_ref().map(Checkpoint::tokenizer).transpose()?;
        let text = match (request.text, &checkpoint) {
            (Some(text), _) => program::pasted(text)?,
            (None, None) => return Err("which text? Paste one, or open a file".into()),
            (None, Some(_)) => {
                return Err("which text? Paste the one that the checkpoint was trained on, or open its file".into());
            }
        };
        let is_resumed = vocabulary.is_some();
        let tokenizer = vocabulary.map_or_else(|| CharTokenizer::from_text(&text), Ok)?;
        let data = Data::new(
            &text,
            PASTED.to_owned(),
            Tokens::Characters(tokenizer.clone()),
            is_resumed,
            &run.settings,
            run.evaluation.eval_batch_size,
        )?;
        let start = checkpoint.as_ref().map_or(0, Checkpoint::step);
        run.settings.training.check_start(start)?;
        let Settings { training, sync, .. } = &run.settings;
        program::require_one(sync)?;
        sync.check(training, &run.evaluation, &run.given, false, &[])?;
        let prompt = data.tokens().prompt(run.prompt.as_deref())?;
        let checked = checkpoint.as_ref();
        let note = checked.and_then(|checkpoint| checkpoint.on_other_text(data.digest(), PASTED));
        Ok(Text {
            run,
            data,
            tokenizer,
            text,
            prompt,
            checkpoint,
            note,
        })
    }
}

impl Program for Text {
    fn name(&self) -> &'static str {
        NAME
    }

    fn settings(&self) -> program::Settings<'_> {
        program::Settings {
            batch: &self.run.settings.batch,
            model: &self.run.settings.model,
            training: &self.run.settings.training,
            evaluation: &self.run.evaluation,
            sampling: self.run.sampling.config(),
        }
    }

    fn fields(&self) -> Result<Value> {
        Ok(serde_json::to_value(&self.run.settings)?)
    }

    fn data(&self) -> &dyn course::Data {
        self.data.stream()
    }

    fn criterion(&self) -> CrossEntropy {
        CrossEntropy::ignoring(IGNORE_INDEX)
    }

    fn tokenizer(&self) -> &CharTokenizer {
        &self.tokenizer
    }

    fn summary(&self) -> String {
        self.data.summary()
    }

    fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    fn restore(&mut self, optimizer: &mut AdamW) -> Result<()> {
        let checkpoint = self.checkpoint.take();
        checkpoint.map_or(Ok(()), |checkpoint| checkpoint.restore(optimizer))
    }

    fn metadata(&self, config: &GptConfig, optimizer: &AdamW) -> Result<Metadata> {
        let contents = Contents {
            program: NAME,
            settings: &self.run.settings,
            seed: self.run.settings.training.seed,
            config,
            vocabulary: self.tokenizer.vocabulary(),
            tokenizer: None,
            text_digest: self.data.digest(),
        };
        contents.metadata(optimizer)
    }

    fn beginning(&self, text: &str, _: usize) -> Result<Beginning> {
        let text = Some(text).filter(|text| !text.is_empty());
        Ok(Beginning {
            tokens: self.data.tokens().prompt(text)?,
            most: self.run.sample_length,
            stop: None,
        })
    }

    fn samples<'a>(&'a self, gpt: &'a Gpt, config: SamplingConfig, seed: u64) -> Samples<'a> {
        let size = (self.run.samples, self.run.sample_length);
        Box::pin(async move {
            let texts = texts::texts(gpt, &self.prompt, size, config, seed, None).await?;
            let whole = |text: &Vec<u32>| [&self.prompt[..], text].concat();
            let texts = texts.iter().map(|text| self.tokenizer.decode(&whole(text)));
            Ok(texts.collect::<shadegrad::Result<_>>()?)
        })
    }

    fn is_new(&self, sample: &str) -> bool {
        !self.text.contains(sample)
    }
}
