//! Losses that are made of other operations. `differential` compares them with PyTorch.

use shadegrad::{Shape, Tape, check};

use crate::common::{Random, device};

fn pairs(count: usize, scale: f32) -> [(Shape, Vec<f32>); 2] {
    let mut random = Random::new(count as u64);
    let logits = random
        .values(count, -1.0, 1.0)
        .into_iter()
        .map(|x| scale * x)
        .collect();
    let targets = random
        .values(count, -1.0, 1.0)
        .into_iter()
        .map(|x| 0.5 * x + 0.5)
        .collect();
    let shape = Shape::new(&[count]);
    [(shape, logits), (shape, targets)]
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> Vec<f64> {
    let count = values.len() as f64;
    vec![values.sum::<f64>() / count]
}

#[test]
fn mean_squared_error() {
    for count in [1, 7, 130] {
        let oracle = |x: &[Vec<f64>]| {
            let errors = x[0].iter().zip(&x[1]).map(|(x, t)| (x - t).powi(2));
            mean(errors)
        };
        let inputs = pairs(count, 2.0);
        check::gradient(device(), &inputs, |x| x[0].mse(x[1]), oracle).unwrap();
        check::second_gradient(device(), &inputs, |x| x[0].mse(x[1]), oracle).unwrap();
    }
}

#[test]
fn binary_cross_entropy_of_logits() {
    for count in [1, 7, 130] {
        let oracle = |x: &[Vec<f64>]| {
            let losses = x[0].iter().zip(&x[1]).map(|(x, t)| {
                let p = 1.0 / (1.0 + (-x).exp());
                -(t * p.ln() + (1.0 - t) * (1.0 - p).ln())
            });
            mean(losses)
        };
        let inputs = pairs(count, 4.0);
        check::gradient(
            device(),
            &inputs,
            |x| x[0].binary_cross_entropy(x[1]),
            oracle,
        )
        .unwrap();
        check::second_gradient(
            device(),
            &inputs,
            |x| x[0].binary_cross_entropy(x[1]),
            oracle,
        )
        .unwrap();
    }
}

/// Neither infinities nor lost digits, where a probability would be 0 or 1.
#[test]
fn logits_may_be_large() {
    for (logit, target, expected) in [
        (1e4f32, 1.0f32, 0.0f64),
        (1e4, 0.0, 1e4),
        (-1e4, 1.0, 1e4),
        (-1e4, 0.0, 0.0),
        (30.0, 1.0, (-30f64).exp()),
        (-30.0, 0.0, (-30f64).exp()),
        (12.0, 1.0, (-12f64).exp().ln_1p()),
    ] {
        let tape = Tape::training(device());
        let x = tape.variable([1], &[logit]);
        let loss = x.binary_cross_entropy(tape.full([1], target));
        let gradient = tape.backward(loss).of(x).expect("the loss depends on it");
        let (loss, gradient) = (tape.fetch::<f32>(loss), tape.fetch::<f32>(gradient));
        tape.run().unwrap();
        let loss = f64::from(loss.item().unwrap());
        let close = (loss - expected).abs() <= 1e-5 * expected;
        assert!(
            close,
            "{logit} against {target}: {loss}, expected {expected}"
        );
        let p = 1.0 / (1.0 + f64::from(-logit).exp());
        let gradient = f64::from(gradient.item().unwrap());
        assert!(
            (gradient - (p - f64::from(target))).abs() < 1e-6,
            "{gradient}"
        );
    }
}
