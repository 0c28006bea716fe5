//! Attention to halves on matrix units, against `f64` from the rounded operands; and by the other kernels where they don't
//! serve.

use shadegrad::ops::attention::{Attention, attention};
use shadegrad::{DType, Device, DeviceOptions, Feature, Tape, f16};

use super::case::{Case, Layout, TestMask};
use super::reference::{Size, by_position, pack};
use crate::common::{Random, assert_close, matrix_units, open, wide};

/// The four operands, which are no different as halves.
fn rounded(operands: [Vec<f32>; 4]) -> [Vec<f32>; 4] {
    operands.map(|x| x.iter().map(|&x| f16::from_f32(x).to_f32()).collect())
}

/// Result and gradients of q, k and v, dense; NaN lies between what the layout leaves apart.
fn separate(case: &Case, operands: &[Vec<f32>; 4], layout: Layout) -> [Vec<f32>; 4] {
    let s = case.size;
    let rows = [s.queries, s.keys, s.keys];
    let extents = [0, 1, 2].map(|n| [s.batch, case.heads()[n], rows[n], s.head_dim]);
    let tape = Tape::training(case.device);
    tape.set_seed(7, 3);
    let variables = [0, 1, 2].map(|n| {
        let data = layout.arrange(&operands[n], f32::NAN, extents[n]);
        tape.variable(layout.shape(extents[n]), &data)
    });
    let [q, k, v] = [0, 1, 2].map(|n| layout.view(variables[n].cast(DType::F16), extents[n]));
    let mask = case.mask.as_ref().map(|mask| mask.on(&tape));
    let out = attention(q, k, v, mask, &case.config);
    assert_eq!(out.dtype(), DType::F16);
    let upstream = tape.input(out.shape(), &operands[3]).cast(DType::F16);
    let gradients = tape.backward_from(out, upstream);
    let fetched = [0, 1, 2].map(|n| {
        let gradient = layout.view(gradients.of(variables[n]).unwrap(), extents[n]);
        tape.fetch::<f32>(gradient)
    });
    let out = tape.fetch::<f32>(out.cast(DType::F32));
    tape.run().unwrap();
    let [q, k, v] = fetched.map(|x| x.get().unwrap());
    [out.get().unwrap(), q, k, v]
}

/// Of the packed form: result and gradient, as `[B, T, …]`.
fn packed(case: &Case, [q, k, v, w]: &[Vec<f32>; 4]) -> [Vec<f32>; 2] {
    let s = case.size;
    let arrange = |x: &Vec<f32>, heads| by_position(x, heads, s.queries, s.head_dim);
    let [hq, hk, hv] = case.heads();
    let rows = s.batch * s.queries;
    let data = pack([&arrange(q, hq), &arrange(k, hk), &arrange(v, hv)], rows);
    let tape = Tape::training(case.device);
    tape.set_seed(7, 3);
    let x = tape.variable([s.batch, s.queries, data.len() / rows], &data);
    let qkv = x.cast(DType::F16);
    let out = match &case.mask {
        Some(mask) => qkv.masked_packed_attention(mask.on(&tape), &case.config),
        None => qkv.packed_attention(&case.config),
    };
    let upstream = tape.input(out.shape(), &arrange(w, hq)).cast(DType::F16);
    let dx = tape.fetch::<f32>(tape.backward_from(out, upstream).of(x).unwrap());
    let out = tape.fetch::<f32>(out.cast(DType::F32));
    tape.run().unwrap();
    [out.get().unwrap(), dx.get().unwrap()]
}

/// Half of the last of 11 bits: what rounding to `f16` is off by at most, relatively.
const ROUNDING: f64 = 1.0 / 2048.0;

/// Weights are rounded for the product with values, and so are the gradients of scores; what is given is rounded again, and
/// scores' gradients contain the rounded result. These four roundings are of numbers as large as what adds up to an element,
/// of which some elements are small differences: so errors are measured by the largest element.
fn assert_rounded(what: &str, actual: &[f32], expected: &[f64]) {
    let largest = expected.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
    assert_close(what, actual, expected, ROUNDING, 3.0 * ROUNDING * largest);
}

/// Both forms, where there are two.
fn check(case: &Case, layout: Layout) {
    let s = case.size;
    let operands = rounded(case.operands());
    let [q, k, v, w] = &operands;
    let expected = case.expected_of(
        [q, k, v].map(|x| wide(x)),
        &wide(w),
        &vec![1.0; s.weights()],
    );
    let name = case.name(&format!("halves, {layout:?}"));
    let all = separate(case, &operands, layout);
    let names = ["result", "queries", "keys", "values"];
    let expected = [expected.out, expected.dq, expected.dk, expected.dv];
    for (n, what) in names.iter().enumerate() {
        assert_rounded(&format!("{what}, {name}"), &all[n], &expected[n]);
    }
    if s.queries == s.keys {
        let [out, dx] = packed(case, &operands);
        let arrange = |x: &Vec<f64>, heads| by_position(x, heads, s.queries, s.head_dim);
        let [out64, q, k, v] = &expected;
        let [hq, hk, hv] = case.heads();
        assert_rounded(&format!("packed {name}"), &out, &arrange(out64, hq));
        let parts = [arrange(q, hq), arrange(k, hk), arrange(v, hv)];
        let expected = pack([&parts[0], &parts[1], &parts[2]], s.batch * s.queries);
        assert_rounded(&format!("packed gradient, {name}"), &dx, &expected);
    }
}

