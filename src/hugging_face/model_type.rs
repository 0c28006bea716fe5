//! The model types of the `transformers` library: for each, what the keys of its `config.json` say of a [`GptConfig`],
//! and what its tensors are called. A new type is a row of [`TYPES`] and its test.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::fields::{Fields, Reason, shortest};
use super::names::{GEMMA, GPT2, LLAMA, Names};
use super::rope::Rope;
use super::windows::Windows;
use crate::nn::{FeedForwardKind, GptConfig, NormKind, NormPlacement, PositionKind};

/// A type of models.
#[derive(Debug)]
pub(super) struct ModelType {
    /// `model_type` of its files.
    pub name: &'static str,
    /// The library's class.
    pub architecture: &'static str,
    /// The token that ends texts where a file doesn't say.
    pub end_of_text: Option<u32>,
    /// What every model of the type is, and what files mean that leave out a key.
    start: fn() -> GptConfig,
    /// Keys that say one thing each.
    keys: &'static [&'static [Key]],
    rope: Rope,
    windows: Windows,
    /// Whether the extent of the model must be a multiple of the number of heads, even where these say their own.
    whole_heads: bool,
    /// Keys with one value that is followed, as JSON; `null` or no value is as good.
    only: &'static [(&'static str, &'static str)],
    /// What follows from other sizes.
    finish: fn(&mut GptConfig),
    pub names: &'static Names,
}

/// All types, in the order in which one is looked for that a model can be saved as.
pub(super) const TYPES: &[ModelType] = &[
    ModelType {
        name: "gpt2",
        architecture: "GPT2LMHeadModel",
        end_of_text: Some(50_256),
        start: || GptConfig {
            vocab_size: 50_257,
            context: 1024,
            d_model: 768,
            n_heads: 12,
            n_layers: 12,
            norm: NormKind::LayerNorm,
            norm_eps: 1e-5,
            ffn: FeedForwardKind::GeluTanh,
            d_ff: 0,
            bias: true,
            dropout: 0.1,
            embedding_dropout: Some(0.1),
            attention_dropout: Some(0.1),
            ..GptConfig::new(1)
        },
        keys: &[&[
            ("vocab_size", "vocab_size"),
            ("n_positions|max_position_embeddings", "context"),
            ("n_embd|hidden_size", "d_model"),
            ("n_layer|num_hidden_layers", "n_layers"),
            ("n_head|num_attention_heads", "n_heads"),
            ("n_inner", "d_ff"),
            ("activation_function", "ffn"),
            ("layer_norm_epsilon", "norm_eps"),
            ("resid_pdrop", "dropout"),
            ("embd_pdrop", "embedding_dropout"),
            ("attn_pdrop", "attention_dropout"),
            ("tie_word_embeddings", "tie_weights"),
        ]],
        rope: Rope::None,
        windows: Windows::None,
        whole_heads: true,
        only: &[
            ("scale_attn_weights", "true"),
            ("scale_attn_by_inverse_layer_idx", "false"),
        ],
        finish: |c| {
            if c.d_ff == 0 {
                c.d_ff = c.d_model.saturating_mul(4);
            }
        },
        names: &GPT2,
    },
    LLAMA_TYPE,
    ModelType {
        name: "mistral",
        architecture: "MistralForCausalLM",
        start: || GptConfig {
            vocab_size: 32_000,
            context: 131_072,
            n_kv_heads: Some(8),
            d_ff: 14_336,
            ..decoder()
        },
        keys: &[DECODER, &[("hidden_act", "ffn")]],
        windows: Windows::AllLayers,
        whole_heads: false,
        ..LLAMA_TYPE
    },
    ModelType {
        name: "qwen2",
        architecture: "Qwen2ForCausalLM",
        end_of_text: None,
        start: || GptConfig {
            qkv_bias: Some(true),
            ..qwen()
        },
        keys: &[DECODER, &[("hidden_act", "ffn")]],
        windows: Windows::LaterLayers,
        whole_heads: false,
        ..LLAMA_TYPE
    },
    ModelType {
        name: "qwen3",
        architecture: "Qwen3ForCausalLM",
        end_of_text: None,
        start: || GptConfig {
            head_dim: Some(128),
            qk_norm: true,
            ..qwen()
        },
        keys: &[
            DECODER,
            &[("hidden_act", "ffn"), ("attention_bias", "attention_bias")],
        ],
        windows: Windows::LaterLayers,
        whole_heads: false,
        ..LLAMA_TYPE
    },
    ModelType {
        name: "gemma3_text",
        architecture: "Gemma3ForCausalLM",
        end_of_text: Some(1),
        start: || GptConfig {
            vocab_size: 262_208,
            context: 131_072,
            d_model: 2304,
            n_layers: 26,
            n_heads: 8,
            n_kv_heads: Some(4),
            head_dim: Some(256),
            d_ff: 9216,
            ffn: FeedForwardKind::GegluTanh,
            norm_placement: NormPlacement::Both,
            qk_norm: true,
            attention_scale: Some(1.0 / 16.0),
            tie_weights: true,
            ..decoder()
        },
        keys: &[
            DECODER,
            &[
                ("hidden_activation", "ffn"),
                ("attention_bias", "attention_bias"),
                ("query_pre_attn_scalar", "attention_scale"),
            ],
        ],
        rope: Rope::ByKindOfLayer,
        windows: Windows::MostLayers,
        finish: |c| c.embedding_scale = (c.d_model as f32).sqrt(),
        names: &GEMMA,
        ..LLAMA_TYPE
    },
];

