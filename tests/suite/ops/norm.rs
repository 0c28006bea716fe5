//! LayerNorm and RMSNorm against their formulas in `f64`, in every kernel variant.

use shadegrad::tape::Precision;
use shadegrad::{DType, Device, Shape, Tape, Var, check};

use crate::common::{Random, assert_close, device, devices, gpu_device, portable_device, wide};

const EPSILON: f64 = 1e-2;

/// The three that there are, told apart by their inputs: `x`, weight and bias or not, for the first two.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Norm {
    Layer,
    LayerWithoutBias,
    Rms,
}

impl Norm {
    pub const ALL: [Norm; 3] = [Norm::Layer, Norm::LayerWithoutBias, Norm::Rms];

    pub fn record<'t>(self, v: &[Var<'t>]) -> Var<'t> {
        match self {
            Norm::Layer => v[0].layer_norm(v[1], Some(v[2]), EPSILON as f32),
            Norm::LayerWithoutBias => v[0].layer_norm(v[1], None, EPSILON as f32),
            Norm::Rms => v[0].rms_norm(v[1], EPSILON as f32),
        }
    }

    pub fn oracle(self, inputs: &[Vec<f64>]) -> Vec<f64> {
        let weight = &inputs[1];
        let width = weight.len();
        let mut out = Vec::new();
        for row in inputs[0].chunks(width) {
            let mean = match self {
                Norm::Rms => 0.0,
                _ => row.iter().sum::<f64>() / width as f64,
            };
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
            let scale = 1.0 / (variance + EPSILON).sqrt();
            for (column, x) in row.iter().enumerate() {
                let bias = inputs.get(2).map_or(0.0, |bias| bias[column]);
                out.push((x - mean) * scale * weight[column] + bias);
            }
        }
        out
    }

    /// The gradients of `Σ dy·y` to the inputs.
    pub fn gradients(self, inputs: &[Vec<f64>], dy: &[f64]) -> Vec<Vec<f64>> {
        let (x, weight) = (&inputs[0], &inputs[1]);
        let width = weight.len();
        let mut gradients = vec![Vec::new(), vec![0.0; width], vec![0.0; width]];
        for (row, dy) in x.chunks(width).zip(dy.chunks(width)) {
            let mean_of =
                |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / width as f64;
            let centring = f64::from(u8::from(self != Norm::Rms));
            let mean = centring * mean_of(&mut row.iter().copied());
            let variance = mean_of(&mut row.iter().map(|x| (x - mean).powi(2)));
            let scale = 1.0 / (variance + EPSILON).sqrt();
            let h: Vec<f64> = row.iter().map(|x| (x - mean) * scale).collect();
            let g: Vec<f64> = dy.iter().zip(weight).map(|(d, w)| d * w).collect();
            let mean_g = centring * mean_of(&mut g.iter().copied());
            let mean_gh = mean_of(&mut g.iter().zip(&h).map(|(g, h)| g * h));
            for column in 0..width {
                gradients[0].push((g[column] - mean_g - h[column] * mean_gh) * scale);
                gradients[1][column] += dy[column] * h[column];
                gradients[2][column] += dy[column];
            }
        }
        gradients.truncate(inputs.len());
        gradients
    }

    pub fn inputs(self, random: &mut Random, rows: usize, width: usize) -> Vec<(Shape, Vec<f32>)> {
        let mut inputs = vec![
            ([rows, width].into(), random.values(rows * width, -2.0, 2.0)),
            ([width].into(), random.values(width, 0.5, 1.5)),
        ];
        if self == Norm::Layer {
            inputs.push(([width].into(), random.values(width, -1.0, 1.0)));
        }
        inputs
    }
}

