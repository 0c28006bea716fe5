//! Operations on halves: value and gradient, in the middle of a graph, with `f16` in kernels and with pairs in words.

mod cases;
mod drawn;
mod extremes;
mod kernels;
mod operations;
mod stored;

use shadegrad::ops::{CrossEntropy, Operation, TensorType};
use shadegrad::tape::{Backward, Dispatch, Lowering, Precision};
use shadegrad::{DType, Kernel, Tape, Tensor, Var, f16};

use crate::common::{Random, assert_close, devices};

fn halves(values: &[f32]) -> Vec<f16> {
    values.iter().map(|&x| f16::from_f32(x)).collect()
}

#[test]
fn mixed_tapes_take_and_give_halves() {
    for device in devices() {
        let tape = Tape::training(device);
        tape.set_precision(Precision::Mixed);
        let x = tape.variable([4, 4], &[0.5; 16]);
        let w = tape.variable([4, 4], &[0.25; 16]);
        let y = x.matmul(w).gelu();
        assert_eq!(y.dtype(), DType::F16);
        let z = y.matmul(w) + x;
        assert_eq!(z.dtype(), DType::F32);
        let gradients = tape.backward(z.mean_all());
        let gradient = gradients.of(w).unwrap();
        assert_eq!(gradient.dtype(), DType::F32);
        let gradient = tape.fetch::<f32>(gradient);
        tape.run().unwrap();
        // All elements are equal: with `g` for GELU at ½, `4·g/16` from the second product and `4·½·g′/16` from the first.
        let (g, slope) = (0.345_731, 0.867_495);
        let expected = [g / 4.0 + slope / 8.0; 16];
        assert_close("gradient", &gradient.get().unwrap(), &expected, 1e-3, 0.0);
    }
}

/// A part of a model in another precision, its gradient as well; outside nothing changes.
#[test]
fn a_part_in_another_precision() {
    for (outside, inside) in [
        (Precision::Mixed, Precision::F32),
        (Precision::F32, Precision::Mixed),
    ] {
        let of = |precision| match precision {
            Precision::Mixed => DType::F16,
            Precision::F32 => DType::F32,
        };
        let [device, ..] = devices();
        let tape = Tape::training(device);
        tape.set_precision(outside);
        let x = tape.variable([2, 2], &[1.0, 2.0, 3.0, 4.0]);
        let part = tape.with_precision(inside, || x.matmul(x));
        assert_eq!((part.dtype(), tape.precision()), (of(inside), outside));
        let product = x.matmul(x);
        assert_eq!(product.dtype(), of(outside));
        let gradients = tape.backward((part.cast(DType::F32) * 3.0).sum_all());
        assert_eq!(tape.precision(), outside);
        let gradient = tape.fetch::<f32>(gradients.of(x).unwrap());
        tape.run().unwrap();
        assert_eq!(gradient.get().unwrap(), [21.0, 33.0, 27.0, 39.0]);
    }
}

/// Gradients have the type of their values, whatever they are made of; those of both types add up.
#[test]
fn gradients_of_halves() {
    for device in devices() {
        let values = halves(&[1.0, -2.0, 3.0]);
        let tensor = Tensor::new(device, [3], &values).unwrap();
        let tape = Tape::training(device);
        let x = tape.tensor_variable(&tensor);
        let wide = tape.variable([3], &[4.0, 5.0, 6.0]);
        // As halves, widened, beside what is wide, and not at all.
        let sums = [x * x, x.cast(DType::F32) * 0.5, x * wide, x * x.detach()];
        let loss = sums.map(|y| y.sum_all()).into_iter().reduce(|a, b| a + b);
        let gradients = tape.backward(loss.unwrap());
        let of_wide = gradients.of(wide).unwrap();
        let gradient = gradients.of(x).unwrap();
        assert_eq!(
            [gradient, of_wide].map(Var::dtype),
            [DType::F16, DType::F32]
        );
        let (gradient, of_wide) = (tape.fetch::<f16>(gradient), tape.fetch::<f32>(of_wide));
        tape.run().unwrap();
        assert_eq!(gradient.get().unwrap(), halves(&[7.5, -0.5, 15.5]));
        assert_eq!(of_wide.get().unwrap(), [1.0, -2.0, 3.0]);
    }
}

