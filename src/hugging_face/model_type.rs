//! The model types of the `transformers` library: for each, what the keys of its `config.json` say of a [`GptConfig`],
//! and what its tensors are called. A new type is a row of [`TYPES`] and its test.

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
    /// Keys with one value that is followed; `null` or no value is as good.
    only: &'static [(&'static str, Only)],
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
            Key("vocab_size", Says::Size(|c| &mut c.vocab_size)),
            Key(
                "n_positions|max_position_embeddings",
                Says::Size(|c| &mut c.context),
            ),
            Key("n_embd|hidden_size", Says::Size(|c| &mut c.d_model)),
            Key("n_layer|num_hidden_layers", Says::Size(|c| &mut c.n_layers)),
            Key("n_head|num_attention_heads", Says::Size(|c| &mut c.n_heads)),
            Key("n_inner", Says::Size(|c| &mut c.d_ff)),
            Key("activation_function", Says::Activation(&PLAIN)),
            Key("layer_norm_epsilon", Says::Number(|c| &mut c.norm_eps)),
            Key("resid_pdrop", Says::Number(|c| &mut c.dropout)),
            Key("embd_pdrop", Says::Share(|c| &mut c.embedding_dropout)),
            Key("attn_pdrop", Says::Share(|c| &mut c.attention_dropout)),
            Key("tie_word_embeddings", Says::Flag(|c| &mut c.tie_weights)),
        ]],
        rope: Rope::None,
        windows: Windows::None,
        whole_heads: true,
        only: &[
            ("scale_attn_weights", Only::True),
            ("scale_attn_by_inverse_layer_idx", Only::False),
        ],
        finish: |c| {
            if c.d_ff == 0 {
                c.d_ff = c.d_model.saturating_mul(4);
            }
        },
        names: &GPT2,
    },
    ModelType {
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
                Key("hidden_act", Says::Activation(&GATED)),
                Key("attention_bias", Says::AttentionBias),
                Key("mlp_bias", Says::Flag(|c| &mut c.bias)),
            ],
        ],
        rope: Rope::Flat,
        windows: Windows::None,
        whole_heads: true,
        only: &[],
        finish: |_| (),
        names: &LLAMA,
    },
    ModelType {
        name: "mistral",
        architecture: "MistralForCausalLM",
        end_of_text: Some(2),
        start: || GptConfig {
            vocab_size: 32_000,
            context: 131_072,
            n_kv_heads: Some(8),
            d_ff: 14_336,
            ..decoder()
        },
        keys: &[DECODER, &[Key("hidden_act", Says::Activation(&GATED))]],
        rope: Rope::Flat,
        windows: Windows::AllLayers,
        whole_heads: false,
        only: &[],
        finish: |_| (),
        names: &LLAMA,
    },
    ModelType {
        name: "qwen2",
        architecture: "Qwen2ForCausalLM",
        end_of_text: None,
        start: || GptConfig {
            qkv_bias: Some(true),
            ..qwen()
        },
        keys: &[DECODER, &[Key("hidden_act", Says::Activation(&GATED))]],
        rope: Rope::Flat,
        windows: Windows::LaterLayers,
        whole_heads: false,
        only: &[],
        finish: |_| (),
        names: &LLAMA,
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
            &[
                Key("hidden_act", Says::Activation(&GATED)),
                Key("attention_bias", Says::AttentionBias),
            ],
        ],
        rope: Rope::Flat,
        windows: Windows::LaterLayers,
        whole_heads: false,
        only: &[],
        finish: |_| (),
        names: &LLAMA,
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
                Key("hidden_activation", Says::Activation(&GATED)),
                Key("attention_bias", Says::AttentionBias),
                Key("query_pre_attn_scalar", Says::AttentionScale),
            ],
        ],
        rope: Rope::ByKindOfLayer,
        windows: Windows::MostLayers,
        whole_heads: true,
        only: &[],
        finish: |c| c.embedding_scale = (c.d_model as f32).sqrt(),
        names: &GEMMA,
    },
];

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
    Key("vocab_size", Says::Size(|c| &mut c.vocab_size)),
    Key("max_position_embeddings", Says::Size(|c| &mut c.context)),
    Key("hidden_size", Says::Size(|c| &mut c.d_model)),
    Key("intermediate_size", Says::Size(|c| &mut c.d_ff)),
    Key("num_hidden_layers", Says::Size(|c| &mut c.n_layers)),
    Key("num_attention_heads", Says::Size(|c| &mut c.n_heads)),
    Key("num_key_value_heads", Says::KeyValueHeads),
    Key("head_dim", Says::HeadDim),
    Key("rms_norm_eps", Says::Number(|c| &mut c.norm_eps)),
    Key(
        "attention_dropout",
        Says::Share(|c| &mut c.attention_dropout),
    ),
    Key("tie_word_embeddings", Says::Flag(|c| &mut c.tie_weights)),
];

