//! What a model needs is known before it is there.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde_json::{Map, Value, json};
use shadegrad::gpu::AdapterClass;
use shadegrad::hugging_face::{MemoryNeeds, ModelFiles};
use shadegrad::nn::{
    FeedForwardKind, GptConfig, LocalAttention, LoraConfig, NormKind, NormPlacement,
    ParameterBuilder, PositionKind, Rotary,
};
use shadegrad::ops::CrossEntropy;
use shadegrad::optim::{AdamW, AdamWConfig, Optimizer};
use shadegrad::tape::Precision;
use shadegrad::{DType, Device, Tape, Tensor};

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
        for precision in [Precision::F32, Precision::Mixed] {
            let frozen = needs.weights(precision.dtype()) + tables;
            let [one, two] = [1, 2].map(|rank| needs.lora(precision, rank) - frozen);
            assert!(one > 0 && two == 2 * one, "{name}");
        }
    }
}

/// What a step of training takes is known to the byte before anything is loaded, also of adapters and with blocks that are
/// computed again.
#[test]
fn a_step_is_planned_before_anything_is_loaded() {
    let models = golden().parent().unwrap().join("models");
    for name in NAMES {
        let files = ModelFiles::open(models.join(name)).unwrap();
        let mut least = Vec::new();
        for (precision, has_lora, checkpoint_blocks) in [
            (Precision::F32, false, false),
            (Precision::F32, false, true),
            (Precision::Mixed, false, false),
            (Precision::Mixed, true, false),
        ] {
            let record = |device: &Device| {
                let (mut gpt, parameters) = match has_lora {
                    false => files.load(device).unwrap(),
                    true => {
                        let (mut gpt, _) = files.load_frozen(DType::F16, None, device).unwrap();
                        let mut builder = ParameterBuilder::new(1);
                        let (config, all) = (LoraConfig::new(2), ["all-linear".to_owned()]);
                        files
                            .add_lora(&mut gpt, &mut builder, &config, &all)
                            .unwrap();
                        (gpt, builder.build(device).unwrap())
                    }
                };
                gpt.set_checkpoint_blocks(checkpoint_blocks);
                let mut optimizer = AdamW::new(&parameters, AdamWConfig::default()).unwrap();
                let tape = Tape::training(device);
                tape.set_precision(precision);
                let tokens = tape.input([3, 25], &[5u32; 75]);
                let loss = gpt.loss(tokens, tokens, CrossEntropy::default());
                let report = optimizer.step(&tape, loss, 1e-3).fetch();
                (tape, report, optimizer, gpt)
            };
            let what = format!("{name} {precision} {has_lora} {checkpoint_blocks}");
            let before = device().stats();
            let memory = record(&device().meta()).0.memory().unwrap();
            assert_eq!(device().stats(), before, "{what}");
            let (tape, ..) = record(device());
            assert_eq!(tape.memory().unwrap(), memory, "{what}");
            least.push(memory.lower_bound);
            // That is all that there is after a step, but for the state of a loss scale that isn't read, or the parameters of
            // the kernel that has made halves before.
            if name == "llama" && !checkpoint_blocks {
                // Another device may have other limits.
                let device = Device::new().unwrap();
                let memory = record(&device.meta()).0.memory().unwrap();
                let (tape, report, _optimizer, _gpt) = record(&device);
                tape.run().unwrap();
                report.get().unwrap();
                let more = device.stats().buffer_bytes as i64 - memory.total() as i64;
                assert!((0..=64).contains(&more), "{what}: {more}, {memory:?}");
            }
        }
        assert!(
            least[1] < least[0] && least[2] < least[0],
            "{name} {least:?}"
        );
    }
}

/// One line each.
#[test]
fn what_a_meta_device_is_not_for() {
    let meta = device().meta();
    let expected = "device = a meta device is not possible: expected a device that has memory, for running tapes and \
                    reading tensors";
    let tensor = Tensor::new(&meta, [2], &[1.0f32, 2.0]).unwrap();
    assert_eq!(tensor.to_vec::<f32>().unwrap_err().to_string(), expected);
    let tape = Tape::inference(&meta);
    let _sum = tape.fetch::<f32>(tape.tensor(&tensor).sum_all());
    assert_eq!(tape.run().unwrap_err().to_string(), expected);

    let tape = Tape::inference(&meta);
    let _sum = tape.fetch::<f32>(tape.tensor(&tensor).sum_all());
    let memory = tape.memory().unwrap();
    memory.check(Some(memory.total())).unwrap();
    memory.check(None).unwrap();
    let error = memory
        .check(Some(memory.total() - 1))
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("out of device memory: it needs "),
        "{error}"
    );
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

#[test]
fn what_does_not_fit_is_refused() {
    let config = GptConfig {
        positions: PositionKind::Rotary,
        context: 1024,
        n_layers: 1,
        ..GptConfig::new(1000)
    };
    let needs = MemoryNeeds::of(&config).unwrap();
    let all = needs.inference(DType::F32, 0);
    for memory in [None, Some(all)] {
        needs.check(DType::F32, memory, device()).unwrap();
    }
    let refused = |dtype, memory| needs.check(dtype, Some(memory), device()).unwrap_err();
    assert_eq!(
        refused(DType::F32, all - 1).to_string(),
        "out of device memory: the model's parameters take 205.2 KiB as F32 (118.6 KiB as F16), the adapter has 205.2 KiB; \
         use a smaller batch, context or model"
    );
    assert_eq!(
        refused(DType::F16, 1024).to_string(),
        "out of device memory: the model's parameters take 118.6 KiB as F16, the adapter has 1.0 KiB; use a smaller \
         batch, context or model"
    );
    let config = GptConfig {
        context: 1 << 24,
        d_model: 512,
        ..config
    };
    let needs = MemoryNeeds::of(&config).unwrap();
    let error = needs.check(DType::F32, None, device()).unwrap_err();
    let expected = "the model's table of positions needs 8.0 GiB, this adapter's limit is ";
    assert!(error.to_string().starts_with(expected), "{error}");
}

