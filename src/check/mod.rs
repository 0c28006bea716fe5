//! The gradient checker that the crate's own operations are tested with, for the operations of others.
//!
//! An operation is checked against its *oracle*, the same function in plain `f64` on the host: its value directly, its
//! gradient against central differences of the oracle. The operation is placed in the middle of a graph, because many
//! mistakes do not show when a loss follows directly: with inputs `aᵢ = αᵢ·xᵢ`, weights `w`, `v`, `uᵢ` drawn from the
//! seed and `y` the operation's output, the loss is
//!
//! ```text
//! L = Σ (w·y + ½·v·y²) + Σᵢ Σ uᵢ·aᵢ
//! ```
//!
//! so the gradient that arrives at the operation depends on its output, every input is used twice, and the gradient that
//! leaves goes through another operation. An operation that draws random numbers draws those of
//! [`set_seed(0, 0)`](Tape::set_seed). The check is made several times: once as above, and once for every input with
//! that input detached, the inputs read through transposed strides, and the arriving gradient transposed as well.
//!
//! ```
//! # fn main() -> shadegrad::Result<()> {
//! use shadegrad::{Device, check};
//!
//! let device = Device::new()?;
//! let report = check::gradient(
//!     &device,
//!     &[
//!         ([2, 3].into(), vec![0.5, -1.0, 2.0, 0.1, -0.3, 1.5]),
//!         ([3].into(), vec![1.0, 0.25, -0.5]),
//!     ],
//!     |x| x[0].sigmoid() * x[1],
//!     |x| (0..6).map(|i| x[1][i % 3] / (1.0 + (-x[0][i]).exp())).collect(),
//! )?;
//! println!("{report}");
//! # Ok(())
//! # }
//! ```

mod problem;
mod settings;

use std::fmt;

use crate::error::{Error, Result};
use crate::gpu::{Device, Fetch};
use crate::shape::Shape;
use crate::tape::{Tape, Var};
use problem::{Pass, Problem};
pub use settings::Check;

/// The largest deviations that a passed check has seen.
#[derive(Clone, Debug)]
pub struct Report {
    /// Of the operation's value.
    pub forward: Worst,
    /// Of the gradient, for each input.
    pub gradients: Vec<Worst>,
}

/// The element of a tensor that deviates most, as a part of what is allowed there.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Worst {
    /// Its position in row-major order.
    pub element: usize,
    /// What the device computed.
    pub actual: f32,
    /// What the oracle says.
    pub expected: f64,
    /// The deviation divided by the tolerance.
    pub excess: f64,
}

impl fmt::Display for Worst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "element {} is {}, expected {} ({:.3} of the tolerance)",
            self.element, self.actual, self.expected, self.excess
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "value: {}", self.forward)?;
        for (input, worst) in self.gradients.iter().enumerate() {
            write!(f, "\ngradient of input {input}: {worst}")?;
        }
        Ok(())
    }
}

/// Checks an operation's value and gradient with the default tolerances. See [`Check::gradient`].
///
/// # Errors
///
/// As [`Check::gradient`].
pub fn gradient(
    device: &Device,
    inputs: &[(Shape, Vec<f32>)],
    operation: impl for<'t> Fn(&[Var<'t>]) -> Var<'t>,
    oracle: impl Fn(&[Vec<f64>]) -> Vec<f64>,
) -> Result<Report> {
    Check::default().gradient(device, inputs, operation, oracle)
}

/// Checks the gradient of an operation's gradient with the default tolerances. See [`Check::second_gradient`].
///
/// # Errors
///
/// As [`Check::second_gradient`].
pub fn second_gradient(
    device: &Device,
    inputs: &[(Shape, Vec<f32>)],
    operation: impl for<'t> Fn(&[Var<'t>]) -> Var<'t>,
    oracle: impl Fn(&[Vec<f64>]) -> Vec<f64>,
) -> Result<Report> {
    Check::default().second_gradient(device, inputs, operation, oracle)
}

