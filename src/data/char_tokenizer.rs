//! One token a character.

use std::collections::BTreeSet;

use crate::error::{Error, Result};

/// A tokenizer whose vocabulary is the sorted set of characters of a text: a token is a character's rank in it.
///
/// A list of names has `'\n'` below every letter, so there it is token 0.
///
/// ```
/// use shadegrad::data::CharTokenizer;
///
/// let tokenizer = CharTokenizer::from_text("emma\nava\n")?;
/// assert_eq!(tokenizer.vocabulary(), ['\n', 'a', 'e', 'm', 'v']);
/// assert_eq!(tokenizer.encode("ava\n")?, [1, 4, 1, 0]);
/// assert_eq!(tokenizer.decode(&[1, 4, 1, 0])?, "ava\n");
/// # Ok::<(), shadegrad::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CharTokenizer {
    /// Strictly ascending, which makes a search in it the whole of the encoding.
    vocabulary: Vec<char>,
}

impl CharTokenizer {
    /// The tokenizer of all characters that occur in `text`.
    ///
    /// # Errors
    ///
    /// [`Error::EmptyData`] if there are none.
    pub fn from_text(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(Error::EmptyData {
                what: "the text to take a vocabulary from".into(),
            });
        }
        let distinct: BTreeSet<char> = text.chars().collect();
        Ok(Self {
            vocabulary: distinct.into_iter().collect(),
        })
    }

    /// The tokenizer that had this [`vocabulary`](Self::vocabulary), for example in a checkpoint.
    ///
    /// # Errors
    ///
    /// * [`Error::EmptyData`] if it is empty;
    /// * [`Error::InvalidArgument`] if it is not strictly ascending, which no tokenizer's vocabulary is.
    pub fn from_vocabulary(vocabulary: Vec<char>) -> Result<Self> {
        if vocabulary.is_empty() {
            return Err(Error::EmptyData {
                what: "the vocabulary".into(),
            });
        }
        if let Some(pair) = vocabulary.windows(2).find(|pair| pair[0] >= pair[1]) {
            let value = format!("{:?} before {:?}", pair[0], pair[1]);
            let expected = "distinct characters in ascending order, as written by `vocabulary()`";
            return Err(Error::invalid("vocabulary", value, expected));
        }
        Ok(Self { vocabulary })
    }

    /// The number of tokens.
    pub fn vocab_size(&self) -> usize {
        self.vocabulary.len()
    }

    /// All characters in the order of their tokens.
    pub fn vocabulary(&self) -> &[char] {
        &self.vocabulary
    }

    /// The token of a character, if the vocabulary has it.
    pub fn token(&self, character: char) -> Option<u32> {
        // There are fewer than 2²¹ characters in Unicode.
        let rank = self.vocabulary.binary_search(&character).ok()?;
        Some(rank as u32)
    }

    /// The tokens of a text.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownCharacter`] for the first character that the vocabulary lacks, with its position counted in
    /// characters from 0.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        text.chars()
            .enumerate()
            .map(|(position, character)| {
                self.token(character).ok_or(Error::UnknownCharacter {
                    character,
                    position,
                })
            })
            .collect()
    }

    /// The text of a sequence of tokens.
    ///
    /// # Errors
    ///
    /// [`Error::TokenOutOfRange`] for the first token that is not below [`vocab_size`](Self::vocab_size).
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        tokens
            .iter()
            .map(|&token| {
                let character = self.vocabulary.get(token as usize);
                character.copied().ok_or(Error::TokenOutOfRange {
                    token,
                    vocab_size: self.vocab_size(),
                })
            })
            .collect()
    }
}
