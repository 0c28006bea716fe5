//! The gated unit and the rotary embedding, against plain `f64` implementations.

use shadegrad::ops::rotary_table;
use shadegrad::{Result, Shape, Tape, check};

use crate::common::{self, Random, device, devices};

fn draw(random: &mut Random, shape: Shape) -> (Shape, Vec<f32>) {
    (shape, random.values(shape.elements(), -2.0, 2.0))
}

/// Panics with what a check found, unless it passed.
fn pass(what: impl std::fmt::Display, checked: Result<check::Report>) {
    if let Err(error) = checked {
        panic!("{what}: {error}");
    }
}

pub fn swiglu64(packed: &[f64], half: usize) -> Vec<f64> {
    gated64(packed, half, |x| x / (1.0 + (-x).exp()))
}

pub fn gelu_tanh64(x: f64) -> f64 {
    let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
    0.5 * x * (1.0 + inner.tanh())
}

fn gated64(packed: &[f64], half: usize, activation: impl Fn(f64) -> f64) -> Vec<f64> {
    let rows = packed.chunks(2 * half);
    rows.flat_map(|row| {
        (0..half)
            .map(|i| activation(row[i]) * row[half + i])
            .collect::<Vec<_>>()
    })
    .collect()
}

#[test]
fn gates_and_their_gradients() {
    let mut random = Random::new(1);
    // A packed extent of a multiple of eight takes the kernels with vectors, a multiple of four elements those with
    // quads, the rest goes one by one.
    for dims in [
        &[2][..],
        &[1, 6],
        &[3, 5, 16],
        &[2, 7, 10],
        &[300, 8],
        &[33, 170],
    ] {
        let shape = Shape::from(dims);
        let inputs = [draw(&mut random, shape)];
        let half = shape.last() / 2;
        let swiglu = |x: &[Vec<f64>]| swiglu64(&x[0], half);
        let geglu = |x: &[Vec<f64>]| gated64(&x[0], half, gelu_tanh64);
        pass(
            shape,
            check::gradient(device(), &inputs, |x| x[0].swiglu(), swiglu),
        );
        pass(
            shape,
            check::gradient(device(), &inputs, |x| x[0].geglu_tanh(), geglu),
        );
        if [16, 10].contains(&shape.last()) {
            let checked = check::second_gradient(device(), &inputs, |x| x[0].swiglu(), swiglu);
            pass(shape, checked);
            let checked = check::second_gradient(device(), &inputs, |x| x[0].geglu_tanh(), geglu);
            pass(shape, checked);
        }
    }
}

/// `[rows, depth]·[depth, columns]`
pub fn product64(a: &[f64], b: &[f64], depth: usize) -> Vec<f64> {
    let columns = b.len() / depth;
    let row = |row: &[f64]| -> Vec<f64> {
        let element = |j: usize| (0..depth).map(|k| row[k] * b[k * columns + j]).sum();
        (0..columns).map(element).collect()
    };
    a.chunks(depth).flat_map(row).collect()
}

/// There the gate and its gradient end the products' kernels.
#[test]
fn swiglu_between_products() {
    let mut random = Random::new(8);
    for [rows, depth, half, columns] in [[6, 5, 8, 7], [7, 6, 5, 9]] {
        let shapes = [[rows, depth], [depth, 2 * half], [half, columns]];
        let inputs = shapes.map(|dims| {
            let shape = Shape::from(&dims[..]);
            (shape, random.values(shape.elements(), -0.8, 0.8))
        });
        let oracle = |x: &[Vec<f64>]| {
            let packed = product64(&x[0], &x[1], depth);
            product64(&swiglu64(&packed, half), &x[2], half)
        };
        for device in devices() {
            let checked = check::gradient(
                device,
                &inputs,
                |x| x[0].matmul(x[1]).swiglu().matmul(x[2]),
                oracle,
            );
            pass(format!("{shapes:?}"), checked);
        }
    }
}

#[test]
fn swiglu_stays_finite_far_out() {
    let tape = Tape::training(device());
    let x = tape.variable([4, 2], &[-200.0, 3.0, 200.0, 3.0, -3e38, 1.0, 3e38, 1.0]);
    let y = x.swiglu();
    let gradient = tape.backward(y.sum_all()).of(x).unwrap();
    let (y, gradient) = (tape.fetch::<f32>(y), tape.fetch::<f32>(gradient));
    tape.run().unwrap();
    assert_eq!(y.get().unwrap()[1], 600.0);
    assert_eq!(y.get().unwrap()[3], 3e38);
    assert!(y.get().unwrap()[0].abs() < 1e-30);
    assert_eq!(gradient.get().unwrap()[2..4], [3.0, 200.0]);
    let finite = |values: Vec<f32>| values.iter().all(|value| value.is_finite());
    assert!(finite(y.get().unwrap()) && finite(gradient.get().unwrap()));
}

