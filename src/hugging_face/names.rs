//! What the `transformers` library calls the parameters of a model, and how it stores them.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::gpu::Tensor;
use crate::nn::{Gpt, GptConfig, ParameterBuilder, Parameters};

/// The output head, which has no prefix. Files leave it out if it is tied to the token table.
pub(super) const HEAD: &str = "lm_head.weight";

const OUR_HEAD: &str = "head.weight";
const OUR_TABLE: &str = "token_embedding.weight";

/// The names of a family of types.
#[derive(Debug)]
pub(super) struct Names {
    /// What the names of all tensors but the head begin with, unless a file holds the bare transformer.
    pub prefix: &'static str,
    /// Layers here and in files, without `.weight` and `.bias`. `#` is the number of a layer; `{a,b}` are several
    /// tensors, whose outputs stand side by side here. The first that fits counts.
    layers: &'static [&'static [(&'static str, &'static str)]],
    /// Whether files hold the matrices of linear layers as `[outputs, inputs]`. They do so with the head in any case.
    pub transposes: bool,
    /// What files leave out of the weights of norms.
    norm_offset: f32,
    /// What `peft` gives adapters if nothing else is said.
    pub lora_targets: &'static [&'static str],
    /// How the names of tensors end that no parameter has, and that don't matter.
    constants: &'static [&'static str],
}

pub(super) const GPT2: Names = Names {
    prefix: "transformer.",
    layers: &[&[
        ("token_embedding", "wte"),
        ("position_embedding", "wpe"),
        ("blocks.#.norm1", "h.#.ln_1"),
        ("blocks.#.attention.qkv", "h.#.attn.c_attn"),
        ("blocks.#.attention.out", "h.#.attn.c_proj"),
        ("blocks.#.norm2", "h.#.ln_2"),
        ("blocks.#.ffn.up", "h.#.mlp.c_fc"),
        ("blocks.#.ffn.down", "h.#.mlp.c_proj"),
        ("norm", "ln_f"),
    ]],
    transposes: false,
    norm_offset: 0.0,
    lora_targets: &["c_attn"],
    // The causal masks that old versions of the library saved.
    constants: &[".attn.bias", ".attn.masked_bias"],
};

const LLAMA_LAYERS: &[(&str, &str)] = &[
    ("token_embedding", "embed_tokens"),
    ("blocks.#.norm1", "layers.#.input_layernorm"),
    ("blocks.#.attention.qkv", "layers.#.self_attn.{q,k,v}_proj"),
    ("blocks.#.attention.q_norm", "layers.#.self_attn.q_norm"),
    ("blocks.#.attention.k_norm", "layers.#.self_attn.k_norm"),
    ("blocks.#.attention.out", "layers.#.self_attn.o_proj"),
    ("blocks.#.norm2", "layers.#.post_attention_layernorm"),
    ("blocks.#.ffn.gate_up", "layers.#.mlp.{gate,up}_proj"),
    ("blocks.#.ffn.down", "layers.#.mlp.down_proj"),
    ("norm", "norm"),
];

pub(super) const LLAMA: Names = Names {
    prefix: "model.",
    layers: &[LLAMA_LAYERS],
    transposes: true,
    norm_offset: 0.0,
    lora_targets: &["q_proj", "v_proj"],
    // The angles that old versions saved.
    constants: &[".rotary_emb.inv_freq"],
};

pub(super) const GEMMA: Names = Names {
    layers: &[
        &[
            ("blocks.#.norm1_after", "layers.#.post_attention_layernorm"),
            ("blocks.#.norm2", "layers.#.pre_feedforward_layernorm"),
            (
                "blocks.#.norm2_after",
                "layers.#.post_feedforward_layernorm",
            ),
        ],
        LLAMA_LAYERS,
    ],
    norm_offset: 1.0,
    ..LLAMA
};

impl Names {
    /// Whether a tensor of this name, without the prefix, belongs to no parameter and doesn't matter.
    pub fn is_constant(&self, name: &str) -> bool {
        self.constants.iter().any(|end| name.ends_with(end))
    }

    /// All parameters of a model, which has no others than [`Names::layers`] knows.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] if there cannot be such a model.
    pub fn entries(&self, config: &GptConfig) -> Result<Vec<Entry>> {
        let mut builder = ParameterBuilder::new(0).with_parameter_limit(u64::MAX);
        Gpt::new(config, &mut builder)?;
        let parameters = builder.parameters().iter();
        let entries = parameters.map(|parameter| {
            let shape = parameter.shape().dims().to_vec();
            self.entry(parameter.name(), shape, config)
        });
        Ok(entries.collect())
    }

