//! Loss scaling: steps that overflow are skipped and told, and nothing else changes.

use shadegrad::checkpoint::{self, Checkpoint, Metadata};
use shadegrad::nn::{Gpt, GptConfig, Init, ParameterBuilder, Parameters};
use shadegrad::ops::CrossEntropy;
use shadegrad::optim::{
    AdamW, AdamWConfig, Factors, LossScale, Metrics, Optimizer, ParameterGroups, Sgd, SgdConfig,
};
use shadegrad::tape::Precision;
use shadegrad::{Device, Error, Tape};

use crate::common::{device, devices};

fn matrix(device: &Device) -> Parameters {
    let mut builder = ParameterBuilder::new(3);
    builder.parameter("w", [8, 8], Init::Normal { std: 0.3 });
    builder.build(device).unwrap()
}

fn config(loss_scale: LossScale) -> AdamWConfig {
    AdamWConfig {
        loss_scale,
        clip_norm: Some(0.5),
        ..AdamWConfig::default()
    }
}

/// A step whose loss is multiplied by a number that is data.
fn step(
    parameters: &Parameters,
    optimizer: &mut dyn Optimizer,
    precision: Precision,
    factor: f32,
) -> shadegrad::Result<Metrics> {
    let tape = Tape::training(parameters.device());
    tape.set_precision(precision);
    let x: Vec<f32> = (0..32).map(|i| (i % 7) as f32 / 7.0).collect();
    let y = tape
        .input([4, 8], &x)
        .matmul(parameters[0].on(&tape))
        .tanh();
    let loss = (y.cast(shadegrad::DType::F32) - 0.5).powi(2.0).mean_all();
    let loss = loss * tape.scalar(factor);
    let report = optimizer.step(&tape, loss, 1e-2).fetch();
    tape.run().unwrap();
    report.get()
}

fn values(parameters: &Parameters) -> Vec<f32> {
    parameters.to_host().unwrap().remove(0).2
}

#[test]
fn too_large_a_scale_is_halved_until_gradients_fit() {
    for device in devices() {
        let parameters = matrix(device);
        let mut optimizer = AdamW::new(&parameters, config(LossScale::From(16_777_216.0))).unwrap();
        let start = values(&parameters);
        let mut scale = 16_777_216.0;
        let mut skips = 0;
        for _ in 0..40 {
            let before = values(&parameters);
            let metrics = step(&parameters, &mut optimizer, Precision::Mixed, 1.0).unwrap();
            assert_eq!(metrics.loss_scale, Some(scale));
            assert!(metrics.loss.is_finite());
            assert_eq!(metrics.skipped, !metrics.grad_norm.is_finite());
            if metrics.skipped {
                assert_eq!(values(&parameters), before);
                scale /= 2.0;
                skips += 1;
            }
        }
        assert!((1..12).contains(&skips), "{skips} skipped");
        assert!(values(&parameters).iter().all(|value| value.is_finite()));
        assert_ne!(values(&parameters), start);
    }
}

#[test]
fn one_large_gradient_costs_one_step() {
    let parameters = matrix(device());
    let mut optimizer = AdamW::new(&parameters, config(LossScale::Auto)).unwrap();
    for index in 1..=80 {
        let factor = if index == 50 { 1e6 } else { 1.0 };
        let metrics = step(&parameters, &mut optimizer, Precision::Mixed, factor).unwrap();
        assert_eq!(metrics.skipped, index == 50, "step {index}: {metrics:?}");
        let expected = if index <= 50 { 65_536.0 } else { 32_768.0 };
        assert_eq!(metrics.loss_scale, Some(expected), "step {index}");
    }
    assert!(values(&parameters).iter().all(|value| value.is_finite()));
}

#[test]
fn a_scale_changes_no_bit_where_nothing_overflows() {
    for device in devices() {
        let train = |loss_scale| {
            let parameters = matrix(device);
            let mut optimizer = AdamW::new(&parameters, config(loss_scale)).unwrap();
            let metrics: Vec<Metrics> = (0..5)
                .map(|_| step(&parameters, &mut optimizer, Precision::F32, 1.0).unwrap())
                .collect();
            let norms: Vec<f32> = metrics.iter().map(|metrics| metrics.grad_norm).collect();
            (values(&parameters), norms, metrics[4].loss_scale)
        };
        let (plain, norms, none) = train(LossScale::Auto);
        assert_eq!(none, None);
        let (scaled, scaled_norms, scale) = train(LossScale::From(1_048_576.0));
        assert_eq!(scale, Some(1_048_576.0));
        assert_eq!((plain, norms), (scaled, scaled_norms));
    }
}

