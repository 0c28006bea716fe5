//! Parameters that are frozen, and those that a loss does not depend on.

use shadegrad::checkpoint::{self, Checkpoint, Metadata};
use shadegrad::nn::{Init, ParameterBuilder, Parameters};
use shadegrad::optim::{
    AdamW, AdamWConfig, Factors, Optimizer, ParameterGroups, Sgd, SgdConfig, Update,
};
use shadegrad::{Device, Error, Tape, Var};

use super::model::{Batch, Model, wide};
use super::{CLIPPED, assert_values, state_bits, train_adamw};
use crate::common::{self, Random};

/// Freezes what the names contain.
fn freezing(words: &'static [&'static str]) -> ParameterGroups {
    ParameterGroups::new(move |name, shape| {
        if words.iter().any(|word| name.contains(word)) {
            Factors::FROZEN
        } else {
            Factors::default_of(name, shape)
        }
    })
}

#[test]
fn a_frozen_parameter_changes_nothing_for_the_others() {
    for words in [
        &["weight"][..],
        &["linear.weight", "norm"],
        &["bias", "embedding"],
    ] {
        for segment_limit in [u64::MAX, 256] {
            train_adamw(common::device(), segment_limit, freezing(words));
        }
    }
    train_adamw(
        common::portable_device(),
        u64::MAX,
        freezing(&["linear.weight"]),
    );
}

/// Dispatches, bytes of the optimizer and of a step's intermediate values, without and with frozen parameters.
#[test]
fn a_frozen_parameter_costs_its_own_bytes_and_nothing_else() {
    let cost = |groups| {
        let device = common::device();
        let mut builder = ParameterBuilder::new(1).with_segment_limit(4 * 64 * 64);
        let layers: Vec<_> = (0..4)
            .map(|layer| builder.parameter(format!("{layer}"), [64, 64], Init::Normal { std: 0.1 }))
            .collect();
        let parameters = builder.build(device).unwrap();
        let config = AdamWConfig {
            groups,
            ..AdamWConfig::default()
        };
        let mut optimizer = AdamW::new(&parameters, config).unwrap();
        let record = |tape: &Tape, optimizer: &mut AdamW| {
            let x = tape.input([8, 64], &Random::new(3).values(512, -1.0, 1.0));
            let y = layers
                .iter()
                .fold(x, |x, layer| x.matmul(layer.on(tape)).tanh());
            optimizer.step(tape, y.sum_all(), 0.01);
        };
        let tape = Tape::training(device);
        record(&tape, &mut optimizer);
        let intermediate = tape.memory().unwrap().lower_bound;
        let tape = Tape::training(device);
        record(&tape, &mut optimizer);
        let before = device.stats().dispatches;
        tape.run().unwrap();
        let dispatches = device.stats().dispatches - before;
        (dispatches, optimizer.memory(), intermediate)
    };
    let (all, memory, intermediate) = cost(ParameterGroups::DEFAULT);
    let (some, less, smaller) = cost(freezing(&["0", "1", "2"]));
    let segment = 4 * 64 * 64;
    // And the state of the loss scale.
    assert_eq!(memory, 4 * 4 * segment + 16);
    assert_eq!(less, 4 * segment + 3 * segment + 16);
    // Each segment has a sum of squares and an update of its own; the gradients of three layers and of their inputs are
    // gone too.
    assert!(
        some + 3 * 3 <= all,
        "{some} dispatches, {all} with all parameters"
    );
    assert!(
        smaller <= intermediate,
        "{smaller} bytes, {intermediate} with all parameters"
    );
}

fn refused(parameters: &Parameters, groups: ParameterGroups) -> String {
    let config = SgdConfig {
        groups,
        ..SgdConfig::default()
    };
    Sgd::new(parameters, config).unwrap_err().to_string()
}

#[test]
fn factors_are_checked() {
    let model = Model::new(common::device(), 1, u64::MAX);
    let factors = |learning_rate, weight_decay| {
        ParameterGroups::new(move |_, _| Factors {
            learning_rate,
            weight_decay,
        })
    };
    for bad in [-1.0, f32::NAN, f32::INFINITY] {
        let message = refused(&model.parameters, factors(bad, 0.0));
        assert!(
            message.starts_with("factor of `linear.weight` on the learning rate"),
            "{message}"
        );
        let message = refused(&model.parameters, factors(1.0, bad));
        assert!(
            message.starts_with("factor of `linear.weight` on the weight decay"),
            "{message}"
        );
    }
    let message = refused(&model.parameters, freezing(&[""]));
    assert_eq!(
        message,
        "parameters = 5, all of them frozen is not possible: expected at least one parameter to train"
    );
}

