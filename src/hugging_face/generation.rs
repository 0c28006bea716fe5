//! `generation_config.json`.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::fields::{Fields, Reason, unique};
use super::files::{is_there, read, refuse};
use crate::error::Result;
use crate::sampling::SamplingConfig;

const GENERATION: &str = "generation_config.json";

/// What the library draws from where a file doesn't say.
const TOP_K: usize = 50;

/// What would change the tokens that are drawn and is not implemented, each with the values that change nothing.
const UNSUPPORTED: [(&str, &[f64]); 28] = [
    ("bad_words_ids", &[]),
    ("begin_suppress_tokens", &[]),
    ("constraints", &[]),
    ("diversity_penalty", &[0.0]),
    ("dola_layers", &[]),
    ("encoder_no_repeat_ngram_size", &[0.0]),
    ("encoder_repetition_penalty", &[1.0]),
    ("epsilon_cutoff", &[0.0]),
    ("eta_cutoff", &[0.0]),
    ("exponential_decay_length_penalty", &[]),
    ("force_words_ids", &[]),
    ("forced_bos_token_id", &[]),
    ("forced_eos_token_id", &[]),
    ("guidance_scale", &[1.0]),
    ("max_time", &[]),
    ("min_length", &[0.0]),
    ("min_new_tokens", &[0.0]),
    ("min_p", &[0.0]),
    ("no_repeat_ngram_size", &[0.0]),
    ("num_beams", &[1.0]),
    ("penalty_alpha", &[0.0]),
    ("repetition_penalty", &[1.0]),
    ("sequence_bias", &[]),
    ("stop_strings", &[]),
    ("token_healing", &[]),
    ("top_h", &[]),
    ("typical_p", &[1.0]),
    ("watermarking_config", &[]),
];

/// How a model's directory wants text to be generated: `generation_config.json`, as `transformers` reads it. Nothing, where
/// there is no such file.
///
/// ```no_run
/// use shadegrad::hugging_face::GenerationConfig;
/// use shadegrad::sampling::{Sampler, SamplingConfig};
///
/// let wanted = GenerationConfig::open("models/Qwen3-0.6B")?;
/// let sampler = Sampler::new(wanted.sampling.unwrap_or(SamplingConfig::GREEDY), 42)?;
/// let sampler = sampler.with_suppressed(wanted.suppressed_tokens);
/// for setting in &wanted.unsupported {
///     eprintln!("not implemented: {setting}");
/// }
/// # Ok::<(), shadegrad::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    /// How tokens are to be drawn: with `do_sample`, by `temperature`, `top_k` (50 if it says nothing) and `top_p`; greedily
    /// where `do_sample` is false. `None` where the file doesn't say, which is greedy in `transformers`.
    pub sampling: Option<SamplingConfig>,
    /// Tokens to draw at most.
    pub max_new_tokens: Option<usize>,
    /// Tokens that a text is to have at most, its prompt included.
    pub max_length: Option<usize>,
    /// `eos_token_id`: the tokens that end a text; `None` where the file doesn't say.
    pub stop_tokens: Option<Vec<u32>>,
    /// `bos_token_id`: the token that begins a text.
    pub begin_of_text: Option<u32>,
    /// `pad_token_id`: the token beside texts that are shorter than others.
    pub padding: Option<u32>,
    /// `suppress_tokens`: those that are never drawn.
    pub suppressed_tokens: Vec<u32>,
    /// What the file asks for, would change the tokens that are drawn, and is not implemented: `repetition_penalty = 1.1`,
    /// say.
    pub unsupported: Vec<String>,
}

impl GenerationConfig {
    /// Reads the file of a model's directory.
    ///
    /// # Errors
    ///
    /// [`Error::File`](crate::Error::File) if it cannot be read, [`Error::Checkpoint`](crate::Error::Checkpoint), with the
    /// file, if it is damaged or its values make no sense.
    pub fn open(directory: impl AsRef<Path>) -> Result<GenerationConfig> {
        let path = directory.as_ref().join(GENERATION);
        match is_there(&path) {
            true => parse(&read(&path)?).map_err(refuse(path)),
            false => Ok(GenerationConfig::default()),
        }
    }

    /// How many tokens it lets follow a prompt of this length, if it says so.
    pub fn most(&self, prompt: usize) -> Option<usize> {
        let rest = self.max_length.map(|most| most.saturating_sub(prompt));
        self.max_new_tokens.or(rest)
    }
}

/// One token or several.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a token's number or a list of such")]
pub(super) enum TokenIds {
    One(u32),
    Several(Vec<u32>),
}

impl TokenIds {
    /// `eos_token_id`: `None` where the file doesn't say.
    pub fn of_end(fields: &Fields) -> Result<Option<Vec<u32>>, Reason> {
        Ok(match fields.get("eos_token_id")? {
            None => fields.has("eos_token_id").then(Vec::new),
            Some(TokenIds::One(token)) => Some(vec![token]),
            Some(TokenIds::Several(tokens)) => Some(tokens),
        })
    }
}

fn parse(json: &[u8]) -> Result<GenerationConfig, Reason> {
    let map = unique(json).map_err(|error| error.to_string())?;
    let fields = Fields::new(&map);
    let drawn = SamplingConfig {
        temperature: fields.get("temperature")?.unwrap_or(1.0),
        top_k: Some(fields.get("top_k")?.unwrap_or(TOP_K)).filter(|&k| k > 0),
        top_p: fields.get("top_p")?.filter(|&p: &f32| p != 1.0),
    };
    let sampling = fields.get("do_sample")?.map(|draws| match draws {
        true => drawn,
        false => SamplingConfig::GREEDY,
    });
    if let Some(Err(error)) = sampling.as_ref().map(SamplingConfig::validate) {
        return Err(error.to_string());
    }
    let changes = |&(key, neutral): &(&str, &[f64])| {
        let value = fields.value(key)?;
        let is_nothing = match value {
            Value::Number(number) => number.as_f64().is_some_and(|n| neutral.contains(&n)),
            Value::Bool(is_on) => !is_on,
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        };
        (!is_nothing).then(|| format!("{key} = {value}"))
    };
    Ok(GenerationConfig {
        sampling,
        max_new_tokens: fields.get("max_new_tokens")?,
        max_length: fields.get("max_length")?,
        stop_tokens: TokenIds::of_end(&fields)?,
        begin_of_text: fields.get("bos_token_id")?,
        padding: fields.get("pad_token_id")?,
        suppressed_tokens: fields.get("suppress_tokens")?.unwrap_or_default(),
        unsupported: UNSUPPORTED.iter().filter_map(changes).collect(),
    })
}