    fn entry(&self, ours: &str, shape: Vec<usize>, config: &GptConfig) -> Entry {
        let (layer, kind) = ours.rsplit_once('.').expect("a layer and what it has");
        let number = layer.split('.').find(|part| part.parse::<usize>().is_ok());
        let pattern = match number {
            Some(number) => layer.replacen(number, "#", 1),
            None => layer.to_owned(),
        };
        let mut known = self.layers.iter().copied().flatten();
        let theirs = known.find(|(ours, _)| *ours == pattern);
        let theirs = match theirs {
            Some((_, theirs)) => format!("{theirs}.{kind}"),
            None if ours == OUR_HEAD => HEAD.to_owned(),
            None => panic!("a model type has no name for `{ours}`"),
        };
        let theirs = theirs.replacen('#', number.unwrap_or_default(), 1);
        let is_table = layer.ends_with("embedding");
        let is_matrix = shape.len() == 2 && !is_table;
        let is_norm = layer.contains("norm");
        let columns = shape.last().copied().unwrap_or(1);
        let head = config.head_dim();
        let kv = config.n_kv_heads() * head;
        let widths = match theirs.find('{') {
            None => vec![columns],
            Some(_) if pattern.ends_with("qkv") => vec![config.n_heads * head, kv, kv],
            Some(_) => vec![columns / 2; 2],
        };
        Entry {
            ours: ours.to_owned(),
            parts: Part::side_by_side(alternatives(&theirs).into_iter().zip(widths)),
            is_transposed: is_matrix && (self.transposes || ours == OUR_HEAD),
            offset: if is_norm { self.norm_offset } else { 0.0 },
            shape,
        }
    }
}

/// `a.{x,y}_z` as `a.x_z` and `a.y_z`.
fn alternatives(name: &str) -> Vec<String> {
    let Some((before, rest)) = name.split_once('{') else {
        return vec![name.to_owned()];
    };
    let (names, after) = rest.split_once('}').expect("each brace has its pair");
    let names = names.split(',');
    names.map(|name| format!("{before}{name}{after}")).collect()
}

/// A parameter of a model, and the tensors that hold it in files.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub ours: String,
    /// Of the parameter.
    pub shape: Vec<usize>,
    pub parts: Vec<Part>,
    /// Whether files hold the transposed matrix.
    pub is_transposed: bool,
    /// What is to be added to a file's numbers.
    pub offset: f32,
}

/// A tensor of a file.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// Without the prefix.
    pub name: String,
    /// Of the parameter's last axis, those that it holds.
    pub columns: Range<usize>,
}

/// The parts of all entries.
pub(super) fn parts(entries: &[Entry]) -> impl Iterator<Item = (&Entry, &Part)> {
    entries
        .iter()
        .flat_map(|entry| entry.parts.iter().map(move |part| (entry, part)))
}

impl Part {
    /// Parts of these widths.
    pub fn side_by_side(parts: impl Iterator<Item = (String, usize)>) -> Vec<Part> {
        let mut end = 0;
        let parts = parts.map(|(name, width)| {
            end += width;
            Part {
                name,
                columns: end - width..end,
            }
        });
        parts.collect()
    }
}

impl Entry {
    /// How many numbers it has.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The extents of a matrix; those of a vector are `[1, n]`.
    pub fn extents(&self) -> [usize; 2] {
        match self.shape[..] {
            [rows, columns] => [rows, columns],
            _ => [1, self.elements()],
        }
    }

    /// The shape that a part has in files.
    pub fn shape_of(&self, part: &Part) -> Vec<usize> {
        let width = part.columns.len();
        match self.shape[..] {
            [rows, _] if self.is_transposed => vec![width, rows],
            [rows, _] => vec![rows, width],
            _ => vec![width],
        }
    }

    /// Whether it is the token table.
    pub fn is_table(&self) -> bool {
        self.ours == OUR_TABLE
    }

    /// The tensors that hold the parameter on the device, one behind the other.
    pub fn tensors(&self, parameters: &Parameters) -> Result<Vec<Tensor>> {
        let whole = parameters.get(&self.ours);
        let tensors = match whole {
            Some(whole) => vec![whole.tensor().clone()],
            None => (0..)
                .map_while(|part| parameters.get(&format!("{}.{part}", self.ours)))
                .map(|part| part.tensor().clone())
                .collect(),
        };
        let found: usize = tensors.iter().map(|part| part.shape().elements()).sum();
        let needed = self.elements();
        if found != needed {
            let reason = format!(
                "the model has {found} numbers there, the one of the configuration {needed}"
            );
            return Err(Error::parameter(&self.ours, reason));
        }
        Ok(tensors)
    }
}