/// Value and gradients of `Σ dy·y` by the formulas, for shapes too large for finite differences.
fn compare(device: &Device, norm: Norm, rows: usize, width: usize) {
    let mut random = Random::new((rows + width) as u64);
    let inputs = norm.inputs(&mut random, rows, width);
    let dy = random.values(rows * width, -1.0, 1.0);
    let tape = Tape::training(device);
    let variables: Vec<Var<'_>> = inputs
        .iter()
        .map(|(shape, values)| tape.variable(*shape, values))
        .collect();
    let y = norm.record(&variables);
    let gradients = tape.backward_from(y, tape.input([rows, width], &dy));
    let y = tape.fetch::<f32>(y);
    let gradients: Vec<_> = variables
        .iter()
        .map(|&v| tape.fetch::<f32>(gradients.of(v).unwrap()))
        .collect();
    tape.run().unwrap();

    let inputs: Vec<Vec<f64>> = inputs.iter().map(|(_, values)| wide(values)).collect();
    let what = |of: &str| format!("{norm:?} of [{rows}, {width}], {of}");
    assert_close(
        &what("value"),
        &y.get().unwrap(),
        &norm.oracle(&inputs),
        2e-6,
        4e-6,
    );
    // Sums over many rows, or of a long row, lose a little.
    let tolerance = 4e-6 * (rows as f64).sqrt();
    for (input, expected) in norm.gradients(&inputs, &wide(&dy)).iter().enumerate() {
        let actual = gradients[input].get().unwrap();
        let absolute = if input == 0 { 4e-6 } else { tolerance };
        assert_close(
            &what(&format!("gradient {input}")),
            &actual,
            expected,
            1e-5,
            absolute,
        );
    }
}

/// Rows and widths: in one block and several, odd, longer than what stays in registers.
const SHAPES: [[usize; 2]; 11] = [
    [1, 1],
    [3, 2],
    [130, 4],
    [7, 27],
    [512, 32],
    [66, 64],
    [33, 85],
    [5, 256],
    [4, 257],
    [3, 1000],
    [2, 4099],
];

#[test]
fn widths() {
    for [rows, width] in SHAPES {
        for norm in Norm::ALL {
            compare(device(), norm, rows, width);
        }
    }
}

#[test]
fn widths_in_portable_kernels() {
    for [rows, width] in SHAPES {
        for norm in Norm::ALL {
            compare(portable_device(), norm, rows, width);
        }
    }
}

/// Rows of a subgroup, with one to eight blocks, whole ones and others; and rows that a whole workgroup shares, in
/// registers and beyond.
#[test]
fn widths_with_subgroups() {
    let of_a_subgroup = [
        [1, 1],
        [130, 4],
        [7, 27],
        [512, 32],
        [33, 85],
        [700, 96],
        [20, 160],
        [21, 192],
        [19, 224],
        [5, 256],
    ];
    let of_a_workgroup = [[37, 516], [3, 1000], [2, 4099], [2, 8192], [2, 8300]];
    for [rows, width] in of_a_subgroup.into_iter().chain(of_a_workgroup) {
        for norm in [Norm::Layer, Norm::Rms] {
            compare(gpu_device(), norm, rows, width);
        }
    }
}

/// More rows than partial sums of the parameters' gradients, more teams than a grid is wide.
#[test]
fn many_rows() {
    compare(device(), Norm::Rms, 70_001, 4);
    compare(portable_device(), Norm::Layer, 8 * 66_000 + 3, 2);
    // Several rows to a team forward as well.
    compare(gpu_device(), Norm::Layer, 70_001, 64);
}

#[test]
fn gradients_mid_graph() {
    for device in [device(), portable_device(), gpu_device()] {
        for norm in Norm::ALL {
            for [rows, width] in [[3, 8], [5, 7], [20, 36]] {
                let inputs = norm.inputs(&mut Random::new(1), rows, width);
                let report =
                    check::gradient(device, &inputs, |v| norm.record(v), |x| norm.oracle(x));
                report.unwrap_or_else(|error| panic!("{norm:?} [{rows}, {width}]: {error}"));
            }
        }
    }
}

#[test]
fn gradients_of_gradients() {
    for norm in Norm::ALL {
        for [rows, width] in [[3, 4], [2, 5]] {
            let inputs = norm.inputs(&mut Random::new(3), rows, width);
            let report =
                check::second_gradient(device(), &inputs, |v| norm.record(v), |x| norm.oracle(x));
            report.unwrap_or_else(|error| panic!("{norm:?} [{rows}, {width}]: {error}"));
        }
    }
}

