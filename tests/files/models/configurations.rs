//! Every key of a configuration means what it means to `transformers`, and so does its absence: `golden/make_configurations.py`.

use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use shadegrad::hugging_face::ModelFiles;
use shadegrad::nn::GptConfig;

use super::directory;
use super::files::scratch;

/// The setting of a model, in the words of the file of cases.
fn meaning(config: &GptConfig) -> Value {
    let local = |layer| config.window(layer).and(config.local.as_ref());
    let rotary = |layer| match local(layer).and_then(|local| local.rotary.as_ref()) {
        Some(rotary) => rotary,
        None => &config.rotary,
    };
    let layers = 0..config.n_layers;
    let windows: Vec<_> = layers.clone().map(|layer| config.window(layer)).collect();
    let factors = layers.clone().map(|layer| rotary(layer).attention_factor());
    let frequencies = layers.map(|layer| rotary(layer).frequencies(config.head_dim()));
    let scale = (config.head_dim() as f64).sqrt().recip();
    json!({
        "d_model": config.d_model,
        "n_heads": config.n_heads,
        "n_kv_heads": config.n_kv_heads(),
        "head_dim": config.head_dim(),
        "attention_scale": config.attention_scale.map_or(scale, f64::from),
        "attention_dropout": config.attention_dropout(),
        "qkv_bias": config.has_qkv_bias(),
        "attention_bias": config.has_attention_bias(),
        "bias": config.bias,
        "ffn": config.ffn.name(),
        "norm_eps": config.norm_eps,
        "tie_weights": config.tie_weights,
        "windows": windows,
        "frequencies": frequencies.collect::<Vec<_>>(),
        "attention_factors": factors.collect::<Vec<_>>(),
    })
}

/// Numbers to the precision of `f32`, all else exactly.
fn is_same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => {
            let [a, b] = [a, b].map(|number| number.as_f64().unwrap());
            (a - b).abs() <= 1e-6 * b.abs()
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same(a, b))
        }
        _ => a == b,
    }
}

/// Weights of a type's model, all zero.
fn write_weights(
    directory: &Path,
    model_type: &str,
    vocabulary: usize,
    hidden: usize,
    says: &Value,
) {
    let size = |key: &str| says[key].as_u64().unwrap() as usize;
    let flag = |key: &str| says[key].as_bool().unwrap();
    let (d, head) = (size("d_model"), size("head_dim"));
    let (q, kv) = (size("n_heads") * head, size("n_kv_heads") * head);
    let mut tensors = vec![
        ("model.embed_tokens.weight".to_owned(), vec![vocabulary, d]),
        ("model.norm.weight".to_owned(), vec![d]),
    ];
    if !flag("tie_weights") {
        tensors.push(("lm_head.weight".to_owned(), vec![vocabulary, d]));
    }
    for layer in 0..says["windows"].as_array().unwrap().len() {
        let mut add = |name: &str, shape: &[usize], bias: bool| {
            let name = format!("model.layers.{layer}.{name}");
            if bias {
                tensors.push((format!("{name}.bias"), shape[..1].to_vec()));
            }
            tensors.push((format!("{name}.weight"), shape.to_vec()));
        };
        for (name, outputs) in [("q", q), ("k", kv), ("v", kv)] {
            add(
                &format!("self_attn.{name}_proj"),
                &[outputs, d],
                flag("qkv_bias"),
            );
        }
        add("self_attn.o_proj", &[d, q], flag("attention_bias"));
        add("mlp.gate_proj", &[hidden, d], flag("bias"));
        add("mlp.up_proj", &[hidden, d], flag("bias"));
        add("mlp.down_proj", &[d, hidden], flag("bias"));
        add("input_layernorm", &[d], false);
        add("post_attention_layernorm", &[d], false);
        if model_type == "gemma3_text" {
            add("pre_feedforward_layernorm", &[d], false);
            add("post_feedforward_layernorm", &[d], false);
        }
        if ["gemma3_text", "qwen3"].contains(&model_type) {
            add("self_attn.q_norm", &[head], false);
            add("self_attn.k_norm", &[head], false);
        }
    }
    let zeros = vec![0; 1 << 20];
    let views = tensors.iter().map(|(name, shape)| {
        let bytes = &zeros[..2 * shape.iter().product::<usize>()];
        (
            name,
            TensorView::new(Dtype::BF16, shape.clone(), bytes).unwrap(),
        )
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    fs::write(directory.join("model.safetensors"), bytes).unwrap();
}

#[test]
fn keys() {
    let cases = fs::read(directory("configurations.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_slice(&cases).unwrap();
    let directory = scratch("models", "configurations");
    let mut wrong = Vec::new();
    for case in &cases {
        let config = &case["config"];
        fs::write(directory.join("config.json"), config.to_string()).unwrap();
        let size = |key: &str| config[key].as_u64().unwrap() as usize;
        let model_type = config["model_type"].as_str().unwrap();
        let is_refused = case.get("refused").is_some();
        if !is_refused {
            let (vocabulary, hidden) = (size("vocab_size"), size("intermediate_size"));
            write_weights(&directory, model_type, vocabulary, hidden, &case["meaning"]);
        }
        match ModelFiles::open(&directory) {
            Err(error) => {
                let message = error.to_string();
                let key = case["refused"].as_str();
                if key.is_none_or(|key| !message.contains(key)) || message.contains('\n') {
                    wrong.push(format!("{config}: {message}"));
                }
            }
            Ok(_) if is_refused => wrong.push(format!("{config} is not refused")),
            Ok(files) => {
                let actual = meaning(files.config());
                for (key, expected) in case["meaning"].as_object().unwrap() {
                    if !is_same(&actual[key], expected) {
                        let actual = &actual[key];
                        wrong.push(format!("{config}: {key} is {actual}, not {expected}"));
                    }
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
}
