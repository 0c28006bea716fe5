//! Masks and dropout.

use shadegrad::ops::attention::{Attention, attention};
use shadegrad::{DType, Device, Shape, Tape};

use super::case::{Case, TestMask};
use super::reference::{Size, causal_bias};
use super::{config, devices};
use crate::common::{Random, device};

#[test]
fn packed_with_masks() {
    let mut random = Random::new(5);
    let cases = [
        (13, 8, true, DType::F32),
        (70, 5, true, DType::U32),
        (70, 8, false, DType::F32),
        (13, 5, false, DType::F32),
    ];
    for (n, (context, head_dim, is_boolean, dtype)) in cases.into_iter().enumerate() {
        let size = Size::new(2, 3, context, context, head_dim);
        for device in devices() {
            Case {
                device,
                size,
                config: config(3, n % 3 == 0).with_scale(0.7),
                mask: Some(TestMask::draw(&mut random, size, is_boolean, dtype)),
                seed: 200 + n as u64,
            }
            .check_packed();
        }
    }
}

/// All kinds of attention at once under a mask, with dropout's kernels left out: masks meet windows and biases in one function.
#[test]
fn kinds_under_masks() {
    let mut random = Random::new(11);
    for (n, context) in [11, 45].into_iter().enumerate() {
        let size = Size::new(2, 4, context, context, 8);
        for device in devices() {
            Case {
                device,
                size,
                config: Attention::causal(4)
                    .with_kv_heads(2)
                    .with_window(7)
                    .with_alibi(),
                mask: Some(TestMask::draw(&mut random, size, n == 0, DType::F32)),
                seed: 800 + n as u64,
            }
            .check_packed();
        }
    }
}

/// A query that may attend to nothing gives zeros, and no gradient that is not a number.
#[test]
fn fully_masked_rows() {
    for device in devices() {
        for is_boolean in [true, false] {
            let size = Size::new(1, 2, 9, 9, 8);
            let hidden = if is_boolean { 0.0 } else { f32::NEG_INFINITY };
            let values = (0..9).map(|i| if i % 2 == 0 { hidden } else { 1.0 });
            let case = Case {
                device,
                size,
                config: Attention::causal(2),
                mask: Some(TestMask {
                    shape: Shape::new(&[9, 1]),
                    values: values.collect(),
                    is_boolean,
                    dtype: DType::F32,
                }),
                seed: 400,
            };
            case.check_packed();
            let (out, _) = case.run_packed(&case.operands());
            assert!(out.chunks(16).step_by(2).flatten().all(|&x| x == 0.0));
        }
    }
}

#[test]
fn the_same_bits_twice() {
    for device in devices() {
        let case = Case {
            device,
            size: Size::new(2, 3, 40, 40, 24),
            config: Attention::causal(3).with_dropout(0.2),
            mask: None,
            seed: 500,
        };
        let operands = case.operands();
        let bits = |(out, dx): (Vec<f32>, Vec<f32>)| -> Vec<u32> {
            out.iter().chain(&dx).map(|x| x.to_bits()).collect()
        };
        let first = bits(case.run_packed(&operands));
        assert_eq!(first, bits(case.run_packed(&operands)));
    }
}

/// With unit vectors as values, the result is the dropped weights themselves: what each weight was multiplied by.
fn dropout_factors(case: &Case, tape_seed: (u64, u64)) -> Vec<f64> {
    let s = case.size;
    assert!(s.keys <= s.head_dim);
    let values: Vec<f32> = (0..s.batch * s.heads * s.keys * s.head_dim)
        .map(|index| f32::from(index / s.head_dim % s.keys == index % s.head_dim))
        .collect();
    let tape = Tape::training(case.device);
    tape.set_seed(tape_seed.0, tape_seed.1);
    let q = tape.input(
        [s.batch, s.heads, s.queries, s.head_dim],
        &vec![0.0f32; s.rows() * s.head_dim],
    );
    let v = tape.input([s.batch, s.heads, s.keys, s.head_dim], &values);
    let k = v * 0.0;
    let out = tape.fetch::<f32>(attention(q, k, v, None, &case.config));
    tape.run().unwrap();
    let out = out.get().unwrap();
    let bias = causal_bias(s, case.config.causal);
    (0..s.weights())
        .map(|pair| {
            let (row, j) = (pair / s.keys, pair % s.keys);
            let seen = bias[row * s.keys..(row + 1) * s.keys]
                .iter()
                .flatten()
                .count();
            f64::from(out[row * s.head_dim + j]) * seen as f64
        })
        .collect()
}

/// The rate, that all devices' kernels drop the same weights, and that result and gradients are those of attention with
/// these weights dropped.
pub fn check_dropout(devices: &[&'static Device], context: usize, head_dim: usize) {
    let case = |device| Case {
        device,
        size: Size::new(3, 4, context, context, head_dim),
        config: Attention::full(4).with_dropout(0.3),
        mask: None,
        seed: 600,
    };
    let factors = dropout_factors(&case(devices[0]), (7, 3));
    let kept = 1.0 / 0.7;
    let count = factors.len() as f64;
    assert!(factors.iter().all(|&f| f == 0.0 || (f - kept).abs() < 1e-5));
    let dropped = factors.iter().filter(|&&f| f == 0.0).count() as f64;
    let deviation = (count * 0.3 * 0.7).sqrt();
    assert!(
        (dropped - 0.3 * count).abs() < 4.0 * deviation,
        "{dropped} of {count} weights were dropped"
    );
    // Another step or seed drops others.
    let zeros = |factors: &[f64]| factors.iter().map(|&f| f == 0.0).collect::<Vec<bool>>();
    for other in [(7, 4), (8, 3)] {
        let others = zeros(&dropout_factors(&case(devices[0]), other));
        let common = zeros(&factors)
            .iter()
            .zip(&others)
            .filter(|(a, b)| **a && **b)
            .count();
        assert!((common as f64) < 0.15 * count);
    }
    for &device in devices {
        let case = case(device);
        let own = dropout_factors(&case, (7, 3));
        assert_eq!(zeros(&factors), zeros(&own));
        let operands = case.operands();
        let expected = case.expected(&operands, &factors);
        let (out, dx) = case.run_packed(&operands);
        case.compare_packed(&out, &dx, &expected);
    }
}

#[test]
fn dropout() {
    // The last takes the kernels for many rows.
    for context in [16, 24, 40] {
        check_dropout(&devices(), context, context.max(24));
    }
}

#[test]
fn inference_drops_nothing() {
    let data = Random::new(8).values(2 * 5 * 48, -1.0, 1.0);
    let run = |dropout: f32| {
        let tape = Tape::inference(device());
        let x = tape.input([2, 5, 48], &data);
        let out = x.packed_attention(&Attention::causal(2).with_dropout(dropout));
        let out = tape.fetch::<f32>(out);
        tape.run().unwrap();
        out.get().unwrap()
    };
    assert_eq!(run(0.0), run(0.5));
}
