//! Every operation that takes floats, given halves: its value against `f64` on the rounded operands, its gradient against
//! finite differences, in the middle of a graph.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use shadegrad::check::Check;
use shadegrad::nn::{Linear, LoraConfig, ParameterBuilder};
use shadegrad::ops::attention::{Attention, attention_with_weights};
use shadegrad::sampling::{Sampler, SamplingConfig};
use shadegrad::tape::Precision;
use shadegrad::{DType, Device, Tape, Tensor, f16};

use super::cases::Cases;
use crate::common::{device, gpu_device, portable_device};

fn check_all(device: &Device, is_wanted: impl Fn(&str) -> bool) {
    let mut failed = Vec::new();
    for case in Cases::all().iter().filter(|case| is_wanted(&case.name)) {
        let report = Check::HALF.gradient(device, &case.inputs, &case.record, &case.oracle);
        match report {
            Ok(report) => println!("{}: {report}", case.name),
            Err(error) => failed.push(format!("{}: {error}", case.name)),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn kernels_of_this_adapter() {
    // Attention's take long to compile: the separate forms are left to the test of portable kernels.
    check_all(device(), |name| !name.starts_with("attention"));
}

/// Of those that differ from the portable ones: rows that a subgroup shares, with `f16`.
#[test]
fn kernels_for_gpus() {
    let wanted = [
        "matmul with",
        "softmax",
        "log_softmax",
        "Layer",
        "Rms",
        "cross_entropy",
        "packed",
        "embedding of",
        "swiglu between",
    ];
    check_all(gpu_device(), |name| {
        wanted.iter().any(|start| name.starts_with(start))
    });
}

/// Halves are pairs in words here.
#[test]
fn portable_kernels() {
    check_all(portable_device(), |name| !name.starts_with("packed"));
}

/// What has no gradient, or none of its own, and adapters: `stored` and `nn::lora` compare its values.
fn record_others(tape: &Tape) {
    let halves = |dims: &[usize]| tape.full(dims, 0.5).cast(DType::F16);
    let tensor = |dims: &[usize]| Tensor::zeros(tape.device(), dims, DType::F16).unwrap();
    tape.assign(&tensor(&[3]), halves(&[3]));
    tape.write_rows(
        &tensor(&[1, 3, 5]),
        halves(&[1, 1, 5]),
        tape.input([1], &[1u32]),
    );
    let _place = tape.fetch::<u32>(halves(&[2, 3]).argmax(1));
    let _constant = tape.fetch::<f16>(halves(&[3]).detach());
    let operands = [0; 3].map(|_| halves(&[1, 1, 3, 4]));
    let [q, k, v] = operands;
    let (_, weights) = attention_with_weights(q, k, v, None, &Attention::full(1));
    let _weights = tape.fetch::<f32>(weights);
    let weight = (halves(&[4]), 0.1);
    let normed = halves(&[2, 4]).residual_norms(halves(&[2, 4]), weight, weight);
    let _normed = normed.map(|x| tape.fetch::<f16>(x.cast(DType::F16)));
    let mut samplers = [Sampler::new(SamplingConfig::GREEDY, 1).unwrap()];
    let _drawn = Sampler::draw(&mut samplers, halves(&[1, 9])).fetch();

    // Adapters of two of four outputs.
    let mut builder = ParameterBuilder::new(1);
    let mut linear = Linear::new(&mut builder.enter("linear"), 4, 4, false);
    linear.add_lora_to(&mut builder, &LoraConfig::new(2), &[0..1, 2..3]);
    builder.build(tape.device()).unwrap();
    let adapters = [linear.lora().unwrap()].map(|lora| lora.b().on(tape));
    let y = tape.with_precision(Precision::Mixed, || linear.forward(halves(&[3, 4])));
    let gradients = tape.backward(y.sum_all());
    let _gradients = adapters.map(|b| tape.fetch::<f32>(gradients.of(b).unwrap()));
}

/// Adds the names of the operations whose kernels read halves or write them: a cast of a result is done as it is stored.
fn on_halves(tape: Tape, names: &mut BTreeSet<String>) {
    let plan = tape.explain().unwrap();
    let recorded = plan
        .lines()
        .skip(1)
        .take_while(|line| !line.starts_with("== "));
    // `%5 = gelu(%4)  F16 [4, 4]`
    let (mut halves, mut made_by) = (BTreeSet::new(), BTreeMap::new());
    for line in recorded {
        let (call, types) = line.split_once("  ").unwrap_or((line, ""));
        let (outputs, call) = call.split_once(" = ").unwrap_or(("", call));
        let Some((name, inputs)) = call.split_once('(') else {
            // An input: of halves or not.
            if types.starts_with("F16") {
                halves.insert(outputs);
            }
            continue;
        };
        let inputs: Vec<&str> = inputs.trim_end_matches(')').split(", ").collect();
        if inputs.iter().any(|input| halves.contains(input)) {
            names.insert(name.to_owned());
        }
        if name == "convert" && types.starts_with("F16") {
            names.extend(made_by.get(inputs[0]).map(|&name: &&str| name.to_owned()));
        }
        let types = types.split("], ").map(|ty| ty.starts_with("F16"));
        for (output, is_half) in outputs.split(", ").zip(types) {
            made_by.insert(output, name);
            if is_half {
                halves.insert(output);
            }
        }
    }
}

/// The names of the operations in some source files.
fn operations_in(path: &Path, names: &mut BTreeSet<String>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            operations_in(&entry.unwrap().path(), names);
        }
        return;
    }
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]").next().unwrap();
    for operation in text.split("impl Operation for ").skip(1) {
        let (_, body) = operation
            .split_once("fn name(&self) -> &'static str {")
            .unwrap();
        let (body, _) = body.split_once("\n    }\n").unwrap();
        names.extend(body.split('"').skip(1).step_by(2).map(str::to_owned));
    }
}