/// Rows that do not follow each other, offsets that are no multiple of four, more than two axes, a single row.
#[test]
fn views() {
    let base = Random::new(5).values(3 * 6 * 12, -2.0, 2.0);
    let parameters = Random::new(6).values(30, 0.5, 1.5);
    let at = |i: usize, j: usize, k: usize| f64::from(base[(i * 6 + j) * 12 + k]);
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
        for norm in Norm::ALL {
            let tape = Tape::inference(device);
            let x = tape.input([3, 6, 12], &base);
            let all = tape.input([30], &parameters);
            // Parameters from the middle of a larger tensor.
            let record = |x, first: usize| {
                let x: Var<'_> = x;
                let width = x.shape().last();
                let weight = all.slice(0, first..first + width);
                let bias = all.slice(0, first + 2..first + 2 + width);
                tape.fetch::<f32>(norm.record(&[x, weight, bias]))
            };
            let expect = |x: Vec<f64>, width: usize, first: usize| {
                let part = |first: usize| wide(&parameters[first..first + width]);
                let mut inputs = vec![x, part(first)];
                if norm == Norm::Layer {
                    inputs.push(part(first + 2));
                }
                norm.oracle(&inputs)
            };
            let checks = [
                (
                    "dense",
                    record(x, 4),
                    expect(collect([3, 6, 12], &at), 12, 4),
                ),
                (
                    "odd parameters",
                    record(x, 3),
                    expect(collect([3, 6, 12], &at), 12, 3),
                ),
                (
                    "part of a row",
                    record(x.slice(2, 1..8), 0),
                    expect(collect([3, 6, 7], &|i, j, k| at(i, j, k + 1)), 7, 0),
                ),
                (
                    "aligned part",
                    record(x.slice(2, 4..12), 8),
                    expect(collect([3, 6, 8], &|i, j, k| at(i, j, k + 4)), 8, 8),
                ),
                (
                    "permuted",
                    record(x.permute(&[2, 0, 1]), 1),
                    expect(collect([12, 3, 6], &|i, j, k| at(j, k, i)), 6, 1),
                ),
                (
                    "repeated",
                    record(x.slice(1, 2..3).broadcast_to([3, 6, 12]), 4),
                    expect(collect([3, 6, 12], &|i, _, k| at(i, 2, k)), 12, 4),
                ),
                (
                    "a single row",
                    record(x.slice(0, 1..2).slice(1, 0..1).reshape([12]), 0),
                    expect(collect([1, 1, 12], &|_, _, k| at(1, 0, k)), 12, 0),
                ),
            ];
            tape.run().unwrap();
            for (what, y, expected) in checks {
                let what = format!("{norm:?}, {what}");
                assert_close(&what, &y.get().unwrap(), &expected, 2e-6, 4e-6);
            }
        }
    }
}

/// A mean far larger than the spread costs no precision beyond that of the elements themselves.
#[test]
fn a_large_mean_is_taken_off_first() {
    for device in [device(), portable_device(), gpu_device()] {
        // Exact in f32, so is their mean.
        let x: Vec<f32> = (0..64).map(|k| 4096.0 + (k % 8) as f32 - 3.5).collect();
        let tape = Tape::inference(device);
        let y = tape
            .input([2, 32], &x)
            .layer_norm(tape.full([32], 1.0), None, 0.0);
        let y = tape.fetch::<f32>(y);
        tape.run().unwrap();
        let scale = 1.0 / 5.25f64.sqrt();
        let expected: Vec<f64> = x.iter().map(|&x| (f64::from(x) - 4096.0) * scale).collect();
        assert_close("layer_norm", &y.get().unwrap(), &expected, 1e-6, 0.0);
    }
}

/// Rows without spread stay finite, backward as well.
#[test]
fn constant_rows() {
    for device in [device(), portable_device(), gpu_device()] {
        let tape = Tape::training(device);
        let x = tape.variable([3, 8], &[0.0; 24]);
        let weight = tape.full([8], 1.0);
        let y = x.layer_norm(weight, None, 1e-5) + x.rms_norm(weight, 1e-5);
        let gradient = tape.backward((y * y + y).sum_all()).of(x).unwrap();
        let (y, gradient) = (tape.fetch::<f32>(y), tape.fetch::<f32>(gradient));
        tape.run().unwrap();
        assert_eq!(y.get().unwrap(), [0.0; 24]);
        assert!(
            gradient
                .get()
                .unwrap()
                .iter()
                .all(|value| value.is_finite())
        );
    }
}

