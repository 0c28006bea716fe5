//! Optimizers against plain `f64` ones, on a small model whose gradient is known in closed form.

mod groups;
mod halves;
mod loss_scale;
mod model;
mod refused;
mod schedule;

use shadegrad::nn::{FlatTensors, Init, ParameterBuilder};
use shadegrad::optim::{
    AdamW, AdamWConfig, Factors, LossScale, Optimizer, ParameterGroups, Sgd, SgdConfig,
    default_decay,
};
use shadegrad::{Device, Shape, Tape, Tensor};

use crate::common::{self, Random};
use model::{Batch, Model, Values, reference, wide};

/// Scales a gradient as `torch.nn.utils.clip_grad_norm_` does; gives its norm before that.
fn clip(gradient: &mut Values, most: f64) -> f64 {
    let norm = gradient.iter().flatten().map(|g| g * g).sum::<f64>().sqrt();
    let scale = (most / (norm + 1e-6)).min(1.0);
    gradient.iter_mut().flatten().for_each(|g| *g *= scale);
    norm
}

fn zeros(like: &Values) -> Values {
    like.iter().map(|v| vec![0.0; v.len()]).collect()
}

#[track_caller]
fn assert_values(what: &str, actual: &[(String, Shape, Vec<f32>)], expected: &Values) {
    for ((name, _, actual), expected) in actual.iter().zip(expected) {
        common::assert_close(&format!("{what} {name}"), actual, expected, 2e-5, 2e-6);
    }
}

fn segments(flat: &[Tensor]) -> Vec<Vec<u32>> {
    let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect();
    flat.iter()
        .map(|tensor| bits(tensor.to_vec().unwrap()))
        .collect()
}

/// Everything an update may change, as bits.
fn state_bits(optimizer: &dyn Optimizer) -> Vec<Vec<Vec<u32>>> {
    let state = optimizer.state();
    let moments = state
        .iter()
        .map(|(_, flat): &(_, &FlatTensors)| flat.segments());
    std::iter::once(optimizer.parameters().segments())
        .chain(moments)
        .map(segments)
        .collect()
}

/// Some of the gradients are longer, some are not.
const CLIP: f64 = 24.0;

const CLIPPED: AdamWConfig = AdamWConfig {
    beta1: 0.9,
    beta2: 0.99,
    eps: 1e-8,
    weight_decay: 0.3,
    clip_norm: Some(CLIP as f32),
    groups: ParameterGroups::DEFAULT,
    loss_scale: LossScale::Auto,
};

/// What the groups say of the model's parameters. Nothing depends on the third, which is why it stays as it is.
fn factors(model: &Model, groups: &ParameterGroups) -> Vec<Factors> {
    let parameters = model.parameters.iter();
    let factors = parameters.map(|p| match p.name() {
        "unused.weight" => Factors::FROZEN,
        name => groups.factors(name, p.shape()),
    });
    factors.collect()
}

