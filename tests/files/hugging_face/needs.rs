//! What a model needs is known before it is there.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Map, Value, json};
use shadegrad::gpu::AdapterClass;
use shadegrad::hugging_face::ModelFiles;
use shadegrad::nn::{ParameterBuilder, PositionKind};
use shadegrad::tape::Precision;
use shadegrad::{DType, Tape};

use super::files::scratch;
use super::golden;
use crate::common::device;

const NAMES: [&str; 7] = [
    "gemma3_text",
    "gpt2",
    "llama",
    "llama_biases",
    "mistral",
    "qwen2",
    "qwen3",
];

/// As many bytes as are taken then, but for the padding at the end of a buffer.
#[test]
fn needs_are_what_is_allocated() {
    for name in NAMES {
        let files = ModelFiles::open(golden().parent().unwrap().join("models").join(name)).unwrap();
        let needs = files.needs();
        for dtype in [DType::F32, DType::F16] {
            let before = device().stats().buffer_bytes;
            let (gpt, parameters) = files.load_as(dtype, device()).unwrap();
            let weights = needs.weights(dtype);
            assert!(
                (weights..weights + 32).contains(&parameters.bytes()),
                "{name}"
            );
            assert_eq!(
                needs.parameters(),
                parameters.element_count() as u64,
                "{name}"
            );
            let taken = device().stats().buffer_bytes - before;
            let expected = parameters.bytes() + needs.tables();
            assert_eq!(taken, expected, "{name}");
            let cache = gpt.kv_cache(2, 20).unwrap();
            assert_eq!(needs.cache(dtype, 2, 20), cache.bytes(), "{name}");
            let all = weights + needs.tables() + needs.cache(dtype, 1, 64);
            assert_eq!(needs.inference(dtype, 64), all, "{name}");
        }
        let numbers = needs.weights(DType::F16) / 2;
        let tables = needs.tables();
        assert_eq!(needs.training(Precision::F32), 16 * numbers + tables);
        assert_eq!(needs.training(Precision::Mixed), 18 * numbers + tables);
        assert!(needs.lora(Precision::F32, 1) > 4 * numbers + tables);
        assert!(needs.lora(Precision::Mixed, 1) < 3 * numbers + tables);
    }
}

/// A shorter context gives the same numbers, and is forgotten by the files.
#[test]
fn contexts_may_be_shorter() {
    let directory = golden().parent().unwrap().join("models");
    for name in NAMES {
        let whole = ModelFiles::open(directory.join(name)).unwrap();
        let most = whole.config().context;
        let short = ModelFiles::open(directory.join(name))
            .unwrap()
            .with_context(9);
        if whole.config().positions == PositionKind::Learned {
            let error = short.unwrap_err().to_string();
            let expected = format!(
                "context = 9 is not possible: expected {most}: the model has trained positions"
            );
            assert_eq!(error, expected);
            continue;
        }
        let short = short.unwrap();
        assert_eq!(
            most as u64 * short.needs().tables(),
            9 * whole.needs().tables()
        );
        let logits = [&whole, &short].map(|files| {
            let (gpt, parameters) = files.load(device()).unwrap();
            let tape = Tape::inference(device());
            let tokens: Vec<u32> = (3..12).collect();
            let logits = tape.fetch::<f32>(gpt.logits(tape.input([1, 9], &tokens)));
            tape.run().unwrap();
            (logits.get().unwrap(), parameters)
        });
        assert!(logits[0].0 == logits[1].0, "{name}");
        let saved = scratch("context");
        short.save(&saved, &logits[1].1).unwrap();
        assert_eq!(ModelFiles::open(&saved).unwrap().config(), whole.config());
        for (context, expected) in [(0, "0"), (most + 1, &*(most + 1).to_string())] {
            let files = ModelFiles::open(directory.join(name)).unwrap();
            let error = files.with_context(context).unwrap_err().to_string();
            let expected = format!(
                "context = {expected} is not possible: expected 1 to {most}, the model's context"
            );
            assert_eq!(error, expected);
        }
    }
}

/// One line, before anything is allocated.
#[test]
fn a_parameter_that_no_kernel_can_bind() {
    let limit = ParameterBuilder::parameter_limit_of(device());
    let (width, vocabulary) = (1024, limit as usize / 4096 + 1);
    let directory = scratch("large");
    let config = json!({
        "model_type": "llama", "hidden_size": width, "num_attention_heads": 16, "vocab_size": vocabulary,
        "num_hidden_layers": 1, "intermediate_size": 8,
    });
    fs::write(directory.join("config.json"), config.to_string()).unwrap();
    let (mut header, mut end) = (Map::new(), 0);
    for (name, shape) in [
        ("lm_head.weight", vec![vocabulary, width]),
        ("model.embed_tokens.weight", vec![vocabulary, width]),
        ("model.layers.0.input_layernorm.weight", vec![width]),
        ("model.layers.0.mlp.down_proj.weight", vec![width, 8]),
        ("model.layers.0.mlp.gate_proj.weight", vec![8, width]),
        ("model.layers.0.mlp.up_proj.weight", vec![8, width]),
        (
            "model.layers.0.post_attention_layernorm.weight",
            vec![width],
        ),
        ("model.layers.0.self_attn.k_proj.weight", vec![width, width]),
        ("model.layers.0.self_attn.o_proj.weight", vec![width, width]),
        ("model.layers.0.self_attn.q_proj.weight", vec![width, width]),
        ("model.layers.0.self_attn.v_proj.weight", vec![width, width]),
        ("model.norm.weight", vec![width]),
    ] {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        let info = json!({ "dtype": "BF16", "shape": shape, "data_offsets": [start, end] });
        header.insert(name.to_owned(), info);
    }
    let header = Value::from(header).to_string();
    let length = (header.len() as u64).to_le_bytes();
    // The rest takes no room on the disk.
    let path = directory.join("model.safetensors");
    fs::write(&path, [&length, header.as_bytes()].concat()).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len((8 + header.len() + end) as u64).unwrap();

    let files = ModelFiles::open(&directory).unwrap();
    assert_eq!(files.bytes(), (8 + header.len() + end) as u64);
    assert_eq!(
        files.dtypes(),
        BTreeMap::from([("BF16".to_owned(), end as u64)])
    );
    let before = device().stats().buffers;
    let error = files.load(device()).unwrap_err().to_string();
    let expected = "parameter `head.weight` needs ";
    assert!(
        error.starts_with(expected) && error.contains("this adapter's limit is"),
        "{error}"
    );
    assert_eq!(device().stats().buffers, before);
}

/// A software adapter's own word isn't one on the host's.
#[test]
fn memory_is_known_of_gpus_only() {
    let is_software = device().class() == AdapterClass::Software;
    assert!(!is_software || device().memory().is_none());
}
