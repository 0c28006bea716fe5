//! Byte-pair tokenization, by the `tokenizers` crate.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokenizers::AddedToken;
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::bpe::{BPE, Vocab};

use super::files::{CONFIG, read};
use crate::error::{Error, Result};

const TOKENIZER: &str = "tokenizer.json";

/// GPT-2's own file names, what stands beside them, and what it ends texts with, which no merge makes.
const VOCABULARY: &str = "vocab.json";
const MERGES: &str = "merges.txt";
const ADDED: &str = "added_tokens.json";
const SPECIAL: &str = "special_tokens_map.json";
const SETTINGS: &str = "tokenizer_config.json";
const END_OF_TEXT: &str = "<|endoftext|>";

/// What the tokens with a meaning of their own are called where they are listed.
const ROLES: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// Those of them that GPT-2 always has.
const FILLED: [&str; 3] = ["bos_token", "eos_token", "unk_token"];

/// Those that have no role.
const OTHERS: &str = "additional_special_tokens";

/// Turns text into tokens and back, as a model's directory says: `tokenizer.json`, or GPT-2's `vocab.json` and
/// `merges.txt` with the added tokens of `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json`.
/// Truncation and padding that are stored there are off: a text is as long as it is. GPT-2 splits text into words with the
/// space before them, their UTF-8 bytes into characters of an alphabet of 256, and joins those by the pairs that were most
/// frequent in its training text. Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units".
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
        let bytes = read(&path)?;
        // The library panics on some texts that are no JSON.
        serde_json::from_slice::<serde::de::IgnoredAny>(&bytes)
            .map_err(|error| refuse(&path, error))?;
        match tokenizers::Tokenizer::from_bytes(bytes) {
            Ok(mut inner) => {
                let off = inner.with_truncation(None).map(|inner| {
                    inner.with_padding(None);
                });
                off.map_err(|error| refuse(&path, error))?;
                Ok(Tokenizer { path, inner })
            }
            Err(error) => Err(refuse(&path, error)),
        }
    }

    fn from_merges(directory: &Path) -> Result<Tokenizer> {
        let path = directory.join(VOCABULARY);
        let mut vocabulary: BTreeMap<String, u32> = parse(&path)?;
        let settings: Map<String, Value> = parse_if_there(directory.join(SETTINGS))?;
        let added = added_tokens(directory, &settings, &mut vocabulary)?;
        let merges = merges(&directory.join(MERGES))?;
        let vocabulary: Vocab = vocabulary.into_iter().collect();
        let model = BPE::builder().vocab_and_merges(vocabulary, merges).build();
        let model = model.map_err(|error| refuse(&path, error))?;
        let mut inner = tokenizers::Tokenizer::new(model);
        // GPT-2 puts no space in front of a text.
        let space = settings.get("add_prefix_space") == Some(&Value::Bool(true));
        let bytes = ByteLevel::new(space, true, true);
        inner
            .with_pre_tokenizer(Some(bytes))
            .with_decoder(Some(ByteLevel::default()));
        inner
            .add_tokens(added)
            .map_err(|error| refuse(&path, error))?;
        Ok(Tokenizer { path, inner })
    }

    /// How many tokens there are.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The tokens below `vocab_size` that have no text: a model may have room for more than its tokenizer has. For
    /// [`Sampler::with_suppressed`](crate::sampling::Sampler::with_suppressed).
    pub fn without_text(&self, vocab_size: usize) -> Vec<u32> {
        let tokens = 0..u32::try_from(vocab_size).unwrap_or(u32::MAX);
        tokens.filter(|&token| !self.has(token)).collect()
    }

    /// The greatest token with its text; `None` if there is none.
    pub fn last(&self) -> Option<(u32, String)> {
        let tokens = self.inner.get_vocab(true).into_iter();
        tokens.map(|(text, token)| (token, text)).max()
    }

    fn has(&self, token: u32) -> bool {
        self.inner.id_to_token(token).is_some()
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

    /// The text of tokens. Bytes that are no UTF-8 become `U+FFFD`: a character may take several tokens. So does a token
    /// that [has no text](Tokenizer::without_text).
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`] if the tokenizer's decoder refuses them; GPT-2's does not.
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        let known = tokens.split(|&token| !self.has(token));
        let texts = known.map(|tokens| self.inner.decode(tokens, false));
        let texts = texts.collect::<tokenizers::Result<Vec<_>>>();
        let texts = texts.map_err(|error| refuse(&self.path, error))?;
        Ok(texts.join("\u{fffd}"))
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

/// The added tokens in the order of their ids, as `transformers` finds them: by `added_tokens_decoder` of the settings,
/// else by the two older files. Those with an id of their own, which need not come right behind the vocabulary, are put
/// into it.
fn added_tokens(
    directory: &Path,
    settings: &Map<String, Value>,
    vocabulary: &mut BTreeMap<String, u32>,
) -> Result<Vec<AddedToken>> {
    let mut roles = settings.clone();
    let mut numbered = BTreeMap::new();
    let mut source = directory.join(SETTINGS);
    if let Some(decoder) = settings
        .get("added_tokens_decoder")
        .and_then(Value::as_object)
    {
        for (id, token) in decoder {
            match (id.parse::<u32>(), added_token(token, false)) {
                (Ok(id), Some(token)) => numbered.insert(id, token),
                _ => {
                    let what = format!("`{id}` of its added_tokens_decoder is no token");
                    return Err(refuse(&source, what));
                }
            };
        }
    } else {
        roles.extend(parse_if_there::<Map<String, Value>>(
            directory.join(SPECIAL),
        )?);
        source = directory.join(ADDED);
        let added: BTreeMap<String, u32> = parse_if_there(source.clone())?;
        let special = special_tokens(&roles);
        for (content, id) in added {
            let is_special = special.iter().any(|token| token.content == content);
            numbered.insert(id, AddedToken::from(content, is_special));
        }
    }
    for (&id, token) in &numbered {
        let content = &token.content;
        let known = vocabulary.get(content).copied();
        let other = vocabulary
            .iter()
            .find(|&(other, &known)| known == id && other != content);
        if known.is_some_and(|known| known != id) || other.is_some() {
            let what = format!("its id {id} of `{content}` is not that of {VOCABULARY}");
            return Err(refuse(&source, what));
        }
        vocabulary.insert(content.clone(), id);
    }
    let config: Map<String, Value> = parse_if_there(directory.join(CONFIG))?;
    let room = config.get("vocab_size").and_then(Value::as_u64);
    let mut added: Vec<AddedToken> = numbered.into_values().collect();
    for token in special_tokens(&roles) {
        let next = vocabulary
            .values()
            .max()
            .map_or(0, |last| last.saturating_add(1));
        let is_new = !vocabulary.contains_key(&token.content);
        // Models that end their texts otherwise have no room for what no file names.
        let is_named = names(&roles, &token.content);
        if is_new && !is_named && room.is_some_and(|room| u64::from(next) >= room) {
            continue;
        }
        vocabulary.entry(token.content.clone()).or_insert(next);
        match added
            .iter_mut()
            .find(|other| other.content == token.content)
        {
            Some(known) => known.special = true,
            None => added.push(token),
        }
    }
    Ok(added)
}

/// The tokens with a meaning of their own, [`END_OF_TEXT`] where GPT-2 has it for want of another.
fn special_tokens(roles: &Map<String, Value>) -> Vec<AddedToken> {
    let end = Value::from(END_OF_TEXT);
    let of_role = |role: &&str| match roles.get(*role) {
        None if FILLED.contains(role) => added_token(&end, true),
        token => added_token(token?, true),
    };
    let others = roles.get(OTHERS).and_then(Value::as_array);
    let others = others.into_iter().flatten();
    let tokens = ROLES.iter().filter_map(of_role);
    tokens
        .chain(others.filter_map(|token| added_token(token, true)))
        .collect()
}

/// Whether a file says that there is such a token.
fn names(roles: &Map<String, Value>, content: &str) -> bool {
    let others = roles.get(OTHERS).and_then(Value::as_array);
    let tokens = ROLES.iter().filter_map(|role| roles.get(*role));
    tokens
        .chain(others.into_iter().flatten())
        .filter_map(|token| added_token(token, true))
        .any(|token| token.content == content)
}

/// A token by its text alone or with how it is to be found.
fn added_token(value: &Value, is_special: bool) -> Option<AddedToken> {
    let Some(content) = value.as_str() else {
        let is = |key: &str| value[key].as_bool();
        let is_special = is_special || is("special") == Some(true);
        let token = AddedToken::from(value["content"].as_str()?, is_special)
            .single_word(is("single_word") == Some(true))
            .lstrip(is("lstrip") == Some(true))
            .rstrip(is("rstrip") == Some(true));
        let normalized = is("normalized").unwrap_or(token.normalized);
        return Some(token.normalized(normalized));
    };
    Some(AddedToken::from(content, is_special))
}

/// The pairs of a file of merges, a line each.
fn merges(path: &Path) -> Result<Vec<(String, String)>> {
    let text = String::from_utf8(read(path)?)
        .map_err(|error| refuse(path, format!("it is not UTF-8: {error}")))?;
    let lines = text.lines().enumerate();
    let lines = lines.filter(|(_, line)| !line.starts_with("#version") && !line.trim().is_empty());
    lines
        .map(
            |(index, line)| match line.split(' ').collect::<Vec<_>>()[..] {
                [left, right] => Ok((left.to_owned(), right.to_owned())),
                _ => Err(refuse(path, format!("line {} is no pair", index + 1))),
            },
        )
        .collect()
}

fn parse<T: DeserializeOwned>(path: &Path) -> Result<T> {
    serde_json::from_slice(&read(path)?).map_err(|error| refuse(path, error))
}

/// Nothing if there is no such file.
fn parse_if_there<T: DeserializeOwned + Default>(path: PathBuf) -> Result<T> {
    match path.exists() {
        true => parse(&path),
        false => Ok(T::default()),
    }
}

fn refuse(path: &Path, error: impl fmt::Display) -> Error {
    Error::Checkpoint {
        path: path.to_owned(),
        reason: format!("it is no tokenizer that can be used: {error}"),
    }
}