/// Neither decay nor momentum moves a parameter that the losses of a step do not depend on.
#[test]
fn a_parameter_without_a_gradient_stays_as_it_is() {
    let model = Model::new(common::device(), 3, u64::MAX);
    let decaying = SgdConfig {
        momentum: 0.9,
        weight_decay: 0.5,
        groups: ParameterGroups::new(|_, _| Factors {
            learning_rate: 1.0,
            weight_decay: 1.0,
        }),
        ..SgdConfig::default()
    };
    let mut sgd = Sgd::new(&model.parameters, decaying.clone()).unwrap();
    let mut adamw = AdamW::new(
        &model.parameters,
        AdamWConfig {
            groups: decaying.groups,
            ..CLIPPED
        },
    )
    .unwrap();
    let optimizers: [&mut dyn Optimizer; 2] = [&mut sgd, &mut adamw];
    for optimizer in optimizers {
        let whole = |optimizer: &mut dyn Optimizer| {
            let tape = model.tape();
            let loss = model.loss(&tape, &Batch::new(&mut Random::new(1)));
            optimizer.step(&tape, loss, 0.01);
            tape.run().unwrap();
        };
        whole(optimizer);
        // Parameters and moments of everything but the embedding are to stay.
        let bits = |optimizer: &dyn Optimizer| state_bits(optimizer);
        let before = bits(optimizer);
        let (_, embedding) = model.parameters.places()[4];
        let tape = model.tape();
        let loss = model.embedding.on(&tape).sum_all();
        optimizer.step(&tape, loss, 0.01);
        tape.run().unwrap();
        for (before, after) in before.iter().zip(&bits(optimizer)) {
            assert_eq!(before[0][..embedding], after[0][..embedding]);
            assert_ne!(before[0][embedding..], after[0][embedding..]);
        }
        // A micro-batch reaches them for the whole step.
        let before = bits(optimizer);
        let tape = model.tape();
        let loss = model.loss(&tape, &Batch::new(&mut Random::new(1)));
        optimizer.accumulate(&tape, loss).unwrap();
        tape.run().unwrap();
        let tape = model.tape();
        optimizer.step(&tape, model.embedding.on(&tape).sum_all(), 0.01);
        tape.run().unwrap();
        assert_ne!(
            before[0][0][..embedding],
            bits(optimizer)[0][0][..embedding]
        );
        whole(optimizer);
    }
}

#[test]
fn a_learning_rate_that_is_no_number_is_refused() {
    let model = Model::new(common::device(), 3, u64::MAX);
    for rate in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1e-3] {
        let step = || {
            let mut optimizer = AdamW::new(&model.parameters, CLIPPED).unwrap();
            let tape = model.tape();
            let loss = model.loss(&tape, &Batch::new(&mut Random::new(1)));
            optimizer.step(&tape, loss, rate);
        };
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(step)).unwrap_err();
        let message = panic.downcast_ref::<String>().unwrap();
        assert!(
            message.contains(&format!("learning rate is {rate}")),
            "{message}"
        );
    }
}

/// Learning rates and decays that are finite by themselves, but not as the kernels take them.
#[test]
fn what_overflows_in_an_update_is_caught_on_the_device() {
    let device = common::device();
    let model = Model::new(device, 3, u64::MAX);
    let times = |learning_rate| {
        ParameterGroups::new(move |_, _| Factors {
            learning_rate,
            weight_decay: 1.0,
        })
    };
    let adamw = |weight_decay, groups| AdamWConfig {
        weight_decay,
        groups,
        ..CLIPPED
    };
    let sgd = SgdConfig {
        groups: times(1e10),
        ..SgdConfig::default()
    };
    let parameters = &model.parameters;
    let mut cases: [(Box<dyn Optimizer>, f32); 4] = [
        (Box::new(AdamW::new(parameters, CLIPPED).unwrap()), 3e38),
        (
            Box::new(AdamW::new(parameters, adamw(1e30, times(1.0))).unwrap()),
            1e20,
        ),
        (
            Box::new(AdamW::new(parameters, adamw(0.1, times(1e20))).unwrap()),
            1e20,
        ),
        (Box::new(Sgd::new(parameters, sgd).unwrap()), 1e30),
    ];
    for (optimizer, rate) in &mut cases {
        let before = state_bits(&**optimizer);
        let tape = model.tape();
        let loss = model.loss(&tape, &Batch::new(&mut Random::new(1)));
        let report = optimizer.step(&tape, loss, *rate).fetch();
        tape.run().unwrap();
        match report.get() {
            Err(Error::NonFinite { what, step: 1, .. }) => {
                assert!(what.starts_with("the learning rate"), "{what}");
            }
            other => panic!("a learning rate of {rate}: {other:?}"),
        }
        assert!(
            before == state_bits(&**optimizer),
            "{rate}: there was an update"
        );
    }
}

