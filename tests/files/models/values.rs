//! Logits, losses, gradients and texts are those of `transformers`.

use shadegrad::data::IGNORE_INDEX;
use shadegrad::nn::{Gpt, GptConfig, Parameters};
use shadegrad::ops::CrossEntropy;
use shadegrad::tape::Precision;
use shadegrad::{DType, Device, Tape};

use super::table::MODELS;
use super::tensors::Tensors;
use super::{TOLERANCE, expected, load, logits};
use crate::common::{assert_close_f32, device, devices};

/// Compares relative to the largest value.
fn compare(what: &str, actual: &[f32], expected: &[f32]) {
    let largest = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
    let absolute = TOLERANCE * f64::from(largest);
    assert_close_f32(what, actual, expected, 0.0, absolute);
}

/// What a training step computes.
struct Batch {
    logits: Vec<f32>,
    loss: f32,
    /// By the names of parameters.
    gradients: Vec<(String, Vec<f32>)>,
}

/// The batch in some precision, gradients by a loss that is multiplied by `scale`.
fn run(
    gpt: &Gpt,
    parameters: &Parameters,
    expected: &Tensors,
    precision: Precision,
    scale: f32,
) -> Batch {
    let shape = &expected.get("tokens").0[..];
    let tape = Tape::training(gpt.device());
    tape.set_precision(precision);
    let [tokens, targets] =
        ["tokens", "targets"].map(|name| tape.input([shape[0], shape[1]], &expected.ids(name)));
    let logits = tape.fetch::<f32>(gpt.logits(tokens).cast(DType::F32));
    let options = CrossEntropy {
        ignore_index: Some(IGNORE_INDEX),
        ..CrossEntropy::default()
    };
    let loss = gpt.loss(tokens, targets, options);
    let gradients = tape.backward(loss * scale);
    let loss = tape.fetch::<f32>(loss);
    let fetched: Vec<_> = parameters
        .iter()
        .map(|parameter| {
            let gradient = gradients.of(parameter.on(&tape)).expect("all matter");
            (parameter.name().to_owned(), tape.fetch::<f32>(gradient))
        })
        .collect();
    tape.run().unwrap();
    let gradients = fetched.into_iter().map(|(name, gradient)| {
        let gradient = gradient.get().unwrap();
        (name, gradient.iter().map(|x| x / scale).collect())
    });
    Batch {
        logits: logits.get().unwrap(),
        loss: loss.item().unwrap(),
        gradients: gradients.collect(),
    }
}

/// Logits, loss and all gradients of the batch.
fn check_batch(name: &str, gpt: &Gpt, parameters: &Parameters, expected: &Tensors) {
    let batch = run(gpt, parameters, expected, Precision::F32, 1.0);
    let what = format!("{name}: logits");
    let logits = expected.floats("logits");
    assert_close_f32(&what, &batch.logits, logits, 0.0, TOLERANCE);
    let what = format!("{name}: loss");
    compare(&what, &[batch.loss], expected.floats("loss"));
    let mut used = 0;
    for (ours, gradient) in batch.gradients {
        let theirs = expected.parameter(gpt.config(), "grad.", &ours, 0.0);
        let what = format!("{name}: gradient of {ours}");
        compare(&what, &gradient, &theirs);
        used += theirs.len();
    }
    let all = expected.names().filter(|name| name.starts_with("grad."));
    let all: usize = all.map(|name| expected.floats(name).len()).sum();
    assert_eq!(used, all, "{name}: numbers with a gradient");
}

/// Of all models; then with blocks that are computed again for their gradients, if `again`.
fn check_batches(device: &Device, again: bool) {
    for model in &MODELS {
        let (mut gpt, parameters) = load(model.name, DType::F32, device);
        let expected = expected(model.name);
        check_batch(model.name, &gpt, &parameters, &expected);
        if again {
            gpt.set_checkpoint_blocks(true);
            check_batch(model.name, &gpt, &parameters, &expected);
        }
    }
}

#[test]
fn logits_loss_and_gradients() {
    let [device, ..] = devices();
    check_batches(device, true);
}

#[test]
fn logits_loss_and_gradients_by_the_kernels_for_gpus() {
    let [_, gpu, portable] = devices();
    check_batches(gpu, false);
    check_batches(portable, false);
}

/// What logits in halves may be off by, as a root mean square of logits whose own is 1: twice what roundings to 11 bits make
/// that don't know of one another, 12 in a block and 5 around them. Twice, as attention that has to choose makes errors larger.
fn bar_of_halves(config: &GptConfig) -> f32 {
    2.0 * (12.0 * config.n_layers as f32 + 5.0).sqrt() / 2048.0
}

fn root_mean_square(values: impl ExactSizeIterator<Item = f32>) -> f32 {
    let count = values.len() as f32;
    (values.map(|x| x * x).sum::<f32>() / count).sqrt()
}

/// Logits by parameters and products in halves. So are keys and values in the cache: no token is drawn that the exact
/// logits don't put near the largest, within what a difference of two may be off.
#[test]
fn halves() {
    for (model, device) in MODELS.iter().zip(devices().into_iter().cycle()) {
        let expected = expected(model.name);
        let (gpt, parameters) = load(model.name, DType::F16, device);
        assert_eq!(parameters.dtype(), DType::F16);
        let actual = logits(&gpt, 2, &expected.ids("tokens"));
        let exact = expected.floats("logits");
        let errors = actual.into_iter().zip(exact);
        let error = root_mean_square(errors.map(|(a, b)| a - b));
        let bar = bar_of_halves(gpt.config()) * root_mean_square(exact.iter().copied());
        assert!(error < bar, "{}: {error}, not {bar}", model.name);

        let prompt = expected.ids("prompt");
        let mut sampler = model.greedy();
        let drawn = gpt.generate(&prompt, 24, &mut sampler, None).unwrap();
        let text = [&prompt[..], &drawn].concat();
        let (gpt, _) = load(model.name, DType::F32, device);
        let logits = logits(&gpt, 1, &text);
        let rows = logits.chunks(gpt.config().vocab_size);
        for (row, token) in rows.skip(prompt.len() - 1).zip(drawn) {
            let best = row[sampler.next_token(row).unwrap() as usize];
            let behind = best - row[token as usize];
            // Six standard deviations of a difference.
            let most = 6.0 * 2f32.sqrt() * bar;
            assert!(behind < most, "{}: {behind}, not {most}", model.name);
        }
    }
}

/// Gradients by products in halves, on the way there and back: off by four times what logits are at most.
#[test]
fn mixed_precision() {
    for model in &MODELS {
        let expected = expected(model.name);
        let (gpt, parameters) = load(model.name, DType::F32, device());
        let batch = run(&gpt, &parameters, &expected, Precision::Mixed, 4096.0);
        let loss = expected.floats("loss");
        assert_close_f32(model.name, &[batch.loss], loss, 1e-3, 0.0);
        for (ours, gradient) in batch.gradients {
            let theirs = expected.parameter(gpt.config(), "grad.", &ours, 0.0);
            let error = root_mean_square(gradient.iter().zip(&theirs).map(|(a, b)| a - b));
            let bar = root_mean_square(theirs.iter().copied()) * bar_of_halves(gpt.config()) * 4.0;
            assert!(error < bar, "{}: {ours}: {error}, not {bar}", model.name);
        }
    }
}
