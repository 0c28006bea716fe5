//! Softmax and log-softmax against `f64` loops: row lengths in and out of registers, views, extremes, gradients.

use shadegrad::{Device, Shape, Tape, Var, check};

use crate::common::{Random, assert_close, device, gpu_device, portable_device, wide};

pub fn softmax(row: &[f64]) -> Vec<f64> {
    log_softmax(row).iter().map(|value| value.exp()).collect()
}

pub fn log_softmax(row: &[f64]) -> Vec<f64> {
    let top = row.iter().copied().fold(f64::MIN, f64::max);
    let sum: f64 = row.iter().map(|value| (value - top).exp()).sum();
    row.iter().map(|value| value - top - sum.ln()).collect()
}

/// `reduce` of every row.
pub fn by_row(values: &[f64], columns: usize, map: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
    values.chunks(columns).flat_map(map).collect()
}

/// Both operations and their gradients for the loss `Σ w·y`.
fn compare(device: &Device, rows: usize, columns: usize, size: f64) {
    let mut random = Random::new(rows as u64 + columns as u64);
    let x = random.values(rows * columns, -size, size);
    let w = random.values(rows * columns, -1.0, 1.0);
    let tape = Tape::training(device);
    let variable = tape.variable([rows, columns], &x);
    let weights = tape.input([rows, columns], &w);
    let outputs = [variable.softmax(), variable.log_softmax()];
    let gradients = outputs
        .map(|y| tape.fetch::<f32>(tape.backward((y * weights).sum_all()).of(variable).unwrap()));
    let outputs = outputs.map(|y| tape.fetch::<f32>(y));
    tape.run().unwrap();

    let (x, w) = (wide(&x), wide(&w));
    let p = by_row(&x, columns, softmax);
    let logarithms = by_row(&x, columns, log_softmax);
    let what = |of: &str| format!("{of} of [{rows}, {columns}], elements up to {size}");
    // Subtracting the maximum rounds by its size.
    let rounding = 1e-6 + 1e-7 * size;
    assert_close(
        &what("softmax"),
        &outputs[0].get().unwrap(),
        &p,
        4.0 * rounding,
        1e-7,
    );
    let actual = outputs[1].get().unwrap();
    assert_close(
        &what("log_softmax"),
        &actual,
        &logarithms,
        2e-6,
        4.0 * rounding,
    );

    let mut expected = [Vec::new(), Vec::new()];
    for row in 0..rows {
        let range = row * columns..(row + 1) * columns;
        let (p, w) = (&p[range.clone()], &w[range]);
        let dot: f64 = p.iter().zip(w).map(|(p, w)| p * w).sum();
        let sum: f64 = w.iter().sum();
        expected[0].extend(p.iter().zip(w).map(|(p, w)| p * (w - dot)));
        expected[1].extend(p.iter().zip(w).map(|(p, w)| w - p * sum));
    }
    for (gradient, expected) in gradients.iter().zip(&expected) {
        assert_close(
            &what("gradient"),
            &gradient.get().unwrap(),
            expected,
            8.0 * rounding,
            4.0 * rounding,
        );
    }
}

/// Rows and columns: within one block, odd, in several blocks, and longer than what stays in registers.
const SHAPES: [[usize; 2]; 12] = [
    [1, 1],
    [3, 2],
    [5, 4],
    [17, 7],
    [512, 27],
    [33, 32],
    [9, 100],
    [40, 129],
    [7, 384],
    [5, 401],
    [3, 1000],
    [2, 4099],
];

#[test]
fn row_lengths() {
    for [rows, columns] in SHAPES {
        compare(device(), rows, columns, 4.0);
    }
}

#[test]
fn row_lengths_in_portable_kernels() {
    for [rows, columns] in [
        [1, 1],
        [512, 27],
        [33, 32],
        [40, 129],
        [5, 400],
        [3, 1001],
        [3, 6000],
        [2, 9000],
    ] {
        compare(portable_device(), rows, columns, 4.0);
    }
}

/// Rows of a subgroup, with one to eight blocks, whole ones and others; and rows that a whole workgroup shares, in
/// registers and beyond.
#[test]
fn row_lengths_with_subgroups() {
    let of_a_subgroup = [
        (1, 1),
        (512, 27),
        (33, 32),
        (9, 100),
        (40, 129),
        (19, 160),
        (21, 192),
        (20, 224),
        (17, 256),
    ];
    let of_a_workgroup = [(5, 516), (3, 1027), (2, 4100), (2, 8192), (2, 8300)];
    for (rows, columns) in of_a_subgroup.into_iter().chain(of_a_workgroup) {
        compare(gpu_device(), rows, columns, 4.0);
    }
}

#[test]
fn large_elements_do_not_overflow() {
    for device in [device(), portable_device(), gpu_device()] {
        for [rows, columns] in [[6, 27], [6, 64], [2, 1001]] {
            compare(device, rows, columns, 1e4);
        }
        let tape = Tape::inference(device);
        let x = tape.input([2, 3], &[1e4, 1e4, -1e4, -3.0e38, 2.0, -3.0e38]);
        let (p, logarithms) = (
            tape.fetch::<f32>(x.softmax()),
            tape.fetch::<f32>(x.log_softmax()),
        );
        tape.run().unwrap();
        assert_eq!(p.get().unwrap(), [0.5, 0.5, 0.0, 0.0, 1.0, 0.0]);
        let logarithms = logarithms.get().unwrap();
        let half = 0.5f64.ln();
        assert_close(
            "log",
            &logarithms[..3],
            &[half, half, half - 2e4],
            1e-6,
            0.0,
        );
        assert_eq!(logarithms[4], 0.0);
    }
}

