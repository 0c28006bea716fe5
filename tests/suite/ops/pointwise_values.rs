//! Pointwise operations at chosen points: extreme arguments, accuracy where it is promised, kinks.

use shadegrad::ops::pointwise::{Row, TABLE};
use shadegrad::tape::Fusion;
use shadegrad::{Tape, Var};

use crate::common::{assert_close, device};

fn row(name: &str) -> &'static Row {
    TABLE
        .iter()
        .find(|row| row.name == name)
        .expect("a row of the table")
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
        // Nothing is left of large negative arguments, however the driver rounds.
        assert_eq!(value[..2], [0.0; 2]);
        assert_eq!(slope[..2], [0.0; 2]);
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
