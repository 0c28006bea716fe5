//! Dropout, random tensors, and the generator behind them.

use shadegrad::ops::attention::Attention;
use shadegrad::ops::{Operation, TensorType};
use shadegrad::tape::{Backward, Dispatch, Fusion, Lowering};
use shadegrad::{DType, Device, Kernel, Shape, Tape, Var, check};

use crate::common::{Random, assert_close, device, portable_device, wide};

/// Runs the generator on given counters and keys: `[n, 6]` → `[n, 4]`.
#[derive(Debug, Hash)]
struct Philox;

impl Operation for Philox {
    fn name(&self) -> &'static str {
        "philox"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        vec![TensorType {
            shape: inputs[0].shape.with_dim(1, 4),
            dtype: DType::U32,
        }]
    }

    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        node.not_differentiable("random words are integers")
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        const SOURCE: &str = "
import shadegrad::philox;
@group(0) @binding(0) var<uniform> p: vec4<u32>;
@group(0) @binding(1) var<storage, read> input: array<u32>;
@group(0) @binding(2) var<storage, read_write> output: array<u32>;
@compute @workgroup_size(1)
fn philox(@builtin(workgroup_id) group: vec3<u32>) {
    let i = p.x + 6u * group.x;
    let counter = vec4<u32>(input[i], input[i + 1u], input[i + 2u], input[i + 3u]);
    let words = philox4x32(counter, vec2<u32>(input[i + 4u], input[i + 5u]));
    for (var k = 0u; k < 4u; k++) { output[p.y + 4u * group.x + k] = words[k]; }
}";
        let (input, output) = (cx.input(0), cx.output(0));
        let kernel = Kernel::new("philox", SOURCE, "philox");
        cx.dispatch(
            Dispatch::new(kernel)
                .read(&input)
                .write(&output)
                .params(&[input.offset(), output.offset(), 0, 0])
                .groups(input.shape().dim(0))
                .iterations(10 + 1 + 4 + 1),
        );
    }
}

#[test]
fn philox_gives_the_published_words() {
    // Known answers of the authors' library, Random123, for Philox4x32-10: counter, key.
    let inputs: [u32; 18] = [
        0, 0, 0, 0, 0, 0, //
        !0, !0, !0, !0, !0, !0, //
        0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0,
    ];
    let expected: [u32; 12] = [
        0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8, //
        0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd, //
        0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1,
    ];
    let tape = Tape::inference(device());
    let words = tape.record(Philox, &[tape.input([3, 6], &inputs)]);
    let words = tape.fetch::<u32>(words);
    tape.run().unwrap();
    assert_eq!(words.get().unwrap(), expected);
}

/// Dropout of ones, with `earlier` random operations recorded before.
fn ones(
    device: &Device,
    shape: Shape,
    p: f32,
    (seed, step): (u64, u64),
    earlier: usize,
) -> Vec<f32> {
    let tape = Tape::training(device);
    tape.set_seed(seed, step);
    for _ in 0..earlier {
        tape.random_uniform([1]);
    }
    let x = tape.input(shape, &vec![1.0f32; shape.elements()]);
    let out = tape.fetch::<f32>(x.dropout(p));
    tape.run().unwrap();
    out.get().unwrap()
}

#[test]
fn the_right_share_is_dropped() {
    for (p, shape) in [(0.1, [100, 1000]), (0.5, [1000, 100]), (0.9, [10_000, 10])] {
        let out = ones(device(), shape.into(), p, (1, 2), 0);
        let n = out.len() as f64;
        let factor = (1.0 / (1.0 - f64::from(p))) as f32;
        assert!(out.iter().all(|&x| x == 0.0 || x == factor));
        let share = |n: f64, count: usize, p: f64| {
            let deviation = (p * (1.0 - p) / n).sqrt();
            let share = count as f64 / n;
            assert!((share - p).abs() < 4.0 * deviation, "{share} for {p}");
        };
        let p = f64::from(p);
        share(n, out.iter().filter(|&&x| x == 0.0).count(), p);
        // Neighbours are independent, in a row, in a block of four, and from row to row.
        for distance in [1, 2, 3, 4, shape[1]] {
            let both = out.iter().zip(&out[distance..]);
            let both = both.filter(|&(&x, &y)| x == 0.0 && y == 0.0).count();
            share(n - distance as f64, both, p * p);
        }
    }
}

