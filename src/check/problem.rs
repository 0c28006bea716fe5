//! The graph that an operation is checked in, and the differences that its gradients are compared with.

use std::fmt;

use half::f16;

use super::settings::Check;

use crate::gpu::DType;
use crate::rng;
use crate::shape::Shape;
use crate::tape::{Tape, Var};

/// How the operation is placed this time.
#[derive(Clone, Copy, Default)]
pub(super) struct Pass {
    /// The input through which no gradient flows into the operation.
    pub detached: Option<usize>,
    /// Whether inputs are read, and gradients arrive, through transposed strides.
    pub transposed: bool,
}

impl fmt::Display for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(input) = self.detached {
            write!(f, ", input {input} detached")?;
        }
        if self.transposed {
            write!(f, ", through transposed strides")?;
        }
        Ok(())
    }
}

/// The inputs and everything drawn for them.
pub(super) struct Problem<'a> {
    check: &'a Check,
    shapes: Vec<Shape>,
    values: Vec<Vec<f64>>,
    /// What the oracle makes of them.
    pub outputs: Vec<f64>,
    /// What the loss weighs the operation's output with, and its square.
    linear: Vec<f32>,
    square: Vec<f32>,
    /// `uᵢ`
    pub direct: Vec<Vec<f32>>,
    /// `rᵢ`
    pub direction: Vec<Vec<f32>>,
}

/// The recorded graph.
pub(super) struct Recorded<'t> {
    pub inputs: Vec<Var<'t>>,
    pub output: Var<'t>,
    pub loss: Var<'t>,
}

