//! How many dispatches a token costs when it is generated with the cache.

use std::collections::BTreeMap;

use shadegrad::nn::{
    FeedForwardKind, Gpt, GptConfig, LocalAttention, NormKind, NormPlacement, ParameterBuilder,
    PositionKind,
};
use shadegrad::tape::Precision;
use shadegrad::{DType, Device, Tape};

use crate::common::{device, gpu_device};

/// The most that a layer may cost.
const MOST: usize = 8;

/// Configurations with the parts of every type of model, and extents of real ones.
fn types() -> Vec<(&'static str, GptConfig)> {
    let llama = GptConfig {
        context: 64,
        d_model: 576,
        n_heads: 9,
        n_kv_heads: Some(3),
        d_ff: 1536,
        norm: NormKind::RmsNorm,
        ffn: FeedForwardKind::Swiglu,
        positions: PositionKind::Rotary,
        bias: false,
        ..GptConfig::new(500)
    };
    let local = |layers: usize| {
        Some(LocalAttention {
            window: 16,
            layers: (0..layers).map(|layer| layer % 2 == 0).collect(),
            rotary: None,
        })
    };
    let gpt2 = GptConfig {
        norm: NormKind::LayerNorm,
        ffn: FeedForwardKind::GeluTanh,
        positions: PositionKind::Learned,
        n_kv_heads: None,
        bias: true,
        ..llama.clone()
    };
    let qwen2 = GptConfig {
        qkv_bias: Some(true),
        ..llama.clone()
    };
    let qwen3 = GptConfig {
        qk_norm: true,
        head_dim: Some(128),
        ..llama.clone()
    };
    let gemma3 = GptConfig {
        head_dim: Some(256),
        n_heads: 4,
        n_kv_heads: Some(1),
        d_model: 640,
        d_ff: 2048,
        ffn: FeedForwardKind::GegluTanh,
        norm_placement: NormPlacement::Both,
        embedding_scale: 25.25,
        ..qwen3.clone()
    };
    vec![
        ("gpt2", gpt2),
        ("llama", llama.clone()),
        ("mistral", llama),
        ("qwen2", qwen2),
        ("qwen3", qwen3),
        ("gemma3", gemma3),
    ]
    .into_iter()
    .map(|(name, config)| {
        let is_local = ["mistral", "gemma3"].contains(&name);
        let local = is_local.then(|| local(config.n_layers)).flatten();
        (name, GptConfig { local, ..config })
    })
    .collect()
}

/// The dispatches of the second token, by their kernels' names.
fn kernels(device: &Device, config: &GptConfig, precision: Precision) -> BTreeMap<String, usize> {
    let dtype = precision.dtype();
    let mut builder = ParameterBuilder::new(1).with_dtype(dtype);
    let gpt = Gpt::new(config, &mut builder).unwrap();
    builder.build_zeroed(device).unwrap();
    let mut cache = gpt.kv_cache(1, 64).unwrap();
    let mut plan = String::new();
    for _ in 0..2 {
        let tape = Tape::inference(device);
        tape.set_precision(precision);
        let logits = gpt.cached_logits(tape.input([1, 1], &[3u32]), &mut cache);
        let _logits = tape.fetch::<f32>(logits.cast(DType::F32));
        plan = tape.explain().unwrap();
    }
    let (_, dispatches) = plan.split_once("== uniform operands: ").unwrap();
    let lines = dispatches
        .lines()
        .skip(1)
        .take_while(|line| line.contains(": "));
    let mut kernels = BTreeMap::new();
    for line in lines.filter(|line| !line.starts_with("fetched")) {
        let (_, rest) = line.split_once(": ").unwrap();
        let name = rest.split(' ').next().unwrap();
        *kernels.entry(name.to_owned()).or_default() += 1;
    }
    kernels
}

/// Of every type of model, on software adapters and GPUs, in both precisions: a layer costs as much as a model of one layer
/// more, and what is around the layers four dispatches at most.
#[test]
fn a_token_costs_at_most_eight_dispatches_a_layer() {
    for device in [device(), gpu_device()] {
        for (name, config) in types() {
            for precision in [Precision::F32, Precision::Mixed] {
                let kernels = kernels(device, &config, precision);
                let all: usize = kernels.values().sum();
                println!(
                    "{name} in {precision:?}, {:?}: {all}, {kernels:?}",
                    device.class()
                );
                assert!(
                    all <= MOST * config.n_layers + 4,
                    "{name} in {precision:?}: {all} dispatches for {} layers, {kernels:?}",
                    config.n_layers
                );
            }
        }
    }
}
