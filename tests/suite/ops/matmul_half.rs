//! Products of halves against `f64` sums of the same, rounded, operands: on matrix units where there are any, else by `f32`
//! arithmetic. Between the two is only the order of the sums.

use std::ops::Range;

use shadegrad::tape::{Fusion, Precision};
use shadegrad::{DType, Device, DeviceOptions, Tape, Tensor, Var, f16};

use crate::common::{Random, assert_close, device, gpu_device, matrix_units, portable_device};

/// A batch of matrices as an operand: where its elements lie, in a larger tensor of NaN.
struct Matrices {
    batch: usize,
    rows: usize,
    columns: usize,
    /// Whether the tensor holds them transposed.
    turned: bool,
    values: Vec<f16>,
}

impl Matrices {
    fn new(random: &mut Random, [batch, rows, columns]: [usize; 3], turned: bool) -> Matrices {
        let values = random.values(batch * rows * columns, -1.0, 1.0);
        Matrices {
            batch,
            rows,
            columns,
            turned,
            values: values.into_iter().map(f16::from_f32).collect(),
        }
    }

    fn at(&self, batch: usize, row: usize, column: usize) -> f64 {
        let batch = batch % self.batch;
        self.values[(batch * self.rows + row) * self.columns + column].to_f64()
    }

    /// With so many rows and columns of NaN around each, as a view.
    fn record<'t>(&self, tape: &'t Tape, around: [Range<usize>; 2]) -> Var<'t> {
        let [lines, inner] = match self.turned {
            true => [self.columns, self.rows],
            false => [self.rows, self.columns],
        };
        let [above, beside] = around.clone();
        let [height, width] = [above.end + lines, beside.end + inner];
        let mut all = vec![f16::NAN; self.batch * height * width];
        for batch in 0..self.batch {
            for line in 0..lines {
                for i in 0..inner {
                    let (row, column) = if self.turned { (i, line) } else { (line, i) };
                    let at = (batch * height + above.start + line) * width + beside.start + i;
                    all[at] = f16::from_f64(self.at(batch, row, column));
                }
            }
        }
        let tensor = Tensor::new(tape.device(), [self.batch, height, width], &all).unwrap();
        let view = tape
            .tensor(&tensor)
            .slice(1, above.start..above.start + lines)
            .slice(2, beside.start..beside.start + inner);
        let view = if self.turned { view.transpose() } else { view };
        match self.batch {
            1 => view.reshape([self.rows, self.columns]),
            _ => view,
        }
    }
}

/// The sums, and the sizes of the sums.
fn reference(a: &Matrices, b: &Matrices) -> (Vec<f64>, Vec<f64>) {
    let mut sums = (Vec::new(), Vec::new());
    for batch in 0..a.batch.max(b.batch) {
        for row in 0..a.rows {
            for column in 0..b.columns {
                let products =
                    || (0..a.columns).map(|k| a.at(batch, row, k) * b.at(batch, k, column));
                sums.0.push(products().sum());
                sums.1.push(products().map(f64::abs).sum());
            }
        }
    }
    sums
}

/// That each element is as near as `1e-5` of the size of its sum.
#[track_caller]
fn assert_near(what: &str, actual: &[f32], (sums, sizes): &(Vec<f64>, Vec<f64>)) {
    let scaled: Vec<f32> = actual
        .iter()
        .zip(sums.iter().zip(sizes))
        .map(|(&actual, (sum, size))| ((f64::from(actual) - sum) / size) as f32)
        .collect();
    assert_close(what, &scaled, &vec![0.0; scaled.len()], 0.0, 1e-5);
}

/// Every form of both operands: transposed or not, shared by the batch or not; aligned for vectors, and not.
fn check(device: &Device, [batch, m, k, n]: [usize; 4]) {
    let mut random = Random::new(1);
    for form in 0..8 {
        let (turn_a, turn_b, shared) = (form & 1 != 0, form & 2 != 0, form & 4 != 0);
        if shared && batch == 1 {
            continue;
        }
        let a = Matrices::new(&mut random, [batch, m, k], turn_a);
        let b = Matrices::new(&mut random, [if shared { 1 } else { batch }, k, n], turn_b);
        let tape = Tape::inference(device);
        let around = match form % 3 {
            0 => [0..0, 0..0],
            1 => [1..2, 8..16],
            _ => [1..2, 3..5],
        };
        let [x, y] = [&a, &b].map(|it| it.record(&tape, around.clone()));
        let product = tape.fetch::<f32>(x.matmul(y).cast(DType::F32));
        tape.run().unwrap();
        let what = format!("[{batch}, {m}, {k}]·[{k}, {n}], form {form}");
        assert_near(&what, &product.get().unwrap(), &reference(&a, &b));
    }
}

const SHAPES: [[usize; 4]; 10] = [
    [1, 5, 1, 5],
    [1, 8, 8, 8],
    [2, 7, 9, 15],
    [1, 16, 16, 16],
    [3, 17, 33, 9],
    [1, 33, 100, 130],
    [2, 64, 32, 128],
    [1, 130, 31, 24],
    [5, 24, 40, 16],
    [1, 100, 64, 7],
];

#[test]
fn on_matrix_units() {
    let Some(device) = matrix_units() else {
        return;
    };
    for shape in SHAPES {
        check(device, shape);
    }
    let kernels = device.kernels();
    assert!(kernels.iter().any(|(name, _)| *name == "matmul_units"));
}