/// Which many others are like.
const LLAMA_TYPE: ModelType = ModelType {
    name: "llama",
    architecture: "LlamaForCausalLM",
    end_of_text: Some(2),
    start: || GptConfig {
        vocab_size: 32_000,
        context: 2048,
        d_ff: 11_008,
        ..decoder()
    },
    keys: &[
        DECODER,
        &[
            ("hidden_act", "ffn"),
            ("attention_bias", "attention_bias"),
            ("mlp_bias", "bias"),
        ],
    ],
    rope: Rope::Flat,
    windows: Windows::None,
    whole_heads: true,
    only: &[],
    finish: |_| (),
    names: &LLAMA,
};

/// What the types after GPT-2 have in common.
fn decoder() -> GptConfig {
    GptConfig {
        d_model: 4096,
        n_heads: 32,
        n_layers: 32,
        positions: PositionKind::Rotary,
        attention_bias: Some(false),
        tie_weights: false,
        ..GptConfig::new(1)
    }
}

fn qwen() -> GptConfig {
    GptConfig {
        vocab_size: 151_936,
        context: 32_768,
        n_kv_heads: Some(32),
        d_ff: 22_016,
        ..decoder()
    }
}

/// Their keys.
const DECODER: &[Key] = &[
    ("vocab_size", "vocab_size"),
    ("max_position_embeddings", "context"),
    ("hidden_size", "d_model"),
    ("intermediate_size", "d_ff"),
    ("num_hidden_layers", "n_layers"),
    ("num_attention_heads", "n_heads"),
    ("num_key_value_heads", "n_kv_heads"),
    ("head_dim", "head_dim"),
    ("rms_norm_eps", "norm_eps"),
    ("attention_dropout", "attention_dropout"),
    ("tie_word_embeddings", "tie_weights"),
];

/// Keys of any type that would change what is computed.
const ANY_TYPE: &[(&str, &str)] = &[
    ("add_cross_attention", "false"),
    ("is_encoder_decoder", "false"),
    ("partial_rotary_factor", "1"),
    ("rope_interleaved", "false"),
    ("per_layer_config", "null"),
    ("quantization_config", "null"),
    ("attn_logit_softcapping", "null"),
    ("final_logit_softcapping", "null"),
    ("use_bidirectional_attention", "false"),
];

/// The activations of plain layers by the library's names. Those that several names have are written by the first.
const PLAIN: [(&str, FeedForwardKind); 5] = [
    ("gelu_new", FeedForwardKind::GeluTanh),
    ("gelu_pytorch_tanh", FeedForwardKind::GeluTanh),
    ("gelu_fast", FeedForwardKind::GeluTanh),
    ("gelu", FeedForwardKind::Gelu),
    ("relu", FeedForwardKind::Relu),
];

