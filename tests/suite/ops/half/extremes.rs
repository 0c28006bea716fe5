//! Halves at the ends of what they hold: operations compute in `F32`, whatever is fused, so that only what they are given and
//! what they give is rounded.

use shadegrad::ops::pointwise::{Row, TABLE};
use shadegrad::tape::{Fusion, Precision};
use shadegrad::{DType, Device, Tape, Var, f16};

use super::halves;
use crate::common::devices;

const POINTS: [f32; 24] = [
    65504.0, -65504.0, 32768.0, 4096.0, -4096.0, 300.0, -300.0, 60.0, -60.0, 11.0, -11.0, 1.0,
    -1.0, 0.5, 0.001, -0.001, 6.2e-5, -6.2e-5, 0.0, -0.0, 1.5, 2.0, 3.0, -0.25,
];

/// Values and gradients of a row, as `F32`.
fn of(
    device: &Device,
    fusion: Fusion,
    row: &'static Row,
    dtype: DType,
    others: usize,
) -> Vec<Vec<f32>> {
    let tape = Tape::training(device);
    tape.set_fusion(fusion);
    let n = POINTS.len();
    let inputs: Vec<Var<'_>> = (0..row.inputs.len())
        .map(|index| {
            let values: Vec<f32> = (0..n)
                .map(|i| f16::from_f32(POINTS[(i + index * others) % n]).to_f32())
                .collect();
            tape.variable([n], &values).cast(dtype)
        })
        .collect();
    let attributes: Vec<f32> = match row.name {
        "clamp" => vec![-2.0, 3.0],
        "powi" => vec![3.0],
        _ => row.attributes.iter().map(|_| 0.75).collect(),
    };
    let y = row.apply(&inputs, &attributes);
    let mut results = vec![y];
    let weights: Vec<f32> = (0..n).map(|i| [1.0, 0.5, -2.0][i % 3]).collect();
    let loss = (y.cast(DType::F32) * tape.input([n], &weights)).sum_all();
    if loss.needs_gradient() {
        let gradients = tape.backward(loss);
        results.extend(inputs.iter().filter_map(|&x| gradients.of(x)));
    }
    let fetched: Vec<_> = results
        .into_iter()
        .map(|x| tape.fetch::<f32>(x.cast(DType::F32)))
        .collect();
    tape.run().unwrap();
    fetched
        .iter()
        .map(|fetched| fetched.get().unwrap())
        .collect()
}

/// What lies within halves comes out as it does in `F32`.
#[test]
fn rows_of_the_table() {
    let mut wrong = Vec::new();
    let rows = TABLE.iter().filter(|row| !row.inputs.is_empty());
    let rows: Vec<_> = rows.filter(|row| row.name != "to_float").collect();
    for device in devices() {
        for (fusion, others) in [(Fusion::ON, 1), (Fusion::OFF, 0), (Fusion::OFF, 7)] {
            for row in &rows {
                let [half, wide] =
                    [DType::F16, DType::F32].map(|dtype| of(device, fusion, row, dtype, others));
                assert_eq!(half.len(), wide.len(), "{}", row.name);
                let pairs = half.iter().flatten().zip(wide.iter().flatten());
                for (place, (&half, &wide)) in pairs.enumerate() {
                    let expected = f16::from_f32(wide).to_f32();
                    // Results that gradients are made of are rounded where they are stored: `1 − tanh²` loses digits.
                    let off = (half - expected).abs();
                    let is_near = off <= expected.abs() / 50.0 + 1e-4 || half == expected;
                    // Beyond the largest half, what is only read where it is computed is not rounded.
                    if !(is_near || wide.is_nan() || expected.is_infinite()) {
                        let point = POINTS[place % POINTS.len()];
                        wrong.push(format!("{} at {point}: {half}, expected {wide}", row.name));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Squares that halves don't hold, above and below.
#[test]
fn losses_and_variances() {
    for device in devices() {
        for fusion in [Fusion::ON, Fusion::OFF] {
            for (size, count) in [(2000.0f32, 7), (1e-4, 7), (60000.0, 3)] {
                let tape = Tape::training(device);
                tape.set_fusion(fusion);
                tape.set_precision(Precision::Mixed);
                let x: Vec<f32> = (0..count)
                    .map(|i| size * (i as f32 - 1.0) / count as f32)
                    .collect();
                let x: Vec<f32> = halves(&x).iter().map(|x| x.to_f32()).collect();
                let leaf = tape.variable([count], &x);
                let half = leaf.cast(DType::F16);
                let target = tape.input([count], &halves(&vec![0.0; count]));
                let losses = [half.mse(target), half.var(&[0]), half.var_unbiased(&[0])];
                let gradients = losses.map(|loss| {
                    assert_eq!(loss.dtype(), DType::F32);
                    tape.fetch::<f32>(tape.backward(loss).of(leaf).unwrap())
                });
                let losses = losses.map(|loss| tape.fetch::<f32>(loss));
                tape.run().unwrap();
                let n = count as f32;
                let mean = x.iter().sum::<f32>() / n;
                let squares = |mean: f32| x.iter().map(|x| (x - mean).powi(2)).sum::<f32>();
                let expected = [
                    squares(0.0) / n,
                    squares(mean) / n,
                    squares(mean) / (n - 1.0),
                ];
                let slopes: [Vec<f32>; 3] = [
                    x.iter().map(|x| 2.0 * x / n).collect(),
                    x.iter().map(|x| 2.0 * (x - mean) / n).collect(),
                    x.iter().map(|x| 2.0 * (x - mean) / (n - 1.0)).collect(),
                ];
                for (index, loss) in losses.iter().enumerate() {
                    let (loss, expected) = (loss.item().unwrap(), expected[index]);
                    let off = (loss / expected - 1.0).abs();
                    assert!(off < 1e-4, "{index} of {size}: {loss}, expected {expected}");
                    let gradient = gradients[index].get().unwrap();
                    for (actual, expected) in gradient.iter().zip(&slopes[index]) {
                        let subnormal = f16::MIN_POSITIVE_SUBNORMAL.to_f32();
                        let most = expected.abs() / 500.0 + 1e-6 * size + subnormal;
                        assert!(
                            (actual - expected).abs() <= most,
                            "{index} of {size}: {actual}, expected {expected}"
                        );
                    }
                }
            }
            // Surely right, and surely wrong.
            let tape = Tape::training(device);
            let x = tape.input([2], &halves(&[-20.0, 20.0]));
            let loss =
                tape.fetch::<f32>(x.binary_cross_entropy(tape.input([2], &halves(&[0.0, 1.0]))));
            tape.run().unwrap();
            assert!(
                (loss.item().unwrap() / 2.061e-9 - 1.0).abs() < 1e-3,
                "{}",
                loss.item().unwrap()
            );
        }
    }
}
