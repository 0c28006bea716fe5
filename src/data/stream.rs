//! Random windows of one long stream of tokens.

use super::Batch;
use crate::error::{Error, Result, require};
use crate::rng;

/// A part of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// What the model learns from.
    Train,
    /// What it never sees in training.
    Test,
}

/// One stream of tokens, of which the first 90 % are for training and the rest for the test.
///
/// A batch is drawn as windows of `context + 1` tokens whose starts are uniform over all windows that fit the split;
/// the inputs are a window without its last token, the targets the same without its first.
#[derive(Clone, Debug)]
pub struct StreamDataset {
    tokens: Vec<u32>,
    /// Where the test split starts.
    boundary: usize,
    context: usize,
}

impl StreamDataset {
    /// Splits a stream, to be read in windows of `context` tokens.
    ///
    /// # Errors
    ///
    /// * [`Error::InvalidArgument`] if `context` is zero;
    /// * [`Error::TextTooShort`] if a split cannot hold one window, that is `context` inputs and a last target.
    pub fn new(tokens: Vec<u32>, context: usize) -> Result<Self> {
        require(context > 0, "context", context, "at least 1 token")?;
        let boundary = tokens.len() * 9 / 10;
        let dataset = Self {
            tokens,
            boundary,
            context,
        };
        for (split, what) in [
            (Split::Train, "the training split (the first 90 %)"),
            (Split::Test, "the test split (the last 10 %)"),
        ] {
            let len = dataset.tokens(split).len();
            // Not `len < context + 1`, which overflows for an absurd context.
            if len <= context {
                return Err(Error::TextTooShort {
                    what: what.into(),
                    len,
                    needed: context.saturating_add(1),
                });
            }
        }
        Ok(dataset)
    }

    /// The tokens of a split.
    pub fn tokens(&self, split: Split) -> &[u32] {
        let (train, test) = self.tokens.split_at(self.boundary);
        match split {
            Split::Train => train,
            Split::Test => test,
        }
    }

    /// The number of tokens in a row of a batch.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Batch number `step` of a split: a function of the dataset and these arguments, whatever was drawn before.
    ///
    /// An estimate of the training loss should pass another seed than the training does, or it would be made on the
    /// very batches that were learnt from at these steps.
    ///
    /// # Panics
    ///
    /// If `batch_size` is zero.
    #[track_caller]
    pub fn batch(&self, split: Split, batch_size: usize, seed: u64, step: u64) -> Batch {
        assert!(batch_size > 0, "a batch needs at least one row");
        let purpose = match split {
            Split::Train => "stream/train",
            Split::Test => "stream/test",
        };
        let mut rng = rng::keyed(seed, purpose, step);
        let tokens = self.tokens(split);
        let mut batch = Batch::with_capacity(batch_size, self.context);
        for _ in 0..batch_size {
            let start = rng::below(&mut rng, tokens.len() - self.context);
            let window = &tokens[start..=start + self.context];
            batch.push(
                window[..self.context].iter().copied(),
                window[1..].iter().copied(),
            );
        }
        batch
    }
}
