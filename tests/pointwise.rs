//! Every row of the pointwise table: value against its `f64` oracle over shapes, broadcasts and strides, gradient and
//! gradient of the gradient against finite differences.

mod common;

use common::host::Host;
use common::{Random, assert_close, broadcast_index, device, positions};
use shadegrad::ops::pointwise::{Row, TABLE};
use shadegrad::tape::Fusion;
use shadegrad::{Shape, Tape, Var, check};

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

/// One application of a row on a tape that is still being recorded, and what must come out.
struct Case {
    what: String,
    value: shadegrad::gpu::Fetch<f32>,
    expected: Vec<f64>,
}

impl Case {
    /// Puts `inputs` on the tape, has `view` record how they are read (and say what that means on the host), applies the
    /// row.
    fn record(
        tape: &Tape,
        row: &'static Row,
        shapes: &[Shape],
        random: &mut Random,
        view: for<'t> fn(Var<'t>, &Host<f32>, &mut Random) -> (Var<'t>, Host<f32>),
    ) -> Case {
        let attributes = attributes(row, random);
        let mut vars = Vec::new();
        let mut inputs = Vec::new();
        for (index, &shape) in shapes.iter().enumerate() {
            let values = sample(row, index, shape, random);
            let var = if is_integer(row) {
                let integers: Vec<u32> = values.iter().map(|&value| value as u32).collect();
                tape.input(shape, &integers)
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
            value: tape.fetch(output),
            expected: oracle(row, &inputs, &attributes),
        }
    }

    fn check(&self) {
        assert_close(
            &self.what,
            &self.value.get().unwrap(),
            &self.expected,
            1e-5,
            1e-5,
        );
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
    for row in rows() {
        let tape = Tape::inference(device());
        let cases = shapes.map(|shape| {
            let inputs = vec![Shape::new(shape); row.inputs.len()];
            Case::record(&tape, row, &inputs, &mut random, as_it_is)
        });
        run_all(tape, cases.into());
    }
}

#[test]
fn every_row_broadcasts() {
    let mut random = Random::new(2);
    for row in rows().filter(|row| row.inputs.len() > 1) {
        let tape = Tape::inference(device());
        let cases = (0..6).map(|_| {
            let rank = 1 + random.below(6);
            let shape = random.shape_of_rank(rank, 5);
            let inputs: Vec<Shape> = row
                .inputs
                .iter()
                .map(|_| random.broadcastable(shape))
                .collect();
            Case::record(&tape, row, &inputs, &mut random, as_it_is)
        });
        let cases = cases.collect();
        run_all(tape, cases);
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
                Case::record(&tape, row("sub"), &[left, right], &mut random, as_it_is)
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
    for row in rows() {
        let tape = Tape::inference(device());
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

/// The values and the gradients of `Σ f(x)` at some points.
fn at(points: &[f32], f: impl for<'t> Fn(Var<'t>) -> Var<'t>) -> (Vec<f32>, Vec<f32>) {
    let tape = Tape::training(device());
    let x = tape.variable([points.len()], points);
    let y = f(x);
    let gradient = tape.backward(y.sum_all()).of(x);
    let gradient = gradient.unwrap_or_else(|| tape.full([points.len()], 0.0));
    let (y, gradient) = (tape.fetch(y), tape.fetch(gradient));
    tape.run().unwrap();
    (y.get().unwrap(), gradient.get().unwrap())
}

#[test]
fn extreme_arguments_stay_finite_and_right() {
    let points = [
        -1000.0, -100.0, -44.0, -15.0, 0.0, 15.0, 44.0, 100.0, 1000.0,
    ];
    let steps = [0.0, 0.0, 0.0, 0.0, 0.5, 1.0, 1.0, 1.0, 1.0];
    let ramp = points.map(|x: f64| x.max(0.0));
    let points = points.map(|x| x as f32);

    let (value, slope) = at(&points, |x| x.tanh());
    assert_close(
        "tanh",
        &value,
        &points.map(|x| f64::from(x).tanh()),
        0.0,
        1e-6,
    );
    assert_close(
        "tanh'",
        &slope,
        &points.map(|x| f64::from(x).cosh().powi(-2)),
        0.0,
        1e-6,
    );

    let (value, slope) = at(&points, |x| x.sigmoid());
    assert_close("sigmoid", &value, &steps, 0.0, 1e-6);
    let spike = points.map(|x| if x == 0.0 { 0.25 } else { 0.0 });
    assert_close("sigmoid'", &slope, &spike, 0.0, 1e-6);

    // At −15 and 15 the value and slope of SiLU are off the ramp by 15·e⁻¹⁵ ≈ 5·10⁻⁶.
    let (value, slope) = at(&points, |x| x.silu());
    assert_close("silu", &value, &ramp, 1e-5, 1e-5);
    assert_close("silu'", &slope, &steps, 0.0, 1e-5);

    for gelu in [row("gelu"), row("gelu_tanh")] {
        let (value, slope) = at(&points, |x| gelu.apply(&[x], &[]));
        assert_close("gelu", &value, &ramp, 1e-6, 1e-6);
        assert_close("gelu'", &slope, &steps, 0.0, 1e-6);
    }

    let (value, slope) = at(&points, |x| x.erf());
    assert_close(
        "erf",
        &value,
        &points.map(|x| f64::from(x.signum() * x.abs().min(1.0))),
        0.0,
        1e-6,
    );
    let spike = points.map(|x| {
        if x == 0.0 {
            2.0 / std::f64::consts::PI.sqrt()
        } else {
            0.0
        }
    });
    assert_close("erf'", &slope, &spike, 0.0, 1e-6);
}

#[test]
fn exp_and_log_over_their_range() {
    // Up to the largest finite result; below, down to the smallest normal one.
    let points: Vec<f32> = (-87..=88).map(|x| x as f32).collect();
    let expected: Vec<f64> = points.iter().map(|&x| f64::from(x).exp()).collect();
    let (value, slope) = at(&points, |x| x.exp());
    // WGSL allows 3 + 2·|x| units in the last place.
    assert_close("exp", &value, &expected, 2.2e-5, 0.0);
    assert_close("exp'", &slope, &expected, 2.2e-5, 0.0);

    let points: Vec<f32> = (-120..=120).map(|power| 2f32.powi(power)).collect();
    let expected: Vec<f64> = points.iter().map(|&x| f64::from(x).ln()).collect();
    let (value, _) = at(&points, |x| x.log());
    assert_close("log", &value, &expected, 1e-6, 1e-6);
}

#[test]
fn integer_powers_of_any_base() {
    let points = [-3.0, -1.5, -1.0, -0.5, 0.5, 1.0, 2.5];
    for exponent in -5..=9 {
        let name = format!("x to the power {exponent}");
        let (value, slope) = at(&points, |x| x.powi(exponent as f32));
        let power = |exponent: i32| points.map(|x| f64::from(x).powi(exponent));
        assert_close(&name, &value, &power(exponent), 1e-6, 0.0);
        let expected = power(exponent - 1).map(|power| power * f64::from(exponent));
        assert_close(&name, &slope, &expected, 1e-6, 0.0);
    }
    let (value, slope) = at(&[0.0], |x| x.powi(2.0));
    assert_eq!((value[0], slope[0]), (0.0, 0.0));
}

#[test]
fn erf_is_as_accurate_as_it_says() {
    let tiny = (1..=1000).map(|x| x as f32 * 1e-6);
    let points: Vec<f32> = (-6000..=6000)
        .map(|x| x as f32 * 1e-3)
        .chain(tiny)
        .collect();
    let expected: Vec<f64> = points
        .iter()
        .map(|&x| (row("erf").oracle)(&[f64::from(x)]))
        .collect();
    let (value, _) = at(&points, |x| x.erf());
    assert_close("erf", &value, &expected, 1e-6, 0.0);
    assert!(value.iter().all(|value| value.abs() <= 1.0));
}

#[test]
fn gradients_at_kinks_are_as_documented() {
    assert_eq!(at(&[0.0], |x| x.relu()).1, [0.0]);
    assert_eq!(at(&[0.0], |x| x.abs()).1, [0.0]);
    assert_eq!(
        at(&[-1.0, 2.0, -1.5, 2.5], |x| x.clamp(-1.0, 2.0)).1,
        [1.0, 1.0, 0.0, 0.0]
    );
    // Equal inputs share.
    for choose in [row("minimum"), row("maximum")] {
        let tape = Tape::training(device());
        let (x, y) = (tape.variable([1], &[1.5]), tape.variable([1], &[1.5]));
        let gradients = tape.backward(choose.apply(&[x, y], &[]).sum_all());
        let both = [x, y].map(|input| tape.fetch::<f32>(gradients.of(input).unwrap()));
        tape.run().unwrap();
        assert_eq!(both.map(|gradient| gradient.item().unwrap()), [0.5, 0.5]);
    }
}

#[test]
fn constants_fill_their_shape() {
    for fusion in [Fusion::ON, Fusion::OFF] {
        let tape = Tape::inference(device());
        tape.set_fusion(fusion);
        let alone = tape.fetch::<f32>(tape.full([2, 3], -1.25));
        let x = tape.input([3], &[1.0, 2.0, 3.0]);
        let sum = tape.fetch::<f32>(tape.full([2, 1], 1e-30) + x);
        tape.run().unwrap();
        assert_eq!(alone.get().unwrap(), [-1.25; 6]);
        assert_eq!(sum.get().unwrap(), [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]);
    }
}

#[test]
fn numbers_on_either_side() {
    let tape = Tape::inference(device());
    let x = tape.input([2], &[2.0, -4.0]);
    let results = [
        x + 1.0,
        1.0 + x,
        x - 1.0,
        1.0 - x,
        x * 3.0,
        3.0 * x,
        x / 2.0,
        2.0 / x,
        -x,
    ];
    let results = results.map(|result| tape.fetch::<f32>(result));
    tape.run().unwrap();
    let expected: [[f32; 2]; 9] = [
        [3.0, -3.0],
        [3.0, -3.0],
        [1.0, -5.0],
        [-1.0, 5.0],
        [6.0, -12.0],
        [6.0, -12.0],
        [1.0, -2.0],
        [1.0, -0.5],
        [-2.0, 4.0],
    ];
    for (result, expected) in results.iter().zip(expected) {
        assert_eq!(result.get().unwrap(), expected);
    }
}

#[test]
fn a_row_of_ones_own() {
    // `ln(1 + eˣ)`
    static SOFTPLUS: Row = Row {
        name: "softplus",
        inputs: &["x"],
        attributes: &[],
        wgsl: "max(x, T(0.0)) + log(T(1.0) + exp(-abs(x)))",
        helpers: "",
        gradient: |r| vec![Some(r.grad * r.x().sigmoid())],
        oracle: |x| x[0].max(0.0) + (-x[0].abs()).exp().ln_1p(),
        domain: &[(-6.0, 6.0)],
        smooth: true,
    };
    let checked = Checked::draw(&SOFTPLUS, 0, &mut Random::new(9));
    let report = check::gradient(
        device(),
        &checked.inputs,
        |x| SOFTPLUS.apply(x, &[]),
        |x| checked.oracle(&SOFTPLUS, x),
    );
    println!("{}", report.unwrap());
}
