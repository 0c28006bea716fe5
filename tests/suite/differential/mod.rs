//! Drawn calls of every operation against PyTorch in `f64`, values and gradients, in the middle of a graph: the cases that
//! `make_cases.py` has written.

mod operations;

use safetensors::SafeTensors;
use serde::Deserialize;
use serde_json::Value;
use shadegrad::tape::Fusion;
use shadegrad::{Device, Shape, Tape, Var};

use crate::common::{device, gpu_device, portable_device};

/// How far an element may be off, relative to itself, and to the largest of its tensor or one.
const RELATIVE: f64 = 1e-4;
const ABSOLUTE: f64 = 2e-5;

/// How far a weighted sum may be off, relative to the sum of its terms' sizes.
const OF_SUMS: f64 = 2e-5;

#[derive(Deserialize)]
struct Case {
    number: u32,
    op: String,
    inputs: Vec<Input>,
    ids: Option<Ids>,
    attributes: Value,
    shape: Vec<usize>,
    sums: Vec<Option<Sum>>,
}

#[derive(Deserialize)]
struct Input {
    shape: Vec<usize>,
    low: f64,
    high: f64,
    seed: u32,
    view: Vec<Value>,
}

#[derive(Deserialize)]
struct Ids {
    shape: Vec<usize>,
    seed: u32,
    below: u32,
}

/// What is known of a large tensor beside its samples.
#[derive(Deserialize)]
struct Sum {
    sum: f64,
    scale: f64,
    most: f64,
}

/// The hash that `make_cases.py` draws from.
fn hashed(seed: u32, index: usize) -> u32 {
    let mut h = (index as u32)
        .wrapping_mul(0x9E37_79B9)
        .wrapping_add(seed.wrapping_mul(0x85EB_CA6B));
    h ^= h >> 16;
    h = h.wrapping_mul(0x7FEB_352D);
    h ^= h >> 15;
    h = h.wrapping_mul(0x846C_A68B);
    h ^ h >> 16
}

fn values(seed: u32, count: usize, low: f64, high: f64) -> Vec<f64> {
    let value = |index| {
        let k = f64::from(hashed(seed, index) >> 20);
        low + (high - low) * (2.0 * k + 1.0) / 8192.0
    };
    (0..count).map(value).collect()
}

fn narrow(values: Vec<f64>) -> Vec<f32> {
    values.into_iter().map(|value| value as f32).collect()
}

fn indices(seed: u32, count: usize, below: u32) -> Vec<u32> {
    (0..count)
        .map(|index| hashed(seed, index) % below)
        .collect()
}

fn extents(value: &Value) -> Vec<usize> {
    serde_json::from_value(value.clone()).expect("a list of extents")
}

fn viewed<'t>(x: Var<'t>, steps: &[Value]) -> Var<'t> {
    steps.iter().fold(x, |x, step| {
        let number = |index: usize| step[index].as_u64().expect("a number") as usize;
        match step[0].as_str() {
            Some("permute") => x.permute(&extents(&step[1])),
            Some("slice") => x.slice(number(1), number(2)..number(3)),
            Some("broadcast") => x.broadcast_to(extents(&step[1])),
            Some("reshape") => x.reshape(extents(&step[1])),
            other => panic!("no view is called {other:?}"),
        }
    })
}

/// What one tensor of a case should be.
struct Expected {
    name: String,
    samples: Vec<f32>,
}

impl Expected {
    /// Compares, and says what is wrong.
    fn compare(&self, actual: &[f32], sum: Option<&Sum>) -> Result<(), String> {
        let n = actual.len();
        let places: Vec<usize> = match sum {
            Some(_) => {
                let count = self.samples.len();
                let step = (n / count).max(1);
                (0..count)
                    .map(|i| i * n / count + i * 7919 % step)
                    .collect()
            }
            None => (0..n).collect(),
        };
        if places.len() != self.samples.len() {
            let expected = self.samples.len();
            return Err(format!("{}: {n} elements, expected {expected}", self.name));
        }
        let most = self
            .samples
            .iter()
            .fold(1.0, |most, &x| f64::from(x.abs()).max(most));
        let most = sum.map_or(most, |sum| sum.most.max(1.0));
        for (&place, &expected) in places.iter().zip(&self.samples) {
            let (actual, expected) = (f64::from(actual[place]), f64::from(expected));
            let off = (actual - expected).abs();
            if off.is_nan() || off > RELATIVE * expected.abs() + ABSOLUTE * most {
                return Err(format!(
                    "{}: element {place} is {actual}, expected {expected}",
                    self.name
                ));
            }
        }
        if let Some(sum) = sum {
            let weights = values(99, n, -1.0, 1.0);
            let actual: f64 = actual
                .iter()
                .zip(weights)
                .map(|(&x, w)| f64::from(x) * w)
                .sum();
            let off = (actual - sum.sum).abs();
            if off.is_nan() || off > OF_SUMS * sum.scale.max(1.0) {
                return Err(format!(
                    "{}: the sum is {actual}, expected {}",
                    self.name, sum.sum
                ));
            }
        }
        Ok(())
    }
}