#[test]
fn the_mask_depends_on_seed_step_and_position_on_the_tape_alone() {
    let shape = [64, 65].into();
    let mask = |key, earlier| ones(device(), shape, 0.5, key, earlier);
    let first = mask((3, 4), 0);
    assert_eq!(first, mask((3, 4), 0));
    assert_eq!(first, ones(portable_device(), shape, 0.5, (3, 4), 0));
    let far = 1 << 32;
    for (key, earlier) in [
        ((3, 5), 0),
        ((4, 4), 0),
        ((3 + far, 4), 0),
        ((3, 4 + far), 0),
        ((3, 4), 1),
    ] {
        let other = mask(key, earlier);
        let same = first.iter().zip(&other).filter(|(x, y)| x == y).count();
        // Half of 4160, give or take four deviations of 32.
        assert!((1950..2210).contains(&same), "{key:?} {earlier}: {same}");
    }
}

/// What tapes draw that nobody gave a key.
#[test]
fn successive_tapes_draw_different_numbers_and_runs_repeat() {
    let run = || {
        let device = Device::new().unwrap();
        let draw = |record: fn(&Tape) -> Var<'_>, tape: Tape| {
            let drawn = tape.fetch::<f32>(record(&tape));
            tape.run().unwrap();
            drawn.get().unwrap()
        };
        let mask: fn(&Tape) -> Var<'_> = |tape| tape.full([256], 1.0).dropout(0.5);
        let mut drawn: Vec<Vec<f32>> = (0..3)
            .map(|_| draw(mask, Tape::training(&device)))
            .collect();
        // A tape with a key of its own, and one that draws nothing, are not counted.
        let keyed = Tape::training(&device);
        keyed.set_seed(5, 6);
        draw(mask, keyed);
        draw(|tape| tape.full([256], 1.0), Tape::training(&device));
        let noise: fn(&Tape) -> Var<'_> = |tape| tape.random_uniform([256]);
        drawn.extend((0..2).map(|_| draw(noise, Tape::inference(&device))));
        drawn
    };
    let first = run();
    for (index, drawn) in first.iter().enumerate() {
        assert!(
            !first[..index].contains(drawn),
            "tape {index} repeats another"
        );
    }
    assert_eq!(first, run());
}

#[test]
fn gradients_over_drawn_shapes() {
    let mut random = Random::new(1);
    for device in [device(), portable_device()] {
        for _ in 0..5 {
            let shape = random.shape(4, 7);
            let mask = wide(&ones(device, shape, 0.4, (0, 0), 0));
            let inputs = [(shape, random.values(shape.elements(), -1.0, 1.0))];
            let oracle = |x: &[Vec<f64>]| x[0].iter().zip(&mask).map(|(x, m)| x * m).collect();
            let _ = check::gradient(device, &inputs, |x| x[0].dropout(0.4), oracle).unwrap();
            let _ = check::second_gradient(device, &inputs, |x| x[0].dropout(0.4), oracle).unwrap();
        }
    }
}

#[test]
fn grids_beyond_65535_groups() {
    for (device, shape) in [
        (portable_device(), [70_000, 3]),
        (device(), [16 * 70_000, 1]),
    ] {
        let out = ones(device, shape.into(), 0.25, (5, 5), 0);
        let dropped = out.iter().filter(|&&x| x == 0.0).count();
        let expected = out.len() / 4;
        assert!(dropped.abs_diff(expected) < 2000, "{dropped}");
        // The last rows were reached.
        assert!(out[out.len() - 1000..].iter().any(|&x| x != 0.0));
    }
}

#[test]
fn inference_and_zero_leave_the_value_alone() {
    let inference = Tape::inference(device());
    let x = inference.input([4], &[1.0f32, 2.0, 3.0, 4.0]);
    let length = inference.len();
    x.dropout(0.5);
    assert_eq!(inference.len(), length);
    let training = Tape::training(device());
    let x = training.variable([4], &[1.0, 2.0, 3.0, 4.0]);
    let length = training.len();
    x.dropout(0.0);
    assert_eq!(training.len(), length);
}

#[test]
fn what_follows_is_part_of_the_kernel() {
    let mut random = Random::new(2);
    let [x, residual] = [0, 1].map(|_| random.values(24, -1.0, 1.0));
    let record = |tape: &Tape| {
        tape.set_fusion(Fusion::ON);
        tape.set_seed(0, 0);
        let x = tape.input([2, 3, 4], &x).dropout(0.5);
        tape.fetch::<f32>(x + tape.input([2, 3, 4], &residual))
    };
    let [tape, counted] = [Tape::training(device()), Tape::training(device())];
    let out = record(&tape);
    record(&counted);
    tape.run().unwrap();
    assert_eq!(counted.profile().unwrap().len(), 1);
    let mask = ones(device(), [2, 3, 4].into(), 0.5, (0, 0), 0);
    let expected: Vec<f64> = (0..24)
        .map(|i| f64::from(x[i]) * f64::from(mask[i]) + f64::from(residual[i]))
        .collect();
    assert_close("residual", &out.get().unwrap(), &expected, 1e-6, 1e-6);
}

