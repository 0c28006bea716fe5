//! Characters to tokens and back.

use proptest::prelude::*;

use shadegrad::Error;
use shadegrad::data::CharTokenizer;

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
