//! What the model reads and writes: characters, or the byte pairs of a tokenizer.json.

use std::path::Path;

use shadegrad::checkpoint::Checkpoint;
use shadegrad::data::{CharTokenizer, read_text};

use crate::common::Result;
use crate::common::checkpoint::{Stored, digest};

/// A way to cut text into tokens.
pub enum Tokens {
    /// One a character.
    Characters(CharTokenizer),
    /// As the file says.
    #[cfg(feature = "tokenizers")]
    BytePairs {
        tokenizer: Box<tokenizers::Tokenizer>,
        /// What the file holds.
        text: String,
    },
}

impl Tokens {
    /// Reads a tokenizer.json, a file of the same digest if one is given, wherever it lies.
    ///
    /// # Errors
    ///
    /// If it cannot be read or is another one, or if the program was built without the feature for it.
    pub fn byte_pairs(path: &Path, known: &mut Option<String>, stored: &Stored) -> Result<Tokens> {
        let text = read_text(path).map_err(|error| stored.explain("tokenizer", error))?;
        let digest = digest(&text);
        if let Some(known) = known.as_ref().filter(|known| **known != digest) {
            return Err(format!(
                "--tokenizer: {} is not the file that the checkpoint was trained with (digest {digest}, not {known})",
                path.display()
            )
            .into());
        }
        *known = Some(digest);
        parse(text).map_err(|error| format!("--tokenizer: {}: {error}", path.display()).into())
    }

    /// Those that the model of a checkpoint reads and writes.
    ///
    /// # Errors
    ///
    /// If it has none, or this program was built without them.
    pub fn of(checkpoint: &Checkpoint) -> Result<Tokens> {
        match &checkpoint.metadata.tokenizer {
            Some(text) => Ok(parse(text.clone())?),
            None => Ok(Tokens::Characters(checkpoint.tokenizer()?)),
        }
    }

    /// What a token is.
    pub fn unit(&self) -> &'static str {
        match self {
            Tokens::Characters(_) => "characters",
            #[cfg(feature = "tokenizers")]
            Tokens::BytePairs { .. } => "byte-pair tokens",
        }
    }

    /// The number of different tokens.
    pub fn vocab_size(&self) -> usize {
        match self {
            Tokens::Characters(tokenizer) => tokenizer.vocab_size(),
            #[cfg(feature = "tokenizers")]
            Tokens::BytePairs { tokenizer, .. } => tokenizer.get_vocab_size(true),
        }
    }

    /// The characters of the tokens; nothing if these are no characters.
    pub fn characters(&self) -> &[char] {
        match self {
            Tokens::Characters(tokenizer) => tokenizer.vocabulary(),
            #[cfg(feature = "tokenizers")]
            Tokens::BytePairs { .. } => &[],
        }
    }

    /// The text of the tokenizer.json, if these are byte pairs.
    pub fn text(&self) -> Option<&str> {
        match self {
            Tokens::Characters(_) => None,
            #[cfg(feature = "tokenizers")]
            Tokens::BytePairs { text, .. } => Some(text),
        }
    }

    /// The tokens of a text.
    ///
    /// # Errors
    ///
    /// If the vocabulary lacks something.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match self {
            Tokens::Characters(tokenizer) => Ok(tokenizer.encode(text)?),
            #[cfg(feature = "tokenizers")]
            Tokens::BytePairs { tokenizer, .. } => {
                let encoding = tokenizer.encode(text, false).map_err(|e| e.to_string())?;
                Ok(encoding.get_ids().to_vec())
            }
        }
    }

    /// The text of some tokens.
    ///
    /// # Errors
    ///
    /// If one is out of range.
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        match self {
            Tokens::Characters(tokenizer) => Ok(tokenizer.decode(tokens)?),
            #[cfg(feature = "tokenizers")]
            Tokens::BytePairs { tokenizer, .. } => {
                Ok(tokenizer.decode(tokens, false).map_err(|e| e.to_string())?)
            }
        }
    }

    /// The tokens that samples begin with.
    ///
    /// # Errors
    ///
    /// If the vocabulary lacks something of it, or it is empty.
    pub fn prompt(&self, text: Option<&str>) -> Result<Vec<u32>> {
        let Some(text) = text else {
            // A text without line ends has another first token, and any will do.
            return Ok(self.encode("\n").unwrap_or_else(|_| vec![0]));
        };
        let tokens = self
            .encode(text)
            .map_err(|error| format!("--prompt: {error}"))?;
        match tokens.is_empty() {
            true => Err("--prompt: it is empty, at least one token is needed".into()),
            false => Ok(tokens),
        }
    }
}

#[cfg(feature = "tokenizers")]
fn parse(text: String) -> std::result::Result<Tokens, String> {
    let tokenizer = text.parse::<tokenizers::Tokenizer>();
    let tokenizer = Box::new(tokenizer.map_err(|error| error.to_string())?);
    Ok(Tokens::BytePairs { tokenizer, text })
}

#[cfg(not(feature = "tokenizers"))]
fn parse(_: String) -> std::result::Result<Tokens, String> {
    Err("this program was built without byte pairs; build it with --features tokenizers".into())
}
