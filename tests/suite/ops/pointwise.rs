//! Every row of the pointwise table: value against its `f64` oracle over shapes, broadcasts and strides, gradient and
//! gradient of the gradient against finite differences.

use shadegrad::check::Check;
use shadegrad::ops::pointwise::{Row, TABLE};
use shadegrad::tape::Fusion;
use shadegrad::{DType, Device, Shape, Tape, Var, check, f16};

use crate::common::host::Host;
use crate::common::{self, Random, assert_close, broadcast_index, device, devices, positions};

/// Where rows are tried, and on which elements: halves in all the ways that kernels hold them.
fn places() -> impl Iterator<Item = (&'static Device, DType)> {
    let halves = devices().into_iter().map(|device| (device, DType::F16));
    std::iter::once((device(), DType::F32)).chain(halves)
}

/// Rows that take tensors. The one that does not, `constant`, is [`Tape::full`].
fn rows() -> impl Iterator<Item = &'static Row> {
    TABLE.iter().copied().filter(|row| !row.inputs.is_empty())
}

fn row(name: &str) -> &'static Row {
    rows()
        .find(|row| row.name == name)
        .expect("a row of the table")
}

/// Reads integers: the row whose input has another element type.
fn is_integer(row: &Row) -> bool {
    row.name == "to_float"
}

fn attributes(row: &Row, random: &mut Random) -> Vec<f32> {
    let domains = &row.domain[row.inputs.len()..];
    domains
        .iter()
        .map(|&(low, high)| random.between(low, high))
        .collect()
}

/// Values of input `index` from the row's domain. Half of them are multiples of ½, so that comparisons meet equal
/// values, zeros and the limits given as attributes.
fn sample(row: &Row, index: usize, shape: Shape, random: &mut Random) -> Vec<f32> {
    let (low, high) = row.domain[index];
    let draw = |_| {
        let value = random.between(low, high);
        let half = (2.0 * value).round() / 2.0;
        let allowed = f64::from(half) >= low && f64::from(half) <= high;
        match (is_integer(row), random.below(2) == 0 && allowed) {
            (true, _) => value.round(),
            (false, true) => half,
            (false, false) => value,
        }
    };
    (0..shape.elements()).map(draw).collect()
}

/// Values on a grid that keeps every input away from zero, from the attributes and from the other inputs, where rows
/// that are not smooth have their kinks and steps.
fn sample_between_kinks(row: &Row, index: usize, shape: Shape, random: &mut Random) -> Vec<f32> {
    let (low, high) = row.domain[index];
    let draw = |_| match row.smooth {
        true => random.between(low, high),
        false => (4.0 * random.between(low, high)).round() / 4.0 + 0.0625 * (index + 1) as f32,
    };
    (0..shape.elements()).map(draw).collect()
}

/// The row's oracle over broadcast inputs.
fn oracle(row: &Row, inputs: &[(Shape, Vec<f64>)], attributes: &[f32]) -> Vec<f64> {
    let shape = inputs.iter().fold(Shape::SCALAR, |shape, (other, _)| {
        shape.broadcast(other).expect("the inputs broadcast")
    });
    positions(shape)
        .map(|position| {
            let values = inputs
                .iter()
                .map(|(shape, values)| values[broadcast_index(*shape, &position)]);
            let attributes = attributes.iter().map(|&value| f64::from(value));
            (row.oracle)(&values.chain(attributes).collect::<Vec<f64>>())
        })
        .collect()
}

