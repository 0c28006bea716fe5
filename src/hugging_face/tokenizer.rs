//! Byte-pair tokenization, by the `tokenizers` crate.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokenizers::decoders::{
    byte_fallback::ByteFallback, byte_level::ByteLevel, fuse::Fuse, sequence::Sequence,
    strip::Strip,
};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::{NormalizerWrapper, Replace};
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::{AddedToken, DecoderWrapper};

use super::files::{CONFIG, is_there, read};
use super::guard::guarded;
use crate::error::{Error, Result};

const TOKENIZER: &str = "tokenizer.json";

/// GPT-2's own file names, what stands beside them, and what it ends texts with, which no merge makes.
const VOCABULARY: &str = "vocab.json";
const MERGES: &str = "merges.txt";
const ADDED: &str = "added_tokens.json";
const SPECIAL: &str = "special_tokens_map.json";
pub(super) const SETTINGS: &str = "tokenizer_config.json";
const END_OF_TEXT: &str = "<|endoftext|>";

/// What the tokens with a meaning of their own are called where they are listed.
pub(super) const ROLES: [&str; 7] = [
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

/// Those that have no role, by their older and by their newer name.
const OTHERS: [&str; 2] = ["additional_special_tokens", "extra_special_tokens"];

/// Where added tokens are listed by their ids.
const LISTED: &str = "added_tokens_decoder";

/// Turns text into tokens and back, as a model's directory says: `tokenizer.json`, or GPT-2's `vocab.json` and
/// `merges.txt`, with the added tokens of `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json`.
/// Truncation and padding that are stored there are off: a text is as long as it is. GPT-2 splits text into words with the
/// space before them, their UTF-8 bytes into characters of an alphabet of 256, and joins those by the pairs that were most
/// frequent in its training text. Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units".
///
/// A special token that is spelt out in a text, `<|endoftext|>` say, becomes that token, whoever wrote the text, as in
/// `transformers`: what must not end a text or begin another's turn has to be kept out of it beforehand.
///
/// For `LlamaTokenizer` and `GPT2Tokenizer`, which `tokenizer_config.json` may name, `transformers` 5 has ways of its own to
/// split text, whatever `tokenizer.json` says, and so has this.
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
    pub(super) inner: tokenizers::Tokenizer,
    /// What special tokens a text begins and ends with beside those that `inner` adds.
    ends: [Option<u32>; 2],
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
        if !is_there(&path) && is_there(&directory.join(VOCABULARY)) {
            return Tokenizer::from_merges(directory);
        }
        let bytes = read(&path)?;
        // The library panics on some texts that are no JSON.
        serde_json::from_slice::<serde::de::IgnoredAny>(&bytes)
            .map_err(|error| refuse(&path, error))?;
        let refused = |error| refuse(&path, error);
        let parsed = guarded(|| tokenizers::Tokenizer::from_bytes(bytes));
        let mut inner = parsed.map_err(refused)?;
        inner.with_truncation(None).map_err(refused)?;
        inner.with_padding(None);
        let settings = settings(directory)?;
        set_class(directory, &settings, &mut inner).map_err(refused)?;
        let missing = missing_tokens(directory, &settings, &inner)?;
        guarded(|| inner.add_tokens(missing)).map_err(refused)?;
        Ok(Tokenizer {
            path,
            inner,
            ends: [None; 2],
        })
    }

    fn from_merges(directory: &Path) -> Result<Tokenizer> {
        let path = directory.join(VOCABULARY);
        let mut vocabulary: BTreeMap<String, u32> = parse(&path)?;
        let stated = settings(directory)?;
        let mut settings = stated.clone();
        for role in FILLED {
            settings.entry(role).or_insert(END_OF_TEXT.into());
        }
        let added = added_tokens(directory, &stated, &settings, &mut vocabulary)?;
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
        // `tokenizer.json` would say this itself.
        let ends = [
            ("add_bos_token", "bos_token"),
            ("add_eos_token", "eos_token"),
        ];
        let ends = ends.map(|(flag, role)| {
            let is_added = settings.get(flag) == Some(&Value::Bool(true));
            let token = is_added.then(|| of_role(&settings, role)).flatten()?;
            inner.token_to_id(&token.content)
        });
        Ok(Tokenizer { path, inner, ends })
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

    /// The tokens of a text, and no others: those of a part of a text, or of a [chat](super::ChatTemplate), whose template
    /// writes special tokens itself.
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`] if the tokenizer has no tokens for it; GPT-2's has for every text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.encoded(text, false)
    }

    /// The tokens of a whole text as the model expects it: with those around it that the tokenizer adds, `<s>` or
    /// `<|begin_of_text|>` in front, say; none for GPT-2. This is `tokenizer(text)` of `transformers`: the post-processor
    /// of `tokenizer.json` decides, and `add_bos_token` and `add_eos_token` of `tokenizer_config.json` where there is no
    /// such file.
    ///
    /// # Errors
    ///
    /// As [`Tokenizer::encode`].
    pub fn encode_with_special_tokens(&self, text: &str) -> Result<Vec<u32>> {
        let tokens = self.encoded(text, true)?;
        let [first, last] = self.ends;
        Ok(first.into_iter().chain(tokens).chain(last).collect())
    }

    fn encoded(&self, text: &str, adds_special_tokens: bool) -> Result<Vec<u32>> {
        let encoding = guarded(|| self.inner.encode_fast(text, adds_special_tokens));
        let encoding = encoding.map_err(|error| refuse(&self.path, error))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of tokens. Bytes that are no UTF-8 become `U+FFFD`: a character may take several tokens. So does a token
    /// that [has no text](Tokenizer::without_text).
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`] if the tokenizer's decoder refuses them; GPT-2's does not.
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        self.decoded(tokens, false)
    }

    /// [`Tokenizer::decode`] without the special tokens among them: what a reader is to see of an answer.
    ///
    /// # Errors
    ///
    /// As [`Tokenizer::decode`].
    pub fn decode_without_special_tokens(&self, tokens: &[u32]) -> Result<String> {
        self.decoded(tokens, true)
    }

    pub(super) fn decoded(&self, tokens: &[u32], skip_special_tokens: bool) -> Result<String> {
        let known = tokens.split(|&token| !self.has(token));
        let vocabulary = self.inner.get_added_vocabulary();
        let is_read = |&token: &u32| {
            let text = self.inner.id_to_token(token);
            text.is_some_and(|text| !skip_special_tokens || !vocabulary.is_special_token(&text))
        };
        let texts = known.map(|tokens| match tokens.iter().any(is_read) {
            true => guarded(|| self.inner.decode(tokens, skip_special_tokens)),
            // Not every decoder can take no token.
            false => Ok(String::new()),
        });
        let texts = texts.collect::<tokenizers::Result<Vec<_>>>();
        let texts = texts.map_err(|error| refuse(&self.path, error))?;
        Ok(texts.join("\u{fffd}"))
    }

    pub(super) fn refuse(&self, reason: impl fmt::Display) -> Error {
        refuse(&self.path, reason)
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

/// What `tokenizer_config.json` says. Where it doesn't list the added tokens, `special_tokens_map.json` says what the
/// special ones are.
pub(super) fn settings(directory: &Path) -> Result<Map<String, Value>> {
    let mut settings: Map<String, Value> = parse_if_there(directory.join(SETTINGS))?;
    if !settings.contains_key(LISTED) {
        let special: Map<String, Value> = parse_if_there(directory.join(SPECIAL))?;
        settings.extend(special);
    }
    Ok(settings)
}

/// The tokens that the settings list, by their ids.
fn listed_tokens(
    path: &Path,
    settings: &Map<String, Value>,
) -> Result<Option<BTreeMap<u32, AddedToken>>> {
    let Some(listed) = settings.get(LISTED).and_then(Value::as_object) else {
        return Ok(None);
    };
    let tokens = listed.iter().map(|(id, token)| {
        let pair = id.parse().ok().zip(added_token(token, false));
        pair.ok_or_else(|| refuse(path, format!("`{id}` of its {LISTED} is no token")))
    });
    tokens.collect::<Result<_>>().map(Some)
}

/// How many tokens the model has room for, if the directory says so.
fn room(directory: &Path) -> Result<Option<u64>> {
    let config: Map<String, Value> = parse_if_there(directory.join(CONFIG))?;
    Ok(config.get("vocab_size").and_then(Value::as_u64))
}

/// Splits and joins text as the classes of `transformers` do that don't read it from `tokenizer.json`.
fn set_class(
    directory: &Path,
    settings: &Map<String, Value>,
    inner: &mut tokenizers::Tokenizer,
) -> tokenizers::Result<()> {
    let config: Map<String, Value> = parse_if_there(directory.join(CONFIG))?;
    let kind = config.get("model_type").and_then(Value::as_str);
    let class = settings.get("tokenizer_class").and_then(Value::as_str);
    // That of the type, where none is named.
    let class = class.or((kind == Some("gpt2")).then_some("GPT2Tokenizer"));
    let class = class.map(|class| class.strip_suffix("Fast").unwrap_or(class));
    let prefix = settings.get("add_prefix_space");
    let are_bytes = matches!(inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_)));
    match class {
        // For these types, classes named so are known to be wrong.
        _ if matches!(kind, None | Some("mistral" | "qwen2")) => {}
        Some("GPT2Tokenizer") if are_bytes => {
            let prefix = prefix == Some(&Value::Bool(true));
            inner.with_normalizer(None::<NormalizerWrapper>)?;
            inner.with_pre_tokenizer(Some(ByteLevel::new(prefix, true, true)));
        }
        Some("LlamaTokenizer") if !are_bytes => {
            let prefix = prefix != Some(&Value::Bool(false));
            let scheme = match settings.get("legacy") {
                _ if !prefix => PrependScheme::Never,
                Some(Value::Bool(true)) => PrependScheme::Always,
                _ => PrependScheme::First,
            };
            let mut chain: Vec<DecoderWrapper> = vec![
                Replace::new("\u{2581}", " ")?.into(),
                ByteFallback::new().into(),
                Fuse::new().into(),
            ];
            if prefix {
                chain.push(Strip::new(' ', 1, 0).into());
            }
            inner.with_normalizer(None::<NormalizerWrapper>)?;
            inner.with_pre_tokenizer(Some(Metaspace::new('\u{2581}', scheme, false)));
            inner.with_decoder(Some(Sequence::new(chain)));
        }
        _ => {}
    }
    Ok(())
}