/// Trains with AdamW beside the reference and compares after every step. Gives how many gradients were clipped, and how
/// many were not.
fn train_adamw(device: &Device, segment_limit: u64, groups: ParameterGroups) -> [u32; 2] {
    let model = Model::new(device, 7, segment_limit);
    let factors = factors(&model, &groups);
    let config = AdamWConfig { groups, ..CLIPPED };
    let mut optimizer = AdamW::new(&model.parameters, config).unwrap();
    let mut values = wide(&model.values());
    let (mut m, mut v) = (zeros(&values), zeros(&values));
    let mut random = Random::new(1);
    let (mut clipped, mut whole) = (0, 0);
    for t in 1..=20 {
        let batch = Batch::new(&mut random);
        let rate = 0.02 + 0.01 * (t as f32).sin();
        let tape = model.tape();
        let report = optimizer
            .step(&tape, model.loss(&tape, &batch), rate)
            .fetch();
        tape.run().unwrap();
        let metrics = report.get().unwrap();

        let (loss, mut gradient) = reference(&values, &batch);
        for (gradient, factors) in gradient.iter_mut().zip(&factors) {
            if factors.is_frozen() {
                gradient.fill(0.0);
            }
        }
        let norm = clip(&mut gradient, CLIP);
        if norm > CLIP {
            clipped += 1;
        } else {
            whole += 1;
        }
        let (b1, b2) = (0.9, 0.99);
        for (tensor, factors) in factors.iter().enumerate() {
            let rate = f64::from(rate) * f64::from(factors.learning_rate);
            let decay = 0.3 * f64::from(factors.weight_decay);
            for i in 0..values[tensor].len() {
                let (g, p) = (gradient[tensor][i], &mut values[tensor][i]);
                let (m, v) = (&mut m[tensor][i], &mut v[tensor][i]);
                *m = b1 * *m + (1.0 - b1) * g;
                *v = b2 * *v + (1.0 - b2) * g * g;
                let (mean, square) = (*m / (1.0 - b1.powi(t)), *v / (1.0 - b2.powi(t)));
                *p -= rate * decay * *p;
                *p -= rate * mean / (square.sqrt() + 1e-8);
            }
        }
        let close = |a: f32, b: f64| (f64::from(a) - b).abs() < 2e-5 * b;
        assert!(close(metrics.loss, loss), "loss {} {loss}", metrics.loss);
        assert!(
            close(metrics.grad_norm, norm),
            "norm {} {norm}",
            metrics.grad_norm
        );
        assert_eq!(metrics.step, t as u64);
        assert_values(&format!("step {t}"), &model.values(), &values);
    }
    assert_eq!(optimizer.steps(), 20);
    for segment in optimizer.parameters().segments() {
        let values = segment.to_vec::<f32>().unwrap();
        assert!(values.iter().all(|value| value.is_finite()));
    }
    [clipped, whole]
}

#[test]
fn adamw_follows_the_reference() {
    for device in [common::device(), common::portable_device()] {
        let [clipped, whole] = train_adamw(device, u64::MAX, ParameterGroups::DEFAULT);
        assert!(clipped > 2 && whole > 2, "{clipped} clipped, {whole} whole");
    }
}

#[test]
fn adamw_follows_the_reference_over_several_segments() {
    // 152 elements for the weight alone, then pairs of 44 and 56.
    train_adamw(common::device(), 256, ParameterGroups::DEFAULT);
}

#[test]
fn adamw_follows_the_rule_that_was_given() {
    let rule = |name: &str, _| match name {
        "linear.bias" => (1.0, 2.0),
        "norm.weight" => (0.25, 0.5),
        "linear.weight" => (3.0, 0.0),
        _ => (1.0, 0.0),
    };
    let groups = ParameterGroups::new(move |name, shape| {
        let (learning_rate, weight_decay) = rule(name, shape);
        Factors {
            learning_rate,
            weight_decay,
        }
    });
    for segment_limit in [u64::MAX, 256] {
        train_adamw(common::device(), segment_limit, groups.clone());
    }
}

/// Factors that change within workgroups and stay for several of them.
#[test]
fn each_of_many_parameters_decays_by_its_own_factor() {
    let sizes = [5, 1, 4, 1020, 1024, 3, 2500, 64, 7, 1, 9, 700];
    let factor = |name: &str, _: Shape| [0.0f32, 1.0, 1.0, 0.5][name.parse::<usize>().unwrap() % 4];
    for device in [common::device(), common::portable_device()] {
        let mut builder = ParameterBuilder::new(1).with_segment_limit(16_384);
        for (index, size) in sizes.into_iter().enumerate() {
            builder.parameter(index.to_string(), [size], Init::Normal { std: 1.0 });
        }
        let parameters = builder.build(device).unwrap();
        assert_eq!(parameters.segments().len(), 2);
        let mut expected = wide(&parameters.to_host().unwrap());
        let config = AdamWConfig {
            weight_decay: 0.5,
            groups: ParameterGroups::new(move |name, shape| Factors {
                learning_rate: 1.0,
                weight_decay: factor(name, shape),
            }),
            ..AdamWConfig::default()
        };
        let mut optimizer = AdamW::new(&parameters, config).unwrap();
        let tape = Tape::training(device);
        // Gradients of zero, so that decay is all that happens to the parameters.
        let sums = parameters.iter().map(|p| p.on(&tape).sum_all());
        let loss = sums.reduce(|a, b| a + b).unwrap() * tape.scalar(0.0);
        optimizer.step(&tape, loss, 0.25);
        tape.run().unwrap();
        for (parameter, values) in parameters.iter().zip(&mut expected) {
            let kept = 1.0 - 0.25 * 0.5 * f64::from(factor(parameter.name(), parameter.shape()));
            values.iter_mut().for_each(|value| *value *= kept);
        }
        assert_values("decayed", &parameters.to_host().unwrap(), &expected);
    }
}