#[test]
fn after_two_thousand_good_steps_the_scale_doubles() {
    let parameters = matrix(device());
    let sgd = SgdConfig {
        loss_scale: LossScale::From(2.0),
        ..SgdConfig::default()
    };
    let mut optimizer = Sgd::new(&parameters, sgd).unwrap();
    let mut scales = Vec::new();
    for index in 0..2_005 {
        let factor = if index == 3 { f32::MAX } else { 1.0 };
        let metrics = step(&parameters, &mut optimizer, Precision::F32, factor).unwrap();
        scales.push(metrics.loss_scale.unwrap());
    }
    assert_eq!(scales[..4], [2.0; 4]);
    assert_eq!(scales[4..2_004], [1.0; 2_000]);
    assert_eq!(scales[2_004], 2.0);
}

#[test]
fn without_anything_left_to_halve_it_is_an_error() {
    let parameters = matrix(device());
    let mut optimizer = AdamW::new(&parameters, config(LossScale::From(1.0))).unwrap();
    let before = values(&parameters);
    let error = step(&parameters, &mut optimizer, Precision::F32, f32::MAX).unwrap_err();
    assert!(matches!(error, Error::NonFinite { .. }), "{error}");
    assert_eq!(values(&parameters), before);
    // Nor is a loss that is none a matter of its scale.
    let mut optimizer = AdamW::new(&parameters, config(LossScale::Auto)).unwrap();
    let error = step(&parameters, &mut optimizer, Precision::Mixed, f32::INFINITY).unwrap_err();
    assert!(error.to_string().contains("the loss"), "{error}");
}

#[test]
fn scales_are_powers_of_two() {
    for scale in [0.0, 0.5, 3.0, -2.0, 33_554_432.0, f32::NAN, f32::INFINITY] {
        let error = AdamW::new(&matrix(device()), config(LossScale::From(scale))).unwrap_err();
        assert!(error.to_string().contains("loss_scale"), "{error}");
    }
}

#[test]
fn a_run_resumes_with_its_scale_to_the_same_bits() {
    let path = std::env::temp_dir().join(format!("shadegrad-scale-{}", std::process::id()));
    let train = |stop: Option<usize>| {
        let mut parameters = matrix(device());
        let mut optimizer = AdamW::new(&parameters, config(LossScale::From(4_194_304.0))).unwrap();
        let mut scales = Vec::new();
        for index in 0..16 {
            if stop == Some(index) {
                let metadata = Metadata::default();
                checkpoint::save(&path, &parameters, Some(&optimizer), &metadata).unwrap();
                parameters = matrix(device());
                optimizer = AdamW::new(&parameters, config(LossScale::Auto)).unwrap();
                let checkpoint = Checkpoint::open(&path).unwrap();
                checkpoint
                    .restore(&parameters, Some(&mut optimizer))
                    .unwrap();
                std::fs::remove_file(&path).unwrap();
            }
            let metrics = step(&parameters, &mut optimizer, Precision::Mixed, 1.0).unwrap();
            scales.push(metrics.loss_scale.unwrap());
        }
        (values(&parameters), scales)
    };
    let whole = train(None);
    for stop in [2, 9, 15] {
        assert_eq!(train(Some(stop)), whole, "stopped before step {stop}");
    }
}

#[test]
fn the_state_is_saved_whenever_it_has_changed_and_restored_whatever_was_there() {
    let path = std::env::temp_dir().join(format!("shadegrad-state-{}", std::process::id()));
    let parameters = matrix(device());
    let make = || AdamW::new(&parameters, config(LossScale::Auto)).unwrap();
    let state = |optimizer: &AdamW| optimizer.loss_scale().unwrap().0.to_vec::<f32>().unwrap();
    let save = |values: [f32; 4]| {
        let optimizer = make();
        let (tensor, _) = optimizer.loss_scale().unwrap();
        tensor.write(&values).unwrap();
        checkpoint::save(&path, &parameters, Some(&optimizer), &Metadata::default()).unwrap();
    };
    let fresh = [65_536.0, 0.0, 0.0, 65_536.0];
    assert_eq!(state(&make()), fresh);
    // Once it has just doubled, no step has been counted since. A checkpoint without any says where scales begin.
    for values in [[131_072.0, 0.0, 0.0, 65_536.0], fresh] {
        save(values);
        let mut optimizer = make();
        optimizer
            .loss_scale()
            .unwrap()
            .0
            .write(&[2.0, 7.0, 3.0, 65_536.0f32])
            .unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        checkpoint
            .restore(&parameters, Some(&mut optimizer))
            .unwrap();
        assert_eq!(state(&optimizer), values);
    }
    for wrong in [
        [3.0, 0.0, 0.0, 0.0],
        [0.0, 1.0, 0.0, 0.0],
        [f32::NAN, 0.0, 0.0, 0.0],
        [2.0, -1.0, 0.0, 0.0],
        [2.0, 0.0, 0.5, 0.0],
    ] {
        save(wrong);
        let checkpoint = Checkpoint::open(&path).unwrap();
        let error = checkpoint
            .restore(&parameters, Some(&mut make()))
            .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("`adamw.loss_scale` is no loss scale"),
            "{text}"
        );
    }
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn losses_are_scaled_where_only_a_part_is_mixed() {
    let parameters = matrix(device());
    let mut optimizer = AdamW::new(&parameters, config(LossScale::Auto)).unwrap();
    let tape = Tape::training(device());
    let x = tape.input([4, 8], &[0.25; 32]);
    let y = tape.with_precision(Precision::Mixed, || x.matmul(parameters[0].on(&tape)));
    let loss = y.cast(shadegrad::DType::F32).powi(2.0).mean_all();
    assert_eq!(tape.precision(), Precision::F32);
    let report = optimizer.step(&tape, loss, 1e-2).fetch();
    tape.run().unwrap();
    assert_eq!(report.get().unwrap().loss_scale, Some(65_536.0));
}

