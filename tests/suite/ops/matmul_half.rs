//! Products of halves against `f64` sums of the same, rounded, operands: on matrix units where there are any, else by `f32`
//! arithmetic. Between the two is only the order of the sums.

use std::ops::Range;

use shadegrad::tape::{Fusion, Precision};
use shadegrad::{DType, Device, DeviceOptions, Feature, Tape, Tensor, Var, f16};

use crate::common::{Random, assert_close, matrix_units, open, run_counted};

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

/// Sizes around those of matrices, of eights and of tiles.
const SHAPES: [[usize; 4]; 12] = [
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
    // A few rows or columns: on the same tape, but not on matrix units.
    [1, 1, 17, 40],
    [3, 40, 9, 3],
];

/// Whether a device has compiled a kernel of this name.
fn has_kernel(device: &Device, expected: &str) -> bool {
    device.kernels().iter().any(|(name, _)| *name == expected)
}

#[test]
fn on_matrix_units() {
    let Some(device) = matrix_units() else {
        return;
    };
    for shape in SHAPES {
        check(device, shape);
    }
    assert!(has_kernel(device, "matmul_units"));
}

/// The same tensors where there are no matrix units, or no `f16` either.
#[test]
fn without_matrix_units() {
    let off = DeviceOptions {
        matrix_units: Feature::Off,
        limits: Some(wgpu::Limits::default()),
        ..DeviceOptions::default()
    };
    let words = DeviceOptions {
        f16: Feature::Off,
        ..off.clone()
    };
    for options in [off, words] {
        let device = open(&options);
        assert_eq!(device.matrix_units(), None);
        assert!(options.f16 == Feature::Auto || !device.has_f16());
        for &shape in &SHAPES[2..8] {
            check(device, shape);
        }
        assert!(!has_kernel(device, "matmul_units"));
    }
}

/// So deep that workgroups share it, because there are few or because loops may not go round so often: their sums are added
/// up in `f32`.
#[test]
fn shared_depths() {
    let Some(device) = matrix_units() else {
        return;
    };
    check(device, [1, 20, 16_401, 24]);
    check(device, [1, 5, 400_000, 6]);
    assert!(has_kernel(device, "matmul_sum"));
}

/// What follows a product, in one kernel with it: a bias, an activation, a residual, in either type.
#[test]
fn epilogues() {
    let Some(device) = matrix_units() else {
        return;
    };
    let mut random = Random::new(5);
    for [m, k, n] in [[33, 40, 70], [9, 24, 64]] {
        let [a, b] = [[1, m, k], [1, k, n]].map(|it| Matrices::new(&mut random, it, false));
        let bias = random.values(n, -1.0, 1.0);
        let residual = random.values(m * n, -1.0, 1.0);
        let (wide, dispatches) = run_counted(device, Fusion::ON, |tape| {
            let [x, y] = [&a, &b].map(|it| it.record(tape, [0..0, 0..0]));
            let sum = x.matmul(y).cast(DType::F32) + tape.input([n], &bias);
            vec![sum.sigmoid() * 2.0 + tape.input([m, n], &residual)]
        });
        assert_eq!(dispatches, 1);
        let (sums, sizes) = reference(&a, &b);
        let sums = sums.iter().enumerate().map(|(i, sum)| {
            let sum = sum + f64::from(bias[i % n]);
            2.0 / (1.0 + (-sum).exp()) + f64::from(residual[i])
        });
        let expected = (sums.collect(), sizes);
        assert_near("wide", &wide[0], &expected);

        let tape = Tape::inference(device);
        let [x, y] = [&a, &b].map(|it| it.record(&tape, [0..0, 0..0]));
        let bias: Vec<f16> = bias.iter().copied().map(f16::from_f32).collect();
        let narrow = tape.fetch::<f16>((x.matmul(y) + tape.input([n], &bias)).tanh());
        tape.run().unwrap();
        let narrow: Vec<f32> = narrow.get().unwrap().iter().map(|x| x.to_f32()).collect();
        let (sums, _) = reference(&a, &b);
        let sums = sums.iter().enumerate();
        let expected: Vec<f64> = sums
            .map(|(i, sum)| (sum + bias[i % n].to_f64()).tanh())
            .collect();
        // Half of the last of 11 bits.
        assert_close("narrow", &narrow, &expected, 0.0005, 1e-5);
    }
}

