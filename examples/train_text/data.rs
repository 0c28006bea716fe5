//! The text as one stream of tokens.

use indicatif::HumanCount;
use shadegrad::data::{Batch, CharTokenizer, IGNORE_INDEX, Split, StreamDataset, read_text};

use super::cli::Settings;
use super::tokens::Tokens;
use crate::common::checkpoint::digest;
use crate::common::{Result, training};

/// The text of a run.
pub struct Data {
    stream: StreamDataset,
    tokens: Tokens,
    source: String,
    digest: String,
    batch_size: usize,
    eval_batch_size: usize,
    seed: u64,
}

impl Data {
    /// Reads the text and the tokenizer; with the vocabulary of a checkpoint, if there is one.
    ///
    /// # Errors
    ///
    /// One line about what is wrong with a file or does not fit the settings.
    pub fn load(
        settings: &mut Settings,
        eval_batch_size: usize,
        vocabulary: Option<CharTokenizer>,
    ) -> Result<Data> {
        let path = settings
            .filename
            .as_deref()
            .ok_or("which text? Name it with --filename FILE")?;
        let (text, source) = (read_text(path)?, path.display().to_string());
        let resumed = vocabulary.is_some();
        let tokens = match (&settings.tokenizer, vocabulary) {
            (Some(path), _) => Tokens::byte_pairs(path, &mut settings.tokenizer_digest)?,
            (None, Some(tokenizer)) => Tokens::Characters(tokenizer),
            (None, None) => Tokens::Characters(CharTokenizer::from_text(&text)?),
        };
        let ids = tokens.encode(&text).map_err(|error| match resumed {
            true => format!("{source}: the checkpoint's vocabulary does not cover it: {error}"),
            false => format!("{source}: {error}"),
        })?;
        let stream = StreamDataset::new(ids, settings.batch.context)
            .map_err(|error| format!("{source}: {error}"))?;
        Ok(Data {
            stream,
            tokens,
            source,
            digest: digest(&text),
            batch_size: settings.batch.batch_size,
            eval_batch_size,
            seed: settings.training.seed,
        })
    }

    /// The tokens, whose vocabulary belongs to the model.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// A fingerprint of the text.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Where the text comes from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// One line about the data.
    pub fn summary(&self) -> String {
        let count = |n: usize| HumanCount(n as u64).to_string();
        let [train, test] =
            [Split::Train, Split::Test].map(|split| self.stream.tokens(split).len());
        format!(
            "{}, {} {} ({} to train on, {} for the test), {} different ones",
            self.source,
            count(train + test),
            self.tokens.unit(),
            count(train),
            count(test),
            count(self.tokens.vocab_size()),
        )
    }

    /// Rows of consecutive tokens from some starts, filled up with positions that have no target.
    fn rows(&self, split: Split, starts: &[usize]) -> Batch {
        let (tokens, context) = (self.stream.tokens(split), self.stream.context());
        let rows = self.eval_batch_size;
        let mut batch = Batch {
            inputs: vec![0; rows * context],
            targets: vec![IGNORE_INDEX; rows * context],
            batch_size: rows,
            context,
        };
        for (row, &start) in starts.iter().enumerate() {
            let window = &tokens[start..(start + context + 1).min(tokens.len())];
            let (at, length) = (row * context, window.len() - 1);
            batch.inputs[at..at + length].copy_from_slice(&window[..length]);
            batch.targets[at..at + length].copy_from_slice(&window[1..]);
        }
        batch
    }
}

impl training::Data for Data {
    fn train_batch(&self, step: u64) -> Batch {
        self.stream
            .batch(Split::Train, self.batch_size, self.seed, step)
    }

    /// The whole split, cut into windows that do not overlap; windows spread evenly over it if these are too many.
    fn evaluation(&self, split: Split, batches: usize) -> Box<dyn Iterator<Item = Batch> + '_> {
        let context = self.stream.context();
        // The last token is only a target.
        let all = (self.stream.tokens(split).len() - 1).div_ceil(context);
        let taken = all.min(batches.saturating_mul(self.eval_batch_size));
        let starts: Vec<usize> = (0..taken).map(|i| i * all / taken * context).collect();
        let rows = self.eval_batch_size;
        let count = taken.div_ceil(rows);
        Box::new((0..count).map(move |batch| {
            let end = taken.min((batch + 1) * rows);
            self.rows(split, &starts[batch * rows..end])
        }))
    }
}
