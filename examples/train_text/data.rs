//! The text as one stream of tokens.

use shadegrad::data::{CharTokenizer, read_text};

use super::cli::Settings;
use super::tokens::Tokens;
use crate::common::Result;
use crate::common::checkpoint::{Stored, digest};
use crate::common::stream::Stream;
use crate::common::words::HumanCount;

/// The text of a run.
pub struct Data {
    stream: Stream,
    tokens: Tokens,
    source: String,
    digest: String,
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
        stored: &Stored,
    ) -> Result<Data> {
        let path = settings
            .filename
            .as_deref()
            .ok_or("which text? Name it with --filename FILE")?;
        let text = read_text(path).map_err(|error| stored.explain("filename", error))?;
        let source = path.display().to_string();
        let resumed = vocabulary.is_some();
        let tokens = match (&settings.tokenizer, vocabulary) {
            (Some(path), _) => Tokens::byte_pairs(path, &mut settings.tokenizer_digest, stored)?,
            (None, Some(tokenizer)) => Tokens::Characters(tokenizer),
            (None, None) => Tokens::Characters(CharTokenizer::from_text(&text)?),
        };
        Data::new(&text, source, tokens, resumed, settings, eval_batch_size)
    }

    /// Cuts a text that comes from `source`; the tokens are those of a checkpoint if the run is `resumed`.
    ///
    /// # Errors
    ///
    /// One line about what does not fit the settings.
    pub fn new(
        text: &str,
        source: String,
        tokens: Tokens,
        resumed: bool,
        settings: &Settings,
        eval_batch_size: usize,
    ) -> Result<Data> {
        let ids = tokens.encode(text).map_err(|error| match resumed {
            true => format!("{source}: the checkpoint's vocabulary does not cover it: {error}"),
            false => format!("{source}: {error}"),
        })?;
        let rows = (settings.batch.batch_size, eval_batch_size);
        let stream = Stream::new(ids, settings.batch.context, rows, settings.training.seed)
            .map_err(|error| format!("{source}: {error}"))?;
        Ok(Data {
            stream,
            tokens,
            source,
            digest: digest(text),
        })
    }

    /// The text in batches.
    pub fn stream(&self) -> &Stream {
        &self.stream
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
        let [train, test] = self.stream.sizes();
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
}
