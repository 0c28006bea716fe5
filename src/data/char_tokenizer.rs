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
            return Err(Error::InvalidArgument {
                name: "vocabulary".into(),
                value: format!("{:?} before {:?}", pair[0], pair[1]),
                expected: "distinct characters in ascending order, as written by `vocabulary()`"
                    .into(),
            });
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_names_alphabet_has_27_tokens_with_the_newline_first() {
        let text: String = ('a'..='z').flat_map(|letter| [letter, '\n']).collect();
        let tokenizer = CharTokenizer::from_text(&text).unwrap();
        assert_eq!(tokenizer.vocab_size(), 27);
        assert_eq!(tokenizer.token('\n'), Some(0));
        assert_eq!(tokenizer.token('a'), Some(1));
        assert_eq!(tokenizer.token('z'), Some(26));
        assert_eq!(tokenizer.token('A'), None);
    }

    #[test]
    fn an_unknown_character_is_located_in_characters() {
        let tokenizer = CharTokenizer::from_text("éab").unwrap();
        let error = tokenizer.encode("éb?a!").unwrap_err();
        assert!(matches!(
            error,
            Error::UnknownCharacter {
                character: '?',
                position: 2
            }
        ));
    }

    #[test]
    fn a_token_out_of_range_is_named() {
        let tokenizer = CharTokenizer::from_text("ab").unwrap();
        let error = tokenizer.decode(&[0, 1, 2]).unwrap_err();
        assert!(matches!(
            error,
            Error::TokenOutOfRange {
                token: 2,
                vocab_size: 2
            }
        ));
        assert_eq!(tokenizer.decode(&[]).unwrap(), "");
    }

    #[test]
    fn vocabularies_that_no_tokenizer_has_are_refused() {
        let refused = |characters: &str| {
            CharTokenizer::from_vocabulary(characters.chars().collect()).unwrap_err()
        };
        assert!(matches!(refused(""), Error::EmptyData { .. }));
        for characters in ["ba", "aab"] {
            let error = refused(characters);
            assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
        }
        assert!(matches!(
            CharTokenizer::from_text("").unwrap_err(),
            Error::EmptyData { .. }
        ));
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding(text in "\\PC{1,60}") {
            let tokenizer = CharTokenizer::from_text(&text).unwrap();
            let tokens = tokenizer.encode(&text).unwrap();
            prop_assert_eq!(tokens.len(), text.chars().count());
            prop_assert_eq!(tokenizer.decode(&tokens).unwrap(), text);
            let again = CharTokenizer::from_vocabulary(tokenizer.vocabulary().to_vec()).unwrap();
            prop_assert_eq!(again, tokenizer);
        }
    }
}