/// Whoever adds an operation that takes floats adds it here.
#[test]
fn no_operation_is_left_out() {
    let mut expected = BTreeSet::from(["assign".to_owned()]);
    operations_in(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ops"),
        &mut expected,
    );
    assert!(expected.len() > 30, "{expected:?}");
    // Takes no floats, only a key.
    assert!(expected.remove("random"));
    let mut found = BTreeSet::new();
    for case in Cases::all() {
        let tape = Tape::training(device());
        let given = case.inputs.iter();
        let given = given.map(|(shape, values)| tape.variable(*shape, values).cast(DType::F16));
        let given: Vec<_> = given.collect();
        let gradients = tape.backward((case.record)(&given).sum_all());
        let gradients = given.iter().filter_map(|&x| gradients.of(x));
        let _fetched: Vec<_> = gradients.map(|x| tape.fetch::<f16>(x)).collect();
        on_halves(tape, &mut found);
    }
    let tape = Tape::training(device());
    record_others(&tape);
    on_halves(tape, &mut found);
    let missing: Vec<_> = expected.difference(&found).collect();
    assert!(missing.is_empty(), "no case has {missing:?}");
}

/// Gradients of gradients. There the first gradient's roundings are multiplied by a direction and arrive once more: twice
/// as many as [`Check::HALF`] counts.
#[test]
fn gradients_of_gradients() {
    let twice = Check {
        relative: 2.0 * Check::HALF.relative,
        absolute: 2.0 * Check::HALF.absolute,
        ..Check::HALF
    };
    let names = [
        "matmul with an epilogue of [[5, 7], [7, 7]",
        "softmax of [[3, 7]]",
        "Rms of [[3, 7]",
        "swiglu of [[3, 10]]",
        "embedding of [[5, 3]]",
        "slices, permuted and repeated",
    ];
    let all = Cases::all();
    for name in names {
        let case = all.iter().find(|case| case.name.starts_with(name));
        let case = case.unwrap_or_else(|| panic!("no case is called {name}"));
        for device in [device(), portable_device()] {
            let report = twice.second_gradient(device, &case.inputs, &case.record, &case.oracle);
            println!(
                "{name}: {}",
                report.unwrap_or_else(|error| panic!("{name}: {error}"))
            );
        }
    }
}