/// Mean of the k-th powers.
fn moment(values: &[f32], k: i32) -> f64 {
    values.iter().map(|&x| f64::from(x).powi(k)).sum::<f64>() / values.len() as f64
}

#[test]
fn random_tensors_have_the_right_moments() {
    for shape in [[300, 401], [401, 300]] {
        let tape = Tape::inference(device());
        tape.set_seed(9, 9);
        let uniform = tape.fetch::<f32>(tape.random_uniform(shape));
        let normal = tape.fetch::<f32>(tape.random_normal(shape));
        let shifted = tape.fetch::<f32>(tape.random_normal([7]) * 0.0 + 3.0);
        tape.run().unwrap();
        let (uniform, normal) = (uniform.get().unwrap(), normal.get().unwrap());
        assert!(uniform.iter().all(|x| (0.0..1.0).contains(x)));
        // Four deviations of the mean of 120,000 numbers.
        for (k, expected) in [(1, 1.0 / 2.0), (2, 1.0 / 3.0), (3, 1.0 / 4.0)] {
            assert!((moment(&uniform, k) - expected).abs() < 0.004, "{k}");
        }
        for (k, expected, tolerance) in [
            (1, 0.0, 0.012),
            (2, 1.0, 0.017),
            (3, 0.0, 0.05),
            (4, 3.0, 0.12),
        ] {
            assert!((moment(&normal, k) - expected).abs() < tolerance, "{k}");
        }
        assert_eq!(shifted.get().unwrap(), [3.0; 7]);
    }
}

#[test]
#[should_panic(expected = "dropout: probability 1 is not in 0.0..1.0")]
fn not_everything_can_be_dropped() {
    let tape = Tape::training(device());
    tape.input([1], &[1.0f32]).dropout(1.0);
}

/// What random operations make of rows `first ..` of a batch of six, and the gradients of what they were made of.
fn of_rows(device: &Device, first: usize, rows: usize) -> Vec<Vec<f32>> {
    const EACH: usize = 2 * 5 * 7;
    let x = Random::new(8).values(6 * EACH, -1.0, 1.0);
    let packed = Random::new(9).values(6 * 9 * 24, -1.0, 1.0);
    let tape = Tape::training(device);
    tape.set_rows(first, rows);
    tape.set_seed(4, 1 << 33);
    let part = |values: &[f32], each: usize| values[first * each..(first + rows) * each].to_vec();
    let x = tape.variable([rows, 2, 5, 7], &part(&x, EACH));
    let packed = tape.variable([rows, 9, 24], &part(&packed, 9 * 24));
    // Of another batch: the same on all tapes.
    let other = tape.full([6, 4], 1.0).dropout(0.5);
    let dropped = x.dropout(0.3);
    let attended = packed.packed_attention(&Attention::causal(2).with_dropout(0.4));
    let loss = (dropped * dropped).sum_all() + (attended * attended).sum_all();
    let gradients = tape.backward(loss);
    let values = [
        dropped,
        attended,
        tape.random_uniform([rows, 3]),
        tape.random_normal([rows, 2, 6]),
        gradients.of(x).unwrap(),
        gradients.of(packed).unwrap(),
        other,
    ];
    let values = values.map(|value| tape.fetch::<f32>(value));
    tape.run().unwrap();
    values.iter().map(|value| value.get().unwrap()).collect()
}

#[test]
fn rows_of_a_larger_batch_draw_what_they_would_there() {
    for device in [device(), portable_device()] {
        let whole = of_rows(device, 0, 6);
        let parts = [
            of_rows(device, 0, 1),
            of_rows(device, 1, 3),
            of_rows(device, 4, 2),
        ];
        for (index, whole) in whole.iter().enumerate() {
            match parts.each_ref().map(|part| &part[index]) {
                parts if index == 6 => assert!(parts.iter().all(|&part| part == whole)),
                parts => {
                    let joined: Vec<f32> = parts.into_iter().flatten().copied().collect();
                    assert_close(&format!("value {index}"), &joined, &wide(whole), 1e-5, 1e-6);
                }
            }
        }
    }
}

#[test]
fn which_rows_they_are_is_data() {
    let device = Device::new().unwrap();
    let first = of_rows(&device, 2, 3);
    let plans = device.stats().plans;
    assert_ne!(of_rows(&device, 3, 3)[2], first[2]);
    assert_eq!(device.stats().plans, plans);
}

#[test]
#[should_panic(expected = "set_rows: the random key has been set already")]
fn rows_are_set_before_the_seed() {
    let tape = Tape::training(device());
    tape.set_seed(1, 2);
    tape.set_rows(1, 2);
}
