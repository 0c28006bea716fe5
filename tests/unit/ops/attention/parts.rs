//! How attention over many rows is cut into dispatches, and that several of them give what one gives.

use std::cell::Cell;

use super::*;
use crate::gpu::{DeviceOptions, MOST_ITERATIONS};
use crate::ops::attention::{Attention, Mask, attention};
use crate::{AdapterClass, Device, Tape};

thread_local! {
    static MOST_STEPS: Cell<usize> = const { Cell::new(usize::MAX) };
}

pub(super) fn steps_of(allowed: usize) -> usize {
    allowed.min(MOST_STEPS.get())
}

/// Results and gradients of two sorts of attention of `queries` and `keys` rows, with kernels for GPUs if so wanted, and
/// the dispatches.
fn run(class: Option<AdapterClass>, head_dim: usize, rows: [usize; 2]) -> (Vec<f32>, u64) {
    let options = DeviceOptions {
        class,
        portable: class.is_some(),
        ..DeviceOptions::default()
    };
    let device = Device::with_options(&options).unwrap_or_else(|error| panic!("{error}"));
    let tape = Tape::training(&device);
    tape.set_seed(1, 2);
    let [queries, keys] = rows;
    let wave = |n: usize, by: f32| -> Vec<f32> { (0..n).map(|i| (i as f32 * by).sin()).collect() };
    let masks = [None, Some(())];
    let mut results = Vec::new();
    for (mask, config) in masks.into_iter().zip([
        Attention::causal(2).with_kv_heads(1),
        Attention::full(2).with_kv_heads(1).with_dropout(0.2),
    ]) {
        let shape = |heads: usize, rows: usize| [2, heads, rows, head_dim];
        let operand = |[b, h, t, d]: [usize; 4], by: f32| {
            tape.variable([b, h, t, d], &wave(b * h * t * d, by))
        };
        let q = operand(shape(2, queries), 0.37);
        let k = operand(shape(1, keys), 0.73);
        let v = operand(shape(1, keys), 0.59);
        let mask = mask.map(|()| {
            let seen: Vec<u32> = (0..queries * keys)
                .map(|pair| u32::from(pair / keys % 5 != 1 && pair % 7 != 2))
                .collect();
            Mask::Boolean(tape.input([queries, keys], &seen))
        });
        let out = attention(q, k, v, mask, &config);
        let upstream = operand(shape(2, queries), 0.91);
        let gradients = tape.backward_from(out, upstream);
        let gradients = [q, k, v].map(|x| gradients.of(x).unwrap());
        results.extend(
            [&[out][..], &gradients]
                .concat()
                .iter()
                .map(|&x| tape.fetch::<f32>(x)),
        );
    }
    tape.run().unwrap();
    let dispatches = device.stats().dispatches;
    let results = results.iter().flat_map(|x| x.get().unwrap()).collect();
    (results, dispatches)
}

#[test]
fn several_parts_give_what_one_gives() {
    let gpu = Some(AdapterClass::Gpu);
    for (class, head_dim, rows) in [
        (None, 5, [20, 30]),
        (None, 8, [50, 90]),
        (gpu, 4, [70, 90]),
        (gpu, 72, [70, 150]),
    ] {
        let (one, dispatches) = run(class, head_dim, rows);
        MOST_STEPS.set(1);
        let (several, more) = run(class, head_dim, rows);
        MOST_STEPS.set(usize::MAX);
        let what = format!("{class:?}, {head_dim}, {rows:?}");
        assert!(
            more > dispatches + 3,
            "{what}: {more} dispatches, {dispatches}"
        );
        for (at, (a, b)) in one.iter().zip(&several).enumerate() {
            let is_close = (a - b).abs() <= 1e-5 * (1.0 + a.abs());
            assert!(is_close, "{what}: {a}, {b} at {at} of {}", one.len());
        }
    }
}

#[test]
fn parts_follow_one_another_and_stay_within_the_limit() {
    let config = Attention::full(1);
    for window in [None, Some(1), Some(500), Some(40_000)] {
        let config = Attention {
            window,
            ..config.clone()
        };
        let problem = Problem::of(&config, false, [1; 4]);
        for (step, iterations, times) in [(8, 10, 1), (4, 1, 1), (64, 170, 7), (8, 12, 1000)] {
            for others in [1, 7, 8, 52_000, 52_001, 400_000] {
                let visits = Visits {
                    own: 128,
                    others,
                    step,
                    iterations,
                    times,
                };
                let parts = visits.parts(&problem, MOST_ITERATIONS);
                assert_eq!(visits.parts(&problem, usize::MAX).len(), 1);
                assert!(parts[0].is_first && parts[0].begin == 0);
                assert!(parts.last().unwrap().is_last);
                assert!(parts.last().unwrap().end >= others);
                for (one, next) in parts.iter().zip(&parts[1..]) {
                    assert_eq!(one.end, next.begin);
                    assert!(one.end.is_multiple_of(step) && !one.is_last && !next.is_first);
                }
                assert!(parts.iter().all(|part| part.iterations <= MOST_ITERATIONS));
            }
        }
    }
}