#[test]
fn by_default_matrices_decay() {
    let matrix = Shape::from([2, 2]);
    let decays = |name, shape| default_decay(name, shape) == 1.0;
    assert!(decays("blocks.0.attention.output.weight", matrix));
    assert!(!decays("blocks.0.attention.output.bias", Shape::from([2])));
    assert!(!decays("final_norm.weight", Shape::from([2])));
    assert!(!decays("token_embedding.weight", matrix));
}

/// Trains with SGD beside the reference.
fn train_sgd(device: &Device, momentum: f32, groups: &ParameterGroups) {
    let model = Model::new(device, 3, u64::MAX);
    let factors = factors(&model, groups);
    let config = SgdConfig {
        momentum,
        weight_decay: 0.1,
        clip_norm: Some(CLIP as f32),
        groups: groups.clone(),
        loss_scale: LossScale::Auto,
    };
    let mut optimizer = Sgd::new(&model.parameters, config).unwrap();
    assert_eq!(optimizer.state().len(), usize::from(momentum > 0.0));
    let mut values = wide(&model.values());
    let mut velocity = zeros(&values);
    let mut random = Random::new(2);
    for t in 1..=20 {
        let batch = Batch::new(&mut random);
        let tape = model.tape();
        optimizer.step(&tape, model.loss(&tape, &batch), 0.01);
        tape.run().unwrap();

        let (_, mut gradient) = reference(&values, &batch);
        clip(&mut gradient, CLIP);
        for (tensor, factors) in factors.iter().enumerate() {
            let rate = 0.01 * f64::from(factors.learning_rate);
            let decay = 0.1 * f64::from(factors.weight_decay);
            for i in 0..values[tensor].len() {
                let (p, u) = (&mut values[tensor][i], &mut velocity[tensor][i]);
                *u = f64::from(momentum) * *u + gradient[tensor][i] + decay * *p;
                *p -= rate * *u;
            }
        }
        assert_values(&format!("step {t}"), &model.values(), &values);
    }
}

#[test]
fn sgd_follows_the_reference() {
    for device in [common::device(), common::portable_device()] {
        train_sgd(device, 0.0, &ParameterGroups::DEFAULT);
    }
}

#[test]
fn sgd_with_momentum_follows_the_reference() {
    for device in [common::device(), common::portable_device()] {
        train_sgd(device, 0.9, &ParameterGroups::DEFAULT);
    }
}

#[test]
fn sgd_follows_the_rule_that_was_given() {
    let groups = ParameterGroups::new(|name, _| Factors {
        learning_rate: if name == "linear.bias" { 2.0 } else { 0.5 },
        weight_decay: if name == "norm.weight" { 3.0 } else { 0.0 },
    });
    for momentum in [0.0, 0.9] {
        train_sgd(common::device(), momentum, &groups);
    }
}

