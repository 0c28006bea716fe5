//! Halves in memory: every value that there is, at odd places and beside neighbours that share a word with them.

use shadegrad::sampling::{Sampler, SamplingConfig};
use shadegrad::tape::Fusion;
use shadegrad::{DType, Tape, Tensor, f16};

use super::halves;
use crate::common::{Random, devices};

#[test]
fn tensors_come_and_go() {
    for device in devices() {
        for count in [1, 2, 3, 7, 64, 1001] {
            let values: Vec<f32> = (0..count).map(|i| i as f32 / 7.0 - 3.0).collect();
            let values = halves(&values);
            let tensor = Tensor::new(device, [count], &values).unwrap();
            assert_eq!(tensor.to_vec::<f16>().unwrap(), values);
            let tape = Tape::inference(device);
            let x = tape.tensor(&tensor);
            let same = tape.fetch::<f16>(x);
            let wide = tape.fetch::<f32>(x.cast(DType::F32));
            let doubled = tape.fetch::<f16>(x + x);
            let from_host = tape.fetch::<f16>(tape.input([count], &values) * 1.0);
            let last = tape.fetch::<f16>(x.slice(0, count - 1..count));
            tape.run().unwrap();
            assert_eq!(same.get().unwrap(), values);
            assert_eq!(from_host.get().unwrap(), values);
            assert_eq!(last.get().unwrap(), values[count - 1..]);
            let widened: Vec<f32> = values.iter().map(|x| x.to_f32()).collect();
            assert_eq!(wide.get().unwrap(), widened);
            let twice: Vec<f32> = widened.iter().map(|x| 2.0 * x).collect();
            assert_eq!(doubled.get().unwrap(), halves(&twice));
        }
    }
}

/// Whether they are the same number, where subnormal ones may be zero.
fn is_same(actual: f32, expected: f32) -> bool {
    let may_be_zero = expected.abs() < f32::from(f16::MIN_POSITIVE);
    actual == expected || (actual.is_nan() && expected.is_nan()) || (may_be_zero && actual == 0.0)
}

/// All halves are widened to what they are.
#[test]
fn every_half_is_widened() {
    let all: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
    for device in devices() {
        let tape = Tape::inference(device);
        let x = tape.input([all.len()], &all);
        let wide = tape.fetch::<f32>(x.cast(DType::F32));
        tape.run().unwrap();
        for (half, wide) in all.iter().zip(wide.get().unwrap()) {
            assert!(is_same(wide, half.to_f32()), "{half:?} is {wide}");
        }
    }
}

/// What is rounded: the nearest half; infinite from halfway beyond the largest on; what is not a number stays so.
#[test]
fn the_nearest_half() {
    let mut values = vec![
        65_504.0,
        65_519.0,
        65_520.0,
        1e6,
        f32::MAX,
        f32::INFINITY,
        f32::NAN,
        0.0,
        1e-8,
        6e-8,
        1e-5,
        6.1e-5,
        1.0 + 1.0 / 2048.0,
        1.0 + 3.0 / 2048.0,
        2049.0,
        2051.0,
    ];
    values.extend(values.clone().iter().map(|x| -x));
    values.extend(Random::new(1).values(101, -3.0, 3.0));
    for device in devices() {
        for count in [values.len(), values.len() - 1] {
            let values = &values[..count];
            let tape = Tape::inference(device);
            let rounded = tape.fetch::<f16>(tape.input([count], values).cast(DType::F16));
            tape.run().unwrap();
            for (value, half) in values.iter().zip(rounded.get().unwrap()) {
                let expected = f16::from_f32(*value).to_f32();
                assert!(is_same(half.to_f32(), expected), "{value} is {half}");
            }
        }
    }
}

/// Rows hidden by −∞ in halves count for nothing; where all are hidden, nothing is a number, as in `F32`.
#[test]
fn infinite_masks() {
    let mask = halves(&[0.0, f32::NEG_INFINITY, 0.0, 1.0, f32::NEG_INFINITY, 1.0]);
    for device in devices() {
        let tape = Tape::inference(device);
        let x = tape.input([2, 3], &halves(&[0.5; 6]));
        let p = tape.fetch::<f16>((x + tape.input([2, 3], &mask)).softmax().cast(DType::F16));
        tape.run().unwrap();
        assert_eq!(p.get().unwrap(), halves(&[0.5, 0.0, 0.5, 0.5, 0.0, 0.5]));
    }
}