/// Keys of any type that would change what is computed.
const ANY_TYPE: &[(&str, Only)] = &[
    ("add_cross_attention", Only::False),
    ("is_encoder_decoder", Only::False),
    ("partial_rotary_factor", Only::One),
    ("rope_interleaved", Only::False),
    ("per_layer_config", Only::Null),
    ("quantization_config", Only::Null),
    ("attn_logit_softcapping", Only::Null),
    ("final_logit_softcapping", Only::Null),
    ("use_bidirectional_attention", Only::False),
];

/// What files call the settings that [`GptConfig::validate`] names.
const SETTINGS: [(&str, &[&str]); 11] = [
    ("context", &["max_position_embeddings"]),
    ("d_model", &["hidden_size"]),
    ("d_ff", &["intermediate_size", "n_inner"]),
    ("n_layers", &["num_hidden_layers"]),
    ("n_heads", &["num_attention_heads"]),
    ("n_kv_heads", &["num_key_value_heads"]),
    ("norm_eps", &["rms_norm_eps", "layer_norm_epsilon"]),
    ("dropout", &["resid_pdrop"]),
    ("embedding_dropout", &["embd_pdrop"]),
    ("attention_dropout", &["attention_dropout", "attn_pdrop"]),
    ("attention_scale", &["query_pre_attn_scalar"]),
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

/// A key and what it says; behind `|` another name of it that the library reads.
#[derive(Debug)]
struct Key(&'static str, Says);

/// What a key says of a model. `null` says what no key does, where nothing else stands.
#[derive(Debug)]
enum Says {
    Size(fn(&mut GptConfig) -> &mut usize),
    Number(fn(&mut GptConfig) -> &mut f32),
    Flag(fn(&mut GptConfig) -> &mut bool),
    /// A share of dropout.
    Share(fn(&mut GptConfig) -> &mut Option<f32>),
    Activation(&'static [(&'static str, FeedForwardKind)]),
    /// Whether all projections of attention have biases.
    AttentionBias,
    /// `null` is as many as there are heads.
    KeyValueHeads,
    HeadDim,
    /// Scores are divided by its root.
    AttentionScale,
}

/// The one value of a key that is followed.
#[derive(Clone, Copy, Debug)]
enum Only {
    True,
    False,
    Null,
    One,
}

impl From<Only> for Value {
    fn from(only: Only) -> Value {
        match only {
            Only::True => json!(true),
            Only::False => json!(false),
            Only::Null => Value::Null,
            Only::One => json!(1),
        }
    }
}

