//! What is not a number stays so, everywhere but where a comparison, a mask or a choice hides it, as in PyTorch: a run that
//! has diverged can't look healthy.

use shadegrad::ops::CrossEntropy;
use shadegrad::ops::pointwise::{Row, TABLE};
use shadegrad::tape::Fusion;
use shadegrad::{Device, Shape, Tape, Var};

use crate::common::{devices, run_counted};

const NAN: f32 = f32::NAN;

/// Runs on a training tape with and without fusion, which agree about what is a number; gives the fused results.
fn run(device: &Device, record: impl for<'t> Fn(&'t Tape) -> Vec<Var<'t>>) -> Vec<Vec<f32>> {
    let (fused, _) = run_counted(device, Fusion::ON, &record);
    let (single, _) = run_counted(device, Fusion::OFF, &record);
    for (fused, single) in fused.iter().zip(&single) {
        let places = |values: &[f32]| values.iter().map(|v| v.is_nan()).collect::<Vec<_>>();
        assert_eq!(places(fused), places(single), "{fused:?} {single:?}");
    }
    fused
}

/// Rows whose answer about what is not a number is a number, as PyTorch's: comparisons, and what a condition chooses by.
fn hides(row: &Row, input: usize) -> bool {
    let comparisons = [
        "sign",
        "positive",
        "at_least",
        "above",
        "equal",
        "not_equal",
        "less",
        "less_equal",
        "greater",
        "greater_equal",
    ];
    comparisons.contains(&row.name) || (row.name == "select" && input == 0)
}

/// Every row of the table, with one element that is not a number in each of its inputs.
#[test]
fn pointwise_operations() {
    for device in devices() {
        for row in TABLE
            .iter()
            .filter(|row| !row.inputs.is_empty() && row.name != "to_float")
        {
            let count = row.inputs.len();
            for odd in 0..count {
                for (length, place) in [(1, 0), (3, 1), (8, 0), (70, 69)] {
                    let results = run(device, |tape| {
                        let inputs: Vec<Var<'_>> = (0..count)
                            .map(|input| {
                                let (low, high) = row.domain[input];
                                let step = (high - low) as f32 / (length + 1) as f32;
                                let mut values: Vec<f32> = (0..length)
                                    .map(|i| low as f32 + step * (i as f32 + 0.7))
                                    .collect();
                                if input == odd {
                                    values[place] = NAN;
                                }
                                if row.name == "select" && input == 0 && odd != 0 {
                                    // So that what is not a number is what is chosen.
                                    values.fill(if odd == 1 { 1.0 } else { 0.0 });
                                }
                                tape.variable([length], &values)
                            })
                            .collect();
                        let attributes: Vec<f32> = row.domain[count..]
                            .iter()
                            .map(|&(low, high)| ((low + high) / 2.0).round() as f32)
                            .collect();
                        let attributes = match row.name {
                            "clamp" => vec![-1.0, 2.0],
                            "powi" => vec![3.0],
                            "div_by" | "scale" => vec![2.0],
                            _ => attributes,
                        };
                        let y = row.apply(&inputs, &attributes);
                        // Followed by something, and alone.
                        vec![y, y * 2.0 + 1.0]
                    });
                    for result in results {
                        for (index, value) in result.iter().enumerate() {
                            let expected = index == place && !hides(row, odd);
                            assert_eq!(
                                value.is_nan(),
                                expected,
                                "{}: element {index} of {length} is {value} where input {odd} has none at {place}",
                                row.name
                            );
                        }
                    }
                }
            }
        }
    }
}