#[test]
fn accumulated_micro_batches_equal_one_batch() {
    let (this, portable) = (common::device(), common::portable_device());
    for (device, micro_batches, limit) in [
        (this, 2, u64::MAX),
        (this, 4, u64::MAX),
        (this, 3, 512),
        (portable, 3, 512),
    ] {
        let (one, many) = (Model::new(device, 5, limit), Model::new(device, 5, limit));
        let mut at_once = AdamW::new(&one.parameters, CLIPPED).unwrap();
        let mut in_parts = AdamW::new(&many.parameters, CLIPPED).unwrap();
        let mut random = Random::new(3);
        for step in 0..3 {
            let batches: Vec<Batch> = (0..micro_batches)
                .map(|_| Batch::new(&mut random))
                .collect();
            let share = 1.0 / micro_batches as f32;
            let tape = one.tape();
            let losses = batches.iter().map(|batch| one.loss(&tape, batch) * share);
            let loss = losses.reduce(|a, b| a + b).unwrap();
            let expected = at_once.step(&tape, loss, 0.05).fetch();
            tape.run().unwrap();

            let (last, before) = batches.split_last().unwrap();
            for batch in before {
                let tape = many.tape();
                let loss = many.loss(&tape, batch) * share;
                in_parts.accumulate(&tape, loss).unwrap();
                tape.run().unwrap();
            }
            let tape = many.tape();
            let loss = many.loss(&tape, last) * share;
            let actual = in_parts.step(&tape, loss, 0.05).fetch();
            tape.run().unwrap();

            let (expected, actual) = (expected.get().unwrap(), actual.get().unwrap());
            let (a, b) = (actual.grad_norm, expected.grad_norm);
            assert!((a - b).abs() < 1e-5 * b, "{a} {b}");
            assert_values(
                &format!("{micro_batches} parts, step {step}"),
                &many.values(),
                &wide(&one.values()),
            );
        }
        assert_eq!(in_parts.steps(), 3);
    }
}

/// What is read back and written in between reaches the update, its clipping and its report.
#[test]
fn what_has_been_accumulated_makes_a_step_of_its_own() {
    let device = common::device();
    for limit in [u64::MAX, 512] {
        let (one, two) = (Model::new(device, 5, limit), Model::new(device, 5, limit));
        let mut at_once = AdamW::new(&one.parameters, CLIPPED).unwrap();
        let mut apart = AdamW::new(&two.parameters, CLIPPED).unwrap();
        let mut random = Random::new(3);
        for step in 0..4 {
            let batch = Batch::new(&mut random);
            let tape = one.tape();
            let expected = at_once.step(&tape, one.loss(&tape, &batch), 0.05).fetch();
            tape.run().unwrap();

            assert!(apart.accumulated().is_none());
            let tape = two.tape();
            let half = two.loss(&tape, &batch) * 0.5;
            let loss = tape.fetch::<f32>(half);
            apart.accumulate(&tape, half).unwrap();
            tape.run().unwrap();
            // Doubling rounds nothing.
            for segment in apart.accumulated().unwrap().segments() {
                let values = segment.to_vec::<f32>().unwrap();
                let twice: Vec<f32> = values.iter().map(|value| 2.0 * value).collect();
                segment.write(&twice).unwrap();
            }
            let tape = two.tape();
            let loss = tape.scalar(2.0 * loss.item().unwrap());
            let actual = apart.step_accumulated(&tape, loss, 0.05).fetch();
            tape.run().unwrap();
            assert_eq!(actual.get().unwrap(), expected.get().unwrap());
            assert_eq!(state_bits(&apart), state_bits(&at_once), "step {step}");
        }
        assert_eq!((apart.steps(), at_once.steps()), (4, 4));
    }
}

#[test]
#[should_panic(expected = "step_accumulated: nothing has been accumulated since the last step")]
fn a_step_of_what_has_been_accumulated_needs_some() {
    let model = Model::new(common::device(), 5, u64::MAX);
    let mut optimizer = Sgd::new(&model.parameters, SgdConfig::default()).unwrap();
    let tape = model.tape();
    optimizer
        .accumulate(&tape, model.loss(&tape, &Batch::new(&mut Random::new(3))))
        .unwrap();
    tape.run().unwrap();
    for _ in 0..2 {
        let tape = model.tape();
        optimizer.step_accumulated(&tape, tape.scalar(1.0), 0.1);
        tape.run().unwrap();
    }
}

