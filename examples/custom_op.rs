//! An operation from outside the crate, with a kernel of its own: the product of complex numbers.
//!
//! ```text
//! z = a·b,    [..., 2] · [..., 2] → [..., 2]    (real and imaginary part side by side)
//! ```
//!
//! It has what every operation of shadegrad has, through the same trait: a shape rule, a gradient rule made of recorded
//! operations, and a lowering to a WGSL kernel, which is in `custom_op.wgsl`. Because the gradient rule is made of the
//! operation itself, gradients of gradients work too.
//!
//! `cargo run --release --example custom_op`

use std::process::ExitCode;

use clap::Parser;
use shadegrad::ops::{Operation, TensorType};
use shadegrad::tape::{Backward, Dispatch, Lowering};
use shadegrad::{DType, Device, Kernel, Result, Shape, Tape, Var, check};

/// The product of two factors, either of them conjugated or not. These flags are constant attributes: part of the
/// operation, not data. Two tapes share a plan only if their operations have equal hashes, so every attribute must be in it.
#[derive(Clone, Copy, Debug, Hash)]
struct ComplexMultiply {
    conjugate: [bool; 2],
}

impl Operation for ComplexMultiply {
    fn name(&self) -> &'static str {
        "complex_multiply"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let [a, b] = inputs else {
            panic!("complex_multiply: takes two inputs, not {}", inputs.len());
        };
        assert!(
            a == b && a.dtype == DType::F32 && a.shape.rank() > 0 && a.shape.last() == 2,
            "complex_multiply: {} and {} are not pairs of equal shapes",
            a.shape,
            b.shape
        );
        vec![*a]
    }

    /// With `z = a'·b'`, where a prime stands for conjugation or not, and `g` the gradient at `z` (as a complex number,
    /// `∂L/∂Re z + i·∂L/∂Im z`): the gradient at `a'` is `g·conj(b')`. If `a'` is the conjugate of `a`, the gradient at
    /// `a` is the conjugate of that, `conj(g)·b'`. The same for `b`.
    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        let gradient = node.gradient(0);
        let [conjugate_a, conjugate_b] = self.conjugate;
        let toward = |conjugated: bool, other: Var<'t>, other_conjugated: bool| {
            let conjugate = [conjugated, other_conjugated == conjugated];
            let product = ComplexMultiply { conjugate };
            gradient.tape().record(product, &[gradient, other])
        };
        // Nobody may want a gradient; what is recorded in vain is pruned, but need not be recorded at all.
        vec![
            node.wants(0)
                .then(|| toward(conjugate_a, node.input(1), conjugate_b)),
            node.wants(1)
                .then(|| toward(conjugate_b, node.input(0), conjugate_a)),
        ]
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        // Inputs may be views with any strides; the kernel reads dense pairs. This copies only where it must.
        let (a, b) = (cx.contiguous(&cx.input(0)), cx.contiguous(&cx.input(1)));
        let output = cx.output(0);
        let count = output.elements() / 2;
        let sign = |conjugate: bool| if conjugate { -1f32 } else { 1f32 };
        let params = [
            count as u32,
            a.offset(),
            b.offset(),
            output.offset(),
            sign(self.conjugate[0]).to_bits(),
            sign(self.conjugate[1]).to_bits(),
        ];
        let kernel = Kernel::new(
            "complex_multiply",
            include_str!("custom_op.wgsl"),
            "complex_multiply",
        );
        cx.dispatch(
            Dispatch::new(kernel)
                .read(&a)
                .read(&b)
                .write(&output)
                .params(&params)
                .groups(count.div_ceil(64))
                .cost(6 * count as u64, a.bytes() + b.bytes() + output.bytes()),
        );
    }
}

/// Makes it a method of [`Var`], as the crate's own operations are.
trait ComplexVar<'t> {
    fn complex_multiply(self, other: Var<'t>) -> Var<'t>;
}

impl<'t> ComplexVar<'t> for Var<'t> {
    #[track_caller]
    fn complex_multiply(self, other: Var<'t>) -> Var<'t> {
        let conjugate = [false; 2];
        self.tape()
            .record(ComplexMultiply { conjugate }, &[self, other])
    }
}

/// The same in `f64` on the host, for the checker.
fn oracle(inputs: &[Vec<f64>]) -> Vec<f64> {
    let pairs = inputs[0].chunks(2).zip(inputs[1].chunks(2));
    pairs
        .flat_map(|(a, b)| [a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]])
        .collect()
}

/// Multiplies complex numbers by an operation from outside the crate, and checks its gradients.
#[derive(Parser)]
#[command(name = "custom_op", version)]
struct Cli {}

fn main() -> ExitCode {
    let Cli {} = Cli::parse();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

pub fn run() -> Result<()> {
    let device = Device::new()?;
    println!("{}", device.description());

    // Rotations of (1, 0) by an eighth of a turn, and what a change of the angle's factor would do to the last one.
    let tape = Tape::training(&device);
    let eighth = std::f32::consts::FRAC_1_SQRT_2;
    let factor = tape.variable([1, 2], &[eighth, eighth]);
    let mut points = vec![tape.input([1, 2], &[1f32, 0.0])];
    for _ in 0..8 {
        points.push(points[points.len() - 1].complex_multiply(factor));
    }
    let last_real_part = points[8].slice(1, 0..1).sum_all();
    let gradient = tape
        .backward(last_real_part)
        .of(factor)
        .expect("every point depends on it");
    let points: Vec<_> = points
        .iter()
        .map(|&point| tape.fetch::<f32>(point))
        .collect();
    let gradient = tape.fetch::<f32>(gradient);
    tape.run()?;
    for (turn, point) in points.iter().enumerate() {
        let point = point.get()?;
        println!("{turn}/8 of a turn: {:+.3} {:+.3}i", point[0], point[1]);
    }
    let gradient = gradient.get()?;
    println!(
        "gradient of the last real part: {:+.3} {:+.3}i",
        gradient[0], gradient[1]
    );

    // Is the gradient right? The checker compares with finite differences of the oracle, in the middle of a graph.
    let shape = Shape::new(&[3, 5, 2]);
    let values = |shift: f32| (0..30).map(|i| (i as f32 * 0.7 + shift).sin()).collect();
    let inputs: [(Shape, Vec<f32>); 2] = [(shape, values(0.0)), (shape, values(2.0))];
    println!(
        "\n{}",
        check::gradient(&device, &inputs, |x| x[0].complex_multiply(x[1]), oracle)?
    );
    println!(
        "\n{}",
        check::second_gradient(&device, &inputs, |x| x[0].complex_multiply(x[1]), oracle)?
    );
    Ok(())
}