/// The kernels of a residual branch around a norm, forward and backward.
fn kernels(record: impl for<'t> Fn(Var<'t>, Var<'t>, Var<'t>) -> Var<'t>) -> Vec<&'static str> {
    let tape = Tape::training(device());
    let x = tape.variable([6, 8], &[0.5; 48]);
    let [weight, bias] = [0, 1].map(|_| tape.variable([8], &[0.5; 8]));
    let gradients = tape.backward_from(record(x, weight, bias), tape.input([6, 8], &[1.0; 48]));
    for leaf in [x, weight, bias] {
        if let Some(gradient) = gradients.of(leaf) {
            let _fetch = tape.fetch::<f32>(gradient);
        }
    }
    tape.profile()
        .unwrap()
        .iter()
        .map(|time| time.name)
        .collect()
}

/// Two dispatches backward; the residual's gradient is added by the first.
#[test]
fn dispatches() {
    let rms = kernels(|x, weight, _| x + x.rms_norm(weight, 1e-5));
    assert_eq!(rms, ["rms_norm", "rms_norm_backward", "norm_parameters"]);
    let layer = kernels(|x, weight, bias| x + x.layer_norm(weight, Some(bias), 1e-5));
    assert_eq!(
        layer,
        ["layer_norm", "layer_norm_backward", "norm_parameters"]
    );
    let frozen = kernels(|x, weight, _| x + x.rms_norm(weight.detach(), 1e-5));
    assert_eq!(frozen, ["rms_norm", "rms_norm_backward"]);
}

#[test]
#[should_panic(expected = "layer_norm: weight and bias for [2, 3] have shape [3], not [2]")]
fn the_weight_must_fit() {
    let tape = Tape::inference(device());
    let x = tape.input([2, 3], &[0.0; 6]);
    x.layer_norm(tape.full([2], 1.0), None, 1e-5);
}

/// A residual sum between two RMS norms is what they are apart.
#[test]
fn norms_around_a_residual_sum() {
    let mut random = Random::new(31);
    for (rows, width) in [(1, 576), (3, 40), (5, 7), (40, 33)] {
        let values = [0, 1].map(|_| random.values(rows * width, -2.0, 2.0));
        let weights = [0, 1].map(|_| random.values(width, 0.5, 2.0));
        let rms_norm = |row: &[f64], weight: &[f32], epsilon: f64| -> Vec<f64> {
            let squares: f64 = row.iter().map(|x| x * x).sum();
            let rms = (squares / width as f64 + epsilon).sqrt();
            let each = row.iter().zip(weight);
            each.map(|(x, &w)| x / rms * f64::from(w)).collect()
        };
        let [x64, residual64] = values.each_ref().map(|values| wide(values));
        let (mut sums, mut normed) = (Vec::new(), Vec::new());
        for (x, residual) in x64.chunks(width).zip(residual64.chunks(width)) {
            let branch = rms_norm(x, &weights[0], 1e-2);
            let sum: Vec<f64> = residual.iter().zip(branch).map(|(r, b)| r + b).collect();
            normed.extend(rms_norm(&sum, &weights[1], 1e-3));
            sums.extend(sum);
        }
        for device in devices() {
            for precision in [Precision::F32, Precision::Mixed] {
                let tape = Tape::inference(device);
                tape.set_precision(precision);
                let [x, residual] = values.each_ref().map(|x| tape.input([rows, width], x));
                let [v, w] = weights.each_ref().map(|w| tape.input([width], w));
                let results = x.residual_norms(residual, (v, 1e-2), (w, 1e-3));
                assert_eq!(results[1].dtype(), precision.dtype());
                let [sum, y] = results.map(|it| tape.fetch::<f32>(it.cast(DType::F32)));
                tape.run().unwrap();
                let name = format!("{rows} × {width} in {precision:?}");
                assert_close(&name, &sum.get().unwrap(), &sums, 1e-5, 1e-5);
                let tolerance = if precision == Precision::F32 {
                    1e-5
                } else {
                    1e-3
                };
                assert_close(&name, &y.get().unwrap(), &normed, tolerance, tolerance);
            }
        }
    }
}

#[test]
#[should_panic(expected = "residual_norms: [2, 3] and [2, 3] do not go with weights [3] and [2]")]
fn norms_around_a_residual_sum_have_its_width() {
    let tape = Tape::inference(device());
    let [x, v, w] = [[2, 3].into(), Shape::from([3]), Shape::from([2])].map(|s| tape.full(s, 1.0));
    x.residual_norms(x, (v, 0.1), (w, 0.1));
}
