//! A text as one stream of tokens, for training and for evaluations.

use shadegrad::data::{Batch, IGNORE_INDEX, Split, StreamDataset};

use super::course;

/// The tokens of a text, the first 90 % for training and the rest for the test, in batches.
pub struct Stream {
    dataset: StreamDataset,
    batch_size: usize,
    eval_batch_size: usize,
    seed: u64,
}

impl Stream {
    /// Cuts a stream of tokens into windows of `context`; training draws them by the seed.
    ///
    /// # Errors
    ///
    /// Those of [`StreamDataset::new`].
    pub fn new(
        tokens: Vec<u32>,
        context: usize,
        (batch_size, eval_batch_size): (usize, usize),
        seed: u64,
    ) -> shadegrad::Result<Stream> {
        Ok(Stream {
            dataset: StreamDataset::new(tokens, context)?,
            batch_size,
            eval_batch_size,
            seed,
        })
    }

    /// The number of tokens to train on, and for the test.
    pub fn sizes(&self) -> [usize; 2] {
        [Split::Train, Split::Test].map(|split| self.dataset.tokens(split).len())
    }

    /// Rows of consecutive tokens from some starts, filled up with positions that have no target.
    fn rows(&self, split: Split, starts: &[usize]) -> Batch {
        let (tokens, context) = (self.dataset.tokens(split), self.dataset.context());
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

impl course::Data for Stream {
    fn train_batch(&self, step: u64) -> Batch {
        self.dataset
            .batch(Split::Train, self.batch_size, self.seed, step)
    }

    /// The whole split, cut into windows that do not overlap; windows spread evenly over it if these are too many.
    fn evaluation(&self, split: Split, batches: usize) -> Box<dyn Iterator<Item = Batch> + '_> {
        let context = self.dataset.context();
        // The last token is only a target.
        let all = (self.dataset.tokens(split).len() - 1).div_ceil(context);
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