/// Records how an input is read, and says what that means on the host.
type Reading = for<'t> fn(Var<'t>, &Host<f32>, &mut Random) -> (Var<'t>, Host<f32>);

/// What comes out of a row.
enum Value {
    Single(shadegrad::gpu::Fetch<f32>),
    Half(shadegrad::gpu::Fetch<f16>),
}

/// One application of a row on a tape that is still being recorded, and what must come out.
struct Case {
    what: String,
    value: Value,
    expected: Vec<f64>,
}

impl Case {
    /// Puts inputs of these shapes on the tape, has `view` read them, applies the row.
    fn record(
        tape: &Tape,
        row: &'static Row,
        dtype: DType,
        shapes: &[Shape],
        random: &mut Random,
        view: Reading,
    ) -> Case {
        let attributes = attributes(row, random);
        let mut vars = Vec::new();
        let mut inputs = Vec::new();
        for (index, &shape) in shapes.iter().enumerate() {
            let mut values = sample(row, index, shape, random);
            let var = if is_integer(row) {
                let integers: Vec<u32> = values.iter().map(|&value| value as u32).collect();
                tape.input(shape, &integers)
            } else if dtype == DType::F16 {
                let halves: Vec<f16> = values.iter().map(|&x| f16::from_f32(x)).collect();
                values = halves.iter().map(|half| half.to_f32()).collect();
                tape.input(shape, &halves)
            } else {
                tape.input(shape, &values)
            };
            let (var, host) = view(var, &Host::new(shape, values), random);
            assert_eq!(var.shape(), host.shape);
            vars.push(var);
            inputs.push((host.shape, common::wide(&host.values)));
        }
        let output = row.apply(&vars, &attributes);
        Case {
            what: format!("{} of {:?} with {attributes:?}", row.name, vars),
            value: match output.dtype() {
                DType::F16 => Value::Half(tape.fetch(output)),
                _ => Value::Single(tape.fetch(output)),
            },
            expected: oracle(row, &inputs, &attributes),
        }
    }

    fn check(&self) {
        let (actual, relative, absolute) = match &self.value {
            Value::Single(value) => (value.get().unwrap(), 1e-5, 1e-5),
            // Eleven bits, of which a device that truncates may lose a whole unit. What is smaller than any normal half may be
            // zero.
            Value::Half(value) => {
                let halves = value.get().unwrap();
                let values = halves.iter().map(|half| half.to_f32()).collect();
                (values, 1.0 / 1024.0, f64::from(f16::MIN_POSITIVE))
            }
        };
        assert_close(&self.what, &actual, &self.expected, relative, absolute);
    }
}

fn as_it_is<'t>(var: Var<'t>, host: &Host<f32>, _: &mut Random) -> (Var<'t>, Host<f32>) {
    (var, host.clone())
}

fn run_all(tape: Tape, cases: Vec<Case>) {
    tape.run().unwrap();
    cases.iter().for_each(Case::check);
}

#[test]
fn every_row_on_dense_inputs_of_every_rank() {
    let mut random = Random::new(1);
    let shapes: [&[usize]; 9] = [
        &[],
        &[1],
        &[7],
        &[64],
        &[3, 5],
        &[2, 3, 4],
        &[1, 2, 1, 3],
        &[2, 1, 3, 2, 5],
        &[2, 3, 1, 2, 2, 4],
    ];
    for (device, dtype) in places() {
        for row in rows() {
            let tape = Tape::inference(device);
            let cases = shapes.map(|shape| {
                let inputs = vec![Shape::new(shape); row.inputs.len()];
                Case::record(&tape, row, dtype, &inputs, &mut random, as_it_is)
            });
            run_all(tape, cases.into());
        }
    }
}

#[test]
fn every_row_broadcasts() {
    let mut random = Random::new(2);
    for (device, dtype) in places() {
        for row in rows().filter(|row| row.inputs.len() > 1) {
            let tape = Tape::inference(device);
            let cases = (0..6).map(|_| {
                let rank = 1 + random.below(6);
                let shape = random.shape_of_rank(rank, 5);
                let inputs: Vec<Shape> = row
                    .inputs
                    .iter()
                    .map(|_| random.broadcastable(shape))
                    .collect();
                Case::record(&tape, row, dtype, &inputs, &mut random, as_it_is)
            });
            let cases = cases.collect();
            run_all(tape, cases);
        }
    }
}

#[test]
fn two_operands_broadcast_in_every_combination() {
    let mut random = Random::new(3);
    // With four in the last place, elements are read four at a time where neither operand forbids it.
    for last in [3, 4] {
        let extents = [2, 5, last];
        // Bit i: whether axis i is stretched. Leading axes may also be missing.
        let variants: Vec<Shape> = (0..8usize)
            .flat_map(|stretched| {
                let dims: Vec<usize> = (0..3)
                    .map(|axis| {
                        if stretched >> axis & 1 == 1 {
                            1
                        } else {
                            extents[axis]
                        }
                    })
                    .collect();
                (0..=3).map(move |missing| Shape::new(&dims[missing..]))
            })
            .collect();
        for &left in &variants {
            let tape = Tape::inference(device());
            let pair = |&right: &Shape| {
                let shapes = [left, right];
                Case::record(
                    &tape,
                    row("sub"),
                    DType::F32,
                    &shapes,
                    &mut random,
                    as_it_is,
                )
            };
            let cases = variants.iter().map(pair).collect();
            run_all(tape, cases);
        }
    }
}