/// Those of the gate.
const GATED: [(&str, FeedForwardKind); 5] = [
    ("silu", FeedForwardKind::Swiglu),
    ("swish", FeedForwardKind::Swiglu),
    ("gelu_pytorch_tanh", FeedForwardKind::GegluTanh),
    ("gelu_new", FeedForwardKind::GegluTanh),
    ("gelu_fast", FeedForwardKind::GegluTanh),
];

/// A key of files, behind `|` another name of it that the library reads, and the setting of [`GptConfig`] that it says. `null`
/// says what no key does.
type Key = (&'static str, &'static str);

impl ModelType {
    /// The model that a file of this type describes; else the key that cannot be followed.
    pub fn read(&self, fields: &Fields<'_>) -> Result<GptConfig, Reason> {
        let mut config = self.settings(fields)?;
        for &(key, only) in self.only.iter().chain(ANY_TYPE) {
            fields.only(key, &serde_json::from_str(only).expect("it is JSON"))?;
        }
        (self.finish)(&mut config);
        let (d_model, n_heads) = (config.d_model, config.n_heads);
        if !self.whole_heads && config.head_dim.is_none() {
            config.head_dim = d_model.checked_div(n_heads);
        }
        // What follows makes a list of so many layers.
        let validate = |config: &GptConfig| match config.validate() {
            Ok(()) => Ok(()),
            Err(error) => Err(self.in_its_words(&error.to_string(), fields)),
        };
        validate(&config)?;
        if self.whole_heads && !d_model.is_multiple_of(n_heads) {
            let reason = format!("d_model = {d_model} is no multiple of n_heads = {n_heads}");
            return Err(self.in_its_words(&reason, fields));
        }
        let local_rotary = self.rope.read(fields, &mut config)?;
        config.local = self.windows.read(fields, &config, local_rotary)?;
        for share in [&mut config.embedding_dropout, &mut config.attention_dropout] {
            *share = share.filter(|share| *share != config.dropout);
        }
        validate(&config)?;
        Ok(config)
    }

    fn keys(&self) -> impl Iterator<Item = &Key> {
        self.keys.iter().copied().flatten()
    }