/// The tokens that the settings have and `tokenizer.json` has not, as far as the model has room for them.
fn missing_tokens(
    directory: &Path,
    settings: &Map<String, Value>,
    inner: &tokenizers::Tokenizer,
) -> Result<Vec<AddedToken>> {
    let listed = listed_tokens(&directory.join(SETTINGS), settings)?.unwrap_or_default();
    let known = inner.get_added_tokens_decoder();
    let room = room(directory)?.unwrap_or(u64::MAX);
    let mut next = inner.get_vocab_size(true) as u64;
    let mut missing: Vec<AddedToken> = Vec::new();
    for token in listed.into_values().chain(special_tokens(settings)) {
        let is_it = |other: &AddedToken| other.content == token.content;
        let is_new = inner.token_to_id(&token.content).is_none();
        if known.values().any(is_it) || missing.iter().any(is_it) || (is_new && next >= room) {
            continue;
        }
        next += u64::from(is_new);
        missing.push(token);
    }
    Ok(missing)
}

/// The added tokens in the order of their ids, as `transformers` finds them: by `added_tokens_decoder` of the settings,
/// else by the two older files. Those with an id of their own, which need not come right behind the vocabulary, are put
/// into it. `stated` is what the files say; the settings have what GPT-2 has besides.
fn added_tokens(
    directory: &Path,
    stated: &Map<String, Value>,
    settings: &Map<String, Value>,
    vocabulary: &mut BTreeMap<String, u32>,
) -> Result<Vec<AddedToken>> {
    let mut source = directory.join(SETTINGS);
    let numbered = match listed_tokens(&source, settings)? {
        Some(listed) => listed,
        None => {
            source = directory.join(ADDED);
            let added: BTreeMap<String, u32> = parse_if_there(source.clone())?;
            let special: Vec<AddedToken> = special_tokens(settings).collect();
            let tokens = added.into_iter().map(|(content, id)| {
                let is_special = special.iter().any(|token| token.content == content);
                (id, AddedToken::from(content, is_special))
            });
            tokens.collect()
        }
    };
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
    let room = room(directory)?;
    let mut added: Vec<AddedToken> = numbered.into_values().collect();
    for token in special_tokens(settings) {
        let last = vocabulary.values().max();
        let next = last.map_or(0, |last| last.saturating_add(1));
        let is_new = !vocabulary.contains_key(&token.content);
        // Models that end their texts otherwise have no room for what no file names.
        let is_named = special_tokens(stated).any(|it| it.content == token.content);
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

/// The tokens with a meaning of their own.
fn special_tokens(settings: &Map<String, Value>) -> impl Iterator<Item = AddedToken> {
    let tokens = ROLES.iter().filter_map(|role| of_role(settings, role));
    let lists = OTHERS
        .iter()
        .filter_map(|name| settings.get(*name)?.as_array());
    tokens.chain(lists.flatten().filter_map(|token| added_token(token, true)))
}

pub(super) fn of_role(settings: &Map<String, Value>, role: &str) -> Option<AddedToken> {
    added_token(settings.get(role)?, true)
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
    match is_there(&path) {
        true => parse(&path),
        false => Ok(T::default()),
    }
}

fn refuse(path: &Path, error: impl fmt::Display) -> Error {
    Error::checkpoint(
        path,
        format!("it is no tokenizer that can be used: {error}"),
    )
}
