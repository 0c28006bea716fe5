//! What is read is what the files say.

use std::fs;
use std::path::PathBuf;

use shadegrad::DType;
use shadegrad::hugging_face::ModelFiles;
use shadegrad::nn::{Gpt, GptConfig, ParameterBuilder};

use super::table::MODELS;
use super::tensors::Tensors;
use super::{TOLERANCE, directory, expected, load, logits};
use crate::common::{assert_close_f32, device};

/// A directory of its own for a test, empty.
pub fn scratch(test: &str, name: &str) -> PathBuf {
    let path = [env!("CARGO_TARGET_TMPDIR"), test, name];
    let path: PathBuf = path.iter().collect();
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

/// The same model with everything said that may be left open, but how training starts.
pub fn meaning(config: &GptConfig) -> GptConfig {
    let scale = (config.head_dim() as f32).sqrt().recip();
    GptConfig {
        n_kv_heads: Some(config.n_kv_heads()),
        head_dim: Some(config.head_dim()),
        attention_bias: Some(config.has_attention_bias()),
        qkv_bias: Some(config.has_qkv_bias()),
        attention_scale: Some(config.attention_scale.unwrap_or(scale)),
        scale_residual_init: false,
        ..config.clone()
    }
}

#[test]
fn configurations() {
    for model in &MODELS {
        let published = scratch("models_published", model.name);
        for entry in fs::read_dir(directory(model.name)).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, published.join(path.file_name().unwrap())).unwrap();
        }
        fs::rename(
            published.join("published.json"),
            published.join("config.json"),
        )
        .unwrap();
        for directory in [directory(model.name), published] {
            let files = ModelFiles::open(&directory).unwrap();
            let expected = meaning(&(model.config)());
            assert_eq!(meaning(files.config()), expected, "{}", model.name);
            assert!(model.name.starts_with(files.model_type()), "{}", model.name);
        }
    }
}

/// To the bit, the norms of Gemma as far as a sum with 1 is exact.
#[test]
fn parameters() {
    for model in &MODELS {
        let weights = Tensors::of_directory(&directory(model.name));
        let (gpt, parameters) = load(model.name, DType::F32, device());
        let count = gpt.config().parameter_count();
        assert_eq!(parameters.element_count(), count, "{}", model.name);
        for (ours, _, values) in parameters.to_host().unwrap() {
            let theirs = weights.parameter(gpt.config(), "", &ours, model.norm_shift);
            assert!(values == theirs, "{}: {ours} differs", model.name);
        }
    }
}

#[test]
fn token_tables_in_parts() {
    for model in &MODELS {
        let files = ModelFiles::open(directory(model.name)).unwrap();
        let config = files.config();
        if !config.tie_weights {
            continue;
        }
        let limit = (config.vocab_size * config.d_model * 4 * 3 / 5) as u64;
        let mut builder = ParameterBuilder::new(0).with_parameter_limit(limit);
        let gpt = Gpt::new(config, &mut builder).unwrap();
        let parameters = builder.build_zeroed(device()).unwrap();
        files.restore(&parameters).unwrap();
        assert!(parameters.get("token_embedding.weight.1").is_some());
        let expected = expected(model.name);
        let actual = logits(&gpt, 2, &expected.ids("tokens"));
        let expected = expected.floats("logits");
        assert_close_f32(model.name, &actual, expected, 0.0, TOLERANCE);
    }
}