/// Gradients of smooth rows, where the input or what arrives is not a number.
#[test]
fn gradients_of_pointwise_operations() {
    for device in devices() {
        for row in TABLE
            .iter()
            .filter(|row| row.smooth && row.inputs.len() == 1 && row.name != "to_float")
        {
            // These have the same gradient everywhere.
            let is_linear = ["scale", "shift", "div_by", "convert"].contains(&row.name);
            let attributes = vec![3.0; row.attributes.len()];
            let results = run(device, |tape| {
                let x = tape.variable([3], &[0.5, NAN, 0.5]);
                let arriving = tape.input([3], &[1.0, 1.0, NAN]);
                let y = row.apply(&[x], &attributes);
                vec![tape.backward_from(y, arriving).of(x).unwrap()]
            });
            let is_nan: Vec<bool> = results[0].iter().map(|value| value.is_nan()).collect();
            assert_eq!(
                is_nan,
                [false, !is_linear, true],
                "{}: {:?}",
                row.name,
                results[0]
            );
        }
        // Masked as in PyTorch: only what arrives counts.
        let results = run(device, |tape| {
            let x = tape.variable([4], &[0.5, NAN, 0.5, -9.0]);
            let arriving = tape.input([4], &[1.0, 1.0, NAN, 1.0]);
            [x.relu(), x.clamp(-1.0, 1.0)]
                .map(|y| tape.backward_from(y, arriving).of(x).unwrap())
                .into()
        });
        let numbers = |values: &[f32]| {
            values
                .iter()
                .map(|&v| (!v.is_nan()).then_some(v))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            numbers(&results[0]),
            [Some(1.0), Some(1.0), None, Some(0.0)]
        );
        assert_eq!(
            numbers(&results[1]),
            [Some(1.0), Some(0.0), None, Some(0.0)]
        );
    }
}

/// An operation over the rows of `[rows, columns]`.
type OverRows = for<'t> fn(Var<'t>) -> Var<'t>;

const OVER_ROWS: [(&str, OverRows); 12] = [
    ("softmax", |x| x.softmax()),
    ("log_softmax", |x| x.log_softmax()),
    ("layer_norm", |x| x.layer_norm(ones(x), Some(ones(x)), 1e-5)),
    ("rms_norm", |x| x.rms_norm(ones(x), 1e-5)),
    ("sum", |x| x.sum(&[1])),
    ("mean", |x| x.mean(&[1])),
    ("max", |x| x.max(&[1])),
    ("min", |x| x.min(&[1])),
    ("var", |x| x.var(&[1])),
    ("matmul", |x| {
        x.matmul(x.tape().full([x.shape().last(), 5], 1.0))
    }),
    ("cross_entropy", |x| {
        x.cross_entropy_rows(zeros(x), CrossEntropy::default())
    }),
    ("smoothed", |x| {
        let options = CrossEntropy {
            label_smoothing: 0.25,
            ..CrossEntropy::default()
        };
        x.cross_entropy_rows(zeros(x), options)
    }),
];

