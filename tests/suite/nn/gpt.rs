//! The decoder: what its logits and its gradients depend on, and training.

use shadegrad::nn::{Gpt, GptConfig, ParameterBuilder, Parameters, PositionKind};
use shadegrad::ops::CrossEntropy;
use shadegrad::optim::{AdamW, AdamWConfig, Optimizer};
use shadegrad::{Shape, Tape};

use super::{inferred, logits, model, small, widen};
use crate::common::{Random, assert_close_f32, device};

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
#[should_panic(expected = "gpt: tokens of shape [1, 9] are not [batch, up to 8 positions]")]
fn windows_beyond_the_context_panic() {
    let (gpt, _parameters) = model(&small());
    inferred(&gpt, &[0; 9], 1);
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