/// More teams than one dimension of the grid holds.
#[test]
fn many_rows() {
    let rows = 8 * 66_000;
    let x = Random::new(4).values(2 * rows, -3.0, 3.0);
    let expected = by_row(&wide(&x), 2, softmax);
    for device in [portable_device(), gpu_device()] {
        let tape = Tape::inference(device);
        let p = tape.fetch::<f32>(tape.input([rows, 2], &x).softmax());
        tape.run().unwrap();
        assert_close("softmax", &p.get().unwrap(), &expected, 2e-6, 1e-7);
    }
}

#[test]
fn views_and_neighbours() {
    let base = Shape::from([3, 6, 8]);
    let x = Random::new(8).values(base.elements(), -2.0, 2.0);
    let at = |i: usize, j: usize, k: usize| f64::from(x[(i * 6 + j) * 8 + k]);
    let collect = |dims: [usize; 3], place: &dyn Fn(usize, usize, usize) -> f64| -> Vec<f64> {
        let mut values = Vec::new();
        for i in 0..dims[0] {
            for j in 0..dims[1] {
                values.extend((0..dims[2]).map(|k| place(i, j, k)));
            }
        }
        values
    };
    for device in [device(), portable_device(), gpu_device()] {
        let tape = Tape::inference(device);
        let input = tape.input(base, &x);
        let checks = [
            (
                "part of a row",
                input.slice(2, 1..6).softmax(),
                by_row(&collect([3, 6, 5], &|i, j, k| at(i, j, k + 1)), 5, softmax),
            ),
            (
                "aligned part",
                input.slice(2, 4..8).log_softmax(),
                by_row(
                    &collect([3, 6, 4], &|i, j, k| at(i, j, k + 4)),
                    4,
                    log_softmax,
                ),
            ),
            (
                "permuted",
                input.permute(&[2, 0, 1]).softmax(),
                by_row(&collect([8, 3, 6], &|i, j, k| at(j, k, i)), 6, softmax),
            ),
            (
                "repeated",
                input.slice(1, 2..3).broadcast_to([3, 6, 8]).softmax(),
                by_row(&collect([3, 6, 8], &|i, _, k| at(i, 2, k)), 8, softmax),
            ),
            (
                "stretched",
                input.slice(2, 2..3).broadcast_to([3, 6, 8]).softmax(),
                vec![0.125; 144],
            ),
            // What follows becomes the kernel's epilogue.
            (
                "with an epilogue",
                input.softmax() * 2.0 + input,
                by_row(&collect([3, 6, 8], &at), 8, |row| {
                    softmax(row)
                        .iter()
                        .zip(row)
                        .map(|(p, x)| 2.0 * p + x)
                        .collect()
                }),
            ),
            (
                "odd, with an epilogue",
                input.slice(2, 0..7).softmax() * input.slice(2, 1..8),
                {
                    let rows = collect([3, 6, 8], &at);
                    rows.chunks(8)
                        .flat_map(|row| {
                            let p = softmax(&row[..7]);
                            (0..7).map(|k| p[k] * row[k + 1]).collect::<Vec<_>>()
                        })
                        .collect()
                },
            ),
        ];
        let checks = checks.map(|(what, y, expected)| (what, tape.fetch::<f32>(y), expected));
        tape.run().unwrap();
        for (what, y, expected) in checks {
            assert_close(what, &y.get().unwrap(), &expected, 2e-6, 1e-6);
        }
    }
}

type Oracle = fn(&[f64]) -> Vec<f64>;
type Record = for<'t> fn(Var<'t>) -> Var<'t>;

#[test]
fn gradients_of_gradients() {
    let operations: [(Record, Oracle); 2] = [
        (|x| x.softmax(), softmax),
        (|x| x.log_softmax(), log_softmax),
    ];
    for (operation, oracle) in operations {
        for [rows, columns] in [[3, 5], [2, 8]] {
            let x = Random::new(6).values(rows * columns, -2.0, 2.0);
            let inputs = [([rows, columns].into(), x)];
            let oracle = |x: &[Vec<f64>]| by_row(&x[0], columns, oracle);
            let first = check::gradient(device(), &inputs, |x| operation(x[0]), oracle).unwrap();
            let second =
                check::second_gradient(device(), &inputs, |x| operation(x[0]), oracle).unwrap();
            println!("{first}\n{second}");
        }
    }
}

#[test]
fn an_epilogue_adds_no_dispatch() {
    let tape = Tape::training(device());
    let x = tape.variable([4, 8], &[0.5; 32]);
    let y = x.softmax() * 2.0;
    let gradient = tape.backward((y * x).sum_all()).of(x).unwrap();
    let (_y, _gradient) = (tape.fetch::<f32>(y), tape.fetch::<f32>(gradient));
    let names: Vec<_> = tape
        .profile()
        .unwrap()
        .iter()
        .map(|time| time.name)
        .collect();
    assert_eq!(names, ["softmax", "pointwise", "softmax_backward"]);
}

#[test]
#[should_panic(expected = "softmax: needs F32 or F16 with a last axis")]
fn a_scalar_has_no_rows() {
    let tape = Tape::inference(device());
    tape.scalar(1.0f32).softmax();
}
