//! What is written: models as they were read, after training, and exported. `golden/check_saved.py` opens what these tests
//! leave behind with `transformers`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, tensor::Metadata};
use serde_json::Value;
use shadegrad::data::IGNORE_INDEX;
use shadegrad::hugging_face::{ModelFiles, SaveDType, export_in_files};
use shadegrad::nn::{
    FeedForwardKind, Gpt, GptConfig, LocalAttention, NormKind, NormPlacement, ParameterBuilder,
    Parameters, PositionKind, Rotary, RotaryScaling,
};
use shadegrad::ops::CrossEntropy;
use shadegrad::optim::{AdamW, AdamWConfig, Optimizer};
use shadegrad::{DType, Tape};

use super::files::scratch;
use super::table::MODELS;
use super::{directory, expected, load, logits};
use crate::common::device;

/// The files of a directory that a model consists of.
pub fn contents(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(directory).unwrap();
    let files = entries.map(|entry| {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (name, fs::read(path).unwrap())
    });
    let other = ["expected.safetensors", "published.json", "tokenizer.json"];
    let files = files.filter(|(name, _)| !other.contains(&&**name));
    files.collect()
}

/// Everything about the tensors of a file but their values.
fn header(bytes: &[u8]) -> (BTreeMap<String, (Dtype, Vec<usize>)>, Metadata) {
    let (_, metadata) = SafeTensors::read_metadata(bytes).unwrap();
    let tensors = metadata.tensors().into_iter();
    let tensors = tensors.map(|(name, info)| (name, (info.dtype, info.shape.clone())));
    (tensors.collect(), metadata)
}

/// What `check_saved.py` is to find.
pub fn leave_logits(directory: &Path, tokens: &[u32], logits: &[f32]) {
    let tokens: Vec<u8> = tokens.iter().flat_map(|id| id.to_le_bytes()).collect();
    let length = tokens.len() / 8;
    let vocabulary = logits.len() / (2 * length);
    let logits: Vec<u8> = logits.iter().flat_map(|x| x.to_le_bytes()).collect();
    let view = |dtype, shape: &[usize], bytes| TensorView::new(dtype, shape.to_vec(), bytes);
    let tensors = [
        ("tokens", view(Dtype::I32, &[2, length], &tokens).unwrap()),
        (
            "logits",
            view(Dtype::F32, &[2, length, vocabulary], &logits).unwrap(),
        ),
    ];
    let path = directory.join("logits.safetensors");
    fs::write(path, safetensors::serialize(tensors, None).unwrap()).unwrap();
}

#[test]
fn unchanged_models_are_the_same_bytes() {
    for model in &MODELS {
        let files = ModelFiles::open(directory(model.name)).unwrap();
        let (_, parameters) = load(model.name, DType::F32, device());
        let saved = scratch("models_unchanged", model.name);
        files.save(&saved, &parameters).unwrap();
        let (mut before, mut after) = (contents(&directory(model.name)), contents(&saved));
        // A head of its own is said to be one.
        let [before_json, after_json] = [&mut before, &mut after].map(|files| {
            let bytes = files.remove("config.json").unwrap();
            serde_json::from_slice::<Value>(&bytes).unwrap()
        });
        let mut expected = before_json.clone();
        expected["tie_word_embeddings"] = files.config().tie_weights.into();
        assert_eq!(after_json, expected, "{}", model.name);
        assert_eq!(before_json == expected, model.name != "llama_biases");
        assert!(before.keys().eq(after.keys()), "{}", model.name);
        for (name, bytes) in before {
            assert!(bytes == after[&name], "{}: {name} differs", model.name);
        }
    }
}

