//! The copy of parameters in halves that updates keep: never another than theirs.

use shadegrad::nn::{Init, Parameter, ParameterBuilder, Parameters};
use shadegrad::optim::{AdamW, AdamWConfig, Factors, Optimizer, ParameterGroups, Sgd, SgdConfig};
use shadegrad::tape::Precision;
use shadegrad::{DType, Device, Tape, Var, f16};

use crate::common::devices;

fn build(device: &Device) -> Parameters {
    let mut builder = ParameterBuilder::new(3);
    for (name, shape) in [("a", [8, 5]), ("frozen", [5, 6]), ("b", [6, 3])] {
        builder.parameter(name, shape, Init::Normal { std: 0.3 });
    }
    builder.build(device).unwrap()
}

fn output<'t>(parameters: &Parameters, tape: &'t Tape) -> Var<'t> {
    let x: Vec<f32> = (0..32).map(|i| (i % 7) as f32 / 7.0).collect();
    let product = |x: Var<'t>, parameter: &Parameter| x.matmul(parameter.on(tape)).tanh();
    parameters.iter().fold(tape.input([4, 8], &x), product)
}

fn step(parameters: &Parameters, optimizer: &mut dyn Optimizer, precision: Precision) {
    let tape = Tape::training(parameters.device());
    tape.set_precision(precision);
    let loss = (output(parameters, &tape).cast(DType::F32) - 0.5)
        .powi(2.0)
        .mean_all();
    let report = optimizer.step(&tape, loss, 1e-2).fetch();
    tape.run().unwrap();
    assert!(!report.get().unwrap().skipped);
}

/// What a mixed tape makes of the parameters.
fn seen(parameters: &Parameters) -> Vec<f16> {
    let tape = Tape::inference(parameters.device());
    tape.set_precision(Precision::Mixed);
    let output = tape.fetch::<f16>(output(parameters, &tape).cast(DType::F16));
    tape.run().unwrap();
    output.get().unwrap()
}

/// That it is the same as of others of their values, of which no copy is kept.
#[track_caller]
fn check(parameters: &Parameters) {
    let others = build(parameters.device());
    others.load(parameters.to_host().unwrap()).unwrap();
    assert_eq!(seen(parameters), seen(&others));
}

fn optimizers(parameters: &Parameters) -> [Box<dyn Optimizer>; 3] {
    let groups = || {
        ParameterGroups::new(|name, shape| match name {
            "frozen" => Factors::FROZEN,
            _ => Factors::default_of(name, shape),
        })
    };
    let sgd = |momentum| {
        let config = SgdConfig {
            momentum,
            groups: groups(),
            ..SgdConfig::default()
        };
        Box::new(Sgd::new(parameters, config).unwrap())
    };
    let config = AdamWConfig {
        groups: groups(),
        ..AdamWConfig::default()
    };
    let adamw = Box::new(AdamW::new(parameters, config).unwrap());
    [adamw, sgd(0.0), sgd(0.9)]
}

#[test]
fn whoever_changes_parameters_the_copy_is_theirs() {
    for device in devices() {
        let parameters = build(device);
        for mut optimizer in optimizers(&parameters) {
            let optimizer = &mut *optimizer;
            check(&parameters);
            for precision in [
                Precision::Mixed,
                Precision::Mixed,
                Precision::F32,
                Precision::Mixed,
            ] {
                step(&parameters, optimizer, precision);
                check(&parameters);
            }
            for parameter in &parameters {
                let values = vec![0.25f32; parameter.shape().elements()];
                parameter.tensor().write(&values).unwrap();
                check(&parameters);
            }
            let values = build(device).to_host().unwrap();
            parameters.load(values).unwrap();
            check(&parameters);

            // Behind the forward pass, and before it.
            for is_before in [false, true] {
                let tape = Tape::inference(device);
                tape.set_precision(Precision::Mixed);
                let tensor = parameters[1].tensor();
                let new = tape.tensor(tensor) * 0.5 + 0.125;
                if is_before {
                    tape.assign(tensor, new);
                }
                let fetched = tape.fetch::<f16>(output(&parameters, &tape).cast(DType::F16));
                if !is_before {
                    tape.assign(tensor, new);
                }
                let old = seen(&parameters);
                tape.run().unwrap();
                check(&parameters);
                let expected = match is_before {
                    true => seen(&parameters),
                    false => old,
                };
                assert_eq!(fetched.get().unwrap(), expected);
            }

            // Recorded, then written, then run.
            let tape = Tape::inference(device);
            tape.set_precision(Precision::Mixed);
            let fetched = tape.fetch::<f16>(output(&parameters, &tape).cast(DType::F16));
            let values = vec![-0.5f32; parameters[0].shape().elements()];
            parameters[0].tensor().write(&values).unwrap();
            tape.run().unwrap();
            assert_eq!(fetched.get().unwrap(), seen(&parameters));
            check(&parameters);

            // Trained and overwritten on one tape.
            let tape = Tape::training(device);
            tape.set_precision(Precision::Mixed);
            let loss = output(&parameters, &tape).mean_all();
            optimizer.step(&tape, loss, 1e-2);
            tape.assign(parameters[0].tensor(), tape.full([8, 5], 0.75));
            tape.run().unwrap();
            check(&parameters);
            step(&parameters, optimizer, Precision::Mixed);
            check(&parameters);
        }
    }
}

#[test]
fn a_step_keeps_it_in_the_dispatch_that_updates_and_casts_no_parameter() {
    for device in devices() {
        let parameters = build(device);
        let config = AdamWConfig::default();
        let mut optimizer = AdamW::new(&parameters, config.clone()).unwrap();
        let plain = optimizer.memory();
        let padded: u64 = parameters.bytes();
        (0..3).for_each(|_| step(&parameters, &mut optimizer, Precision::Mixed));
        // Parameter, gradient, two moments, the copy: 18 bytes; and the loss scale.
        assert_eq!(optimizer.memory(), plain + padded / 2);
        assert_eq!(2 * optimizer.memory(), 9 * padded + 2 * 16);
        let before = device.stats();
        (0..5).for_each(|_| step(&parameters, &mut optimizer, Precision::Mixed));
        let after = device.stats();
        assert_eq!(after.submits - before.submits, 5);
        assert_eq!(after.plans, before.plans);
        assert_eq!(after.buffer_bytes, before.buffer_bytes);
        let mixed = after.dispatches - before.dispatches;

        // In `F32` as many: nothing is cast but what the kernels round as they go.
        let parameters = build(device);
        let mut optimizer = AdamW::new(&parameters, config).unwrap();
        (0..3).for_each(|_| step(&parameters, &mut optimizer, Precision::F32));
        assert_eq!(optimizer.memory(), plain);
        let before = device.stats().dispatches;
        (0..5).for_each(|_| step(&parameters, &mut optimizer, Precision::F32));
        let full = device.stats().dispatches - before;
        // Products on matrix units share their depth among workgroups sooner, and add up in one more dispatch each.
        let sums = if device.matrix_units().is_some() {
            3
        } else {
            0
        };
        let most = full + 5 * (2 + sums);
        assert!(mixed <= most, "{mixed} dispatches, in f32 {full}");
    }
}