/// Elements of all types beside one another in the buffer of inputs, read by one kernel.
#[test]
fn inputs_of_all_types() {
    for device in devices() {
        for count in [1, 3, 8, 35] {
            let tape = Tape::inference(device);
            let whole: Vec<f32> = (0..count).map(|i| i as f32).collect();
            let odd = tape.input([1], &halves(&[0.25]));
            let half = tape.input([count], &halves(&whole));
            let wide = tape.input([count], &whole);
            let words: Vec<u32> = (0..count as u32).collect();
            let sum = half + wide + tape.input([count], &words).to_f32() + odd;
            assert_eq!(sum.dtype(), DType::F32);
            let sum = tape.fetch::<f32>(sum);
            tape.run().unwrap();
            let expected: Vec<f32> = whole.iter().map(|x| 3.0 * x + 0.25).collect();
            assert_eq!(sum.get().unwrap(), expected);
        }
    }
}

/// Tensors of halves, and parts of such, overwritten in place and by copies.
#[test]
fn assigned_tensors() {
    for device in devices() {
        for fusion in [Fusion::ON, Fusion::OFF] {
            let tensor = Tensor::new(device, [9], &halves(&[1.0; 9])).unwrap();
            let (middle, end) = (tensor.part(2, [4]), tensor.part(6, [3]));
            let tape = Tape::inference(device);
            tape.set_fusion(fusion);
            let before = tape.fetch::<f16>(tape.tensor(&tensor) * 2.0);
            tape.assign(&middle, tape.tensor(&middle) + 3.0);
            // Backwards, from an odd element of itself on.
            let row = tape.tensor(&tensor).slice(0, 1..4);
            tape.assign(&end, row);
            tape.run().unwrap();
            assert_eq!(before.get().unwrap(), halves(&[2.0; 9]));
            let expected = [1.0, 1.0, 4.0, 4.0, 4.0, 4.0, 1.0, 4.0, 4.0];
            assert_eq!(tensor.to_vec::<f16>().unwrap(), halves(&expected));
            end.write(&halves(&[7.0, 8.0, 9.0])).unwrap();
            assert_eq!(middle.to_vec::<f16>().unwrap(), halves(&[4.0; 4]));
            assert_eq!(end.to_vec::<f16>().unwrap(), halves(&[7.0, 8.0, 9.0]));
        }
    }
}

/// Odd rows of a cache at odd places, from either type; neighbours stay.
#[test]
fn written_rows() {
    for device in devices() {
        for dtype in [DType::F16, DType::F32] {
            let cache = Tensor::new(device, [2, 3, 5], &halves(&[0.5; 30])).unwrap();
            let tape = Tape::inference(device);
            let rows = tape.input(
                [2, 1, 5],
                &[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0],
            );
            tape.write_rows(&cache, rows.cast(dtype), tape.input([2], &[1u32, 2]));
            tape.run().unwrap();
            let mut expected = [0.5; 30];
            expected[5..10].copy_from_slice(&[1.0, 2.0, 3.0, 4.0, 5.0]);
            expected[25..].copy_from_slice(&[6.0, 7.0, 8.0, 9.0, 10.0]);
            assert_eq!(
                cache.to_vec::<f16>().unwrap(),
                halves(&expected),
                "{dtype:?}"
            );
        }
    }
}

/// The first of equals, which roundings to halves make.
#[test]
fn largest_halves() {
    for device in devices() {
        for columns in [1, 7, 300] {
            let values = Random::new(4).values(3 * columns, 1.0, 1.01);
            let values = halves(&values);
            let tape = Tape::inference(device);
            let places = tape.fetch::<u32>(tape.input([3, columns], &values).argmax(1));
            tape.run().unwrap();
            let first = |row: &[f16]| {
                let top = row.iter().copied().fold(f16::MIN, f16::max);
                row.iter().position(|&x| x == top).unwrap() as u32
            };
            let expected: Vec<u32> = values.chunks(columns).map(first).collect();
            assert_eq!(places.get().unwrap(), expected);
        }
    }
}

/// Tokens are drawn from logits of halves as from the same numbers in `f32`.
#[test]
fn draws() {
    let (rows, tokens) = (5, 1003);
    let logits = Random::new(8).values(rows * tokens, -6.0, 6.0);
    let logits = halves(&logits);
    let config = SamplingConfig {
        temperature: 0.9,
        top_k: Some(200),
        top_p: Some(0.95),
    };
    for device in devices() {
        let samplers = || (0..rows as u64).map(|seed| Sampler::new(config, seed).unwrap());
        let tape = Tape::inference(device);
        let x = tape.input([rows, tokens], &logits);
        let draw = |x| Sampler::draw(&mut samplers().collect::<Vec<_>>(), x).fetch();
        let (half, wide) = (draw(x), draw(x.cast(DType::F32)));
        tape.run().unwrap();
        let [half, wide] = [half, wide].map(|drawn| drawn.get().unwrap());
        let tokens = |drawn: Vec<shadegrad::Result<u32>>| -> Vec<u32> {
            drawn.into_iter().map(|token| token.unwrap()).collect()
        };
        assert_eq!(tokens(half), tokens(wide));
    }
}