/// With ten times the learning rate of its own defaults, a model of names may learn badly, but nothing that is no number gets
/// into it, and no update is missing without the report saying so.
#[test]
fn at_ten_times_the_learning_rate_parameters_stay_numbers() {
    let mut builder = ParameterBuilder::new(5);
    let config = GptConfig {
        n_layers: 1,
        ..GptConfig::new(27)
    };
    let gpt = Gpt::new(&config, &mut builder).unwrap();
    let parameters = builder.build(device()).unwrap();
    let settings = AdamWConfig {
        loss_scale: LossScale::From(16_777_216.0),
        ..AdamWConfig::default()
    };
    let mut optimizer = AdamW::new(&parameters, settings).unwrap();
    let tokens: Vec<u32> = (0..4 * 16).map(|i| (i * i + 3 * i) % 27).collect();
    let mut skips = 0;
    for _ in 0..60 {
        let tape = Tape::training(device());
        tape.set_precision(Precision::Mixed);
        let [inputs, targets] = [0, 1].map(|shift| {
            let rolled: Vec<u32> = (0..64).map(|i| tokens[(i + shift) % 64]).collect();
            tape.input([4, 16], &rolled)
        });
        let loss = gpt.loss(inputs, targets, CrossEntropy::default());
        let report = optimizer.step(&tape, loss, 10.0 * 3e-4).fetch();
        tape.run().unwrap();
        let metrics = report.get().unwrap();
        skips += u32::from(metrics.skipped);
    }
    let state = optimizer.loss_scale().unwrap().0.to_vec::<f32>().unwrap();
    assert_eq!(state[2], skips as f32);
    assert!((1..40).contains(&skips), "{skips} of 60 skipped");
    for (name, _, values) in parameters.to_host().unwrap() {
        assert!(values.iter().all(|value| value.is_finite()), "{name}");
    }
}

#[test]
fn micro_batches_are_scaled_alike_and_one_that_overflows_skips_the_step() {
    let run = |factors: [f32; 2], is_accumulated: bool| {
        let parameters = matrix(device());
        let mut optimizer = AdamW::new(&parameters, config(LossScale::Auto)).unwrap();
        let mut report = None;
        for (index, factor) in factors.into_iter().enumerate() {
            let tape = Tape::training(device());
            tape.set_precision(Precision::Mixed);
            let y = tape
                .input([4, 8], &[0.25; 32])
                .matmul(parameters[0].on(&tape));
            let loss = (y * y).mean_all() * tape.scalar(factor);
            match index {
                1 if !is_accumulated => report = Some(optimizer.step(&tape, loss, 1e-2).fetch()),
                _ => optimizer.accumulate(&tape, loss).unwrap(),
            }
            tape.run().unwrap();
        }
        if is_accumulated {
            let tape = Tape::training(device());
            tape.set_precision(Precision::Mixed);
            let update = optimizer.step_accumulated(&tape, tape.scalar(1.0), 1e-2);
            report = Some(update.fetch());
            tape.run().unwrap();
        }
        let metrics = report.unwrap().get().unwrap();
        (values(&parameters), metrics)
    };
    for is_accumulated in [false, true] {
        let (once, _) = run([0.5, 0.5], is_accumulated);
        let (apart, metrics) = run([0.25, 0.75], is_accumulated);
        assert!(!metrics.skipped);
        let close = once.iter().zip(&apart).all(|(a, b)| (a - b).abs() < 1e-4);
        assert!(close, "{once:?}\n{apart:?}");
        let start = values(&matrix(device()));
        assert_ne!(once, start);
        for factors in [[1e9, 0.5], [0.5, 1e9]] {
            let (after, metrics) = run(factors, is_accumulated);
            assert!(metrics.skipped && metrics.loss.is_finite(), "{metrics:?}");
            assert_eq!(after, start);
        }
    }
}