fn case(device: &'static Device, size: Size, config: Attention, seed: u64) -> Case {
    Case {
        device,
        size,
        config,
        mask: None,
        seed,
    }
}

/// Whether the device has compiled attention kernels with matrices.
fn has_matrices(device: &Device) -> bool {
    let of = |(name, text): &(&str, String)| {
        name.starts_with("attention") && text.contains("coopMultiplyAdd")
    };
    device.kernels().iter().any(of)
}

/// Batch, heads, heads of keys, queries, keys: around matrices, quads and tiles, and fewer than units serve for.
const SIZES: [[usize; 5]; 9] = [
    [1, 1, 1, 16, 16],
    [2, 3, 3, 17, 17],
    [1, 2, 1, 31, 31],
    [2, 4, 2, 65, 65],
    [3, 2, 1, 50, 70],
    [1, 6, 3, 16, 129],
    [1, 2, 2, 130, 19],
    [2, 2, 2, 1, 1],
    [1, 4, 1, 1, 100],
];

fn check_sizes(device: &'static Device, head_dim: usize, sizes: &[[usize; 5]], layouts: &[Layout]) {
    for (n, &[batch, heads, kv_heads, queries, keys]) in sizes.iter().enumerate() {
        let size = Size::new(batch, heads, queries, keys, head_dim);
        for causal in [true, false] {
            let config = super::config(heads, causal).with_kv_heads(kv_heads);
            let layout = layouts[(n + usize::from(causal)) % layouts.len()];
            check(&case(device, size, config, 970 + n as u64), layout);
        }
    }
}

/// Within what WebGPU's default limits leave of workgroup memory.
#[test]
fn sizes_and_layouts() {
    let Some(device) = matrix_units() else {
        return;
    };
    check_sizes(device, 8, &SIZES, &[Layout::Dense, Layout::Heads]);
    check_sizes(device, 32, &SIZES[3..5], &[Layout::Heads]);
    check_sizes(device, 24, &SIZES[1..3], &[Layout::Columns]);
    check_sizes(device, 13, &SIZES[2..5], &[Layout::Slice]);
    assert!(has_matrices(device));
}

/// With all the workgroup memory that the adapter has; nobody has written to what is read by mistake.
#[test]
fn large_heads() {
    if matrix_units().is_none() {
        return;
    }
    let device = open(&DeviceOptions {
        matrix_units: Feature::On,
        poison: true,
        checked_kernels: true,
        ..DeviceOptions::default()
    });
    check_sizes(device, 64, &SIZES[3..7], &[Layout::Heads]);
    check_sizes(device, 128, &SIZES[2..3], &[Layout::Dense]);
    assert!(has_matrices(device));
}

#[test]
fn windows_biases_and_masks() {
    let Some(device) = matrix_units() else {
        return;
    };
    let mut random = Random::new(13);
    let size = Size::new(2, 4, 70, 70, 8);
    let configs = [
        Attention::causal(4).with_window(20),
        Attention::full(4).with_window(33).with_scale(0.7),
        Attention::causal(4).with_kv_heads(2).with_alibi(),
    ];
    for (n, config) in configs.into_iter().enumerate() {
        check(&case(device, size, config, 980 + n as u64), Layout::Heads);
    }
    for (n, is_boolean) in [true, false].into_iter().enumerate() {
        let config = Attention::causal(4).with_window(40);
        let mut case = case(device, size, config, 985 + n as u64);
        case.mask = Some(TestMask::draw(&mut random, size, is_boolean, DType::F32));
        check(&case, Layout::Heads);
    }
}

/// The weights that other kernels drop, and the same bits in every run.
#[test]
fn dropout() {
    let Some(device) = matrix_units() else {
        return;
    };
    let off = open(&DeviceOptions {
        matrix_units: Feature::Off,
        ..DeviceOptions::default()
    });
    let size = Size::new(2, 3, 37, 70, 8);
    let config = Attention::causal(3).with_dropout(0.3);
    let [own, other] = [device, off].map(|device| case(device, size, config.clone(), 990));
    let operands = rounded(own.operands());
    let run = |case: &Case| separate(case, &operands, Layout::Heads);
    let (first, expected) = (run(&own), run(&other));
    for (actual, expected) in first.iter().zip(&expected) {
        assert_rounded("dropout", actual, &wide(expected));
    }
    let bits = |x: [Vec<f32>; 4]| x.map(|x| x.iter().map(|x| x.to_bits()).collect::<Vec<u32>>());
    let first = bits(first);
    for _ in 0..2 {
        assert_eq!(first, bits(run(&own)));
    }
}

