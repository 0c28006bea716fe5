//! The transformer library: configurations, models, training, generation.

#[path = "nn/cache.rs"]
mod cache;
mod common;

use common::{Random, assert_close_f32, device};
use shadegrad::nn::{
    Encoder, EncoderConfig, FeedForwardKind, Gpt, GptConfig, MultiHeadAttention,
    MultiHeadAttentionConfig, NormKind, Parameter, ParameterBuilder, Parameters, PositionKind,
};
use shadegrad::ops::CrossEntropy;
use shadegrad::optim::{AdamW, AdamWConfig, Optimizer};
use shadegrad::sampling::{Sampler, SamplingConfig};
use shadegrad::{Error, Shape, Tape, Var};

/// Small, and with every kind of parameter.
fn small() -> GptConfig {
    GptConfig {
        context: 8,
        d_model: 16,
        n_heads: 2,
        n_layers: 2,
        d_ff: 21,
        ..GptConfig::new(11)
    }
}

fn model(config: &GptConfig) -> (Gpt, Parameters) {
    let mut builder = ParameterBuilder::new(7);
    let gpt = Gpt::new(config, &mut builder).unwrap();
    (gpt, builder.build(device()).unwrap())
}

/// Replaces the initial values, which leave every softmax flat, by wider ones.
fn widen(parameters: &Parameters) {
    let mut random = Random::new(8);
    let values = parameters.iter().map(|parameter| {
        let shape = parameter.shape();
        let drawn = random.values(shape.elements(), -0.4, 0.4);
        let shift = if parameter.name().contains("norm") {
            1.0
        } else {
            0.0
        };
        let values = drawn.iter().map(|value| value + shift).collect();
        (parameter.name(), shape, values)
    });
    let values: Vec<_> = values.collect();
    parameters.load(values).unwrap();
}

fn logits(gpt: &Gpt, tape: Tape, tokens: &[u32], batch: usize) -> Vec<f32> {
    let tokens = tape.input([batch, tokens.len() / batch], tokens);
    let logits = tape.fetch::<f32>(gpt.logits(tokens));
    tape.run().unwrap();
    logits.get().unwrap()
}

