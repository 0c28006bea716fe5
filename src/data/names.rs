//! One row a name, as the makemore program cuts its batches.

use std::collections::HashSet;

use super::{Batch, CharTokenizer, IGNORE_INDEX};
use crate::error::{Error, Result, excerpt};
use crate::rng;

/// The token that starts and ends a name and that fills the inputs behind it: `'\n'`, which sorts below every
/// character that a name may have.
const TERMINATOR: u32 = 0;

/// Characters of a name that a message shows.
const SHOWN: usize = 60;

/// A list of names, of which a batch has one in each row, terminated and padded to the window.
///
/// With a window of 6, `ava` is
///
/// ```text
/// inputs   \n  a   v   a   \n  \n
/// targets  a   v   a   \n  –   –       – is IGNORE_INDEX
/// ```
///
/// The names are shuffled by the seed; the last 10 %, at most 1,000 and at least one, are the test set.
#[derive(Clone, Debug)]
pub struct NamesDataset {
    tokenizer: CharTokenizer,
    /// All names in shuffled order, as tokens.
    names: Vec<Vec<u32>>,
    /// The number of names in the training set, which come first.
    train_len: usize,
    known: HashSet<String>,
    context: usize,
    seed: u64,
}

impl NamesDataset {
    /// Reads a text with one name a line. White space around a name and blank lines are dropped; a name that occurs
    /// twice stays twice, for that is how often it occurs. The vocabulary is that of the names, and `'\n'`.
    ///
    /// # Errors
    ///
    /// * [`Error::EmptyData`] if there is no name;
    /// * [`Error::InvalidArgument`] if there is only one, if a name contains a control character, or if the longest
    ///   name does not fit the window, which takes one position more than the name has characters.
    pub fn new(text: &str, context: usize, seed: u64) -> Result<Self> {
        let names = parse(text)?;
        let characters = names.iter().flat_map(|name| name.chars());
        let vocabulary: String = characters.chain(['\n']).collect();
        Self::build(names, CharTokenizer::from_text(&vocabulary)?, context, seed)
    }

    /// The same with a given tokenizer, such as that of the checkpoint to be resumed.
    ///
    /// # Errors
    ///
    /// Those of [`new`](Self::new); also [`Error::InvalidArgument`] if `'\n'` is not the tokenizer's token 0, and
    /// [`Error::UnknownCharacter`] if a name has a character that the tokenizer lacks, with its position in the name.
    pub fn with_tokenizer(
        text: &str,
        tokenizer: CharTokenizer,
        context: usize,
        seed: u64,
    ) -> Result<Self> {
        if tokenizer.token('\n') != Some(TERMINATOR) {
            let first = format!("{:?} as token 0", tokenizer.vocabulary()[0]);
            let expected = "'\\n' as token 0, which starts and ends a name";
            return Err(Error::invalid("vocabulary", first, expected));
        }
        Self::build(parse(text)?, tokenizer, context, seed)
    }

    fn build(
        mut names: Vec<&str>,
        tokenizer: CharTokenizer,
        context: usize,
        seed: u64,
    ) -> Result<Self> {
        if names.len() < 2 {
            let only = format!("only {:?}", excerpt(names[0], SHOWN));
            let expected = "at least 2 names, one to train on and one to test with";
            return Err(Error::invalid("names", only, expected));
        }
        // The longest one, so that the remedy is good for all.
        let longest = names.iter().map(|name| (name.chars().count(), *name));
        let (length, name) = longest.max_by_key(|&(length, _)| length).expect("names");
        if length >= context {
            let expected = format!(
                "at least {}, because the name {:?} has {length} characters and takes one position more: \
                     widen the window or remove the name",
                length + 1,
                excerpt(name, SHOWN),
            );
            return Err(Error::invalid("context", context, expected));
        }
        rng::shuffle(&mut names, &mut rng::keyed(seed, "names/shuffle", 0));
        let train_len = names.len() - (names.len() / 10).clamp(1, 1000);
        let known = names[..train_len].iter().map(|name| (*name).to_owned());
        Ok(Self {
            known: known.collect(),
            names: names
                .iter()
                .map(|name| tokenizer.encode(name))
                .collect::<Result<_>>()?,
            tokenizer,
            train_len,
            context,
            seed,
        })
    }