struct Cases {
    bytes: Vec<u8>,
    cases: Vec<Case>,
}

impl Cases {
    fn load() -> Cases {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/suite/differential/cases.safetensors"
        );
        let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header.metadata().as_ref().unwrap();
        let cases = serde_json::from_str(&metadata["cases"]).unwrap();
        Cases { bytes, cases }
    }

    /// Runs the cases that are wanted, and panics with all that is wrong.
    fn check(&self, device: &Device, fusion: Fusion, is_wanted: impl Fn(&Case) -> bool) {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let expected = |name: String| {
            let tensor = file.tensor(&name).unwrap();
            let samples = bytemuck::pod_collect_to_vec(tensor.data());
            Expected { name, samples }
        };
        let mut wrong = Vec::new();
        let mut count = 0;
        for case in self.cases.iter().filter(|case| is_wanted(case)) {
            count += 1;
            let number = case.number;
            let run = || case.run(device, fusion);
            let Ok(results) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) else {
                wrong.push(format!("{} {number}: it panics, see above", case.op));
                continue;
            };
            let (value, gradients) = results.split_first().expect("there is a value");
            let mut check = |expected: Expected, actual: &[f32], sum: &Option<Sum>| {
                if let Err(reason) = expected.compare(actual, sum.as_ref()) {
                    wrong.push(format!("{} {reason}", case.op));
                }
            };
            check(expected(format!("{number}.value")), value, &case.sums[0]);
            for (index, gradient) in gradients.iter().enumerate() {
                let name = format!("{number}.gradient.{index}");
                check(expected(name), gradient, &case.sums[1 + index]);
            }
        }
        assert!(wrong.is_empty(), "of {count} cases:\n{}", wrong.join("\n"));
        assert!(count > 50, "{count} cases");
    }
}

impl Case {
    /// The value and the gradient of every input.
    fn run(&self, device: &Device, fusion: Fusion) -> Vec<Vec<f32>> {
        let tape = Tape::training(device);
        tape.set_fusion(fusion);
        let mut loss = tape.full(Shape::SCALAR, 0.0);
        let (mut leaves, mut operands) = (Vec::new(), Vec::new());
        for (index, input) in self.inputs.iter().enumerate() {
            let factor = [0.5f32, 2.0, 4.0][index % 3];
            let shape = Shape::new(&input.shape);
            let count = shape.elements();
            let start = narrow(values(input.seed, count, input.low, input.high));
            let start: Vec<f32> = start.into_iter().map(|value| value / factor).collect();
            let leaf = tape.variable(shape, &start);
            let direct = narrow(values(input.seed + 50_000, count, -1.0, 1.0));
            loss = loss + (leaf * factor * tape.input(shape, &direct)).sum_all();
            leaves.push(leaf);
            operands.push(viewed(leaf * factor, &input.view));
        }
        let ids = self.ids.as_ref().map(|ids| {
            let shape = Shape::new(&ids.shape);
            tape.input(shape, &indices(ids.seed, shape.elements(), ids.below))
        });
        let y = operations::apply(&self.op, &operands, ids, &self.attributes);
        assert_eq!(
            y.shape(),
            Shape::new(&self.shape),
            "{} {}",
            self.op,
            self.number
        );
        let weights = |seed: u32| {
            let weights = values(7 * self.number + seed, y.shape().elements(), -1.0, 1.0);
            tape.input(y.shape(), &narrow(weights))
        };
        let (w, v) = (weights(100_000), weights(150_000));
        loss = loss + (w * y + v * y * y * 0.5).sum_all();
        let gradients = tape.backward(loss);
        let gradients = leaves
            .iter()
            .map(|&leaf| gradients.of(leaf).expect("it is read"));
        let fetched: Vec<_> = std::iter::once(y)
            .chain(gradients)
            .map(|var| tape.fetch::<f32>(var))
            .collect();
        tape.run().unwrap();
        fetched
            .iter()
            .map(|fetched| fetched.get().unwrap())
            .collect()
    }
}

#[test]
fn every_operation_gives_what_pytorch_gives() {
    Cases::load().check(device(), Fusion::ON, |_| true);
}

#[test]
fn so_it_does_from_single_kernels() {
    Cases::load().check(device(), Fusion::OFF, |case| case.number.is_multiple_of(3));
}

#[test]
fn so_it_does_with_kernels_for_gpus() {
    Cases::load().check(gpu_device(), Fusion::ON, |case| {
        case.number.is_multiple_of(2)
    });
}

#[test]
fn so_it_does_with_portable_kernels() {
    Cases::load().check(portable_device(), Fusion::ON, |case| {
        !case.number.is_multiple_of(2)
    });
}