fn inferred(gpt: &Gpt, tokens: &[u32], batch: usize) -> Vec<f32> {
    logits(gpt, Tape::inference(device()), tokens, batch)
}

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
fn a_tied_head_may_have_a_bias() {
    let (plain, parameters) = model(&small());
    widen(&parameters);
    let config = GptConfig {
        head_bias: true,
        ..small()
    };
    // The table whole and in parts.
    for limit in [1 << 20, 512] {
        let mut builder = ParameterBuilder::new(1).with_parameter_limit(limit);
        let biased = Gpt::new(&config, &mut builder).unwrap();
        let biased_parameters = builder.build(device()).unwrap();
        let mut values = parameters.to_host().unwrap();
        if limit == 512 {
            let (_, _, table) = values.remove(0);
            assert!(biased_parameters.get("token_embedding.weight").is_none());
            let mut rest = table.as_slice();
            for part in biased_parameters.iter() {
                if part.name().starts_with("token_embedding.") {
                    let (data, behind) = rest.split_at(part.shape().elements());
                    values.push((part.name().to_owned(), part.shape(), data.to_vec()));
                    rest = behind;
                }
            }
            assert!(rest.is_empty());
        }
        let bias: Vec<f32> = (0..11).map(|token| 0.3 * token as f32 - 1.0).collect();
        values.push(("head.bias".to_owned(), Shape::from([11]), bias.clone()));
        biased_parameters.load(values).unwrap();
        let tokens = Random::new(4).indices(16, 11);
        let mut expected = inferred(&plain, &tokens, 2);
        for row in expected.chunks_mut(11) {
            row.iter_mut()
                .zip(&bias)
                .for_each(|(logit, bias)| *logit += bias);
        }
        let logits = inferred(&biased, &tokens, 2);
        assert_close_f32("logits", &logits, &expected, 1e-5, 1e-5);
    }
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
        ("n_heads", change(|c| c.d_model = 258)),
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
fn dropout_acts_in_training_only_and_follows_the_seed() {
    let (plain, parameters) = model(&small());
    widen(&parameters);
    let (dropping, parameters) = model(&GptConfig {
        dropout: 0.3,
        ..small()
    });
    widen(&parameters);
    let tokens = Random::new(1).indices(16, 11);
    let trained = |seed: u64, step: u64| {
        let tape = Tape::training(device());
        tape.set_seed(seed, step);
        logits(&dropping, tape, &tokens, 2)
    };
    let expected = inferred(&plain, &tokens, 2);
    assert_eq!(inferred(&dropping, &tokens, 2), expected);
    let first = trained(1, 1);
    assert!(first != expected);
    assert_eq!(trained(1, 1), first);
    assert!(trained(2, 1) != first);
    assert!(trained(1, 2) != first);
}

#[test]
fn tied_weights_share_storage_and_sum_their_gradients() {
    let (tied, tied_parameters) = model(&small());
    widen(&tied_parameters);
    let (untied, untied_parameters) = model(&GptConfig {
        tie_weights: false,
        ..small()
    });
    assert!(tied_parameters.get("head.weight").is_none());
    let mut values = tied_parameters.to_host().unwrap();
    let embedding = values[0].2.clone();
    let (vocabulary, width) = (11, 16);
    let head = (0..width * vocabulary)
        .map(|i| embedding[i % vocabulary * width + i / vocabulary])
        .collect();
    values.push(("head.weight".into(), Shape::from([width, vocabulary]), head));
    untied_parameters.load(values).unwrap();

    let tokens = Random::new(2).indices(16, vocabulary);
    let targets = Random::new(3).indices(16, vocabulary);
    let gradient = |gpt: &Gpt, parameters: &Parameters, name: &str| {
        let tape = Tape::training(device());
        let [tokens, targets] = [&tokens, &targets].map(|ids| tape.input([2, 8], ids));
        let loss = gpt.loss(tokens, targets, CrossEntropy::default());
        let of = parameters.get(name).unwrap().on(&tape);
        let gradient = tape.fetch::<f32>(tape.backward(loss).of(of).unwrap());
        tape.run().unwrap();
        gradient.get().unwrap()
    };
    let name = "token_embedding.weight";
    let sum = gradient(&tied, &tied_parameters, name);
    let looked_up = gradient(&untied, &untied_parameters, name);
    let projected = gradient(&untied, &untied_parameters, "head.weight");
    let expected: Vec<f32> = (0..vocabulary * width)
        .map(|i| looked_up[i] + projected[i % width * vocabulary + i / width])
        .collect();
    assert!(projected.iter().any(|value| value.abs() > 1e-3));
    assert_close_f32("tied gradient", &sum, &expected, 1e-4, 1e-6);
}

#[test]
fn later_tokens_do_not_reach_earlier_logits() {
    for &positions in PositionKind::ALL {
        let (gpt, parameters) = model(&GptConfig {
            positions,
            ..small()
        });
        widen(&parameters);
        let tokens = Random::new(4).indices(8, 11);
        let before = inferred(&gpt, &tokens, 1);
        for changed in [1, 4, 7] {
            let mut other = tokens.clone();
            other[changed] = (other[changed] + 1) % 11;
            let after = inferred(&gpt, &other, 1);
            let (same, differs) = after.split_at(changed * 11);
            assert_eq!(
                same,
                &before[..changed * 11],
                "{positions}: position {changed}"
            );
            assert_ne!(
                differs,
                &before[changed * 11..],
                "{positions}: position {changed}"
            );
        }
        // A shorter window is the start of a longer one.
        assert_close_f32(
            "shorter window",
            &inferred(&gpt, &tokens[..5], 1),
            &before[..5 * 11],
            1e-5,
            1e-6,
        );
    }
}

#[test]
fn training_lowers_the_loss_and_repeats_to_the_bit() {
    let config = GptConfig {
        dropout: 0.1,
        ..small()
    };
    let train = || {
        let (gpt, parameters) = model(&config);
        let settings = AdamWConfig {
            clip_norm: Some(1.0),
            ..AdamWConfig::default()
        };
        let mut optimizer = AdamW::new(&parameters, settings).unwrap();
        let mut random = Random::new(5);
        let losses: Vec<f32> = (0..20)
            .map(|step| {
                // Each token is followed by the next one.
                let starts = random.indices(6, 11);
                let walk = |skip: u32| -> Vec<u32> {
                    let row = |start: u32| (0..8).map(move |t| (start + t + skip) % 11);
                    starts.iter().copied().flat_map(row).collect()
                };
                let tape = Tape::training(device());
                tape.set_seed(9, step);
                let tokens = tape.input([6, 8], &walk(0));
                let targets = tape.input([6, 8], &walk(1));
                let loss = gpt.loss(tokens, targets, CrossEntropy::default());
                let report = optimizer.step(&tape, loss, 0.02).fetch();
                tape.run().unwrap();
                report.get().unwrap().loss
            })
            .collect();
        (losses, parameters.to_host().unwrap())
    };
    let (losses, parameters) = train();
    assert!((losses[0] - 11f32.ln()).abs() < 0.1, "{losses:?}");
    assert!(losses[19] < 0.8 * losses[0], "{losses:?}");
    let (again, parameters_again) = train();
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&losses), bits(&again));
    for ((name, _, one), (_, _, other)) in parameters.iter().zip(&parameters_again) {
        assert_eq!(bits(one), bits(other), "{name}");
    }
}