/// The same values as far as the type tells them apart, in the same files, and a configuration that says so.
#[test]
fn saved_as_another_type() {
    let dtypes = [
        (SaveDType::F32, Dtype::F32, "float32", 0.0),
        (SaveDType::F16, Dtype::F16, "float16", 2f32.powi(-11)),
        (SaveDType::BF16, Dtype::BF16, "bfloat16", 2f32.powi(-8)),
    ];
    for (model, (dtype, stored, called, precision)) in MODELS.iter().zip(dtypes.iter().cycle()) {
        let name = format!("{}_{dtype}", model.name);
        let files = ModelFiles::open(directory(model.name)).unwrap();
        let (_, parameters) = load(model.name, DType::F32, device());
        let saved = scratch("models_saved", &name);
        files.save_as(&saved, &parameters, *dtype).unwrap();
        let again = ModelFiles::open(&saved).unwrap();
        assert_eq!(again.config(), files.config(), "{name}");
        assert_eq!(again.weight_files(), files.weight_files(), "{name}");

        let (before, after) = (contents(&directory(model.name)), contents(&saved));
        assert!(before.keys().eq(after.keys()), "{name}");
        let mut bytes = 0;
        for (file, before) in before
            .iter()
            .filter(|(file, _)| file.ends_with(".safetensors"))
        {
            let [(old, old_data), (new, data)] = [before, &after[file]].map(|bytes| header(bytes));
            assert!(old.keys().eq(new.keys()), "{name}");
            assert_eq!(old_data.metadata(), data.metadata(), "{name}");
            for (tensor, (kind, shape)) in &new {
                assert_eq!(shape, &old[tensor].1, "{name}: {tensor}");
                assert!(kind == stored || *kind == old[tensor].0, "{name}: {tensor}");
            }
            bytes += data.data_len();
        }
        assert!(
            again.dtypes()[&stored.to_string()] * 10 > bytes as u64 * 9,
            "{name}"
        );
        let json = |files: &BTreeMap<String, Vec<u8>>, file: &str| -> Option<Value> {
            files
                .get(file)
                .map(|bytes| serde_json::from_slice(bytes).unwrap())
        };
        let config = json(&after, "config.json").unwrap();
        assert_eq!(config["dtype"], *called, "{name}");
        if let Some(index) = json(&after, "model.safetensors.index.json") {
            assert_eq!(index["metadata"]["total_size"], bytes, "{name}");
        }

        let (gpt, reloaded) = again.load_with_dropout(0.0, device()).unwrap();
        let [exact, rounded] = [&parameters, &reloaded].map(|all| all.to_host().unwrap());
        for ((tensor, _, exact), (_, _, rounded)) in exact.iter().zip(&rounded) {
            // Norms of Gemma are stored less 1.
            let near = |(a, b): (&f32, &f32)| (a - b).abs() <= precision * (a.abs() + 1.0);
            assert!(exact.iter().zip(rounded).all(near), "{name}: {tensor}");
        }
        let tokens = expected(model.name).ids("tokens");
        leave_logits(&saved, &tokens, &logits(&gpt, 2, &tokens));
    }
}

/// A few steps on the batch; gives the losses.
fn tune(gpt: &Gpt, parameters: &Parameters, tokens: &[u32], targets: &[u32]) -> Vec<f32> {
    let mut optimizer = AdamW::new(parameters, AdamWConfig::default()).unwrap();
    let step = |_| {
        let tape = Tape::training(gpt.device());
        let [tokens, targets] = [tokens, targets].map(|ids| tape.input([2, ids.len() / 2], ids));
        let options = CrossEntropy {
            ignore_index: Some(IGNORE_INDEX),
            ..CrossEntropy::default()
        };
        let loss = gpt.loss(tokens, targets, options);
        let report = optimizer.step(&tape, loss, 1e-2).fetch();
        tape.run().unwrap();
        report.get().unwrap().loss
    };
    (0..4).map(step).collect()
}

