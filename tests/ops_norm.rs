//! LayerNorm and RMSNorm against their formulas in `f64`, in every kernel variant.

mod common;

use common::{Random, device, portable_device};
use shadegrad::{Shape, check};

/// `x`, weight and, for LayerNorm, bias in; the normalised rows out.
fn oracle(inputs: &[Vec<f64>], width: usize, epsilon: f64) -> Vec<f64> {
    let weight = &inputs[1];
    let mut out = Vec::new();
    for row in inputs[0].chunks(width) {
        let mean = match inputs.len() {
            3 => row.iter().sum::<f64>() / width as f64,
            _ => 0.0,
        };
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
        let scale = 1.0 / (variance + epsilon).sqrt();
        for (column, x) in row.iter().enumerate() {
            let bias = inputs.get(2).map_or(0.0, |bias| bias[column]);
            out.push((x - mean) * scale * weight[column] + bias);
        }
    }
    out
}

#[test]
fn values_and_gradients() {
    let mut random = Random::new(1);
    for shape in [
        [3, 32],
        [130, 4],
        [70, 36],
        [5, 27],
        [2, 1],
        [66, 64],
        [1, 300],
    ] {
        let width = shape[1];
        let x = (
            Shape::from(shape),
            random.values(shape[0] * width, -2.0, 2.0),
        );
        let weight = (Shape::from([width]), random.values(width, 0.5, 1.5));
        let bias = (Shape::from([width]), random.values(width, -1.0, 1.0));
        for device in [device(), portable_device()] {
            let layer = check::gradient(
                device,
                &[x.clone(), weight.clone(), bias.clone()],
                |v| v[0].layer_norm(v[1], Some(v[2]), 1e-2),
                |inputs| oracle(inputs, width, 1e-2),
            );
            layer.unwrap_or_else(|error| panic!("layer_norm {shape:?}: {error}"));
            let rms = check::gradient(
                device,
                &[x.clone(), weight.clone()],
                |v| v[0].rms_norm(v[1], 1e-2),
                |inputs| oracle(inputs, width, 1e-2),
            );
            rms.unwrap_or_else(|error| panic!("rms_norm {shape:?}: {error}"));
        }
    }
}
