//! `config.json`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::nn::{FeedForwardKind, GptConfig, NormKind, NormPlacement, PositionKind};

/// The activations by the library's names. Those that several names have are written by the first.
const ACTIVATIONS: [(&str, FeedForwardKind); 5] = [
    ("gelu_new", FeedForwardKind::GeluTanh),
    ("gelu_pytorch_tanh", FeedForwardKind::GeluTanh),
    ("gelu_fast", FeedForwardKind::GeluTanh),
    ("gelu", FeedForwardKind::Gelu),
    ("relu", FeedForwardKind::Relu),
];

/// The keys that decide what is computed. What a file leaves out has the library's default.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Gpt2Config {
    pub architectures: Vec<String>,
    pub model_type: String,
    pub vocab_size: usize,
    #[serde(alias = "max_position_embeddings")]
    pub n_positions: usize,
    #[serde(alias = "hidden_size")]
    pub n_embd: usize,
    #[serde(alias = "num_hidden_layers")]
    pub n_layer: usize,
    #[serde(alias = "num_attention_heads")]
    pub n_head: usize,
    pub n_inner: Option<usize>,
    pub activation_function: String,
    pub layer_norm_epsilon: f32,
    pub resid_pdrop: f32,
    pub embd_pdrop: f32,
    pub attn_pdrop: f32,
    pub tie_word_embeddings: bool,
    pub scale_attn_weights: bool,
    pub scale_attn_by_inverse_layer_idx: bool,
    pub add_cross_attention: bool,
    pub bos_token_id: Option<u32>,
    pub eos_token_id: Option<TokenIds>,
}

/// One token or several.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum TokenIds {
    One(u32),
    Several(Vec<u32>),
}

impl TokenIds {
    pub fn into_vec(self) -> Vec<u32> {
        match self {
            TokenIds::One(token) => vec![token],
            TokenIds::Several(tokens) => tokens,
        }
    }
}

impl Default for Gpt2Config {
    fn default() -> Gpt2Config {
        Gpt2Config {
            architectures: vec!["GPT2LMHeadModel".to_owned()],
            model_type: String::new(),
            vocab_size: 50_257,
            n_positions: 1024,
            n_embd: 768,
            n_layer: 12,
            n_head: 12,
            n_inner: None,
            activation_function: "gelu_new".to_owned(),
            layer_norm_epsilon: 1e-5,
            resid_pdrop: 0.1,
            embd_pdrop: 0.1,
            attn_pdrop: 0.1,
            tie_word_embeddings: true,
            scale_attn_weights: true,
            scale_attn_by_inverse_layer_idx: false,
            add_cross_attention: false,
            bos_token_id: Some(50_256),
            eos_token_id: Some(TokenIds::One(50_256)),
        }
    }
}

impl Gpt2Config {
    /// What the file says; else why it says nothing.
    pub fn parse(json: &[u8]) -> Result<Gpt2Config, String> {
        let refuse = |error| format!("it is no configuration of a GPT-2: {error}");
        // Other families have the same keys with other values: which it is comes first.
        let value: Value = serde_json::from_slice(json).map_err(refuse)?;
        match value["model_type"].as_str() {
            Some("gpt2") => serde_json::from_value(value).map_err(refuse),
            None | Some("") => Err("it names no model_type; `gpt2` is expected".to_owned()),
            Some(other) => Err(format!("its model_type is `{other}`, `gpt2` is expected")),
        }
    }

    /// What a file says, but that the head is no copy of the token table.
    pub fn untied(json: &[u8]) -> Vec<u8> {
        let mut value: Value = serde_json::from_slice(json).expect("it has been parsed");
        value["tie_word_embeddings"] = Value::Bool(false);
        serde_json::to_vec_pretty(&value).expect("keys are strings")
    }

    /// The model in this crate's terms; else the key that it cannot follow.
    pub fn gpt(&self) -> Result<GptConfig, String> {
        let known = ACTIVATIONS.iter();
        let activation = known
            .clone()
            .find(|(name, _)| *name == self.activation_function);
        let Some(&(_, ffn)) = activation else {
            let names: Vec<&str> = known.map(|(name, _)| *name).collect();
            return Err(format!(
                "activation_function `{}` is not known: expected one of {}",
                self.activation_function,
                names.join(", ")
            ));
        };
        let expected = [
            ("scale_attn_weights", self.scale_attn_weights, true),
            (
                "scale_attn_by_inverse_layer_idx",
                self.scale_attn_by_inverse_layer_idx,
                false,
            ),
            ("add_cross_attention", self.add_cross_attention, false),
        ];
        if let Some((key, value, needed)) = expected.iter().find(|(_, is, needed)| is != needed) {
            return Err(format!("{key} = {value} is not supported, only {needed}"));
        }
        let other = |share: f32| (share != self.resid_pdrop).then_some(share);
        let config = GptConfig {
            vocab_size: self.vocab_size,
            context: self.n_positions,
            d_model: self.n_embd,
            n_heads: self.n_head,
            n_layers: self.n_layer,
            norm: NormKind::LayerNorm,
            norm_eps: self.layer_norm_epsilon,
            norm_placement: NormPlacement::Before,
            ffn,
            d_ff: self.n_inner.unwrap_or(self.n_embd.saturating_mul(4)),
            positions: PositionKind::Learned,
            bias: true,
            tie_weights: self.tie_word_embeddings,
            dropout: self.resid_pdrop,
            embedding_dropout: other(self.embd_pdrop),
            attention_dropout: other(self.attn_pdrop),
            scale_residual_init: true,
            ..GptConfig::new(self.vocab_size)
        };
        match config.validate() {
            Ok(()) => Ok(config),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The library's terms for a model of this crate; else what GPT-2 does not have.
    pub fn of(config: &GptConfig, end_of_text: Option<u32>) -> Result<Gpt2Config, String> {
        let mut known = ACTIVATIONS.iter();
        let activation = known.find(|(_, kind)| *kind == config.ffn);
        let Some((activation, _)) = activation else {
            return Err(format!("no feed-forward layers of kind {}", config.ffn));
        };
        if config.norm != NormKind::LayerNorm {
            return Err(format!("no {}", config.norm));
        }
        if config.norm_placement != NormPlacement::Before {
            return Err("no norms behind its branches".to_owned());
        }
        if config.positions != PositionKind::Learned {
            return Err(format!("no {} positions", config.positions));
        }
        if !(config.bias && config.has_attention_bias()) {
            return Err("no layers without biases".to_owned());
        }
        if config.head_bias {
            return Err("no bias in its head".to_owned());
        }
        if !config.final_norm {
            return Err("no head without a norm before it".to_owned());
        }
        Ok(Gpt2Config {
            model_type: "gpt2".to_owned(),
            vocab_size: config.vocab_size,
            n_positions: config.context,
            n_embd: config.d_model,
            n_layer: config.n_layers,
            n_head: config.n_heads,
            n_inner: Some(config.d_ff),
            activation_function: (*activation).to_owned(),
            layer_norm_epsilon: config.norm_eps,
            resid_pdrop: config.dropout,
            embd_pdrop: config.embedding_dropout(),
            attn_pdrop: config.attention_dropout(),
            tie_word_embeddings: config.tie_weights,
            bos_token_id: end_of_text,
            eos_token_id: end_of_text.map(TokenIds::One),
            ..Gpt2Config::default()
        })
    }
}
