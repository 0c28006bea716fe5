//! Byte-pair tokenization, by the `tokenizers` crate.

use std::fmt;
use std::path::{Path, PathBuf};

use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::bpe::BPE;

use super::read;
use crate::error::{Error, Result};

const TOKENIZER: &str = "tokenizer.json";

/// GPT-2's own file names, and what it ends texts with, which is part of neither file's merges.
const VOCABULARY: &str = "vocab.json";
const MERGES: &str = "merges.txt";
const END_OF_TEXT: &str = "<|endoftext|>";

/// Turns text into tokens and back, as a model's directory says: `tokenizer.json`, or GPT-2's `vocab.json` and
/// `merges.txt`. GPT-2 splits text into words with the space before them, their UTF-8 bytes into characters of an
/// alphabet of 256, and joins those by the pairs that were most frequent in its training text. Sennrich et al. 2016,
/// "Neural Machine Translation of Rare Words with Subword Units".
///
/// ```no_run
/// use shadegrad::hugging_face::Tokenizer;
///
/// let tokenizer = Tokenizer::open("models/gpt2")?;
/// let tokens = tokenizer.encode("Ralph")?;
/// assert_eq!(tokenizer.strings(&tokens)?, ["R", "alph"]);
/// assert_eq!(tokenizer.decode(&tokens)?, "Ralph");
/// # Ok::<(), shadegrad::Error>(())
/// ```
#[derive(Clone)]
pub struct Tokenizer {
    path: PathBuf,
    inner: tokenizers::Tokenizer,
}

impl Tokenizer {
    /// Reads the tokenizer of a model's directory.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if it cannot be read, [`Error::Checkpoint`], with the file, if it is damaged.
    pub fn open(directory: impl AsRef<Path>) -> Result<Tokenizer> {
        let directory = directory.as_ref();
        let path = directory.join(TOKENIZER);
        if !path.exists() && directory.join(VOCABULARY).exists() {
            return Tokenizer::from_merges(directory);
        }
        let inner = tokenizers::Tokenizer::from_bytes(read(&path)?);
        match inner {
            Ok(inner) => Ok(Tokenizer { path, inner }),
            Err(error) => Err(refuse(&path, error)),
        }
    }

    fn from_merges(directory: &Path) -> Result<Tokenizer> {
        let path = directory.join(VOCABULARY);
        let merges = directory.join(MERGES);
        // The builder would only say that some file is missing.
        read(&merges)?;
        let names = [&path, &merges].map(|path| path.to_string_lossy().into_owned());
        let model = BPE::from_file(&names[0], &names[1]).build();
        let model = model.map_err(|error| refuse(&path, error))?;
        let mut inner = tokenizers::Tokenizer::new(model);
        // GPT-2 puts no space in front of a text.
        let bytes = ByteLevel::new(false, true, true);
        inner
            .with_pre_tokenizer(Some(bytes))
            .with_decoder(Some(ByteLevel::default()));
        let end = tokenizers::AddedToken::from(END_OF_TEXT, true);
        inner
            .add_special_tokens([end])
            .map_err(|error| refuse(&path, error))?;
        Ok(Tokenizer { path, inner })
    }

    /// How many tokens there are.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The token of this very text, if there is one: `<|endoftext|>`, say.
    pub fn token(&self, text: &str) -> Option<u32> {
        self.inner.token_to_id(text)
    }

    /// The tokens of a text.
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`] if the tokenizer has no tokens for it; GPT-2's has for every text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false);
        match encoding {
            Ok(encoding) => Ok(encoding.get_ids().to_vec()),
            Err(error) => Err(refuse(&self.path, error)),
        }
    }

    /// The text of tokens. Bytes that are no UTF-8 become `U+FFFD`: a character may take several tokens.
    ///
    /// # Errors
    ///
    /// [`Error::TokenOutOfRange`] if a token is not of the vocabulary.
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        let unknown = tokens
            .iter()
            .find(|&&token| self.inner.id_to_token(token).is_none());
        if let Some(&token) = unknown {
            let vocab_size = self.vocab_size();
            return Err(Error::TokenOutOfRange { token, vocab_size });
        }
        let text = self.inner.decode(tokens, false);
        text.map_err(|error| refuse(&self.path, error))
    }

    /// The text of each token by itself.
    ///
    /// # Errors
    ///
    /// As [`Tokenizer::decode`].
    pub fn strings(&self, tokens: &[u32]) -> Result<Vec<String>> {
        tokens.iter().map(|&token| self.decode(&[token])).collect()
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokenizer({} tokens)", self.vocab_size())
    }
}

fn refuse(path: &Path, error: tokenizers::Error) -> Error {
    Error::Checkpoint {
        path: path.to_owned(),
        reason: format!("it is no tokenizer that can be used: {error}"),
    }
}