/// SwiGLU at the end of the product whose rows it reads. Sums are in the same order as without.
#[test]
fn gates() {
    let Some(device) = matrix_units() else {
        return;
    };
    let mut random = Random::new(6);
    let without = Fusion {
        gate: false,
        ..Fusion::ON
    };
    for (rows, depth, half, turned) in [
        (33, 24, 85, false),
        (70, 40, 88, false),
        (40, 18, 21, true),
        (130, 33, 16, true),
        // The depth is shared.
        (12, 16_400, 24, false),
    ] {
        let a = Matrices::new(&mut random, [1, rows, depth], false);
        let b = Matrices::new(&mut random, [1, depth, 2 * half], turned);
        let run = |fusion| {
            run_counted(device, fusion, |tape| {
                let [x, y] = [&a, &b].map(|it| it.record(tape, [0..0, 0..0]));
                vec![x.matmul(y).cast(DType::F32).swiglu()]
            })
        };
        let ((fused, dispatches), (apart, more)) = (run(Fusion::ON), run(without));
        let what = format!("[{rows}, {depth}]·[{depth}, 2·{half}]");
        assert_eq!(dispatches + 1, more, "{what}");
        let (sums, sizes) = reference(&a, &b);
        let gated = |i: usize| {
            let at = i / half * 2 * half + i % half;
            let gate = sums[at];
            let size = sizes[at] * sizes[at + half];
            (gate / (1.0 + (-gate).exp()) * sums[at + half], size)
        };
        let expected = (0..rows * half).map(gated).unzip();
        assert_near(&what, &fused[0], &expected);
        assert_near(&what, &apart[0], &expected);
    }
}

/// Both gradients of a product, which run as one, on a mixed tape; and the values around what they are written to.
#[test]
fn gradients_in_their_places() {
    let Some(device) = matrix_units() else {
        return;
    };
    let mut random = Random::new(7);
    let (m, k, n) = (20, 36, 12);
    let [x, w] = [m * k, k * n].map(|count| random.values(count, -1.0, 1.0));
    let place = Tensor::new(device, [64 + k * n], &vec![7.0f32; 64 + k * n]).unwrap();
    let tape = Tape::training(device);
    tape.set_precision(Precision::Mixed);
    let (x_var, w_var) = (tape.variable([m, k], &x), tape.variable([k, n], &w));
    let product = x_var.matmul(w_var);
    assert_eq!(product.dtype(), DType::F16);
    let gradients = tape.backward(product.sum_all());
    tape.assign(&place.part(32, [k, n]), gradients.of(w_var).unwrap());
    let dx = tape.fetch::<f32>(gradients.of(x_var).unwrap());
    tape.run().unwrap();
    assert!(has_kernel(device, "matmul_units_pair"));
    let rounded = |values: &[f32]| -> Vec<f64> {
        values.iter().map(|&x| f16::from_f32(x).to_f64()).collect()
    };
    let [x, w] = [x, w].map(|values| rounded(&values));
    let dw = place.to_vec::<f32>().unwrap();
    let around = [&dw[..32], &dw[32 + k * n..]].concat();
    assert_eq!(around, [7.0; 64]);
    let expected: Vec<f64> = (0..k * n)
        .map(|i| (0..m).map(|row| x[row * k + i / n]).sum())
        .collect();
    assert_close("dw", &dw[32..32 + k * n], &expected, 1e-5, 1e-5);
    let expected: Vec<f64> = (0..m * k)
        .map(|i| (0..n).map(|column| w[i % k * n + column]).sum())
        .collect();
    assert_close("dx", &dx.get().unwrap(), &expected, 1e-5, 1e-5);
}

/// Nothing is added up that nobody has written: operands that are intermediate values, in poisoned memory.
#[test]
fn poisoned_memory() {
    if matrix_units().is_none() {
        return;
    }
    let options = DeviceOptions {
        poison: true,
        checked_kernels: true,
        matrix_units: Feature::On,
        ..DeviceOptions::default()
    };
    let device = open(&options);
    let mut random = Random::new(8);
    for [m, k, n] in [[33, 41, 70], [6, 8, 24]] {
        let [a, b] = [[1, m, k], [1, k, n]].map(|it| Matrices::new(&mut random, it, false));
        let tape = Tape::inference(device);
        // Exact in halves, and copies that the product reads.
        let [x, y] = [&a, &b].map(|it| it.record(&tape, [0..0, 0..0]) * 0.5);
        drop([tape.fetch::<f16>(x), tape.fetch::<f16>(y)]);
        let product = tape.fetch::<f32>(x.matmul(y).cast(DType::F32) * 4.0);
        tape.run().unwrap();
        assert_near("poisoned", &product.get().unwrap(), &reference(&a, &b));
    }
    assert!(has_kernel(device, "matmul_units"));
}