impl<'a> Problem<'a> {
    pub fn new(
        check: &'a Check,
        inputs: &'a [(Shape, Vec<f32>)],
        oracle: &impl Fn(&[Vec<f64>]) -> Vec<f64>,
    ) -> Problem<'a> {
        assert!(
            !inputs.is_empty(),
            "check: an operation without inputs has no gradient"
        );
        let each = |purpose: &str| -> Vec<Vec<f32>> {
            let draw = |(index, (_, values)): (usize, &(Shape, Vec<f32>))| {
                draw(check.seed, purpose, index, values.len())
            };
            inputs.iter().enumerate().map(draw).collect()
        };
        let seen = |&x: &f32| match check.dtype {
            DType::F16 => f16::from_f32(x).to_f64(),
            _ => f64::from(x),
        };
        let wide = |(_, values): &(Shape, Vec<f32>)| values.iter().map(seen).collect();
        let values: Vec<Vec<f64>> = inputs.iter().map(wide).collect();
        let outputs = oracle(&values);
        Problem {
            check,
            shapes: inputs.iter().map(|(shape, _)| *shape).collect(),
            values,
            linear: draw(check.seed, "check linear", 0, outputs.len()),
            square: draw(check.seed, "check square", 0, outputs.len()),
            outputs,
            direct: each("check direct"),
            direction: each("check direction"),
        }
    }

    /// `αᵢ`: powers of two, so that the operation sees exactly the values given.
    pub fn factor(&self, input: usize) -> f64 {
        [0.5, 2.0, 4.0][input % 3]
    }

    pub fn record<'t>(
        &self,
        tape: &'t Tape,
        pass: Pass,
        operation: &impl for<'v> Fn(&[Var<'v>]) -> Var<'v>,
    ) -> Recorded<'t> {
        // The oracle is one function: what the operation draws must be the same in every pass.
        tape.set_seed(0, 0);
        let mut inputs = Vec::new();
        let mut seen = Vec::new();
        let mut loss = tape.full(Shape::SCALAR, 0.0);
        for (index, (&shape, values)) in self.shapes.iter().zip(&self.values).enumerate() {
            let factor = self.factor(index) as f32;
            let values: Vec<f32> = values.iter().map(|&value| value as f32 / factor).collect();
            let leaf = tape.variable(shape, &values);
            let scaled = leaf * factor;
            let direct = tape.input(shape, &self.direct[index]);
            loss = loss + (scaled * direct).sum_all();
            let scaled = scaled.cast(self.check.dtype);
            let scaled = if pass.transposed {
                restored(scaled)
            } else {
                scaled
            };
            seen.push(if pass.detached == Some(index) {
                scaled.detach()
            } else {
                scaled
            });
            inputs.push(leaf);
        }
        let output = operation(&seen).cast(DType::F32);
        let shape = output.shape();
        assert_eq!(
            shape.elements(),
            self.outputs.len(),
            "check: the oracle gives another number of elements than the operation, whose output is {shape}"
        );
        let linear = tape.input(shape, &self.linear);
        let square = tape.input(shape, &self.square);
        let weighed = |y: Var<'t>, linear: Var<'t>, square: Var<'t>| {
            ((square * y * 0.5 + linear) * y).sum_all()
        };
        let of_output = if pass.transposed {
            weighed(reversed(output), reversed(linear), reversed(square))
        } else {
            weighed(output, linear, square)
        };
        Recorded {
            inputs,
            output,
            loss: loss + of_output,
        }
    }

    /// `∂L/∂aᵢ` without the direct part.
    pub fn first_differences(&self, oracle: &impl Fn(&[Vec<f64>]) -> Vec<f64>) -> Vec<Vec<f64>> {
        let mut values = self.values.clone();
        self.each_element(|input, element| {
            let step = self.check.step * self.values[input][element].abs().max(1.0);
            self.across(oracle, &mut values, [input, element], step) / (2.0 * step)
        })
    }

    /// `∂/∂xⱼ Σᵢ Σ rᵢ·∂L/∂xᵢ`: the change of the slope at `xⱼ` along the direction `r`.
    pub fn second_differences(&self, oracle: &impl Fn(&[Vec<f64>]) -> Vec<f64>) -> Vec<Vec<f64>> {
        let width = 10.0 * self.check.step;
        let along = |sign: f64| -> Vec<Vec<f64>> {
            let shifted = |(input, values): (usize, &Vec<f64>)| {
                let direction = self.direction[input].iter();
                let shift = sign * width * self.factor(input);
                values
                    .iter()
                    .zip(direction)
                    .map(|(x, &r)| x + shift * f64::from(r))
                    .collect()
            };
            self.values.iter().enumerate().map(shifted).collect()
        };
        let mut ends = [along(1.0), along(-1.0)];
        self.each_element(|input, element| {
            let step = width * self.values[input][element].abs().max(1.0);
            let [ahead, behind] = ends
                .each_mut()
                .map(|values| self.across(oracle, values, [input, element], step));
            self.factor(input) * (ahead - behind) / (4.0 * step * width)
        })
    }

    /// The loss's difference between `step` more and `step` less in one element.
    fn across(
        &self,
        oracle: &impl Fn(&[Vec<f64>]) -> Vec<f64>,
        values: &mut [Vec<f64>],
        [input, element]: [usize; 2],
        step: f64,
    ) -> f64 {
        let middle = values[input][element];
        let [plus, minus] = [middle + step, middle - step].map(|value| {
            values[input][element] = value;
            oracle(values)
        });
        values[input][element] = middle;
        self.difference(&plus, &minus)
    }

    /// The loss's difference between two outputs, in a form that cancels little.
    fn difference(&self, plus: &[f64], minus: &[f64]) -> f64 {
        let weights = self.linear.iter().zip(&self.square);
        let outputs = plus.iter().zip(minus);
        weights
            .zip(outputs)
            .map(|((&linear, &square), (plus, minus))| {
                let slope = f64::from(linear) + f64::from(square) * 0.5 * (plus + minus);
                slope * (plus - minus)
            })
            .sum()
    }

    fn each_element(&self, mut of: impl FnMut(usize, usize) -> f64) -> Vec<Vec<f64>> {
        let lengths = self.values.iter().map(Vec::len).enumerate();
        lengths
            .map(|(input, length)| (0..length).map(|element| of(input, element)).collect())
            .collect()
    }
}

/// Weights of either sign between ½ and 1½ in size.
fn draw(seed: u64, purpose: &str, stream: usize, count: usize) -> Vec<f32> {
    let mut rng = rng::keyed(seed, purpose, stream as u64);
    let weight = |_| {
        let unit = 2.0 * rng::unit(&mut rng) - 1.0;
        (unit + 0.5f64.copysign(unit)) as f32
    };
    (0..count).map(weight).collect()
}

/// All axes in reverse order.
fn reversed(var: Var<'_>) -> Var<'_> {
    let axes: Vec<usize> = (0..var.shape().rank()).rev().collect();
    var.permute(&axes)
}

/// The same tensor, stored with its axes in reverse order and read back through strides.
fn restored(var: Var<'_>) -> Var<'_> {
    reversed(reversed(var) * 1.0)
}