/// What is divided by many rows stays above what halves can hold, without any scale of the loss: the kernel that finds it
/// leaves the division to whoever reads it.
#[test]
fn the_gradient_of_a_mean_over_many_rows() {
    const ROWS: usize = 4096;
    let logits = Random::new(2).values(ROWS * 3, -6.0, 6.0);
    let logits: Vec<f32> = halves(&logits).iter().map(|x| x.to_f32()).collect();
    let targets = Random::new(3).indices(ROWS, 3);
    for device in devices() {
        for scale in [1.0, 4096.0] {
            let tape = Tape::training(device);
            let x = tape.variable([ROWS, 3], &logits);
            let targets = tape.input([ROWS], &targets);
            let half = x.cast(DType::F16);
            let loss = half.cross_entropy(targets, CrossEntropy::default());
            assert_eq!(loss.dtype(), DType::F32);
            let gradients = tape.backward(loss * scale);
            assert_eq!(gradients.of(half).unwrap().dtype(), DType::F16);
            let gradient = tape.fetch::<f32>(gradients.of(x).unwrap());
            tape.run().unwrap();
            let (_, mut expected) = super::cross_entropy::reference(
                &crate::common::wide(&logits),
                &Random::new(3).indices(ROWS, 3),
                CrossEntropy::default(),
            );
            let scale = f64::from(scale) / ROWS as f64;
            expected.iter_mut().for_each(|slope| *slope *= scale);
            // Twice rounded to 11 bits; and what halves hold no better than as subnormal numbers.
            let absolute = scale * f64::from(f16::MIN_POSITIVE_SUBNORMAL);
            let actual = gradient.get().unwrap();
            assert_close("gradient", &actual, &expected, 2.0 / 1024.0, absolute);
        }
    }
}

/// Logits of halves are overwritten by their gradient where nobody else reads them, to the same bits.
#[test]
fn gradients_in_the_place_of_logits() {
    let mut random = Random::new(8);
    for (device, classes) in devices().into_iter().zip([27, 1003, 201]) {
        let [x, w] = [9 * 4, 4 * classes].map(|count| random.values(count, -2.0, 2.0));
        let targets = random.indices(9, classes);
        let values = |is_shared: bool| {
            let tape = Tape::training(device);
            tape.set_precision(Precision::Mixed);
            let w = tape.variable([4, classes], &w);
            let logits = tape.input([9, 4], &x).matmul(w);
            assert_eq!(logits.dtype(), DType::F16);
            let loss = logits.cross_entropy(tape.input([9], &targets), CrossEntropy::default());
            let gradient = tape.fetch::<f32>(tape.backward(loss).of(w).unwrap());
            let loss = tape.fetch::<f32>(loss);
            let logits = is_shared.then(|| tape.fetch::<f16>(logits));
            tape.run().unwrap();
            drop(logits);
            (loss.get().unwrap(), gradient.get().unwrap())
        };
        assert_eq!(values(true), values(false), "{classes} classes");
    }
}

/// Doubles its input, and says what it has been given.
#[derive(Debug, Hash)]
struct Doubled;

impl Operation for Doubled {
    fn name(&self) -> &'static str {
        "doubled"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        assert_eq!(inputs[0].dtype, DType::F32);
        inputs.to_vec()
    }

    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        vec![Some(node.gradient(0) * 2.0)]
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        const SOURCE: &str = "
@group(0) @binding(0) var<uniform> p: vec4<u32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(8)
fn doubled(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x < p.x) { y[p.z + id.x] = 2.0 * x[p.y + id.x]; }
}";
        let (x, y) = (cx.contiguous(&cx.input(0)), cx.output(0));
        cx.dispatch(
            Dispatch::new(Kernel::new("doubled", SOURCE, "doubled"))
                .read(&x)
                .write(&y)
                .params(&[x.elements() as u32, x.offset(), y.offset(), 0])
                .groups(x.elements().div_ceil(8)),
        );
    }
}

/// Operations of other crates are given `F32`, and gradients find their way back.
#[test]
fn what_says_nothing_is_given_wide_values() {
    for device in devices() {
        let tape = Tape::training(device);
        tape.set_precision(Precision::Mixed);
        let x = tape.variable([1, 3], &[1.0, 2.0, 3.0]);
        let product = x.matmul(tape.full([3, 3], 0.5));
        assert_eq!(product.dtype(), DType::F16);
        let doubled = tape.record(Doubled, &[product]);
        assert_eq!(doubled.dtype(), DType::F32);
        let gradient = tape.backward(doubled.sum_all()).of(x).unwrap();
        let (doubled, gradient) = (tape.fetch::<f32>(doubled), tape.fetch::<f32>(gradient));
        tape.run().unwrap();
        assert_eq!(doubled.get().unwrap(), [6.0; 3]);
        assert_eq!(gradient.get().unwrap(), [3.0; 3]);
    }
}