/// A drawn chain of views, also of a kind that needs a copy.
fn strided<'t>(mut var: Var<'t>, host: &Host<f32>, random: &mut Random) -> (Var<'t>, Host<f32>) {
    let mut host = host.clone();
    let rank = host.shape.rank();
    for _ in 0..3 {
        match random.below(3) {
            0 => {
                let mut axes: Vec<usize> = (0..rank).collect();
                for last in (1..rank).rev() {
                    axes.swap(last, random.below(last + 1));
                }
                (var, host) = (var.permute(&axes), host.permute(&axes));
            }
            1 => {
                let axis = random.below(rank);
                let start = random.below(host.shape.dim(axis));
                let end = start + 1 + random.below(host.shape.dim(axis) - start);
                (var, host) = (var.slice(axis, start..end), host.slice(axis, start..end));
            }
            _ => {
                let mut extents = host.shape.dims().to_vec();
                extents.rotate_left(1);
                let shape = Shape::from(&extents);
                (var, host) = (var.reshape(shape), host.reshape(shape));
            }
        }
    }
    (var, host)
}

#[test]
fn every_row_reads_strided_inputs() {
    let mut random = Random::new(4);
    for (device, row, dtype) in
        places().flat_map(|(device, dtype)| rows().map(move |row| (device, row, dtype)))
    {
        let tape = Tape::inference(device);
        let mut cases = Vec::new();
        for _ in 0..2 {
            // One input is strided, the others are scalars: views change shapes, and scalars fit every shape.
            let strided_one = random.below(row.inputs.len());
            let shapes: Vec<Shape> = (0..row.inputs.len())
                .map(|input| match input == strided_one {
                    true => Shape::new(&[3, 4, 1 + random.below(6), 2]),
                    false => Shape::SCALAR,
                })
                .collect();
            cases.push(Case::record(
                &tape,
                row,
                dtype,
                &shapes,
                &mut random,
                |var, host, random| match host.shape.rank() {
                    0 => (var, host.clone()),
                    _ => strided(var, host, random),
                },
            ));
        }
        run_all(tape, cases);
    }
}

#[test]
fn a_long_tensor_folds_its_grid() {
    // More than 65,535 groups of 64 invocations, one element each: an odd number of elements forbids vectors.
    let count = 65_535 * 64 + 12_345;
    assert_eq!(count % 2, 1);
    let mut random = Random::new(5);
    let values = random.values(count, -4.0, 4.0);
    let tape = Tape::inference(device());
    let x = tape.input([count], &values);
    let y = tape.fetch::<f32>(x * 3.0 - 1.0);
    tape.run().unwrap();
    let expected: Vec<f64> = values.iter().map(|&x| f64::from(x) * 3.0 - 1.0).collect();
    assert_close("x·3 − 1", &y.get().unwrap(), &expected, 1e-6, 1e-6);
}

#[test]
fn a_long_tensor_of_vectors_folds_its_grid() {
    // The same with four elements an invocation, from two operands that are broadcast.
    let (rows, columns) = (4_099, 4_104);
    assert!(rows * columns / 4 > 65_535 * 64);
    let mut random = Random::new(6);
    let (left, right) = (
        random.values(rows, -4.0, 4.0),
        random.values(columns, -4.0, 4.0),
    );
    let tape = Tape::inference(device());
    let x = tape.input([rows, 1], &left);
    let y = tape.input([columns], &right);
    let z = tape.fetch::<f32>(x - y);
    tape.run().unwrap();
    for (index, value) in z.get().unwrap().into_iter().enumerate() {
        assert_eq!(
            value,
            left[index / columns] - right[index % columns],
            "element {index}"
        );
    }
}

