//! The text, cut into batches in one of two ways.

use std::collections::HashSet;

use shadegrad::data::{
    Batch, CharTokenizer, IGNORE_INDEX, NamesDataset, Split, StreamDataset, read_text,
};
use shadegrad::ops::CrossEntropy;

use super::cli::{Batching, Settings};
use crate::common::checkpoint::{Stored, digest};
use crate::common::settings::by_flags;
use crate::common::words::HumanCount;
use crate::common::{Result, course};

/// The names that come with the project, one a line.
pub const OWN_NAMES: &str = include_str!("../../data/names.txt");

/// Where they lie.
pub const OWN_SOURCE: &str = "data/names.txt";

/// What evaluations draw their windows from: the same for all runs, so that their losses compare.
const EVALUATION_SEED: u64 = 0x006c_6f73_7365_7321;

/// The text of a run.
pub struct Data {
    cut: Cut,
    tokenizer: CharTokenizer,
    /// The lines that the model is trained on.
    known: HashSet<String>,
    /// Where the text comes from.
    source: String,
    digest: String,
    batch_size: usize,
    eval_batch_size: usize,
    seed: u64,
}

enum Cut {
    Stream(StreamDataset),
    Names(NamesDataset),
}

impl Data {
    /// Reads the text and cuts it as the settings say; with the vocabulary of a checkpoint, if there is one.
    ///
    /// # Errors
    ///
    /// One line about what is wrong with the file or does not fit the settings.
    pub fn load(
        settings: &Settings,
        eval_batch_size: usize,
        vocabulary: Option<CharTokenizer>,
        stored: &Stored,
    ) -> Result<Data> {
        let (text, source) = match &settings.filename {
            Some(path) => {
                let text = read_text(path).map_err(|error| stored.explain("filename", error))?;
                (text, path.display().to_string())
            }
            None => (OWN_NAMES.to_owned(), OWN_SOURCE.to_owned()),
        };
        Data::new(&text, source, settings, eval_batch_size, vocabulary)
    }

    /// Cuts a text that comes from `source`.
    ///
    /// # Errors
    ///
    /// One line about what does not fit the settings.
    pub fn new(
        text: &str,
        source: String,
        settings: &Settings,
        eval_batch_size: usize,
        vocabulary: Option<CharTokenizer>,
    ) -> Result<Data> {
        let resumed = vocabulary.is_some();
        let located = |error: shadegrad::Error| match error {
            shadegrad::Error::UnknownCharacter { character, .. } if resumed => format!(
                "{source}: the checkpoint's vocabulary lacks {character:?}; only text of the same characters can follow"
            ),
            error => format!("{source}: {}", by_flags(error)),
        };
        let (context, seed) = (settings.batch.context, settings.training.seed);
        let (cut, tokenizer, trained_on) = match settings.batching {
            Batching::Stream => {
                let tokenizer = match vocabulary {
                    Some(tokenizer) => tokenizer,
                    None => CharTokenizer::from_text(text)?,
                };
                let tokens = tokenizer.encode(text).map_err(located)?;
                let stream = StreamDataset::new(tokens, context).map_err(located)?;
                let trained_on = tokenizer.decode(stream.tokens(Split::Train))?;
                (Cut::Stream(stream), tokenizer, Some(trained_on))
            }
            Batching::Names => {
                let names = match vocabulary {
                    Some(tokenizer) => NamesDataset::with_tokenizer(text, tokenizer, context, seed),
                    None => NamesDataset::new(text, context, seed),
                };
                let names = names.map_err(located)?;
                let tokenizer = names.tokenizer().clone();
                (Cut::Names(names), tokenizer, None)
            }
        };
        let known = trained_on.iter().flat_map(|text| text.lines());
        Ok(Data {
            cut,
            tokenizer,
            known: known.map(str::to_owned).collect(),
            digest: digest(text),
            source,
            batch_size: settings.batch.batch_size,
            eval_batch_size,
            seed,
        })
    }

    /// The tokenizer, whose vocabulary belongs to the model.
    pub fn tokenizer(&self) -> &CharTokenizer {
        &self.tokenizer
    }

    /// A fingerprint of the text.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Where the text comes from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Which targets count.
    pub fn criterion(&self) -> CrossEntropy {
        match &self.cut {
            Cut::Stream(_) => CrossEntropy::default(),
            Cut::Names(_) => CrossEntropy::ignoring(IGNORE_INDEX),
        }
    }

    /// Whether the model was trained on this line.
    pub fn is_known(&self, line: &str) -> bool {
        match &self.cut {
            Cut::Stream(_) => self.known.contains(line),
            Cut::Names(names) => names.is_known(line),
        }
    }

    /// One line about the data.
    pub fn summary(&self) -> String {
        let count = |n: usize| HumanCount(n as u64).to_string();
        let vocabulary = count(self.tokenizer.vocab_size());
        match &self.cut {
            Cut::Stream(stream) => {
                let [train, test] =
                    [Split::Train, Split::Test].map(|split| stream.tokens(split).len());
                format!(
                    "{}, a stream of {} characters ({} to train on, {} for the test), {vocabulary} different ones",
                    self.source,
                    count(train + test),
                    count(train),
                    count(test)
                )
            }
            Cut::Names(names) => {
                let (train, test) = (names.train_len(), names.test_len());
                format!(
                    "{}, {} names ({} to train on, {} for the test) of {vocabulary} characters",
                    self.source,
                    count(train + test),
                    count(train),
                    count(test)
                )
            }
        }
    }
}

impl course::Data for Data {
    fn train_batch(&self, step: u64) -> Batch {
        match &self.cut {
            Cut::Stream(stream) => stream.batch(Split::Train, self.batch_size, self.seed, step),
            Cut::Names(names) => names.train_batch(self.batch_size, step),
        }
    }

    fn evaluation(&self, split: Split, batches: usize) -> Box<dyn Iterator<Item = Batch> + '_> {
        let rows = self.eval_batch_size;
        match (&self.cut, split) {
            (Cut::Stream(stream), _) => {
                let batch = move |number| stream.batch(split, rows, EVALUATION_SEED, number as u64);
                Box::new((0..batches).map(batch))
            }
            (Cut::Names(names), Split::Train) => {
                Box::new(names.train_subset_batches(rows, rows.saturating_mul(batches)))
            }
            (Cut::Names(names), Split::Test) => Box::new(names.test_batches(rows)),
        }
    }
}
