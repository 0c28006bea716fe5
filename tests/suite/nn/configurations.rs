//! Which models can be made, and what they are made of.

use shadegrad::nn::{
    Encoder, EncoderConfig, FeedForwardKind, Gpt, GptConfig, MultiHeadAttention,
    MultiHeadAttentionConfig, NormKind, ParameterBuilder, PositionKind,
};
use shadegrad::ops::CrossEntropy;
use shadegrad::{Error, Shape, Tape};

use super::{model, small};
use crate::common::device;

#[test]
fn shapes_and_parameter_counts_of_every_variant() {
    let mut names = Vec::new();
    for &norm in NormKind::ALL {
        for &ffn in FeedForwardKind::ALL {
            for &positions in PositionKind::ALL {
                let index = names.len();
                let (bias, tie_weights) = (index % 2 == 0, index % 3 == 0);
                let config = GptConfig {
                    norm,
                    ffn,
                    positions,
                    bias,
                    attention_bias: [None, Some(true), Some(false)][index % 5 % 3],
                    head_bias: index % 4 == 1,
                    final_norm: index % 7 != 1,
                    tie_weights,
                    ..small()
                };
                let (gpt, parameters) = model(&config);
                assert_eq!(parameters.element_count(), config.parameter_count());
                names.push(
                    parameters
                        .iter()
                        .map(|p| p.name().to_owned())
                        .collect::<Vec<_>>(),
                );
                let tape = Tape::training(device());
                for length in [1, 5, 8] {
                    let tokens = tape.input([3, length], &vec![2u32; 3 * length]);
                    assert_eq!(gpt.hidden(tokens).shape(), Shape::from([3, length, 16]));
                    assert_eq!(gpt.logits(tokens).shape(), Shape::from([3, length, 11]));
                    let loss = gpt.loss(tokens, tokens, CrossEntropy::default());
                    assert_eq!(loss.shape(), Shape::SCALAR);
                }
            }
        }
    }
    // Layer norm, ReLU, learned positions, biases, tied weights.
    let block = |i: usize| {
        [
            "norm1.weight",
            "norm1.bias",
            "attention.qkv.weight",
            "attention.qkv.bias",
            "attention.out.weight",
            "attention.out.bias",
            "norm2.weight",
            "norm2.bias",
            "ffn.up.weight",
            "ffn.up.bias",
            "ffn.down.weight",
            "ffn.down.bias",
        ]
        .map(|name| format!("blocks.{i}.{name}"))
    };
    let mut expected = ["token_embedding.weight", "position_embedding.weight"]
        .map(String::from)
        .to_vec();
    expected.extend((0..2).flat_map(block));
    expected.extend(["norm.weight", "norm.bias"].map(String::from));
    assert_eq!(names[0], expected);
    // Without the biases of attention and the final norm, with one of the head.
    let (_, parameters) = model(&GptConfig {
        norm: NormKind::LayerNorm,
        ffn: FeedForwardKind::Relu,
        bias: true,
        attention_bias: Some(false),
        head_bias: true,
        final_norm: false,
        ..small()
    });
    expected.retain(|name| !name.contains(".attention.") || name.ends_with(".weight"));
    expected.retain(|name| !name.starts_with("norm."));
    expected.push("head.bias".to_owned());
    let found: Vec<&str> = parameters.iter().map(|p| p.name()).collect();
    assert_eq!(found, expected);
}

#[test]
fn impossible_configurations_are_refused_by_name() {
    let good = small();
    good.validate().unwrap();
    GptConfig::new(65).validate().unwrap();
    // Odd extents are possible where nothing needs pairs.
    for positions in [PositionKind::Learned, PositionKind::Sinusoidal] {
        let odd = GptConfig {
            d_model: 15,
            n_heads: 3,
            positions,
            ..small()
        };
        odd.validate().unwrap();
        model(&odd);
    }
    let change = |change: fn(&mut GptConfig)| {
        let mut config = small();
        change(&mut config);
        config
    };
    let bad = [
        ("vocab_size", change(|c| c.vocab_size = 0)),
        ("context", change(|c| c.context = 0)),
        ("context", change(|c| c.context = usize::MAX)),
        ("d_model", change(|c| c.d_model = 0)),
        ("d_model", change(|c| c.d_model = 17)),
        ("d_model", change(|c| c.d_model = 1 << 40)),
        ("n_heads", change(|c| c.n_heads = 0)),
        ("n_heads", change(|c| c.d_model = 514)),
        ("n_layers", change(|c| c.n_layers = 0)),
        ("n_layers", change(|c| c.n_layers = 1_000_000)),
        ("d_ff", change(|c| c.d_ff = 0)),
        ("norm_eps", change(|c| c.norm_eps = 0.0)),
        ("norm_eps", change(|c| c.norm_eps = f32::NAN)),
        ("dropout", change(|c| c.dropout = 1.0)),
        ("dropout", change(|c| c.dropout = -0.1)),
        ("dropout", change(|c| c.dropout = f32::NAN)),
        (
            "d_model",
            change(|c| {
                c.d_model = 18;
                c.positions = PositionKind::Rotary;
            }),
        ),
        (
            "the model's size",
            change(|c| {
                c.d_model = 1 << 24;
                c.n_heads = 1 << 20;
                c.d_ff = 1 << 24;
                c.n_layers = 4096;
            }),
        ),
    ];
    for (name, config) in bad {
        match config.validate() {
            Err(Error::InvalidArgument { name: named, .. }) => assert_eq!(named, name),
            other => panic!("{name}: {other:?}"),
        }
        assert!(Gpt::new(&config, &mut ParameterBuilder::new(0)).is_err());
    }
    let error = change(|c| c.d_model = 17).validate().unwrap_err();
    assert_eq!(
        error.to_string(),
        "d_model = 17 is not possible: expected a multiple of n_heads = 2"
    );
}