/// Shapes for the gradient checks: the first is the broadcast shape.
fn gradient_shapes(inputs: usize, variant: usize) -> Vec<Shape> {
    let all: [[&[usize]; 3]; 3] = [
        [&[3, 4], &[3, 4], &[3, 4]],
        [&[2, 3, 5], &[3, 1], &[5]],
        [&[4], &[2, 1, 4], &[]],
    ];
    all[variant][..inputs]
        .iter()
        .map(|extents| Shape::new(extents))
        .collect()
}

/// The arguments of the checks in [`shadegrad::check`] for one row.
struct Checked {
    inputs: Vec<(Shape, Vec<f32>)>,
    attributes: Vec<f32>,
}

impl Checked {
    fn draw(row: &Row, variant: usize, random: &mut Random) -> Checked {
        let shapes = gradient_shapes(row.inputs.len(), variant)
            .into_iter()
            .enumerate();
        Checked {
            inputs: shapes
                .map(|(index, shape)| (shape, sample_between_kinks(row, index, shape, random)))
                .collect(),
            attributes: attributes(row, random),
        }
    }

    fn oracle(&self, row: &Row, values: &[Vec<f64>]) -> Vec<f64> {
        let shapes = self.inputs.iter().map(|(shape, _)| *shape);
        let inputs: Vec<_> = shapes.zip(values.iter().cloned()).collect();
        oracle(row, &inputs, &self.attributes)
    }
}

#[test]
fn every_rows_gradient() {
    let mut random = Random::new(7);
    for row in rows().filter(|row| !is_integer(row)) {
        // Dense inputs where there is nothing to broadcast; all the ways of broadcasting for rows that differ in kind.
        let variants = match row.name {
            "div" | "maximum" | "select" => 0..3,
            _ if row.inputs.len() == 1 => 0..1,
            _ => 1..2,
        };
        for variant in variants {
            let checked = Checked::draw(row, variant, &mut random);
            check::gradient(
                device(),
                &checked.inputs,
                |x| row.apply(x, &checked.attributes),
                |x| checked.oracle(row, x),
            )
            .unwrap_or_else(|error| panic!("{}, shapes {variant}: {error}", row.name));
        }
    }
}

/// Without fusion, so that all values on the way are halves.
#[test]
fn every_rows_gradient_in_halves() {
    let mut random = Random::new(10);
    let mut bad = 0;
    for (row, device) in rows()
        .filter(|row| !is_integer(row))
        .flat_map(|row| devices().map(|device| (row, device)))
    {
        let checked = Checked::draw(row, row.inputs.len().min(2) - 1, &mut random);
        let report = Check::HALF.gradient(
            device,
            &checked.inputs,
            |x| {
                x[0].tape().set_fusion(Fusion::OFF);
                row.apply(x, &checked.attributes)
            },
            |x| checked.oracle(row, x),
        );
        match report {
            Ok(report) => println!("{}: {report}", row.name),
            Err(error) => {
                println!("BAD {}: {error}", row.name);
                bad += 1;
            }
        }
    }
    assert_eq!(bad, 0);
}

#[test]
fn every_smooth_rows_second_gradient() {
    let mut random = Random::new(8);
    for row in rows().filter(|row| row.smooth) {
        let variant = row.inputs.len().min(2) - 1;
        let checked = Checked::draw(row, variant, &mut random);
        check::second_gradient(
            device(),
            &checked.inputs,
            |x| row.apply(x, &checked.attributes),
            |x| checked.oracle(row, x),
        )
        .unwrap_or_else(|error| panic!("{}: {error}", row.name));
    }
}

#[test]
fn a_row_of_ones_own() {
    // `x/√(1 + x²)`
    static ALGEBRAIC: Row = Row {
        name: "algebraic",
        inputs: &["x"],
        attributes: &[],
        wgsl: "x * inverseSqrt(T(1.0) + x * x)",
        helpers: "",
        gradient: |r| vec![Some(r.grad * (1.0 + r.x() * r.x()).rsqrt().powi(3.0))],
        oracle: |x| x[0] / (1.0 + x[0] * x[0]).sqrt(),
        domain: &[(-6.0, 6.0)],
        smooth: true,
    };
    let checked = Checked::draw(&ALGEBRAIC, 0, &mut Random::new(9));
    let report = check::gradient(
        device(),
        &checked.inputs,
        |x| ALGEBRAIC.apply(x, &[]),
        |x| checked.oracle(&ALGEBRAIC, x),
    );
    println!("{}", report.unwrap());
}