/// A software adapter's own word isn't one on the host's.
#[test]
fn memory_is_known_of_gpus_only() {
    let is_software = device().class() == AdapterClass::Software;
    assert!(!is_software || device().memory().is_none());
}

/// A name, and what says how large the model is.
type Published = (&'static str, fn() -> GptConfig);

const PUBLISHED: [Published; 16] = [
    ("GPT-2", || GptConfig {
        positions: PositionKind::Learned,
        ffn: FeedForwardKind::GeluTanh,
        norm: NormKind::LayerNorm,
        bias: true,
        context: 1024,
        ..decoder([768, 3072, 12, 12, 12, 50_257])
    }),
    ("SmolLM2 135M", || decoder([576, 1536, 30, 9, 3, 49_152])),
    ("SmolLM2 360M", || decoder([960, 2560, 32, 15, 5, 49_152])),
    ("SmolLM2 1.7B", || decoder([2048, 8192, 24, 32, 32, 49_152])),
    ("TinyLlama 1.1B", || GptConfig {
        tie_weights: false,
        context: 2048,
        ..decoder([2048, 5632, 22, 32, 4, 32_000])
    }),
    ("Llama 3.2 1B", || decoder([2048, 8192, 16, 32, 8, 128_256])),
    ("Llama 3.2 3B", || decoder([3072, 8192, 28, 24, 8, 128_256])),
    ("Mistral 7B", || GptConfig {
        tie_weights: false,
        ..decoder([4096, 14_336, 32, 32, 8, 32_768])
    }),
    ("Qwen2.5 0.5B", || qwen2([896, 4864, 24, 14, 2, 151_936])),
    ("Qwen2.5 1.5B", || qwen2([1536, 8960, 28, 12, 2, 151_936])),
    ("Qwen2.5 3B", || qwen2([2048, 11_008, 36, 16, 2, 151_936])),
    ("Qwen3 0.6B", || qwen3([1024, 3072, 28, 16, 8, 151_936])),
    ("Qwen3 1.7B", || qwen3([2048, 6144, 28, 16, 8, 151_936])),
    ("Qwen3 4B", || qwen3([2560, 9728, 36, 32, 8, 151_936])),
    ("Gemma 3 270M", || gemma([640, 2048, 18, 4, 1, 262_144])),
    ("Gemma 3 1B", || gemma([1152, 6912, 26, 4, 1, 262_144])),
];

fn decoder([d_model, d_ff, n_layers, n_heads, kv_heads, vocab_size]: [usize; 6]) -> GptConfig {
    GptConfig {
        context: 4096,
        d_model,
        d_ff,
        n_layers,
        n_heads,
        n_kv_heads: Some(kv_heads),
        positions: PositionKind::Rotary,
        ..GptConfig::new(vocab_size)
    }
}

fn qwen2(sizes: [usize; 6]) -> GptConfig {
    GptConfig {
        qkv_bias: Some(true),
        ..decoder(sizes)
    }
}

fn qwen3(sizes: [usize; 6]) -> GptConfig {
    GptConfig {
        head_dim: Some(128),
        qk_norm: true,
        ..decoder(sizes)
    }
}

fn gemma(sizes: [usize; 6]) -> GptConfig {
    GptConfig {
        head_dim: Some(256),
        qk_norm: true,
        norm_placement: NormPlacement::Both,
        local: Some(LocalAttention {
            window: 512,
            layers: vec![true; sizes[2]],
            rotary: Some(Rotary::default()),
        }),
        ..decoder(sizes)
    }
}

/// `docs/models.md` has what this computes.
#[test]
fn the_table_of_published_models() {
    let table: String = PUBLISHED
        .iter()
        .map(|(name, config)| {
            let config = config();
            let needs = MemoryNeeds::of(&config).unwrap();
            let gib = |bytes: u64| format!("{:.2}", bytes as f64 / (1u64 << 30) as f64);
            let cells = [
                format!("{:.1}", needs.parameters() as f64 / 1e6),
                format!("{:.0}", needs.largest(DType::F32) as f64 / (1 << 20) as f64),
                gib(needs.inference(DType::F32, config.context)),
                gib(needs.inference(DType::F16, config.context)),
                gib(needs.training(Precision::F32)),
                gib(needs.training(Precision::Mixed)),
                gib(needs.lora(Precision::F32, 8)),
                gib(needs.lora(Precision::Mixed, 8)),
            ];
            format!("| {name} | {} |\n", cells.join(" | "))
        })
        .collect();
    let path = [env!("CARGO_MANIFEST_DIR"), "docs/models.md"];
    let page = fs::read_to_string(path.iter().collect::<PathBuf>()).unwrap();
    assert!(page.contains(&table), "docs/models.md should have\n{table}");
}