/// Same names, types, shapes, metadata and configuration; other values, which are the tuned ones, rounded to the files' type.
#[test]
fn tuned_models() {
    for model in &MODELS {
        let name = model.name;
        let expected = expected(name);
        let [tokens, targets] = ["tokens", "targets"].map(|name| expected.ids(name));
        let (gpt, parameters) = load(name, DType::F32, device());
        let losses = tune(&gpt, &parameters, &tokens, &targets);
        assert!(losses[3] < losses[0] - 0.5, "{name}: {losses:?}");
        let tuned = logits(&gpt, 2, &tokens);

        let files = ModelFiles::open(directory(name)).unwrap();
        let saved = scratch("models_saved", name);
        files.save(&saved, &parameters).unwrap();
        let again = ModelFiles::open(&saved).unwrap();
        assert_eq!(again.config(), files.config(), "{name}");
        let (gpt, reloaded) = again.load_with_dropout(0.0, device()).unwrap();
        let restored = logits(&gpt, 2, &tokens);
        let (before, after) = (contents(&directory(name)), contents(&saved));
        assert!(before.keys().eq(after.keys()), "{name}");
        let mut is_rounded = false;
        for (file, bytes) in &before {
            if file.ends_with(".safetensors") {
                assert!(*bytes != after[file], "{name}: {file} has changed");
                let ((theirs, metadata), (ours, kept)) = (header(bytes), header(&after[file]));
                assert_eq!(theirs, ours, "{name}: {file}");
                assert_eq!(metadata.metadata(), kept.metadata(), "{name}: {file}");
                is_rounded |= theirs.values().any(|(dtype, _)| *dtype != Dtype::F32);
            } else if file != "config.json" {
                assert!(*bytes == after[file], "{name}: {file} is kept");
            }
        }
        if !is_rounded {
            assert!(restored == tuned, "{name}: logits differ");
        }
        let [tuned, reloaded] = [parameters, reloaded].map(|all| all.to_host().unwrap());
        for ((ours, _, tuned), (_, _, reloaded)) in tuned.iter().zip(&reloaded) {
            // BF16 has 8 bits, F16 ends at 2⁻²⁴; Gemma's norms are stored without their 1.
            let bar = |x: f32| (x.abs().max(model.norm_shift) / 256.0).max(6e-8);
            let differs = |(a, b): (&f32, &f32)| match is_rounded {
                true => (a - b).abs() > bar(*a),
                false => a != b,
            };
            let differs = tuned.iter().zip(reloaded).any(differs);
            assert!(!differs, "{name}: {ours} differs");
        }
        leave_logits(&saved, &tokens, &restored);
    }
}

/// Trained from nothing, of four types, one in several files.
#[test]
fn models_made_here() {
    let decoder = GptConfig {
        positions: PositionKind::Rotary,
        context: 32,
        d_model: 24,
        d_ff: 50,
        n_layers: 3,
        n_kv_heads: Some(2),
        tie_weights: false,
        ..GptConfig::new(61)
    };
    let gpt2 = GptConfig {
        norm: NormKind::LayerNorm,
        ffn: FeedForwardKind::GeluTanh,
        bias: true,
        ..GptConfig::new(61)
    };
    let qwen3 = GptConfig {
        head_dim: Some(10),
        qk_norm: true,
        tie_weights: true,
        ..decoder.clone()
    };
    let gemma = GptConfig {
        ffn: FeedForwardKind::GegluTanh,
        norm_placement: NormPlacement::Both,
        embedding_scale: 24f32.sqrt(),
        attention_scale: Some(1.0 / 3.0),
        local: Some(LocalAttention {
            window: 5,
            layers: vec![true, false, true],
            rotary: Some(Rotary::default()),
        }),
        rotary: Rotary {
            base: 500.0,
            scaling: Some(RotaryScaling::Linear { factor: 2.0 }),
        },
        ..qwen3.clone()
    };
    for (kind, config, largest) in [
        ("llama", &decoder, 10_000),
        ("gpt2", &gpt2, u64::MAX),
        ("qwen3", &qwen3, u64::MAX),
        ("gemma3_text", &gemma, u64::MAX),
    ] {
        let mut builder = ParameterBuilder::new(7);
        let gpt = Gpt::new(config, &mut builder).unwrap();
        let parameters = builder.build(device()).unwrap();
        let tokens: Vec<u32> = (0..32).map(|i| i * i % 61).collect();
        let losses = tune(&gpt, &parameters, &tokens[..30], &tokens[2..]);
        assert!(losses[3] < losses[0], "{kind}: {losses:?}");
        let made = logits(&gpt, 2, &tokens);
        let exported = scratch("models_exported", &format!("{kind}_made"));
        let dtype = SaveDType::AsStored;
        export_in_files(&exported, config, &parameters, Some(1), dtype, largest).unwrap();
        let again = ModelFiles::open(&exported).unwrap();
        assert_eq!(again.model_type(), kind);
        let (gpt, _) = again.load(device()).unwrap();
        assert!(logits(&gpt, 2, &tokens) == made, "{kind}: logits differ");
        leave_logits(&exported, &tokens, &made);
    }
}