impl Key {
    fn read(&self, fields: &Fields<'_>, c: &mut GptConfig) -> Result<(), Reason> {
        let &Key(names, ref says) = self;
        let name = names.split('|').find(|name| fields.has(name));
        let Some(name) = name else {
            return Ok(());
        };
        match says {
            Says::Size(place) => set(place(c), fields.get(name)?),
            Says::Number(place) => set(place(c), fields.get(name)?),
            Says::Flag(place) => set(place(c), fields.get(name)?),
            Says::Share(place) => set(place(c), fields.get(name)?.map(Some)),
            Says::AttentionBias => set(&mut c.attention_bias, fields.get(name)?.map(Some)),
            Says::HeadDim => set(&mut c.head_dim, fields.get(name)?.map(Some)),
            Says::KeyValueHeads => c.n_kv_heads = fields.get(name)?,
            Says::AttentionScale => {
                let divisor = fields.get::<f32>(name)?;
                set(
                    &mut c.attention_scale,
                    divisor.map(|d| Some(1.0 / d.sqrt())),
                );
            }
            Says::Activation(known) => {
                let Some(given) = fields.get::<String>(name)? else {
                    return Ok(());
                };
                let found = known.iter().find(|(known, _)| *known == given);
                c.ffn = found.map(|&(_, kind)| kind).ok_or_else(|| {
                    let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
                    let names = names.join(", ");
                    format!("{name} `{given}` is not known: expected one of {names}")
                })?;
            }
        }
        Ok(())
    }

    /// What it says of a model of which [nothing is left open](explicit).
    fn write(&self, c: &mut GptConfig, json: &mut Map<String, Value>) {
        let Key(names, says) = self;
        let name = names.split('|').next().unwrap_or(names);
        let value = match says {
            Says::Size(place) => json!(*place(c)),
            // The shortest decimal that is the number, not its binary expansion.
            Says::Number(place) => shortest(*place(c)),
            Says::Flag(place) => json!(*place(c)),
            Says::Share(place) => place(c).map_or(Value::Null, shortest),
            Says::AttentionBias => json!(c.has_attention_bias()),
            Says::KeyValueHeads => json!(c.n_kv_heads()),
            Says::HeadDim => json!(c.head_dim()),
            Says::AttentionScale => {
                let scale = f64::from(c.attention_scale.unwrap_or(1.0));
                json!((1.0 / (scale * scale)).round() as u64)
            }
            Says::Activation(known) => {
                let found = known.iter().find(|(_, kind)| *kind == c.ffn);
                found.map_or(Value::Null, |&(name, _)| json!(name))
            }
        };
        json.insert(name.to_owned(), value);
    }
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

impl ModelType {
    /// The type of this name.
    pub fn named(name: &str) -> Option<&'static ModelType> {
        TYPES.iter().find(|known| known.name == name)
    }

    /// The model that a file of this type describes; else the key that cannot be followed.
    pub fn read(&self, fields: &Fields<'_>) -> Result<GptConfig, Reason> {
        let mut config = (self.start)();
        for key in self.keys.iter().copied().flatten() {
            key.read(fields, &mut config)?;
        }
        for &(key, only) in self.only.iter().chain(ANY_TYPE) {
            fields.only(key, &only.into())?;
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

    /// A message with the names of settings as files have them.
    fn in_its_words(&self, message: &str, fields: &Fields<'_>) -> String {
        let is_name = |c: char| c.is_alphanumeric() || "_.".contains(c);
        let theirs = |word: &str| {
            let (_, names) = SETTINGS.iter().find(|(ours, _)| *ours == word)?;
            let mut keys = self.keys.iter().copied().flatten();
            let Key(key, _) =
                keys.find(|Key(key, _)| key.split('|').any(|k| names.contains(&k)))?;
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
        for key in self.keys.iter().copied().flatten() {
            key.write(&mut config.clone(), &mut json);
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
    let fields = |config: &GptConfig| match serde_json::to_value(config) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    };
    let (a, b) = (fields(a), fields(b));
    let mut differing = a
        .into_iter()
        .filter(|(key, value)| !key.contains("dropout") && b.get(key) != Some(value));
    differing
        .next()
        .map(|(key, value)| format!("{key} = {value}"))
}