#[test]
fn configurations_are_json_with_exactly_these_keys() {
    let json = serde_json::json!({
        "vocab_size": 27, "context": 8, "d_model": 16, "n_heads": 4, "n_layers": 2,
        "norm": "layer_norm", "norm_eps": 1e-5, "ffn": "gelu_tanh", "d_ff": 64,
        "positions": "sinusoidal", "bias": true, "tie_weights": false, "dropout": 0.25,
    });
    let config: GptConfig = serde_json::from_value(json.clone()).unwrap();
    assert_eq!(config.norm, NormKind::LayerNorm);
    assert_eq!(config.ffn, FeedForwardKind::GeluTanh);
    // What older files do not say.
    assert!(!config.scale_residual_init && !config.head_bias && config.final_norm);
    assert_eq!(
        (config.attention_bias, config.has_attention_bias()),
        (None, true)
    );
    let text = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<GptConfig>(&text).unwrap(), config);
    let mut unknown = json;
    unknown["d_modle"] = 3.into();
    assert!(serde_json::from_value::<GptConfig>(unknown).is_err());

    for kind in FeedForwardKind::ALL {
        assert_eq!(kind.to_string().parse::<FeedForwardKind>().unwrap(), *kind);
        let quoted = format!("\"{kind}\"");
        assert_eq!(serde_json::to_string(kind).unwrap(), quoted);
    }
    assert_eq!(
        "layer".parse::<NormKind>().unwrap_err().to_string(),
        "norm = layer is not possible: expected one of layer_norm, rms_norm"
    );
}

#[test]
fn residual_projections_start_smaller_on_request() {
    let deviation = |scale_residual_init: bool, name: &str| {
        let (_, parameters) = model(&GptConfig {
            scale_residual_init,
            ..small()
        });
        let parameter = parameters.get(&format!("blocks.1.{name}")).unwrap();
        let values = parameter.tensor().to_vec::<f32>().unwrap();
        let squares: f32 = values.iter().map(|value| value * value).sum();
        (squares / values.len() as f32).sqrt()
    };
    for name in ["attention.out.weight", "ffn.down.weight"] {
        let [plain, scaled] = [false, true].map(|scale| deviation(scale, name));
        assert!((plain - 0.02).abs() < 0.003, "{plain}");
        assert!((scaled - plain / 2.0).abs() < 1e-6, "{plain} {scaled}");
    }
    let name = "attention.qkv.weight";
    assert_eq!(deviation(true, name), deviation(false, name));
}

#[test]
fn encoders_and_attention_that_make_no_sense_are_refused() {
    let good = EncoderConfig::new(11);
    good.validate().unwrap();
    let json = serde_json::to_string(&good).unwrap();
    assert_eq!(serde_json::from_str::<EncoderConfig>(&json).unwrap(), good);
    let bad = [
        (
            "d_model",
            EncoderConfig {
                d_model: 30,
                ..good.clone()
            },
        ),
        (
            "n_layers",
            EncoderConfig {
                n_layers: 0,
                ..good.clone()
            },
        ),
        (
            "dropout",
            EncoderConfig {
                dropout: 1.0,
                ..good.clone()
            },
        ),
    ];
    for (name, config) in bad {
        match Encoder::new(&config, &mut ParameterBuilder::new(0)) {
            Err(Error::InvalidArgument { name: named, .. }) => assert_eq!(named, name),
            other => panic!("{name}: {other:?}"),
        }
    }
    let plain = MultiHeadAttentionConfig::new(16, 4);
    let bad = [
        (
            MultiHeadAttentionConfig {
                n_heads: 3,
                ..plain.clone()
            },
            "attention: d_model = 16 does not divide into 3 heads",
        ),
        (
            MultiHeadAttentionConfig {
                n_kv_heads: 3,
                ..plain.clone()
            },
            "attention: 4 heads cannot share 3 heads of keys and values",
        ),
        (
            MultiHeadAttentionConfig {
                d_source: 12,
                ..plain
            },
            "attention: a packed projection has one extent of inputs, not d_model = 16 and d_source = 12",
        ),
    ];
    for (config, message) in bad {
        let made = std::panic::catch_unwind(|| {
            MultiHeadAttention::new(&mut ParameterBuilder::new(0), &config)
        });
        assert_eq!(*made.unwrap_err().downcast::<String>().unwrap(), message);
    }
}