struct Tuned {
    model: Model,
    optimizer: AdamW,
}

impl Tuned {
    fn new(groups: ParameterGroups) -> Tuned {
        let model = Model::new(common::device(), 7, 256);
        let config = AdamWConfig { groups, ..CLIPPED };
        Tuned {
            optimizer: AdamW::new(&model.parameters, config).unwrap(),
            model,
        }
    }

    fn train(&mut self, steps: std::ops::Range<u64>) {
        for step in steps {
            let tape = self.model.tape();
            let loss = self.model.loss(&tape, &Batch::new(&mut Random::new(step)));
            self.optimizer.step(&tape, loss, 0.02);
            tape.run().unwrap();
        }
    }
}

#[test]
fn a_run_with_frozen_parameters_resumes_to_the_same_bits() {
    let path = std::env::temp_dir().join(format!("frozen-{}.safetensors", std::process::id()));
    let groups = || freezing(&["linear.weight", "embedding"]);
    let mut whole = Tuned::new(groups());
    let before = wide(&whole.model.values());
    whole.train(0..3);
    let metadata = Metadata::default();
    checkpoint::save(
        &path,
        &whole.model.parameters,
        Some(&whole.optimizer),
        &metadata,
    )
    .unwrap();
    whole.train(3..6);

    let saved = Checkpoint::open(&path).unwrap();
    let settings = &saved.optimizer.as_ref().unwrap().settings;
    assert_eq!(
        settings["groups"]["linear.weight"],
        serde_json::json!([0.0, 0.0])
    );
    let mut resumed = Tuned::new(groups());
    saved
        .restore(&resumed.model.parameters, Some(&mut resumed.optimizer))
        .unwrap();
    resumed.train(3..6);
    assert_eq!(state_bits(&whole.optimizer), state_bits(&resumed.optimizer));
    let after = whole.model.values();
    assert_values("frozen", &after[..1], &before[..1].to_vec());
    assert_values("frozen", &after[4..], &before[4..].to_vec());

    // What was frozen has no moments to go on with.
    let mut other = Tuned::new(ParameterGroups::DEFAULT);
    let before = state_bits(&other.optimizer);
    let error = saved
        .restore(&other.model.parameters, Some(&mut other.optimizer))
        .unwrap_err();
    assert!(
        error.to_string().contains("`linear.weight` was frozen"),
        "{error}"
    );
    assert!(before == state_bits(&other.optimizer));
    std::fs::remove_file(path).unwrap();
}

/// `a = 2`, `b = 3`, loss `(ab)²`, each trained by an optimizer of its own.
fn two_optimizers<'t>(
    tape: &'t Tape,
    device: &Device,
    loss: impl Fn(Var<'t>, Var<'t>) -> Var<'t>,
) -> [Update<'t>; 2] {
    let make = |name: &str, value| {
        let mut builder = ParameterBuilder::new(1);
        let parameter = builder.parameter(name, [], Init::Constant(value));
        let parameters = builder.build(device).unwrap();
        let optimizer = Sgd::new(&parameters, SgdConfig::default()).unwrap();
        (parameter, optimizer)
    };
    let ((a, mut first), (b, mut second)) = (make("a", 2.0), make("b", 3.0));
    let loss = loss(a.on(tape), b.on(tape));
    [first.step(tape, loss, 0.01), second.step(tape, loss, 0.01)]
}

#[test]
#[should_panic(expected = "overwritten on this tape since")]
fn a_second_optimizer_that_reads_what_the_first_wrote_is_refused() {
    let device = common::device();
    let tape = Tape::training(device);
    two_optimizers(&tape, device, |a, b| (a * b) * (a * b));
}

#[test]
fn a_second_optimizer_beside_the_first_is_not() {
    let device = common::device();
    let tape = Tape::training(device);
    let [first, second] = two_optimizers(&tape, device, |a, b| a * 3.0 + b * 2.0);
    let [first, second] = [first.fetch(), second.fetch()];
    tape.run().unwrap();
    assert_eq!(first.get().unwrap().grad_norm, 3.0);
    assert_eq!(second.get().unwrap().grad_norm, 2.0);
}

#[test]
#[should_panic(expected = "the loss depends on no parameter that this optimizer trains")]
fn a_loss_that_nothing_can_lower_is_refused() {
    let model = Model::new(common::device(), 3, u64::MAX);
    let mut optimizer = AdamW::new(&model.parameters, CLIPPED).unwrap();
    let tape = model.tape();
    let loss = model.loss(&tape, &Batch::new(&mut Random::new(1)));
    optimizer.step(&tape, loss.detach(), 0.01);
}
