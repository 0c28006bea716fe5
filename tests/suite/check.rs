//! The gradient checker refuses what is wrong, and says what that is.

use shadegrad::check::{self, Report};
use shadegrad::{Error, Result, Shape};

use crate::common::device;

/// Two inputs of six elements, for `x·y` and mistaken forms of it.
fn inputs() -> [(Shape, Vec<f32>); 2] {
    let shape = Shape::new(&[2, 3]);
    [
        (shape, vec![0.5, -1.0, 2.0, 0.25, -0.75, 1.5]),
        (shape, vec![1.0, 0.5, -0.5, -1.25, 0.75, 2.0]),
    ]
}

fn product(x: &[Vec<f64>]) -> Vec<f64> {
    x[0].iter().zip(&x[1]).map(|(x, y)| x * y).collect()
}

#[track_caller]
fn assert_refused(checked: Result<Report>, expected: &str) {
    match checked {
        Err(Error::Mismatch { what, excess, .. }) => {
            assert!(what.starts_with(expected), "{what}");
            assert!(excess > 1.0, "{excess}");
        }
        other => panic!("{expected}: {other:?}"),
    }
}

#[test]
fn what_is_right_passes() {
    let (device, inputs) = (device(), inputs());
    check::gradient(device, &inputs, |x| x[0] * x[1], product).unwrap();
    check::second_gradient(device, &inputs, |x| x[0] * x[1], product).unwrap();
}

#[test]
fn a_wrong_value() {
    let checked = check::gradient(device(), &inputs(), |x| x[0] * x[1] * 1.001, product);
    assert_refused(checked, "value");
}

/// The value is right, and so is the gradient of the other input.
#[test]
fn a_missing_gradient() {
    let checked = check::gradient(device(), &inputs(), |x| x[0].detach() * x[1], product);
    assert_refused(checked, "gradient of input 0");
    let checked = check::gradient(device(), &inputs(), |x| x[0] * x[1].detach(), product);
    assert_refused(checked, "gradient of input 1");
}

/// `x²` with the gradient `x`.
#[test]
fn half_a_gradient() {
    let inputs = &inputs()[..1];
    let square = |x: &[Vec<f64>]| x[0].iter().map(|x| x * x).collect();
    let checked = check::gradient(device(), inputs, |x| x[0] * x[0].detach(), square);
    assert_refused(checked, "gradient of input 0");
}

/// `x²` as `2·x·c − c²` with `c` the value of `x`: value and gradient are right, and the gradient of the gradient is zero.
#[test]
fn a_wrong_gradient_of_the_gradient() {
    let inputs = &inputs()[..1];
    let square = |x: &[Vec<f64>]| x[0].iter().map(|x| x * x).collect();
    let checked = check::second_gradient(
        device(),
        inputs,
        |x| {
            let value = x[0].detach();
            x[0] * value * 2.0 - value * value
        },
        square,
    );
    assert_refused(checked, "gradient of the gradient of input 0");
}
