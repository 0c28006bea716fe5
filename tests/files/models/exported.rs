//! Models that came from anywhere, as a type that the library has. `golden/check_saved.py` opens them with `transformers`.

use std::fs;

use serde_json::Value;
use shadegrad::hugging_face::{ModelFiles, export};
use shadegrad::nn::{
    FeedForwardKind, Gpt, GptConfig, LocalAttention, NormKind, NormPlacement, ParameterBuilder,
    PositionKind, Rotary, RotaryScaling, Yarn,
};
use shadegrad::{DType, Error};

use super::files::{meaning, scratch};
use super::saved::leave_logits;
use super::table::MODELS;
use super::{directory, expected, logits};
use crate::common::{Random, device};

#[test]
fn exported_models() {
    for model in &MODELS {
        let name = model.name;
        for (dtype, kind) in [(DType::F32, "float32"), (DType::F16, "float16")] {
            let files = ModelFiles::open(directory(name)).unwrap();
            let (gpt, parameters) = files.load_as(dtype, device()).unwrap();
            let exported = scratch("models_exported", &format!("{name}_{kind}"));
            export(&exported, gpt.config(), &parameters, Some(3)).unwrap();
            let again = ModelFiles::open(&exported).unwrap();
            assert_eq!(meaning(again.config()), meaning(gpt.config()), "{name}");
            assert_eq!(again.stop_tokens(), [3], "{name}");
            let json: Value =
                serde_json::from_slice(&fs::read(exported.join("config.json")).unwrap()).unwrap();
            assert_eq!(json["dtype"], kind);
            let [(_, widened), (_, halves)] =
                [DType::F32, dtype].map(|dtype| again.load_as(dtype, device()).unwrap());
            assert!(
                halves.to_host().unwrap() == parameters.to_host().unwrap(),
                "{name}"
            );
            assert!(
                widened.to_host().unwrap() == parameters.to_host().unwrap(),
                "{name}"
            );
            let tokens = expected(name).ids("tokens");
            let (gpt, _) = again.load(device()).unwrap();
            leave_logits(&exported, &tokens, &logits(&gpt, 2, &tokens));
        }
    }
}

fn rotary(random: &mut Random) -> Rotary {
    let scaling = random.pick(&[
        None,
        Some(RotaryScaling::Linear { factor: 1.5 }),
        Some(RotaryScaling::Yarn(Yarn {
            factor: 4.0,
            attention_factor: 1.25,
            beta_fast: 8.0,
            beta_slow: 0.5,
            truncate: false,
            original_context: 24,
        })),
        Some(RotaryScaling::Llama3 {
            factor: 4.0,
            low_frequency_factor: 1.0,
            high_frequency_factor: 3.0,
            original_context: 24,
        }),
    ]);
    Rotary {
        base: 50.0 + random.below(1000) as f32,
        scaling: scaling.clone(),
    }
}

/// A small model near to one of the types.
fn any(random: &mut Random) -> GptConfig {
    let n_kv_heads = 1 + random.below(3);
    let n_heads = n_kv_heads * (1 + random.below(2));
    let head_dim = 2 * (1 + random.below(4));
    let n_layers = 1 + random.below(3);
    let widths = [n_heads * head_dim, 5 + random.below(20)];
    let config = GptConfig {
        context: 40,
        d_model: *random.pick(&widths),
        n_heads,
        n_layers,
        d_ff: 3 + random.below(9),
        tie_weights: random.below(2) == 0,
        ..GptConfig::new(23)
    };
    let kind = random.below(5);
    if kind == 0 {
        let kinds = [
            FeedForwardKind::Gelu,
            FeedForwardKind::GeluTanh,
            FeedForwardKind::Relu,
        ];
        return GptConfig {
            d_model: widths[0],
            norm: NormKind::LayerNorm,
            ffn: *random.pick(&kinds),
            bias: true,
            ..config
        };
    }
    let is_gemma = kind == 1;
    let layers = (0..n_layers).map(|_| random.below(2) == 0).collect();
    let local = LocalAttention {
        window: 2 + random.below(5),
        layers: random.pick(&[vec![true; n_layers], layers]).clone(),
        rotary: is_gemma.then(|| rotary(random)),
    };
    let config = GptConfig {
        n_kv_heads: Some(n_kv_heads),
        head_dim: Some(head_dim),
        positions: PositionKind::Rotary,
        rotary: rotary(random),
        bias: random.below(4) == 0,
        attention_bias: *random.pick(&[None, Some(false), Some(true)]),
        qkv_bias: *random.pick(&[None, Some(true)]),
        local: (random.below(2) == 0).then_some(local),
        ..config
    };
    match is_gemma {
        true => GptConfig {
            norm_placement: NormPlacement::Both,
            ffn: FeedForwardKind::GegluTanh,
            qk_norm: true,
            attention_scale: Some((3.0 + random.below(9) as f32).sqrt().recip()),
            embedding_scale: (config.d_model as f32).sqrt(),
            ..config
        },
        false => GptConfig {
            ffn: *random.pick(&[FeedForwardKind::Swiglu, FeedForwardKind::GegluTanh]),
            qk_norm: random.below(3) == 0,
            ..config
        },
    }
}

/// Either it is a model of some type, or it is refused.
#[test]
fn any_model_is_exported_or_refused() {
    let mut random = Random::new(5);
    let mut exported = Vec::new();
    for number in 0..60 {
        let config = any(&mut random);
        let mut builder = ParameterBuilder::new(number);
        let gpt = Gpt::new(&config, &mut builder).unwrap();
        let parameters = builder.build(device()).unwrap();
        for parameter in parameters.iter() {
            let count = parameter.shape().elements();
            // What Gemma's files hold of its norms, without a 1, is exact here.
            let (low, high) = match parameter.name().contains("norm") {
                true => (0.5, 1.5),
                false => (-0.6, 0.6),
            };
            let values = random.values(count, low, high);
            parameter.tensor().write(&values).unwrap();
        }
        let path = scratch("models_exported", &format!("any_{number}"));
        if let Err(error) = export(&path, &config, &parameters, None) {
            assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
            fs::remove_dir_all(&path).unwrap();
            continue;
        }
        let files = ModelFiles::open(&path).unwrap();
        let (again, _) = files.load(device()).unwrap();
        let tokens = random.indices(24, 23);
        let [expected, actual] = [&gpt, &again].map(|gpt| logits(gpt, 2, &tokens));
        assert!(actual == expected, "{config:?}");
        leave_logits(&path, &tokens, &actual);
        exported.push(files.model_type());
    }
    let count = exported.len();
    exported.sort();
    exported.dedup();
    println!("{count} of 60 exported as {exported:?}");
    let types = ["gemma3_text", "gpt2", "llama", "mistral", "qwen2", "qwen3"];
    assert_eq!(exported, types);
    assert!((20..50).contains(&count));
}