    /// The activations by the library's names.
    fn activations(&self) -> &'static [(&'static str, FeedForwardKind)] {
        match (self.start)().ffn.is_gated() {
            true => &GATED,
            false => &PLAIN,
        }
    }

    /// What the keys say that say one thing each.
    fn settings(&self, fields: &Fields<'_>) -> Result<GptConfig, Reason> {
        let mut config = (self.start)();
        let (mut settings, mut scale) = (json!(config), config.attention_scale);
        for &(names, setting) in self.keys() {
            let mut said = names.split('|').filter(|name| fields.has(name));
            let Some(name) = said.next() else {
                continue;
            };
            // The library takes the other one.
            if let Some(other) = said.find(|other| fields.value(other) != fields.value(name)) {
                return Err(format!(
                    "{name} and {other} are one key, and say different things"
                ));
            }
            settings[setting] = match (fields.value(name), setting) {
                // As many as there are heads.
                (None, "n_kv_heads") => Value::Null,
                (None, _) => continue,
                // Scores are divided by its root.
                (Some(_), "attention_scale") => {
                    scale = Some(1.0 / fields.need::<f32>(name)?.sqrt());
                    continue;
                }
                (Some(_), "ffn") => {
                    let (given, known) = (fields.need::<String>(name)?, self.activations());
                    let found = known.iter().find(|(known, _)| *known == given);
                    json!(found.map(|(_, kind)| kind).ok_or_else(|| {
                        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
                        let names = names.join(", ");
                        format!("{name} `{given}` is not known: expected one of {names}")
                    })?)
                }
                (Some(value), _) => value.clone(),
            };
            let read = GptConfig::deserialize(&settings);
            config = read.map_err(|error| format!("{name}: {error}"))?;
        }
        config.attention_scale = scale;
        Ok(config)
    }

    /// A message with the names of settings as files have them.
    fn in_its_words(&self, message: &str, fields: &Fields<'_>) -> String {
        let is_name = |c: char| c.is_alphanumeric() || "_.".contains(c);
        let theirs = |word: &str| {
            let (key, _) = self.keys().find(|(_, ours)| *ours == word)?;
            let mut said = key.split('|').filter(|key| fields.has(key));
            said.next().or(key.split('|').next())
        };
        let ends = message.split_inclusive(|c| !is_name(c)).map(|piece| {
            let word = piece.trim_end_matches(|c| !is_name(c));
            let rest = &piece[word.len()..];
            format!("{}{rest}", theirs(word).unwrap_or(word))
        });
        ends.collect()
    }

    /// What a file of this type says of a model; else in what such files differ from it.
    pub fn write(&self, config: &GptConfig) -> Result<Map<String, Value>, Reason> {
        let config = explicit(config);
        let mut json = Map::new();
        json.insert("architectures".to_owned(), json!([self.architecture]));
        json.insert("model_type".to_owned(), json!(self.name));
        let settings = json!(config);
        for &(names, setting) in self.keys() {
            let name = names.split('|').next().unwrap_or(names);
            let value = match (&settings[setting], setting) {
                (_, "attention_scale") => {
                    let scale = f64::from(config.attention_scale.unwrap_or(1.0));
                    json!((1.0 / (scale * scale)).round() as u64)
                }
                (_, "ffn") => {
                    let mut known = self.activations().iter();
                    let found = known.find(|(_, kind)| *kind == config.ffn);
                    found.map_or(Value::Null, |&(name, _)| json!(name))
                }
                // The shortest decimal that is the number, not its binary expansion.
                (Value::Number(number), _) if number.is_f64() => {
                    shortest(number.as_f64().unwrap_or_default() as f32)
                }
                (value, _) => value.clone(),
            };
            json.insert(name.to_owned(), value);
        }
        self.rope.write(&config, &mut json);
        self.windows.write(&config, &mut json);
        let written = explicit(&self.read(&Fields::new(&json))?);
        match first_difference(&config, &written) {
            None => Ok(json),
            Some(key) => Err(key),
        }
    }
}

/// The same model with everything said that is left open, and nothing that doesn't matter to what it computes.
fn explicit(config: &GptConfig) -> GptConfig {
    let is = |kind| config.positions == kind;
    let plain = GptConfig::new(1);
    let rotary = match is(PositionKind::Rotary) {
        true => config.rotary.clone(),
        false => plain.rotary,
    };
    let local = config.local.clone();
    let mut local = local.filter(|local| local.layers.contains(&true));
    if let Some(local) = &mut local {
        let own = local.rotary.take().filter(|_| is(PositionKind::Rotary));
        local.rotary = own.or_else(|| Some(rotary.clone()));
    }
    GptConfig {
        n_kv_heads: Some(config.n_kv_heads()),
        head_dim: Some(config.head_dim()),
        attention_bias: Some(config.has_attention_bias()),
        qkv_bias: Some(config.has_qkv_bias()),
        attention_scale: Some(match config.attention_scale {
            Some(scale) => scale,
            None => 1.0 / (config.head_dim() as f32).sqrt(),
        }),
        embedding_dropout: Some(config.embedding_dropout()),
        attention_dropout: Some(config.attention_dropout()),
        sinusoidal_base: match is(PositionKind::Sinusoidal) {
            true => config.sinusoidal_base,
            false => plain.sinusoidal_base,
        },
        // It says where training starts.
        scale_residual_init: false,
        rotary,
        local,
        ..config.clone()
    }
}

/// The first setting in which two models differ, beside what they drop in training.
fn first_difference(a: &GptConfig, b: &GptConfig) -> Option<String> {
    let (a, b) = (json!(a), json!(b));
    let differs = |(key, value): &(&String, &Value)| !key.contains("dropout") && b[*key] != **value;
    let (key, value) = a.as_object()?.iter().find(differs)?;
    Some(format!("{key} = {value}"))
}
