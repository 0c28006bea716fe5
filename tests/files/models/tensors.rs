//! Tensors of files, and what parameters are made of, said once more by hand.

use std::collections::BTreeMap;
use std::path::Path;

use half::{bf16, f16};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use shadegrad::nn::{GptConfig, NormPlacement, PositionKind};

/// A file's tensors, or several files'. Numbers of all types are held as `f32`, which has room for them.
pub struct Tensors(BTreeMap<String, (Vec<usize>, Vec<f32>)>);

impl Tensors {
    pub fn read(path: &Path) -> Tensors {
        let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = file.tensors().into_iter();
        let tensors = tensors.map(|(name, view)| (name, (view.shape().to_vec(), numbers(&view))));
        Tensors(tensors.collect())
    }

    /// Those of all files of weights.
    pub fn of_directory(directory: &Path) -> Tensors {
        let mut all = BTreeMap::new();
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if name.starts_with("model") && name.ends_with(".safetensors") {
                all.extend(Tensors::read(&path).0);
            }
        }
        Tensors(all)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub fn get(&self, name: &str) -> &(Vec<usize>, Vec<f32>) {
        let tensor = self.0.get(name);
        tensor.unwrap_or_else(|| panic!("there is no {name}"))
    }

    pub fn floats(&self, name: &str) -> &[f32] {
        &self.get(name).1
    }

    /// Tokens or targets; −1 becomes [`IGNORE_INDEX`](shadegrad::data::IGNORE_INDEX).
    pub fn ids(&self, name: &str) -> Vec<u32> {
        let ids = self.floats(name).iter();
        ids.map(|&id| id as i32 as u32).collect()
    }

    /// The parameter `ours` of a model from tensors whose names begin with `prefix`; `norm_shift` is added to norms.
    pub fn parameter(
        &self,
        config: &GptConfig,
        prefix: &str,
        ours: &str,
        norm_shift: f32,
    ) -> Vec<f32> {
        let is_norm = ours.contains("norm");
        let parts = match config.positions {
            PositionKind::Learned => gpt2(ours),
            _ => llama(config, ours),
        };
        let parts: Vec<_> = parts
            .iter()
            .map(|theirs| self.get(&format!("{prefix}{theirs}")))
            .collect();
        let is_stored_so = config.positions == PositionKind::Learned || ours.contains("embedding");
        let values = match parts[..] {
            [(_, values)] if is_stored_so => values.clone(),
            _ => side_by_side(&parts),
        };
        let shift = if is_norm { norm_shift } else { 0.0 };
        values.iter().map(|value| value + shift).collect()
    }
}

fn numbers(view: &TensorView<'_>) -> Vec<f32> {
    let words = |bytes: &[u8; 4]| u32::from_le_bytes(*bytes);
    let halves = || view.data().as_chunks().0.iter();
    match view.dtype() {
        Dtype::F32 => {
            let words = view.data().as_chunks().0.iter().map(words);
            words.map(f32::from_bits).collect()
        }
        Dtype::I32 => {
            let words = view.data().as_chunks().0.iter().map(words);
            words.map(|word| word as i32 as f32).collect()
        }
        Dtype::F16 => halves().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::BF16 => halves().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        other => panic!("{other:?}"),
    }
}

/// Vectors one behind the other, or matrices `[outputs, inputs]` as one of all outputs, transposed.
fn side_by_side(parts: &[&(Vec<usize>, Vec<f32>)]) -> Vec<f32> {
    let (shape, _) = parts[0];
    let inputs = shape.get(1).copied().unwrap_or(1);
    let mut packed = Vec::new();
    for input in 0..inputs {
        for (_, values) in parts {
            packed.extend(values[input..].iter().step_by(inputs));
        }
    }
    packed
}

fn gpt2(ours: &str) -> Vec<String> {
    let theirs = match ours {
        "token_embedding.weight" => "wte.weight".to_owned(),
        "position_embedding.weight" => "wpe.weight".to_owned(),
        _ => ours
            .replace("blocks.", "h.")
            .replace("norm1", "ln_1")
            .replace("norm2", "ln_2")
            .replace("norm.", "ln_f.")
            .replace("attention.qkv", "attn.c_attn")
            .replace("attention.out", "attn.c_proj")
            .replace("ffn.up", "mlp.c_fc")
            .replace("ffn.down", "mlp.c_proj"),
    };
    vec![format!("transformer.{theirs}")]
}

fn llama(config: &GptConfig, ours: &str) -> Vec<String> {
    match ours {
        "token_embedding.weight" => return vec!["model.embed_tokens.weight".to_owned()],
        "head.weight" => return vec!["lm_head.weight".to_owned()],
        "norm.weight" => return vec!["model.norm.weight".to_owned()],
        _ => {}
    }
    let (layer, rest) = ours
        .strip_prefix("blocks.")
        .and_then(|rest| rest.split_once('.'))
        .unwrap_or_else(|| panic!("{ours}"));
    let (part, kind) = rest.rsplit_once('.').unwrap();
    let is_gemma = config.norm_placement == NormPlacement::Both;
    let parts: &[&str] = match part {
        "norm1" => &["input_layernorm"],
        "norm1_after" => &["post_attention_layernorm"],
        "norm2" if is_gemma => &["pre_feedforward_layernorm"],
        "norm2" => &["post_attention_layernorm"],
        "norm2_after" => &["post_feedforward_layernorm"],
        "attention.qkv" => &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        "attention.q_norm" => &["self_attn.q_norm"],
        "attention.k_norm" => &["self_attn.k_norm"],
        "attention.out" => &["self_attn.o_proj"],
        "ffn.gate_up" => &["mlp.gate_proj", "mlp.up_proj"],
        "ffn.down" => &["mlp.down_proj"],
        _ => panic!("{ours}"),
    };
    let name = |part: &&str| format!("model.layers.{layer}.{part}.{kind}");
    parts.iter().map(name).collect()
}
