//! Attention to halves on matrix units, against `f64` from the rounded operands; and by the other kernels where they don't
//! serve.

use shadegrad::ops::attention::{Attention, attention};
use shadegrad::{DType, Device, DeviceOptions, Feature, Tape, f16};

use super::case::{Case, Layout, TestMask};
use super::reference::{Size, by_position, pack};
use crate::common::{Random, assert_close, matrix_units, wide};

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

/// Batch, heads, heads of keys, queries, keys, head size; around matrices, quads and tiles, and below what units serve for.
const SIZES: [[usize; 6]; 12] = [
    [1, 1, 1, 16, 16, 8],
    [2, 3, 3, 17, 17, 16],
    [1, 2, 1, 31, 31, 24],
    [2, 4, 2, 33, 33, 32],
    [1, 2, 2, 65, 65, 64],
    [1, 1, 1, 64, 64, 128],
    [1, 2, 2, 40, 40, 20],
    [1, 6, 3, 16, 129, 13],
    [1, 2, 2, 130, 19, 9],
    [3, 2, 1, 50, 70, 33],
    [2, 2, 2, 1, 1, 8],
    [1, 4, 1, 1, 100, 16],
];

#[test]
fn sizes_and_layouts() {
    let Some(device) = matrix_units() else {
        return;
    };
    for (n, [batch, heads, kv_heads, queries, keys, head_dim]) in SIZES.into_iter().enumerate() {
        let size = Size::new(batch, heads, queries, keys, head_dim);
        for causal in [true, false] {
            let config = super::config(heads, causal).with_kv_heads(kv_heads);
            let layout = Layout::ALL[(n + usize::from(causal)) % 4];
            check(&case(device, size, config, 970 + n as u64), layout);
        }
    }
    assert!(has_matrices(device));
}