/// Weights that are divided by the little that is kept, where scores have risen nearly as far as they may: no more than halves
/// hold.
#[test]
fn hardly_anything_kept() {
    let Some(device) = matrix_units() else {
        return;
    };
    let off = open(&DeviceOptions {
        matrix_units: Feature::Off,
        ..DeviceOptions::default()
    });
    let size = Size::new(1, 2, 70, 70, 8);
    for dropout in [0.9, 0.99] {
        let config = Attention::full(2).with_scale(1.0).with_dropout(dropout);
        let [own, other] = [device, off].map(|device| case(device, size, config.clone(), 994));
        let mut operands = own.operands();
        let first = |row: &mut [f32], x| {
            row.iter_mut()
                .enumerate()
                .for_each(|(e, y)| *y = if e == 0 { x } else { 0.0 })
        };
        operands[0].chunks_mut(8).for_each(|row| first(row, 1.0));
        let keys = operands[1].chunks_mut(8).enumerate();
        keys.for_each(|(j, row)| first(row, if j % 70 < 32 { 0.0 } else { 7.9 }));
        let operands = rounded(operands);
        let run = |case: &Case| separate(case, &operands, Layout::Heads);
        let (actual, expected) = (run(&own), run(&other));
        for (n, what) in [(0, "result"), (3, "values")] {
            let what = format!("{what}, dropout {dropout}");
            assert_rounded(&what, &actual[n], &wide(&expected[n]));
        }
        // Of queries, little is left but rounding: the keys that have weight are the same.
        assert!(actual.iter().flatten().all(|x| x.is_finite()));
    }
}

/// The further keys are, the larger their scores, up to hundreds: what was added up before is made small again and again.
/// And the other way round: what comes later has hardly a weight.
#[test]
fn rising_and_falling_scores() {
    let Some(device) = matrix_units() else {
        return;
    };
    let size = Size::new(1, 2, 90, 90, 8);
    for is_rising in [true, false] {
        let case = case(device, size, Attention::full(2).with_scale(1.0), 991);
        let mut operands = case.operands();
        for (i, row) in operands[1].chunks_mut(8).enumerate() {
            let j = if is_rising { i % 90 } else { 89 - i % 90 };
            row.iter_mut().for_each(|x| *x = 0.1 * *x + j as f32 / 2.0);
        }
        operands[0].iter_mut().for_each(|x| *x = x.abs() / 2.0);
        let [q, k, v, w] = rounded(operands);
        let wides = [&q, &k, &v].map(|x| wide(x));
        let expected = case.expected_of(wides, &wide(&w), &vec![1.0; size.weights()]);
        let [out, dq, dk, dv] = separate(&case, &[q, k, v, w], Layout::Heads);
        assert_rounded("result", &out, &expected.out);
        // Keys are a hundred times as large as the differences between those that have weight.
        assert_close("queries", &dq, &expected.dq, 0.0, 40.0 * 4.0 * ROUNDING);
        assert_rounded("keys", &dk, &expected.dk);
        assert_rounded("values", &dv, &expected.dv);
    }
}

/// A softmax over one key gives that key's value and no gradient, exactly. And a head's NaN stays its own.
#[test]
fn one_visible_key_and_no_numbers() {
    let Some(device) = matrix_units() else {
        return;
    };
    let size = Size::new(1, 2, 45, 45, 8);
    let narrow = case(device, size, Attention::causal(2).with_window(1), 992);
    let operands = rounded(narrow.operands());
    let [out, dq, dk, dv] = separate(&narrow, &operands, Layout::Dense);
    assert!(dq.iter().chain(&dk).all(|&x| x == 0.0));
    assert_eq!([&out, &dv], [&operands[2], &operands[3]]);

    let wide = case(device, size, Attention::causal(2), 993);
    let before = separate(&wide, &operands, Layout::Dense);
    // A query of the second head, which nobody else sees, and a key that the queries before it don't.
    for (operand, rows) in [(0, 77..78), (1, 77..90)] {
        let mut operands = operands.clone();
        operands[operand][77 * 8] = f32::NAN;
        let after = separate(&wide, &operands, Layout::Dense);
        let is_same = |n: usize, row: usize| {
            let row = row * 8..row * 8 + 8;
            before[n][row.clone()] == after[n][row]
        };
        for row in 0..90 {
            assert_eq!(
                is_same(0, row),
                !rows.contains(&row),
                "{operand}: row {row}"
            );
            assert!(row >= 45 || (1..4).all(|n| is_same(n, row)));
        }
    }
}