#[test]
#[should_panic(expected = "step: the losses of its micro-batches are scaled in part only")]
fn micro_batches_have_one_precision() {
    let parameters = matrix(device());
    let mut optimizer = AdamW::new(&parameters, config(LossScale::Auto)).unwrap();
    let tape = Tape::training(device());
    tape.set_precision(Precision::Mixed);
    let loss = parameters[0].on(&tape).mean_all();
    optimizer.accumulate(&tape, loss).unwrap();
    tape.run().unwrap();
    step(&parameters, &mut optimizer, Precision::F32, 1.0).unwrap();
}

/// A product of one row and one column is a loss in halves: reported as it is, and differentiated.
#[test]
fn a_loss_may_be_a_half() {
    for device in devices() {
        let parameters = matrix(device);
        let settings = config(LossScale::From(1024.0));
        let mut optimizer = AdamW::new(&parameters, settings).unwrap();
        let start = values(&parameters);
        for is_accumulated in [false, true] {
            let tape = Tape::training(device);
            tape.set_precision(Precision::Mixed);
            let row = tape
                .input([1, 8], &[0.5f32; 8])
                .matmul(parameters[0].on(&tape));
            let loss = row.matmul(tape.input([8, 1], &[0.25f32; 8]));
            let loss = loss.reshape(shadegrad::Shape::SCALAR);
            assert_eq!(loss.dtype(), shadegrad::DType::F16);
            if is_accumulated {
                optimizer.accumulate(&tape, loss).unwrap();
            }
            let update = match is_accumulated {
                true => optimizer.step_accumulated(&tape, loss, 1e-2),
                false => optimizer.step(&tape, loss, 1e-2),
            };
            let report = update.fetch();
            tape.run().unwrap();
            let metrics = report.get().unwrap();
            // Each element has the gradient 1/8, and there are 64.
            assert_eq!(
                (metrics.skipped, metrics.grad_norm),
                (false, 1.0),
                "{metrics:?}"
            );
            if !is_accumulated {
                let expected = start.iter().sum::<f32>() / 8.0;
                assert!((metrics.loss - expected).abs() < 2e-3, "{metrics:?}");
            }
        }
        assert_ne!(values(&parameters), start);
    }
}

/// Of parameters in several buffers, whichever optimizer has them, whether gradients are clipped or not; but not where those of
/// frozen parameters would overflow, which nobody computes.
#[test]
fn one_gradient_that_overflows_skips_all() {
    for device in devices() {
        for overflowing in 0..3 {
            for (momentum, clip_norm) in [(None, None), (Some(0.0), Some(1.0)), (Some(0.9), None)] {
                let mut builder = ParameterBuilder::new(3).with_segment_limit(64);
                for name in ["a", "b", "frozen"] {
                    builder.parameter(name, [8, 8], Init::Normal { std: 0.3 });
                }
                let parameters = builder.build(device).unwrap();
                let groups = ParameterGroups::new(|name, shape| match name {
                    "frozen" => Factors::FROZEN,
                    _ => Factors::default_of(name, shape),
                });
                let mut optimizer: Box<dyn Optimizer> = match momentum {
                    None => {
                        let config = AdamWConfig {
                            clip_norm,
                            groups,
                            ..AdamWConfig::default()
                        };
                        Box::new(AdamW::new(&parameters, config).unwrap())
                    }
                    Some(momentum) => {
                        let config = SgdConfig {
                            momentum,
                            clip_norm,
                            groups,
                            ..SgdConfig::default()
                        };
                        Box::new(Sgd::new(&parameters, config).unwrap())
                    }
                };
                let before = parameters.to_host().unwrap();
                let tape = Tape::training(device);
                tape.set_precision(Precision::Mixed);
                let losses = (0..3).map(|index| {
                    let factor = if index == overflowing { 1e6 } else { 1.0 };
                    let x = tape.input([4, 8], &[0.25f32; 32]);
                    x.matmul(parameters[index].on(&tape)).mean_all() * factor
                });
                let loss = losses.reduce(|a, b| a + b).unwrap();
                let report = optimizer.step(&tape, loss, 1e-2).fetch();
                tape.run().unwrap();
                let metrics = report.get().unwrap();
                let is_skipped = overflowing < 2;
                assert_eq!(metrics.skipped, is_skipped, "{metrics:?}");
                let after = parameters.to_host().unwrap();
                for (index, (before, after)) in before.iter().zip(&after).enumerate() {
                    let stays = is_skipped || index == 2;
                    assert_eq!(before.2 == after.2, stays, "{overflowing}: {index}");
                }
            }
        }
    }
}
