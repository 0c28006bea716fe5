//! `train_names` on the page.

#![allow(dead_code)]

#[path = "../../examples/train_names/cli.rs"]
mod cli;
#[path = "../../examples/train_names/data.rs"]
mod data;
#[path = "../../examples/train_names/preset.rs"]
mod preset;
#[path = "../../examples/train_names/samples.rs"]
mod samples;

use clap::Parser;
use serde_json::Value;
use shadegrad::checkpoint::Metadata;
use shadegrad::data::CharTokenizer;
use shadegrad::nn::{Gpt, GptConfig};
use shadegrad::ops::CrossEntropy;
use shadegrad::optim::AdamW;
use shadegrad::sampling::SamplingConfig;

use crate::common::checkpoint::{Checkpoint, Contents};
use crate::common::settings::Settings as _;
use crate::common::{Result, course};
use crate::program::{self, Beginning, PASTED, Program, Request, Samples};
use cli::{RunArgs, Settings};
use data::{Data, OWN_NAMES, OWN_SOURCE};

/// The program's name.
pub const NAME: &str = "train_names";

/// The program's command line, as far as a page has it.
#[derive(Debug, Parser)]
#[command(name = "train_names", args_override_self = true)]
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
pub struct Names {
    run: RunArgs,
    data: Data,
    checkpoint: Option<Checkpoint<Settings>>,
    note: Option<String>,
}

impl Names {
    /// Everything that can be wrong with the flags, the text and the checkpoint is found here.
    ///
    /// # Errors
    ///
    /// One line about it.
    pub fn new(request: Request) -> Result<Names> {
        let (cli, given) = program::parse::<Cli>(NAME, &request.flags, &[])?;
        let mut run = cli.run.complete(given)?;
        run.validate()?;
        let name = request.checkpoint_name;
        let checkpoint = request.checkpoint;
        let checkpoint =
            checkpoint.map(|inner| Checkpoint::<Settings>::new(inner, name.as_ref(), NAME));
        let checkpoint = checkpoint.transpose()?;
        if let Some(checkpoint) = &checkpoint {
            run.settings
                .adopt(checkpoint.settings(), &run.given, checkpoint.path())?;
            run.validate()?;
        }
        let vocabulary = checkpoint.as_ref().map(Checkpoint::tokenizer).transpose()?;
        let (text, source) = match request.text {
            Some(text) => (program::pasted(text)?, PASTED),
            None => (OWN_NAMES.to_owned(), OWN_SOURCE),
        };
        let rows = run.evaluation.eval_batch_size;
        let data = Data::new(&text, source.to_owned(), &run.settings, rows, vocabulary)?;
        let start = checkpoint.as_ref().map_or(0, Checkpoint::step);
        run.settings.training.check_start(start)?;
        let Settings { training, sync, .. } = &run.settings;
        program::require_one(sync)?;
        sync.check(training, &run.evaluation, &run.given, false, &[])?;
        let checked = checkpoint.as_ref();
        let note = checked.and_then(|checkpoint| checkpoint.on_other_text(data.digest(), source));
        Ok(Names {
            run,
            data,
            checkpoint,
            note,
        })
    }
}

impl Program for Names {
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
        &self.data
    }

    fn criterion(&self) -> CrossEntropy {
        self.data.criterion()
    }

    fn tokenizer(&self) -> &CharTokenizer {
        self.data.tokenizer()
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
            vocabulary: self.data.tokenizer().vocabulary(),
            tokenizer: None,
            text_digest: self.data.digest(),
        };
        contents.metadata(optimizer)
    }

    fn beginning(&self, text: &str, context: usize) -> Result<Beginning> {
        let tokens = samples::prompt(self.tokenizer(), text)?;
        Ok(Beginning {
            most: samples::most_after(&tokens, context),
            tokens,
            stop: self.tokenizer().token('\n'),
        })
    }

    fn samples<'a>(&'a self, gpt: &'a Gpt, config: SamplingConfig, seed: u64) -> Samples<'a> {
        let (batching, count) = (self.run.settings.batching, self.run.samples);
        Box::pin(samples::draw(
            gpt, &self.data, batching, config, seed, count,
        ))
    }

    fn is_new(&self, sample: &str) -> bool {
        !self.data.is_known(sample)
    }
}
