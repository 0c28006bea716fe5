//! Ranks that train apart and are averaged.

use std::time::{Duration, Instant};

use shadegrad::checkpoint::{self, Metadata};
use shadegrad::gpu::block_on;
use shadegrad::nn::{Init, ParameterBuilder, Parameters};
use shadegrad::optim::{AdamW, AdamWConfig, LossScale, Optimizer, ParameterGroups, Sgd, SgdConfig};
use shadegrad::parallel::{DiLoCo, DiLoCoConfig, World};
use shadegrad::{DType, Device, Tape, Tensor};

use crate::training::{self, ROWS};
use crate::{device, faults, launch};

/// Checks that all ranks have the same state, to the bit.
#[track_caller]
fn assert_same(world: &World, parameters: &Parameters, optimizer: &dyn Optimizer) {
    let state = block_on(checkpoint::to_bytes(
        parameters,
        Some(optimizer),
        &Metadata::default(),
    ));
    let hash = state.unwrap().iter().fold(0u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    world.agree("the state", &hash.to_string()).unwrap();
}

const SIZES: [usize; 3] = [7, 40, 3];

/// Elements of all parameters.
const ELEMENTS: usize = 50;

const RATE: f64 = 0.1;
const INNER_MOMENTUM: f64 = 0.5;

/// Of element `i` on a rank, what it is drawn to.
fn target(rank: usize, i: usize) -> f64 {
    (i as f64 * 0.37 + rank as f64 * 1.3).sin()
}

fn start(i: usize) -> f64 {
    (i as f64 * 0.11).cos()
}

/// What all ranks come to by so many rounds of so many local steps of SGD with momentum on ½(x − target)², in f64: elements,
/// their velocity and their outer momentum.
fn reference(ranks: usize, rounds: usize, steps: usize, outer: DiLoCoConfig) -> [Vec<f64>; 3] {
    let (rate, mu) = (f64::from(outer.learning_rate), f64::from(outer.momentum));
    let elements = (0..ELEMENTS).map(|i| {
        let (mut x, mut velocity, mut momentum) = (start(i), 0.0, 0.0);
        for _ in 0..rounds {
            let ends = (0..ranks).map(|rank| {
                let (mut x, mut velocity) = (x, velocity);
                for _ in 0..steps {
                    velocity = INNER_MOMENTUM * velocity + x - target(rank, i);
                    x -= RATE * velocity;
                }
                (x, velocity)
            });
            let ends: Vec<(f64, f64)> = ends.collect();
            let mean = |of: fn(&(f64, f64)) -> f64| ends.iter().map(of).sum::<f64>() / ranks as f64;
            let difference = x - mean(|end| end.0);
            momentum = mu * momentum + difference;
            x -= rate * (difference + mu * momentum);
            velocity = mean(|end| end.1);
        }
        [x, velocity, momentum]
    });
    let elements: Vec<[f64; 3]> = elements.collect();
    [0, 1, 2].map(|what| elements.iter().map(|element| element[what]).collect())
}

fn values(parts: &[Tensor]) -> Vec<f64> {
    let values = parts.iter().flat_map(|part| part.to_vec::<f32>().unwrap());
    values.map(f64::from).collect()
}

#[track_caller]
fn assert_close(actual: &[f64], expected: &[f64]) {
    assert_eq!(actual.len(), expected.len());
    for (i, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        let error = (actual - expected).abs();
        assert!(error < 2e-6, "element {i}: {actual}, expected {expected}");
    }
}

/// Compares outer steps with the formula.
pub fn outer(world: &World) {
    let device = device();
    for (rounds, outer) in [
        (4, DiLoCoConfig::default()),
        (
            3,
            DiLoCoConfig {
                learning_rate: 1.0,
                momentum: 0.0,
            },
        ),
    ] {
        let mut builder = ParameterBuilder::new(1).with_segment_limit(64);
        let variables =
            SIZES.map(|size| builder.parameter(format!("x{size}"), [size], Init::Zeros));
        let parameters = builder.build(&device).unwrap();
        assert_eq!(parameters.segments().len(), 3);
        let starts: Vec<f32> = (0..ELEMENTS).map(|i| start(i) as f32).collect();
        let mut first = 0;
        for (size, x) in SIZES.iter().zip(&variables) {
            x.tensor().write(&starts[first..first + size]).unwrap();
            first += size;
        }
        let config = SgdConfig {
            momentum: INNER_MOMENTUM as f32,
            ..SgdConfig::default()
        };
        let inner = Sgd::new(&parameters, config).unwrap();
        let inner_bytes = inner.memory();
        let mut optimizer = DiLoCo::new(inner, outer).unwrap();
        assert_eq!(optimizer.memory(), inner_bytes + 2 * parameters.bytes());
        let targets: Vec<f32> = (0..ELEMENTS)
            .map(|i| target(world.rank(), i) as f32)
            .collect();
        for round in 1..=rounds {
            for _ in 0..3 {
                let tape = Tape::training(&device);
                let mut first = 0;
                let losses = SIZES.iter().zip(&variables).map(|(&size, x)| {
                    let target = tape.input([size], &targets[first..first + size]);
                    first += size;
                    (x.on(&tape) - target).powi(2.0).sum_all() * 0.5
                });
                let loss = losses.reduce(|a, b| a + b).unwrap();
                optimizer.step(&tape, loss, RATE as f32);
                tape.run().unwrap();
            }
            optimizer.synchronise(world).unwrap();
            assert_same(world, &parameters, &optimizer);
            // A second time there is nothing to average.
            optimizer.synchronise(world).unwrap();
            let [x, velocity, momentum] = reference(world.size(), round, 3, outer);
            let parts: Vec<Tensor> = parameters.iter().map(|p| p.tensor().clone()).collect();
            assert_close(&values(&parts), &x);
            let state = optimizer.state();
            assert_eq!([state[0].0, state[1].0], ["velocity", "outer_momentum"]);
            assert_close(&values(state[0].1.parts()), &velocity);
            assert_close(&values(state[1].1.parts()), &momentum);
        }
    }
    loss_scales(world, &device);
    refusals(&device);
}

/// One rank's gradient overflows: all scale as it does then.
fn loss_scales(world: &World, device: &Device) {
    let mut builder = ParameterBuilder::new(1);
    let x = builder.parameter("x", [4], Init::Ones);
    let parameters = builder.build(device).unwrap();
    let config = AdamWConfig {
        loss_scale: LossScale::From(1024.0),
        ..AdamWConfig::default()
    };
    let inner = AdamW::new(&parameters, config).unwrap();
    let mut optimizer = DiLoCo::new(inner, DiLoCoConfig::default()).unwrap();
    for step in 0..3 {
        let tape = Tape::training(device);
        let overflows = world.rank() == 1 && step == 1;
        let factor = tape.scalar(if overflows { 1e37 } else { 1.0 });
        let report = optimizer
            .step(&tape, x.on(&tape).sum_all() * factor, 0.1)
            .fetch();
        tape.run().unwrap();
        assert_eq!(report.get().unwrap().skipped, overflows);
    }
    optimizer.synchronise(world).unwrap();
    assert_same(world, &parameters, &optimizer);
    let (state, _) = optimizer.loss_scale().unwrap();
    assert_eq!(state.to_vec::<f32>().unwrap(), [512.0, 1.0, 1.0, 1024.0]);
}

/// What it is not made of.
fn refusals(device: &Device) {
    let mut builder = ParameterBuilder::new(1);
    builder.parameter("still", [4], Init::Ones);
    builder.parameter("x", [4], Init::Ones);
    let parameters = builder.build(device).unwrap();
    let config = AdamWConfig {
        groups: ParameterGroups::new(|name, shape| match name {
            "still" => shadegrad::optim::Factors::FROZEN,
            _ => shadegrad::optim::Factors::default_of(name, shape),
        }),
        ..AdamWConfig::default()
    };
    let inner = AdamW::new(&parameters, config).unwrap();
    let error = DiLoCo::new(inner, DiLoCoConfig::default()).unwrap_err();
    assert!(error.to_string().contains("`still`"), "{error}");
    for (learning_rate, momentum, named) in [
        (0.0, 0.9, "learning_rate"),
        (f32::NAN, 0.9, "learning_rate"),
        (0.7, 1.0, "momentum"),
        (0.7, -0.1, "momentum"),
    ] {
        let inner = AdamW::new(&parameters, AdamWConfig::default()).unwrap();
        let config = DiLoCoConfig {
            learning_rate,
            momentum,
        };
        let error = DiLoCo::new(inner, config).unwrap_err();
        assert!(error.to_string().contains(named), "{error}");
    }
}

/// Trains a model by SGD: each step together, or apart with an outer step that only averages. Prints losses.
pub fn both_ways(world: &World) {
    let device = device();
    let (gpt, parameters) = training::model(&device);
    let (other_gpt, other_parameters) = training::model(&device);
    let mut together = Sgd::new(&parameters, SgdConfig::default()).unwrap();
    let inner = Sgd::new(&other_parameters, SgdConfig::default()).unwrap();
    let config = DiLoCoConfig {
        learning_rate: 1.0,
        momentum: 0.0,
    };
    let mut apart = DiLoCo::new(inner, config).unwrap();
    let rows = world.share(ROWS);
    let total = Tensor::zeros(&device, [1], DType::F32).unwrap();
    for step in 0..30 {
        let share = rows.len() as f32 / ROWS as f32;
        let tape = Tape::training(&device);
        let loss = training::loss(&gpt, &tape, step, &rows) * tape.scalar(share);
        tape.assign(&total, loss.reshape([1]));
        together.accumulate(&tape, loss).unwrap();
        tape.run().unwrap();
        let gradient = together.accumulated().unwrap().segments();
        world
            .sum(gradient.iter().chain([&total]), DType::F32)
            .unwrap();
        let tape = Tape::training(&device);
        let report = together
            .step_accumulated(&tape, tape.tensor(&total).sum_all(), 0.3)
            .fetch();
        tape.run().unwrap();
        let expected = f64::from(report.get().unwrap().loss);

        let mut tape = Tape::training(&device);
        let loss = training::loss(&other_gpt, &tape, step, &rows);
        // Whichever way a step is made.
        let report = if step % 2 == 0 {
            apart.step(&tape, loss, 0.3).fetch()
        } else {
            tape.assign(&total, loss.reshape([1]));
            apart.accumulate(&tape, loss).unwrap();
            tape.run().unwrap();
            tape = Tape::training(&device);
            let loss = tape.tensor(&total).sum_all();
            apart.step_accumulated(&tape, loss, 0.3).fetch()
        };
        tape.run().unwrap();
        apart.synchronise(world).unwrap();
        let mut loss = [f64::from(report.get().unwrap().loss * share)];
        world.sum_f64(&mut loss);
        assert!(
            (loss[0] - expected).abs() < 1e-5 * expected,
            "step {step}: {loss:?}, together {expected}"
        );
    }
    world.check_identical(&other_parameters, 30).unwrap();
    for (apart, together) in other_parameters.iter().zip(&parameters) {
        let [apart, together] = [apart, together].map(|p| p.tensor().to_vec::<f32>().unwrap());
        let pairs = apart.iter().zip(&together);
        let error = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(error < 2e-5, "{error}");
    }
}

/// Makes steps without end that nobody hears of.
pub fn apart(world: &World) {
    println!("process {} {}", world.rank(), std::process::id());
    let device = device();
    let mut builder = ParameterBuilder::new(1);
    let x = builder.parameter("x", [4], Init::Ones);
    let parameters = builder.build(&device).unwrap();
    let inner = Sgd::new(&parameters, SgdConfig::default()).unwrap();
    let mut optimizer = DiLoCo::new(inner, DiLoCoConfig::default()).unwrap();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(120) {
        let tape = Tape::training(&device);
        optimizer.step(&tape, x.on(&tape).powi(2.0).sum_all(), 1e-3);
        tape.run().unwrap();
        device.wait().unwrap();
    }
    optimizer.synchronise(world).unwrap();
}

pub fn outer_steps_are_those_of_the_formula() {
    for ranks in [2, 3, 4] {
        launch::run(ranks, "outer");
    }
}

pub fn averages_of_single_steps_are_steps_together() {
    for ranks in [2, 3] {
        launch::run(ranks, "both ways");
    }
}

pub fn a_rank_killed_between_averages_ends_the_others() {
    for victim in [0, 2] {
        let launched = launch::launch(3, "apart");
        let processes = launched.processes(3);
        std::thread::sleep(Duration::from_secs(2));
        faults::signal("-KILL", processes[victim]);
        let ended = launched.end_within(Duration::from_secs(30));
        assert!(
            !ended.succeeded && ended.says_killed(victim),
            "{}\n{}",
            ended.output,
            ended.errors
        );
    }
}