fn ones(x: Var<'_>) -> Var<'_> {
    x.tape()
        .input([x.shape().last()], &vec![1.0f32; x.shape().last()])
}

fn zeros(x: Var<'_>) -> Var<'_> {
    x.tape()
        .input([x.shape().dim(0)], &vec![0u32; x.shape().dim(0)])
}

/// One element that is not a number spoils its row, and no other one; the same with its gradient.
#[test]
fn rows() {
    for device in devices() {
        for columns in [1, 3, 8, 33, 70, 513, 1031, 5000] {
            for place in [0, columns / 2, columns - 1] {
                for (name, operation) in OVER_ROWS {
                    if columns == 1 && name == "max" {
                        continue; // Nothing is reduced.
                    }
                    let rows = if columns > 600 { 2 } else { 3 };
                    let results = run(device, |tape| {
                        let mut values: Vec<f32> =
                            (0..rows * columns).map(|i| (i % 7) as f32 - 3.0).collect();
                        values[columns + place] = NAN;
                        let x = tape.variable([rows, columns], &values);
                        let y = operation(x);
                        let gradient = tape.backward((y * y).sum_all()).of(x).unwrap();
                        vec![y, gradient]
                    });
                    for (what, result) in ["value", "gradient"].iter().zip(&results) {
                        let width = result.len() / rows;
                        for (row, values) in result.chunks(width).enumerate() {
                            let spoilt = values.iter().filter(|value| value.is_nan()).count();
                            let expected = if row == 1 { width } else { 0 };
                            assert_eq!(
                                spoilt, expected,
                                "{name} over {columns} columns, none at {place}: {what} of row {row}"
                            );
                        }
                    }
                }
            }
        }
    }
}

/// The loss of a row that counts is the batch's, its gradient the row's alone; a row that is ignored hides what is in it.
#[test]
fn losses() {
    let ignoring = CrossEntropy::ignoring(9);
    let smoothed = CrossEntropy {
        label_smoothing: 0.25,
        ..ignoring
    };
    for device in devices() {
        for columns in [3, 70, 513, 1031, 5000, 20_011] {
            for options in [CrossEntropy::default(), ignoring, smoothed] {
                for (hidden, place) in [(false, 0), (false, columns - 1), (true, 1)] {
                    if hidden && options.ignore_index.is_none() {
                        continue;
                    }
                    let results = run(device, |tape| {
                        let mut values: Vec<f32> =
                            (0..3 * columns).map(|i| (i % 7) as f32 - 3.0).collect();
                        values[columns + place] = NAN;
                        let x = tape.variable([3, columns], &values);
                        let targets = tape.input([3], &[0, if hidden { 9 } else { 2 }, 1]);
                        let loss = x.cross_entropy(targets, options);
                        // The loss alone, which has kernels of its own, and with the gradient.
                        let alone = x.detach().cross_entropy(targets, options);
                        vec![loss, alone, tape.backward(loss).of(x).unwrap()]
                    });
                    for loss in &results[..2] {
                        assert_eq!(loss[0].is_nan(), !hidden, "{columns} columns: {loss:?}");
                    }
                    for (row, values) in results[2].chunks(columns).enumerate() {
                        let spoilt = values.iter().filter(|value| value.is_nan()).count();
                        let expected = if row == 1 && !hidden { columns } else { 0 };
                        assert_eq!(spoilt, expected, "{columns} columns: gradient of row {row}");
                    }
                }
            }
        }
    }
}

/// Reductions over any axes: four neighbours at a time or one, by several invocations or chunks.
#[test]
fn reductions() {
    type Reduced = for<'t> fn(Var<'t>, &[usize]) -> Var<'t>;
    const REDUCED: [(&str, Reduced); 5] = [
        ("sum", |x, axes| x.sum(axes)),
        ("mean", |x, axes| x.mean(axes)),
        ("max", |x, axes| x.max(axes)),
        ("min", |x, axes| x.min(axes)),
        ("var", |x, axes| x.var(axes)),
    ];
    for device in devices() {
        for shape in [[2, 3, 5], [3, 70, 8], [2, 3000, 4]] {
            let count: usize = shape.iter().product();
            for axes in [&[0][..], &[1], &[2], &[0, 2], &[0, 1, 2]] {
                for place in [0, count / 2 + 1, count - 1] {
                    let mut strides = [shape[1] * shape[2], shape[2], 1];
                    axes.iter().for_each(|&axis| strides[axis] = 0);
                    let results = run(device, |tape| {
                        let mut values: Vec<f32> =
                            (0..count).map(|i| (i * 31 % 101) as f32 - 50.0).collect();
                        values[place] = NAN;
                        let x = tape.variable(shape, &values);
                        let reduced = REDUCED.map(|(_, reduce)| reduce(x, axes));
                        // The same with other strides.
                        let turned = x.permute(&[2, 1, 0]);
                        let axes: Vec<usize> = axes.iter().map(|axis| 2 - axis).collect();
                        let turned = REDUCED.map(|(_, reduce)| reduce(turned, &axes).sum_all());
                        reduced.into_iter().chain(turned).collect()
                    });
                    for (index, result) in results.iter().enumerate() {
                        let name = REDUCED[index % REDUCED.len()].0;
                        let spoilt = result.iter().filter(|value| value.is_nan()).count();
                        assert_eq!(
                            spoilt, 1,
                            "{name} of {shape:?} over {axes:?}, none at {place}"
                        );
                    }
                }
            }
        }
    }
}

/// What products end with: biases, activations and gates, and their gradients.
#[test]
fn ends_of_products() {
    type End = for<'t> fn(Var<'t>) -> Var<'t>;
    const ENDS: [(&str, End); 7] = [
        ("relu", |x| x.relu()),
        ("gelu", |x| x.gelu()),
        ("gelu_tanh", |x| x.gelu_tanh()),
        ("silu", |x| x.silu()),
        ("sigmoid", |x| x.sigmoid()),
        ("clamp", |x| x.clamp(-1.0, 1.0)),
        ("swiglu", |x| x.swiglu()),
    ];
    for device in devices() {
        for (rows, depth, columns) in [(3, 5, 6), (5, 16, 32), (33, 65, 130)] {
            for place in [0, depth / 2, depth - 1] {
                for (name, end) in ENDS {
                    let results = run(device, |tape| {
                        let drawn = |count: usize| -> Vec<f32> {
                            (0..count)
                                .map(|i| (i * 37 % 19) as f32 / 40.0 - 0.2)
                                .collect()
                        };
                        let mut values = drawn(rows * depth);
                        values[depth + place] = NAN;
                        let x = tape.variable([rows, depth], &values);
                        let weight = tape.variable([depth, columns], &drawn(depth * columns));
                        let bias = tape.input([columns], &drawn(columns));
                        let y = end(x.matmul(weight) + bias);
                        let gradients = tape.backward((y * y).sum_all());
                        vec![y, gradients.of(x).unwrap(), gradients.of(weight).unwrap()]
                    });
                    for (what, result) in ["value", "gradient"].iter().zip(&results) {
                        let width = result.len() / rows;
                        for (row, values) in result.chunks(width).enumerate() {
                            let spoilt = values.iter().filter(|value| value.is_nan()).count();
                            let expected = if row == 1 { width } else { 0 };
                            assert_eq!(
                                spoilt, expected,
                                "{name} of {rows}x{depth}x{columns}, none at {place}: {what} of row {row}"
                            );
                        }
                    }
                    assert!(results[2].iter().any(|value| value.is_nan()), "{name}");
                }
            }
        }
    }
}

