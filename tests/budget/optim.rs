//! What a training step with an optimizer costs the host.

use shadegrad::nn::{Init, Parameter, ParameterBuilder};
use shadegrad::optim::{AdamW, AdamWConfig, Optimizer, Report};
use shadegrad::{Device, Tape, Tensor, Var};

use crate::common;

/// Many parameters of many shapes, each with a gradient kernel of its own.
fn parameters(builder: &mut ParameterBuilder) -> Vec<Parameter> {
    (1..=12)
        .map(|n| builder.parameter(format!("p{n}"), [n, 2 * n + 1], Init::Ones))
        .collect()
}

fn loss<'t>(parameters: &[Parameter], tape: &'t Tape, data: f32) -> Var<'t> {
    let data = tape.scalar(data);
    let terms = parameters
        .iter()
        .map(|p| (p.on(tape) * data).sin().sum_all());
    terms.reduce(|a, b| a + b).unwrap()
}

/// The dispatches of a plain backward pass that leaves each gradient in a tensor of its own.
fn dispatches_of_backward(device: &Device, parameters: &[Parameter]) -> u64 {
    let tape = Tape::training(device);
    let loss = loss(parameters, &tape, 0.5);
    let gradients = tape.backward(loss);
    for parameter in parameters {
        let to = Tensor::zeros(device, parameter.shape(), shadegrad::DType::F32).unwrap();
        tape.assign(&to, gradients.of(parameter.on(&tape)).unwrap());
    }
    let _loss = tape.fetch::<f32>(loss);
    let before = device.stats().dispatches;
    tape.run().unwrap();
    device.stats().dispatches - before
}

#[test]
fn a_step_is_three_dispatches_and_makes_nothing_once_planned() {
    let device = common::device();
    let mut builder = ParameterBuilder::new(1);
    let handles = parameters(&mut builder);
    let parameters = builder.build(device).unwrap();
    let config = AdamWConfig {
        clip_norm: Some(1.0),
        ..AdamWConfig::default()
    };
    let before = device.stats().buffer_bytes;
    let mut optimizer = AdamW::new(&parameters, config).unwrap();
    let padded = 4 * parameters.segments()[0].shape().elements() as u64;
    // Gradient and two moments, and the state of the loss scale.
    let bytes = device.stats().buffer_bytes - before;
    assert_eq!(bytes, 3 * padded + 16);
    assert_eq!(optimizer.memory(), 4 * padded + 16);
    // At most 3 elements of padding behind each parameter, and 4 at the end of the segment.
    let most = parameters.element_count() + 3 * parameters.len() + 4;
    assert!(padded <= 4 * most as u64, "{padded} bytes, {most} elements");

    let backward = dispatches_of_backward(device, &handles);
    let mut reports: Vec<Report> = Vec::new();
    let mut step = |step: u32| {
        let tape = Tape::training(device);
        let loss = loss(&handles, &tape, 0.1 * step as f32);
        let report = optimizer.step(&tape, loss, 0.1 / step as f32).fetch();
        tape.run().unwrap();
        reports.push(report);
        // Results are taken a few steps later; by then they have arrived.
        if reports.len() > 3 {
            let oldest = reports.remove(0);
            while !oldest.is_ready().unwrap() {
                std::thread::yield_now();
            }
            oldest.get().unwrap();
        }
    };
    (1..=6).for_each(&mut step);
    let before = device.stats();
    (7..=30).for_each(&mut step);
    let after = device.stats();
    assert_eq!(after.pipelines, before.pipelines);
    assert_eq!(after.bind_groups, before.bind_groups);
    assert_eq!(after.buffers, before.buffers);
    assert_eq!(after.buffer_bytes, before.buffer_bytes);
    assert_eq!(after.waits, before.waits);
    assert_eq!(after.plans, before.plans);
    assert_eq!(after.replays - before.replays, 24);
    assert_eq!(after.submits - before.submits, 24);
    // Sum of squares, norm, update; no copies of gradients.
    assert_eq!(after.dispatches - before.dispatches, 24 * (backward + 3));

    // Micro-batches: the first costs nothing beyond its gradient, each further one a single addition.
    let mut dispatches = Vec::new();
    for micro_batch in 0..4 {
        let before = device.stats().dispatches;
        let tape = Tape::training(device);
        let loss = loss(&handles, &tape, 0.3);
        let _loss = tape.fetch::<f32>(loss);
        if micro_batch < 3 {
            optimizer.accumulate(&tape, loss).unwrap();
        } else {
            optimizer.step(&tape, loss, 0.1);
        }
        tape.run().unwrap();
        dispatches.push(device.stats().dispatches - before);
    }
    let expected = [backward, backward + 1, backward + 1, backward + 4];
    assert_eq!(dispatches, expected);
}
