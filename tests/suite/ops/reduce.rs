//! Reductions against `f64` loops: every walk and split, strided and broadcast inputs, ties, gradients.

use shadegrad::{Device, Shape, Tape, Var, check};

use crate::common::{Random, assert_close, device, portable_device, positions, wide};

/// The elements that each place of the result is reduced from, in row-major order of both.
pub fn places(shape: Shape, axes: &[usize], values: &[f64]) -> Vec<Vec<f64>> {
    let extents: Vec<usize> = (0..shape.rank())
        .filter(|axis| !axes.contains(axis))
        .map(|axis| shape.dim(axis))
        .collect();
    let kept = Shape::from(&extents);
    let mut places = vec![Vec::new(); kept.elements()];
    for (value, position) in values.iter().zip(positions(shape)) {
        let index = (0..shape.rank())
            .filter(|axis| !axes.contains(axis))
            .fold(0, |index, axis| index * shape.dim(axis) + position[axis]);
        places[index].push(*value);
    }
    places
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn squares(values: &[f64]) -> f64 {
    let mean = mean(values);
    values.iter().map(|value| (value - mean).powi(2)).sum()
}

/// All reductions of `x`, which holds `values`, over the axes.
fn compare_all(x: Var<'_>, values: &[f64], axes: &[usize]) -> impl FnOnce() + use<> {
    let tape = x.tape();
    let what = format!("{:?} over {axes:?}", x.shape());
    let places = places(x.shape(), axes, values);
    let count = places[0].len();
    let mut checks = vec![
        (
            "sum",
            tape.fetch::<f32>(x.sum(axes)),
            oracle(&places, |v| v.iter().sum()),
        ),
        ("mean", tape.fetch(x.mean(axes)), oracle(&places, mean)),
        (
            "max",
            tape.fetch(x.max(axes)),
            oracle(&places, |v| v.iter().copied().fold(f64::MIN, f64::max)),
        ),
        (
            "min",
            tape.fetch(x.min(axes)),
            oracle(&places, |v| v.iter().copied().fold(f64::MAX, f64::min)),
        ),
        (
            "var",
            tape.fetch(x.var(axes)),
            oracle(&places, |v| squares(v) / v.len() as f64),
        ),
    ];
    if count > 1 {
        let unbiased = oracle(&places, |v| squares(v) / (v.len() - 1) as f64);
        checks.push(("var_unbiased", tape.fetch(x.var_unbiased(axes)), unbiased));
    }
    move || {
        for (name, actual, expected) in checks {
            // Errors grow with what is summed, not with the result.
            let scale = if name == "sum" {
                (count as f64).sqrt()
            } else {
                1.0
            };
            let actual = actual.get().unwrap();
            assert_close(
                &format!("{name} of {what}"),
                &actual,
                &expected,
                2e-6,
                4e-6 * scale,
            );
        }
    }
}

fn oracle(places: &[Vec<f64>], reduce: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    places.iter().map(|place| reduce(place)).collect()
}

fn compare(device: &Device, shape: &[usize], axes: &[usize]) {
    let shape = Shape::from(shape);
    let values = Random::new(7).values(shape.elements(), -2.0, 3.0);
    let tape = Tape::inference(device);
    let finish = compare_all(tape.input(shape, &values), &wide(&values), axes);
    tape.run().unwrap();
    finish();
}

const CASES: [(&[usize], &[usize]); 22] = [
    (&[1], &[0]),
    (&[7], &[0]),
    (&[8], &[0]),
    (&[4099], &[0]),
    (&[4100], &[0]),
    (&[512, 96], &[0]),
    (&[512, 96], &[1]),
    (&[512, 27], &[0]),
    (&[512, 27], &[1]),
    (&[3, 4099], &[1]),
    (&[4099, 3], &[0]),
    (&[4099, 4], &[0]),
    (&[5, 1, 13], &[1]),
    (&[5, 1, 13], &[0, 1, 2]),
    (&[2, 3, 4, 5], &[1, 3]),
    (&[2, 3, 4, 5], &[3, 0]),
    (&[2, 3, 5, 4], &[0, 2]),
    (&[2, 4, 3, 8, 4], &[0, 2]),
    (&[2, 3, 2, 3, 2, 3], &[0, 2, 4]),
    (&[2, 3, 2, 3, 2, 3], &[1, 3, 5]),
    (&[700, 11, 2], &[1]),
    (&[2, 300, 16], &[1]),
];

#[test]
fn shapes_and_axes() {
    for (shape, axes) in CASES {
        compare(device(), shape, axes);
    }
}

#[test]
fn shapes_and_axes_in_portable_kernels() {
    for (shape, axes) in CASES {
        compare(portable_device(), shape, axes);
    }
}

/// Few places of many steps are reduced in two stages.
#[test]
fn long_places() {
    for device in [device(), portable_device()] {
        for (shape, axes) in [
            (vec![300_001], vec![0]),
            (vec![100_000, 4], vec![0]),
            (vec![2, 100_000], vec![1]),
        ] {
            compare(device, &shape, &axes);
        }
    }
    let values = vec![0.125; 1 << 20];
    let tape = Tape::inference(device());
    let sum = tape.fetch::<f32>(tape.input([1 << 20], &values).sum_all());
    tape.run().unwrap();
    assert_eq!(sum.get().unwrap(), [131_072.0]);
}

/// The names of the kernels that compute a value.
fn kernels(record: impl for<'t> Fn(&'t Tape) -> Var<'t>) -> Vec<&'static str> {
    let tape = Tape::inference(device());
    let _fetch = tape.fetch::<f32>(record(&tape));
    let times = tape.profile().unwrap();
    times.iter().map(|time| time.name).collect()
}

#[test]
fn dispatches() {
    let ones = [1.0; 120];
    // The mean is scaled in the kernel that sums.
    let mean = kernels(|tape| tape.input([2, 60], &ones).mean(&[0]));
    assert_eq!(mean, ["sum"]);
    // Nothing is reduced.
    let same = kernels(|tape| tape.input([120, 1], &ones).sin().max(&[1]));
    assert_eq!(same.len(), 1);
    // Two stages.
    let long = kernels(|tape| tape.full([1 << 20], 1.0).sin().sum_all());
    assert_eq!(long[1..], ["sum", "sum"]);
}

/// More workgroups than one dimension of the grid holds, and an input that exists once for every place.
#[test]
fn more_places_than_a_grid_is_wide() {
    const PLACES: usize = 66_000;
    let values = Random::new(3).values(PLACES, -1.0, 1.0);
    let tape = Tape::inference(portable_device());
    let x = tape.input([PLACES, 1], &values).broadcast_to([PLACES, 253]);
    let sum = tape.fetch::<f32>(x.sum(&[1]));
    let place = tape.fetch::<u32>(x.argmax(1));
    tape.run().unwrap();
    let expected: Vec<f64> = values
        .iter()
        .map(|&value| 253.0 * f64::from(value))
        .collect();
    assert_close("sum", &sum.get().unwrap(), &expected, 1e-5, 1e-5);
    assert_eq!(place.get().unwrap(), vec![0; PLACES]);
}

#[test]
fn views_of_a_tensor() {
    let base = Shape::from([6, 8, 12]);
    let values = Random::new(11).values(base.elements(), -2.0, 3.0);
    let at = |i: usize, j: usize, k: usize| f64::from(values[(i * 8 + j) * 12 + k]);
    for device in [device(), portable_device()] {
        for axes in [&[0][..], &[1], &[2], &[0, 2], &[1, 2], &[0, 1, 2]] {
            let tape = Tape::inference(device);
            let x = tape.input(base, &values);
            let collect = |shape: [usize; 3], place: &dyn Fn(&[usize]) -> f64| -> Vec<f64> {
                positions(shape.into())
                    .map(|position| place(&position))
                    .collect()
            };
            let checks = [
                compare_all(
                    x.permute(&[2, 0, 1]),
                    &collect([12, 6, 8], &|p| at(p[1], p[2], p[0])),
                    axes,
                ),
                compare_all(
                    x.slice(2, 4..12).slice(1, 1..6),
                    &collect([6, 5, 8], &|p| at(p[0], p[1] + 1, p[2] + 4)),
                    axes,
                ),
                compare_all(
                    x.slice(2, 1..5),
                    &collect([6, 8, 4], &|p| at(p[0], p[1], p[2] + 1)),
                    axes,
                ),
                compare_all(
                    x.slice(0, 2..3).broadcast_to([5, 8, 12]),
                    &collect([5, 8, 12], &|p| at(2, p[1], p[2])),
                    axes,
                ),
                compare_all(
                    x.slice(2, 3..4).broadcast_to([6, 8, 9]),
                    &collect([6, 8, 9], &|p| at(p[0], p[1], 3)),
                    axes,
                ),
            ];
            tape.run().unwrap();
            for check in checks {
                check();
            }
        }
    }
}

#[test]
fn drawn_shapes() {
    let mut random = Random::new(5);
    for case in 0..24 {
        let rank = 1 + random.below(5);
        let shape = random.shape_of_rank(rank, [9, 8, 17][case % 3]);
        let axes: Vec<usize> = (0..rank).filter(|_| random.below(2) == 0).collect();
        compare(device(), shape.dims(), &axes);
    }
}

#[test]
fn keeping_axes() {
    let tape = Tape::inference(device());
    let x = tape.input([2, 3], &[1.0, 5.0, 3.0, -1.0, 0.0, 4.0]);
    assert_eq!(x.sum_keep(&[0]).shape(), [1, 3].into());
    assert_eq!(x.mean_keep(&[1]).shape(), [2, 1].into());
    assert_eq!(x.min_keep(&[0, 1]).shape(), [1, 1].into());
    let below = tape.fetch::<f32>(x - x.max_keep(&[1]));
    let mean = tape.fetch::<f32>(x.mean_all());
    tape.run().unwrap();
    assert_eq!(below.get().unwrap(), [-4.0, 0.0, -2.0, -5.0, -4.0, 0.0]);
    assert_eq!(mean.get().unwrap(), [2.0]);
}

#[test]
fn argmax_is_the_first_of_equals() {
    for device in [device(), portable_device()] {
        let mut random = Random::new(9);
        for (rows, columns) in [(1, 1), (5, 27), (512, 27), (3, 4099), (1, 1000), (64, 32)] {
            // Few distinct values: most rows have ties.
            let values: Vec<f32> = (0..rows * columns)
                .map(|_| random.below(4) as f32 - 9.0)
                .collect();
            let tape = Tape::inference(device);
            let x = tape.input([rows, columns], &values);
            let along = tape.fetch::<u32>(x.argmax(1));
            let across = tape.fetch::<u32>(x.transpose().argmax(0));
            tape.run().unwrap();
            let expected: Vec<u32> = values
                .chunks(columns)
                .map(|row| {
                    let largest = row.iter().copied().fold(f32::MIN, f32::max);
                    row.iter().position(|&value| value == largest).unwrap() as u32
                })
                .collect();
            assert_eq!(
                along.get().unwrap(),
                expected,
                "[{rows}, {columns}] along rows"
            );
            assert_eq!(
                across.get().unwrap(),
                expected,
                "[{rows}, {columns}] across"
            );
        }
    }
}

type Oracle = fn(&[f64]) -> f64;
type Record = for<'t> fn(Var<'t>, &[usize]) -> Var<'t>;