#[test]
fn small_inputs() {
    for device in devices() {
        let results = run(device, |tape| {
            let x = tape.input([3], &[1.0, NAN, 2.0]);
            let rows = tape.input(
                [4, 3],
                &[1.0, NAN, 2.0, 5.0, 4.0, 3.0, NAN, NAN, 1.0, 1.0, 2.0, NAN],
            );
            vec![
                x.softmax(),
                rows.argmax(1).to_f32(),
                rows.argmax(0).to_f32(),
                x.swiglu_pair(),
            ]
        });
        assert!(
            results[0].iter().all(|value| value.is_nan()),
            "{:?}",
            results[0]
        );
        assert_eq!(results[1], [1.0, 0.0, 0.0, 2.0]);
        assert_eq!(results[2], [2.0, 0.0, 3.0]);
        assert!(results[3].iter().all(|value| value.is_nan()));
        // The place of the first, in a long row too.
        for place in [0, 5, 1000, 1030] {
            let results = run(device, |tape| {
                let mut values: Vec<f32> = (0..1031).map(|i| (i * 31 % 101) as f32).collect();
                values[place] = NAN;
                values[1030] = NAN;
                vec![tape.input([1031], &values).argmax(0).to_f32()]
            });
            assert_eq!(results[0], [place as f32]);
        }
        // Infinities are numbers to a maximum, and to a softmax one that wins against all is none.
        let results = run(device, |tape| {
            let x = tape.input([3], &[1.0, f32::INFINITY, f32::NEG_INFINITY]);
            let low = tape.input([3], &[1.0, f32::NEG_INFINITY, 2.0]);
            vec![
                x.max(&[0]),
                x.min(&[0]),
                x.softmax(),
                low.softmax(),
                x.relu(),
                x.tanh(),
                x.sigmoid(),
            ]
        });
        assert_eq!(results[0], [f32::INFINITY]);
        assert_eq!(results[1], [f32::NEG_INFINITY]);
        assert!(results[2].iter().all(|value| value.is_nan()));
        assert!(results[3][1] == 0.0 && (results[3].iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert_eq!(results[4], [1.0, f32::INFINITY, 0.0]);
        assert_eq!(results[5][1..], [1.0, -1.0]);
        assert!(
            results[6][1] == 1.0 && results[6][2] < 1e-30,
            "{:?}",
            results[6]
        );
    }
}

trait Pair<'t> {
    fn swiglu_pair(self) -> Var<'t>;
}

impl<'t> Pair<'t> for Var<'t> {
    /// Both orders of a gated unit with this gate, or this beside the gate.
    fn swiglu_pair(self) -> Var<'t> {
        let x = self.slice(0, 1..2);
        let one = self.tape().full(Shape::new(&[1]), 1.0);
        let units = [[x, one], [one, x]].map(|pair| Var::concat(&pair, 0).swiglu());
        Var::concat(&units, 0)
    }
}