impl Check {
    /// Checks an operation's value against `oracle`, and its gradient with respect to every input against central
    /// differences of `oracle`, in a graph as the [module documentation](self) describes it.
    ///
    /// `inputs` are shapes and values as the operation sees them; keep them away from kinks and steps by more than
    /// [`Check::step`]. Whatever has no gradient (indices, masks) is best made by the closure itself, on
    /// `inputs[0].tape()`. Both closures are called several times and must compute the same every time.
    ///
    /// # Errors
    ///
    /// [`Error::Mismatch`] with the worst element of the first tensor that deviates too much; or whatever the device
    /// reports.
    ///
    /// # Panics
    ///
    /// If there are no inputs, if values do not fill their shape, or if the oracle gives another number of elements
    /// than the operation.
    pub fn gradient(
        &self,
        device: &Device,
        inputs: &[(Shape, Vec<f32>)],
        operation: impl for<'t> Fn(&[Var<'t>]) -> Var<'t>,
        oracle: impl Fn(&[Vec<f64>]) -> Vec<f64>,
    ) -> Result<Report> {
        let problem = Problem::new(self, inputs, &oracle);
        let slopes = problem.first_differences(&oracle);
        // Without its only input nothing would be left to check.
        let detach = |input| (inputs.len() > 1).then_some(input);
        let transposed = (0..inputs.len()).map(|input| Pass {
            detached: detach(input),
            transposed: true,
        });
        let passes = std::iter::once(Pass::default()).chain(transposed);
        let mut report = Report::empty(inputs.len());
        for pass in passes {
            let tape = Tape::training(device);
            let graph = problem.record(&tape, pass, &operation);
            let gradients = tape.backward(graph.loss);
            let value = tape.fetch::<f32>(graph.output);
            let gradients: Vec<Fetch<f32>> = graph
                .inputs
                .iter()
                .map(|&input| tape.fetch(gradients.of(input).expect("the loss reads every input")))
                .collect();
            tape.run()?;
            let value = value.get()?;
            report.forward.raise(self.compare(
                &format!("value{pass}"),
                &value,
                &problem.outputs,
            )?);
            for (input, gradient) in gradients.iter().enumerate() {
                let expected: Vec<f64> = slopes[input]
                    .iter()
                    .zip(&problem.direct[input])
                    .map(|(slope, direct)| {
                        let slope = if pass.detached == Some(input) {
                            0.0
                        } else {
                            *slope
                        };
                        problem.factor(input) * (slope + f64::from(*direct))
                    })
                    .collect();
                let what = format!("gradient of input {input}{pass}");
                report.gradients[input].raise(self.compare(&what, &gradient.get()?, &expected)?);
            }
        }
        Ok(report)
    }

    /// Checks the gradient of the gradient: with `gᵢ` the gradients of the loss in the
    /// [module documentation](self) and random weights `rᵢ`, the gradient of `Σᵢ Σ rᵢ·gᵢ` against second central
    /// differences of `oracle`. The arguments are those of [`Check::gradient`].
    ///
    /// # Errors
    ///
    /// As [`Check::gradient`].
    ///
    /// # Panics
    ///
    /// As [`Check::gradient`]; and if the operation, or an operation that its gradient is made of, has no gradient.
    pub fn second_gradient(
        &self,
        device: &Device,
        inputs: &[(Shape, Vec<f32>)],
        operation: impl for<'t> Fn(&[Var<'t>]) -> Var<'t>,
        oracle: impl Fn(&[Vec<f64>]) -> Vec<f64>,
    ) -> Result<Report> {
        let problem = Problem::new(self, inputs, &oracle);
        let expected = problem.second_differences(&oracle);

        let tape = Tape::training(device);
        let graph = problem.record(&tape, Pass::default(), &operation);
        let first = tape.backward(graph.loss);
        let mut sum = tape.full(Shape::SCALAR, 0.0);
        for (index, &input) in graph.inputs.iter().enumerate() {
            let gradient = first.of(input).expect("the loss reads every input");
            let direction = tape.input(input.shape(), &problem.direction[index]);
            sum = sum + (gradient * direction).sum_all();
        }
        let second = tape.backward(sum);
        let value = tape.fetch::<f32>(graph.output);
        // Where the first gradient does not depend on an input, the second one is zero.
        let seconds: Vec<Option<Fetch<f32>>> = graph
            .inputs
            .iter()
            .map(|&input| second.of(input).map(|gradient| tape.fetch(gradient)))
            .collect();
        tape.run()?;

        let mut report = Report::empty(inputs.len());
        report.forward = self.compare("value", &value.get()?, &problem.outputs)?;
        for (input, fetch) in seconds.iter().enumerate() {
            let actual = match fetch {
                Some(fetch) => fetch.get()?,
                None => vec![0.0; expected[input].len()],
            };
            let what = format!("gradient of the gradient of input {input}");
            report.gradients[input] = self.compare(&what, &actual, &expected[input])?;
        }
        Ok(report)
    }

    /// The worst element, or an error if that is beyond the tolerance.
    fn compare(&self, what: &str, actual: &[f32], expected: &[f64]) -> Result<Worst> {
        assert_eq!(
            actual.len(),
            expected.len(),
            "{what}: the oracle gives another number of elements"
        );
        let largest = expected
            .iter()
            .fold(1.0, |largest: f64, value| largest.max(value.abs()));
        let mut worst = Worst::default();
        for (element, (&actual, &expected)) in actual.iter().zip(expected).enumerate() {
            let allowed = self.relative * expected.abs() + self.absolute * largest;
            let excess = (f64::from(actual) - expected).abs() / allowed;
            // What is not a number is infinitely far off.
            let excess = if excess.is_nan() {
                f64::INFINITY
            } else {
                excess
            };
            if element == 0 || excess > worst.excess {
                worst = Worst {
                    element,
                    actual,
                    expected,
                    excess,
                };
            }
        }
        if worst.excess > 1.0 {
            return Err(Error::Mismatch {
                what: what.to_owned(),
                element: worst.element,
                actual: worst.actual,
                expected: worst.expected,
                excess: worst.excess,
            });
        }
        Ok(worst)
    }
}

impl Report {
    fn empty(inputs: usize) -> Report {
        Report {
            forward: Worst::default(),
            gradients: vec![Worst::default(); inputs],
        }
    }
}

impl Worst {
    fn raise(&mut self, other: Worst) {
        if other.excess >= self.excess {
            *self = other;
        }
    }
}