/// The loss and the gradient of every parameter, as bits.
fn differentiated(gpt: &Gpt, parameters: &Parameters) -> Vec<Vec<u32>> {
    let tape = Tape::training(device());
    tape.set_seed(5, 3);
    let mut random = Random::new(9);
    let [tokens, targets] = [0, 1].map(|_| tape.input([2, 8], &random.indices(16, 11)));
    let loss = gpt.loss(tokens, targets, CrossEntropy::default());
    let gradients = tape.backward(loss);
    let gradient_of = |parameter: &Parameter| gradients.of(parameter.on(&tape)).unwrap();
    let mut fetches = vec![tape.fetch::<f32>(loss)];
    fetches.extend(
        parameters
            .iter()
            .map(|parameter| tape.fetch(gradient_of(parameter))),
    );
    tape.run().unwrap();
    let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect();
    fetches
        .into_iter()
        .map(|fetch| bits(fetch.get().unwrap()))
        .collect()
}

#[test]
fn checkpointed_blocks_change_no_bit() {
    for config in [
        small(),
        GptConfig {
            dropout: 0.2,
            norm: NormKind::LayerNorm,
            ffn: FeedForwardKind::Gelu,
            positions: PositionKind::Rotary,
            bias: true,
            ..small()
        },
    ] {
        let (mut gpt, parameters) = model(&config);
        widen(&parameters);
        let kept = differentiated(&gpt, &parameters);
        gpt.set_checkpoint_blocks(true);
        assert_eq!(differentiated(&gpt, &parameters), kept, "{config:?}");
        assert!(kept.iter().flatten().any(|&bits| bits != kept[0][0]));
    }
}

/// Differentiates `Σ f(x)` and `Σ (d/dx Σ f(x))²`, and gives what both gradients are.
fn twice_differentiated(f: impl for<'t> Fn(&'t Tape, Var<'t>) -> Var<'t>) -> [Vec<f32>; 2] {
    let tape = Tape::training(device());
    let x = tape.variable([2, 2], &[0.3, -0.7, 1.1, 0.2]);
    let first = tape.backward(f(&tape, x).sum_all()).of(x).unwrap();
    let second = tape.backward((first * first).sum_all()).of(x).unwrap();
    let fetches = [first, second].map(|gradient| tape.fetch::<f32>(gradient));
    tape.run().unwrap();
    fetches.map(|fetch| fetch.get().unwrap())
}