#[test]
fn gradients() {
    let values = Random::new(2).values(60, -2.0, 2.0);
    let shape = Shape::from([3, 4, 5]);
    let operations: [(&str, Record, Oracle); 6] = [
        ("sum", |x, axes| x.sum(axes), |v| v.iter().sum()),
        ("mean", |x, axes| x.mean(axes), mean),
        (
            "max",
            |x, axes| x.max(axes),
            |v| v.iter().copied().fold(f64::MIN, f64::max),
        ),
        (
            "min",
            |x, axes| x.min(axes),
            |v| v.iter().copied().fold(f64::MAX, f64::min),
        ),
        (
            "var",
            |x, axes| x.var(axes),
            |v| squares(v) / v.len() as f64,
        ),
        (
            "var_unbiased",
            |x, axes| x.var_unbiased(axes),
            |v| squares(v) / (v.len() - 1) as f64,
        ),
    ];
    for (name, operation, reduce) in operations {
        for axes in [&[1][..], &[0, 2], &[0, 1, 2]] {
            let inputs = [(shape, values.clone())];
            let oracle = |x: &[Vec<f64>]| oracle(&places(shape, axes, &x[0]), reduce);
            let _ = check::gradient(device(), &inputs, |x| operation(x[0], axes), oracle)
                .unwrap_or_else(|error| panic!("{name} over {axes:?}: {error}"));
        }
        let oracle = |x: &[Vec<f64>]| oracle(&places(shape, &[1], &x[0]), reduce);
        let _ = check::second_gradient(
            device(),
            &[(shape, values.clone())],
            |x| operation(x[0], &[1]),
            oracle,
        )
        .unwrap_or_else(|error| panic!("{name}, second gradient: {error}"));
    }
}

#[test]
fn equal_maxima_share_the_gradient() {
    let tape = Tape::training(device());
    let x = tape.variable([2, 4], &[3.0, 1.0, 3.0, 3.0, 0.0, 2.0, 1.0, -1.0]);
    let weights = tape.input([2], &[6.0, 5.0]);
    let gradient = tape
        .backward((x.max(&[1]) * weights).sum_all())
        .of(x)
        .unwrap();
    let gradient = tape.fetch::<f32>(gradient);
    tape.run().unwrap();
    assert_eq!(
        gradient.get().unwrap(),
        [2.0, 0.0, 2.0, 2.0, 0.0, 5.0, 0.0, 0.0]
    );
}

#[test]
#[should_panic(expected = "sum: axes [1, 1] are not distinct axes of [2, 3]")]
fn repeated_axes_are_refused() {
    let tape = Tape::inference(device());
    tape.input([2, 3], &[0.0; 6]).sum(&[1, 1]);
}

#[test]
#[should_panic(expected = "var_unbiased: axes [0] of [1, 3] hold a single element")]
fn one_element_has_no_unbiased_variance() {
    let tape = Tape::inference(device());
    tape.input([1, 3], &[0.0; 3]).var_unbiased(&[0]);
}