    /// The tokenizer, in which `'\n'` is token 0.
    pub fn tokenizer(&self) -> &CharTokenizer {
        &self.tokenizer
    }

    /// The number of tokens in a row of a batch.
    pub fn context(&self) -> usize {
        self.context
    }

    /// The number of names to train on.
    pub fn train_len(&self) -> usize {
        self.train_len
    }

    /// The number of names to test with.
    pub fn test_len(&self) -> usize {
        self.names.len() - self.train_len
    }

    /// Whether a name is among those that the model is trained on; a sample that is not is the model's own.
    pub fn is_known(&self, name: &str) -> bool {
        self.known.contains(name)
    }

    /// Training batch number `step`, its names drawn uniformly with replacement: a function of the dataset and these
    /// arguments, whatever was drawn before.
    ///
    /// # Panics
    ///
    /// If `batch_size` is zero.
    #[track_caller]
    pub fn train_batch(&self, batch_size: usize, step: u64) -> Batch {
        assert!(batch_size > 0, "a batch needs at least one row");
        let mut rng = rng::keyed(self.seed, "names/train", step);
        let drawn = (0..batch_size).map(|_| &self.names[rng::below(&mut rng, self.train_len)]);
        self.rows(drawn, batch_size)
    }

    /// The whole test set in order.
    ///
    /// Every batch has `batch_size` rows: what the last one lacks is filled with rows that have no target, so that
    /// all of them replay one plan. Weight their losses by [`Batch::target_count`].
    ///
    /// # Panics
    ///
    /// If `batch_size` is zero.
    #[track_caller]
    pub fn test_batches(&self, batch_size: usize) -> impl ExactSizeIterator<Item = Batch> + '_ {
        self.in_order(&self.names[self.train_len..], batch_size)
    }

    /// The first `max` names of the training set, as shuffled, in batches like those of
    /// [`test_batches`](Self::test_batches): the same names each time, so that successive estimates of the training
    /// loss compare.
    ///
    /// # Panics
    ///
    /// If `batch_size` is zero.
    #[track_caller]
    pub fn train_subset_batches(
        &self,
        batch_size: usize,
        max: usize,
    ) -> impl ExactSizeIterator<Item = Batch> + '_ {
        self.in_order(&self.names[..max.min(self.train_len)], batch_size)
    }

    #[track_caller]
    fn in_order<'a>(
        &'a self,
        names: &'a [Vec<u32>],
        batch_size: usize,
    ) -> impl ExactSizeIterator<Item = Batch> + 'a {
        assert!(batch_size > 0, "a batch needs at least one row");
        names
            .chunks(batch_size)
            .map(move |chunk| self.rows(chunk, batch_size))
    }

    /// One row a name, then rows of padding up to `batch_size`.
    fn rows<'a>(&self, names: impl IntoIterator<Item = &'a Vec<u32>>, batch_size: usize) -> Batch {
        let mut batch = Batch::with_capacity(batch_size, self.context);
        for name in names {
            let padding = self.context - name.len() - 1;
            batch.push(
                std::iter::once(TERMINATOR)
                    .chain(name.iter().copied())
                    .chain(std::iter::repeat_n(TERMINATOR, padding)),
                name.iter()
                    .copied()
                    .chain([TERMINATOR])
                    .chain(std::iter::repeat_n(IGNORE_INDEX, padding)),
            );
        }
        while batch.batch_size < batch_size {
            batch.push(
                std::iter::repeat_n(TERMINATOR, self.context),
                std::iter::repeat_n(IGNORE_INDEX, self.context),
            );
        }
        batch
    }
}

/// The names of a text, one a line.
fn parse(text: &str) -> Result<Vec<&str>> {
    let names: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .collect();
    if names.is_empty() {
        return Err(Error::EmptyData {
            what: "the list of names".into(),
        });
    }
    // A tab inside a name would sort below '\n' and take its token.
    match names.iter().find(|name| name.contains(char::is_control)) {
        Some(name) => {
            let value = format!("{:?}", excerpt(name, SHOWN));
            let expected = "no control characters: remove them from the file";
            Err(Error::invalid("name", value, expected))
        }
        None => Ok(names),
    }
}