/// Columns beyond the turned heads pass unchanged.
pub fn rotary64(
    x: &[f64],
    positions: usize,
    columns: usize,
    head: usize,
    turned: usize,
) -> Vec<f64> {
    let mut y = x.to_vec();
    let half = head / 2;
    for row in 0..x.len() / columns {
        let t = (row % positions) as f64;
        for first in (0..turned).map(|h| row * columns + h * head) {
            for i in 0..half {
                let angle = t * 10_000f64.powf(-2.0 * i as f64 / head as f64);
                let (a, b) = (x[first + i], x[first + i + half]);
                y[first + i] = a * angle.cos() - b * angle.sin();
                y[first + i + half] = b * angle.cos() + a * angle.sin();
            }
        }
    }
    y
}

#[test]
fn rotary_and_its_gradients() {
    let mut random = Random::new(2);
    // Batches, positions, heads, their extent, how many of them turn, and positions in the table. Heads of a multiple
    // of eight take the kernel with vectors.
    for [batch, positions, heads, head, turned, known] in [
        [1, 1, 1, 2, 1, 1],
        [2, 5, 3, 8, 2, 5],
        [2, 5, 3, 6, 3, 9],
        [3, 16, 12, 16, 8, 16],
        [1, 33, 4, 8, 0, 40],
        [4, 7, 3, 10, 1, 7],
    ] {
        let table = rotary_table(known, head, 10_000.0);
        let shape = Shape::from([batch, positions, heads * head]);
        let inputs = [draw(&mut random, shape)];
        let checked = check::gradient(
            device(),
            &inputs,
            |x| {
                let table = x[0].tape().input([known, head], &table);
                x[0].rotary(table.slice(0, 0..positions), turned)
            },
            |x| rotary64(&x[0], positions, heads * head, head, turned),
        );
        pass(format!("{shape}, {turned} heads of {head}"), checked);
    }
    let table = rotary_table(3, 4, 10_000.0);
    let checked = check::second_gradient(
        device(),
        &[draw(&mut random, Shape::from([3, 8]))],
        |x| {
            let table = x[0].tape().input([3, 4], &table);
            x[0].rotary(table, 1).exp()
        },
        |x| {
            rotary64(&x[0], 3, 8, 4, 1)
                .iter()
                .map(|y| y.exp())
                .collect()
        },
    );
    pass("second gradient", checked);
}

#[test]
fn rotary_is_exact_at_far_positions() {
    let (positions, head) = (16_384, 64);
    let table = rotary_table(positions, head, 10_000.0);
    let x = Random::new(3).values(head, -2.0, 2.0);
    let tape = Tape::inference(device());
    let far = positions - 2;
    let rows = tape
        .input([positions, head], &table)
        .slice(0, far..positions);
    let turned = tape
        .input([1, head], &x)
        .broadcast_to([2, head])
        .rotary(rows, 1);
    let turned = tape.fetch::<f32>(turned);
    tape.run().unwrap();
    let mut padded = vec![0.0; positions * head];
    for row in [far, far + 1] {
        padded[row * head..][..head].copy_from_slice(&common::wide(&x));
    }
    let expected = rotary64(&padded, positions, head, head, 1);
    let expected = &expected[far * head..];
    common::assert_close("far positions", &turned.get().unwrap(), expected, 0.0, 1e-6);
}

#[test]
#[should_panic(expected = "swiglu: the last axis of [2, 3] does not have two halves")]
fn swiglu_refuses_odd_rows() {
    let tape = Tape::inference(device());
    tape.input([2, 3], &[0f32; 6]).swiglu();
}

#[test]
#[should_panic(expected = "rotary: 1 heads in [2, 6]")]
fn rotary_refuses_a_table_of_other_positions() {
    let tape = Tape::inference(device());
    let table = tape.input([3, 6], &[0f32; 18]);
    tape.input([2, 6], &[0f32; 12]).rotary(table, 1);
}

/// More workgroups than one dimension of a dispatch has, in the kernels that divide in floating point.
#[test]
fn swiglu_finds_its_row_in_long_tensors() {
    let (half, rows) = (3, 1_400_001);
    let packed: Vec<f32> = (0..2 * half * rows)
        .map(|i| (i % 61) as f32 - 30.0)
        .collect();
    let tape = Tape::training(device());
    let x = tape.variable([rows, 2 * half], &packed);
    let y = x.swiglu();
    let ones = tape.full([rows, half], 1.0);
    let gradient = tape.backward_from(y, ones).of(x).unwrap();
    let y = tape.fetch::<f32>(y);
    let gradient = tape.fetch::<f32>(gradient);
    tape.run().unwrap();
    let expected = swiglu64(&common::wide(&packed), half);
    common::assert_close("long", &y.get().unwrap(), &expected, 1e-5, 1e-6);
    let gradient = gradient.get().unwrap();
    let ups = gradient.chunks(2 * half).flat_map(|row| &row[half..]);
    let gates = packed.chunks(2 * half).flat_map(|row| &row[..half]);
    for (place, (gradient, gate)) in ups.zip(gates).enumerate() {
        let silu = gate / (1.0 + (-gate).exp());
        assert!((gradient - silu).abs() < 1e-4, "{place}");
    }
}