#[test]
fn checkpoints_nest_skip_and_are_differentiated_twice() {
    fn inner<'t>(x: Var<'t>) -> Var<'t> {
        x.matmul(x).sin()
    }
    // The parts read each other's results and what is between them; some of what they record nobody reads.
    let plain = twice_differentiated(|_, x| {
        let (y, z) = (inner(x), x.exp());
        let w = y * z + inner(y);
        w.matmul(y) * z
    });
    let checkpointed = twice_differentiated(|tape, x| {
        let (y, z) = tape.checkpoint(|tape| {
            let y = tape.checkpoint(|_| inner(x));
            let _nobody_reads = y.exp();
            (y, x.exp())
        });
        let w = y * z + tape.checkpoint(|_| inner(y));
        tape.checkpoint(|_| w.matmul(y) * z)
    });
    assert_eq!(checkpointed[0], plain[0]);
    // On the way back through the first gradient, contributions come in another order.
    assert_close_f32("second", &checkpointed[1], &plain[1], 1e-6, 0.0);
    assert!(plain.iter().flatten().all(|value| value.abs() > 1e-4));
}

fn samplers(config: SamplingConfig, count: u64) -> Vec<Sampler> {
    (0..count)
        .map(|seed| Sampler::new(config, seed).unwrap())
        .collect()
}

#[test]
fn greedy_text_follows_the_largest_logits() {
    let (gpt, parameters) = model(&small());
    widen(&parameters);
    let prompt = [3, 1];
    let mut sampler = Sampler::new(SamplingConfig::GREEDY, 0).unwrap();
    // Longer than the window of 8.
    let text = gpt.generate(&prompt, 12, &mut sampler, None).unwrap();
    assert_eq!(text.len(), 12);
    let mut all = prompt.to_vec();
    for token in &text {
        let window = &all[all.len().saturating_sub(8)..];
        let logits = inferred(&gpt, window, 1);
        let last = &logits[logits.len() - 11..];
        let largest = (0..11)
            .max_by(|&a, &b| last[a].total_cmp(&last[b]))
            .unwrap();
        assert_eq!(*token, largest as u32);
        all.push(*token);
    }
    // The same with a stop token: the text ends before it.
    let stop = text[4];
    let end = text.iter().position(|&token| token == stop).unwrap();
    let stopped = gpt.generate(&prompt, 12, &mut sampler, Some(stop)).unwrap();
    assert_eq!(stopped, text[..end]);
    let nothing = gpt.generate(&prompt, 0, &mut sampler, None).unwrap();
    assert!(nothing.is_empty());
}

#[test]
fn texts_do_not_depend_on_their_batch() {
    let (gpt, parameters) = model(&small());
    widen(&parameters);
    let config = SamplingConfig {
        temperature: 0.9,
        top_k: Some(6),
        top_p: Some(0.95),
    };
    let prompts: [&[u32]; 5] = [&[0], &[1, 2, 3], &[4; 11], &[0], &[5, 6]];
    let batched = gpt
        .generate_batch(&prompts, 10, &mut samplers(config, 5), Some(0))
        .unwrap();
    for (row, prompt) in prompts.iter().enumerate() {
        let sampler = &mut samplers(config, 5)[row];
        let alone = gpt.generate(prompt, 10, sampler, Some(0)).unwrap();
        assert_eq!(batched[row], alone, "row {row}");
    }
    assert_ne!(batched[0], batched[3], "seeds matter");
    let none: [&[u32]; 0] = [];
    assert!(
        gpt.generate_batch(&none, 3, &mut [], None)
            .unwrap()
            .is_empty()
    );
}

#[test]
fn prompts_that_make_no_sense_are_refused() {
    let (gpt, _parameters) = model(&small());
    let mut sampler = Sampler::new(SamplingConfig::GREEDY, 0).unwrap();
    let error = gpt.generate(&[], 3, &mut sampler, None).unwrap_err();
    assert!(matches!(error, Error::InvalidArgument { name, .. } if name == "prompt"));
    let error = gpt.generate(&[2, 11], 3, &mut sampler, None).unwrap_err();
    assert!(matches!(
        error,
        Error::TokenOutOfRange {
            token: 11,
            vocab_size: 11
        }
    ));
}

#[test]
#[should_panic(expected = "gpt: tokens of shape [1, 9] are not [batch, up to 8 positions]")]
fn windows_beyond_the_context_panic() {
    let (gpt, _parameters) = model(&small());
    inferred(&gpt, &[0; 9], 1);
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