#[test]
fn the_same_run_gives_the_same_bits() {
    let run = || {
        let model = Model::new(common::device(), 11, u64::MAX);
        let mut optimizer = AdamW::new(&model.parameters, CLIPPED).unwrap();
        let mut random = Random::new(4);
        for _ in 0..5 {
            let tape = model.tape();
            let loss = model.loss(&tape, &Batch::new(&mut random));
            optimizer.step(&tape, loss, 0.1);
            tape.run().unwrap();
        }
        state_bits(&optimizer)
    };
    assert_eq!(run(), run());
}

#[test]
fn a_gradient_that_others_are_computed_from_stays_right() {
    // The gradient of `a` is summed for `row`'s; both belong into the same flat buffer, which no kernel may both read
    // and write.
    let mut builder = ParameterBuilder::new(1);
    let row = builder.parameter("row", [8], Init::Constant(0.25));
    let a = builder.parameter("a", [6, 8], Init::Constant(0.5));
    let parameters = builder.build(common::device()).unwrap();
    let mut optimizer = Sgd::new(&parameters, SgdConfig::default()).unwrap();
    for _ in 0..2 {
        let tape = Tape::training(common::device());
        let y = a.on(&tape) + row.on(&tape);
        optimizer.step(&tape, (y * y).sum_all(), 0.125);
        tape.run().unwrap();
    }
    // y = 0.75: a ← 0.5 − 0.25·0.75, row ← 0.25 − 6·0.25·0.75; then y = −0.5625.
    let after = |start: f32, count: f32| start - count * 0.25 * 0.75 + count * 0.25 * 0.5625;
    let expected = [(&a, after(0.5, 1.0)), (&row, after(0.25, 6.0))];
    for (parameter, expected) in expected {
        let values = parameter.tensor().to_vec::<f32>().unwrap();
        assert!(
            values.iter().all(|&value| value == expected),
            "{}: {values:?} instead of {expected}",
            parameter.name()
        );
    }
}

/// More than one workgroup in every kernel, and no multiple of anything; so many parameters that a workgroup squares more
/// of them.
#[test]
fn large_parameters_are_updated_whole() {
    let (this, portable) = (common::device(), common::portable_device());
    for (device, largest) in [(this, 70_001), (portable, 70_001), (portable, 4_300_001)] {
        let mut builder = ParameterBuilder::new(1);
        let sizes = [largest, 1, 4_095];
        for (index, size) in sizes.into_iter().enumerate() {
            builder.parameter(format!("{index}"), [size], Init::Normal { std: 1.0 });
        }
        let parameters = builder.build(device).unwrap();
        let config = SgdConfig {
            clip_norm: Some(10.0),
            ..SgdConfig::default()
        };
        let mut optimizer = Sgd::new(&parameters, config).unwrap();
        let mut gradient = wide(&parameters.to_host().unwrap());
        let expected: f64 = 0.5 * gradient.iter().flatten().map(|p| p * p).sum::<f64>();
        let tape = Tape::training(device);
        let squares = parameters.iter().map(|p| {
            let p = p.on(&tape);
            (p * p).sum_all()
        });
        let loss = squares.reduce(|a, b| a + b).unwrap() * 0.5;
        let report = optimizer.step(&tape, loss, 0.5).fetch();
        tape.run().unwrap();
        // The gradient is the parameters themselves.
        let mut values = gradient.clone();
        let norm = clip(&mut gradient, 10.0);
        for (p, g) in values.iter_mut().flatten().zip(gradient.iter().flatten()) {
            *p -= 0.5 * g;
        }
        let metrics = report.get().unwrap();
        common::assert_close("norm", &[metrics.grad_norm], &[norm], 1e-5, 0.0);
        common::assert_close("loss", &[metrics.loss], &[expected], 1e-4, 0.0);
        assert_values("updated", &parameters.to_host().unwrap(), &values);
    }
}
