//! Work on both sides of 65,535 iterations, where Mesa's llvmpipe silently ended the loops of an invocation before version
//! 26: every family of kernels spreads more over invocations or dispatches, or says that it can't.

use shadegrad::ops::{CrossEntropy, Operation, TensorType};
use shadegrad::sampling::{Sampler, SamplingConfig};
use shadegrad::tape::{Backward, Dispatch, Lowering};
use shadegrad::{Device, Error, Kernel, Shape, Tape, Var};

use crate::common::{self, Random, device, devices, gpu_device, portable_device};

/// Runs on a training tape, and gives what it records as results.
fn run(device: &Device, record: impl for<'t> FnOnce(&'t Tape) -> Vec<Var<'t>>) -> Vec<Vec<f32>> {
    common::run_counted(device, Default::default(), record).0
}

/// Checks every element, naming the first that is off.
#[track_caller]
fn assert_all(what: &str, actual: &[f32], expected: impl Fn(usize) -> f32, tolerance: f32) {
    let off = |&(index, &value): &(usize, &f32)| {
        let off = (value - expected(index)).abs();
        off.is_nan() || off > tolerance * expected(index).abs().max(1.0)
    };
    if let Some((index, value)) = actual.iter().enumerate().find(off) {
        panic!(
            "{what}: element {index} of {} is {value}, expected {}",
            actual.len(),
            expected(index)
        );
    }
}

/// A row that norms and softmax are known of, repeated: `−1, 1, −1, 1, …`.
fn signs(tape: &Tape, [rows, columns]: [usize; 2]) -> Var<'_> {
    let row: Vec<f32> = (0..columns).map(|c| (c % 2) as f32 * 2.0 - 1.0).collect();
    // A value of its own, not a view with a stride of zero.
    tape.variable([1, columns], &row)
        .broadcast_to([rows, columns])
        + tape.input([rows, 1], &vec![0.0; rows])
}

fn sign(columns: usize) -> impl Fn(usize) -> f32 {
    move |index| (index % columns % 2) as f32 * 2.0 - 1.0
}

#[test]
fn norms_over_many_rows() {
    for (shape, tested) in [
        ([13_000, 768], device()),
        ([13_793, 768], device()),
        ([5345, 2048], device()),
        ([140_000, 32], device()),
        ([13_793, 768], portable_device()),
    ] {
        let [rows, columns] = shape;
        let results = run(tested, |tape| {
            let (x, bias) = (
                signs(tape, shape),
                tape.variable([columns], &vec![0.5; columns]),
            );
            let weight = tape.variable([columns], &vec![2.0; columns]);
            let (layer, rms) = (
                x.layer_norm(weight, Some(bias), 1e-12),
                x.rms_norm(weight, 1e-12),
            );
            let gradients = tape.backward((layer * 3.0 + rms).sum_all());
            let [to_weight, to_bias] = [weight, bias].map(|leaf| gradients.of(leaf).unwrap());
            vec![layer, rms, to_weight, to_bias]
        });
        let sign = sign(columns);
        assert_all("layer_norm", &results[0], |i| 2.0 * sign(i) + 0.5, 1e-5);
        assert_all("rms_norm", &results[1], |i| 2.0 * sign(i), 1e-5);
        let rows = rows as f32;
        assert_all("to the weight", &results[2], |i| 4.0 * rows * sign(i), 1e-4);
        assert_all("to the bias", &results[3], |_| 3.0 * rows, 1e-4);
    }
}

/// What an epilogue's loops add: an integer power is multiplied out.
#[test]
fn rows_that_end_in_powers() {
    let shape = [20_000, 96];
    let [rows, columns] = shape;
    // Weights of the rows' own signs, so that each row's products add up to 2.
    let twice: Vec<f32> = (0..columns * 8)
        .map(|index| ((index / 8 % 2) as f32 * 2.0 - 1.0) * 2.0 / columns as f32)
        .collect();
    let results = run(device(), |tape| {
        let weight = tape.variable([columns], &vec![1.0; columns]);
        let x = signs(tape, shape);
        vec![
            x.layer_norm(weight, None, 1e-12).powi(1000.0),
            (x.softmax() * columns as f32 * 0.0 + 1.0).powi(100_000.0),
            x.matmul(tape.input([columns, 8], &twice)).powi(3.0),
        ]
    });
    assert_all("layer_norm", &results[0], |_| 1.0, 1e-3);
    assert_all("softmax", &results[1], |_| 1.0, 1e-3);
    assert_all("matmul", &results[2], |_| 8.0, 1e-5);
    assert_eq!(results[2].len(), rows * 8);
}

#[test]
fn softmax_over_many_and_over_long_rows() {
    for (shape, tested) in [
        ([15_649, 1024], device()),
        ([332, 50_257], device()),
        ([2, 1_100_000], device()),
        ([70_000, 64], portable_device()),
        ([3, 600_000], gpu_device()),
    ] {
        let [rows, columns] = shape;
        let results = run(tested, |tape| {
            let x = signs(tape, shape);
            let (y, log) = (x.softmax(), x.log_softmax());
            // The sums of the rows, and their logarithms' least.
            vec![y.sum(&[1]), y.max(&[1]), log.min(&[1])]
        });
        let half = columns as f32 / 2.0;
        let (up, down) = (1f32.exp(), (-1f32).exp());
        let total = (half.floor() * up) + (half.ceil() * down);
        assert_eq!(results[0].len(), rows);
        assert_all("sum", &results[0], |_| 1.0, 1e-3);
        assert_all("largest", &results[1], |_| up / total, 1e-5);
        assert_all("least logarithm", &results[2], |_| -1.0 - total.ln(), 1e-4);
    }
}

#[test]
fn reductions() {
    for device in devices() {
        for (shape, axes) in [
            ([64, 65_535], [1]),
            ([64, 65_537], [1]),
            ([65_537, 64], [0]),
            ([530_000, 7], [0]),
            ([1, 1_048_577], [1]),
        ] {
            let count = shape[axes[0]] as f32;
            let results = run(device, |tape| {
                let ones = tape.full(shape, 1.0) + tape.input([1, 1], &[0.0f32]);
                let gradient = tape.variable([shape[1]], &vec![0.0; shape[1]]);
                let to_bias = tape
                    .backward((ones + gradient).sum_all())
                    .of(gradient)
                    .unwrap();
                vec![
                    ones.sum(&axes),
                    ones.mean(&axes),
                    ones.max(&axes),
                    ones.min(&axes),
                    to_bias,
                ]
            });
            assert_all("sum", &results[0], |_| count, 0.0);
            for (what, result) in ["mean", "max", "min"].iter().zip(&results[1..]) {
                assert_all(what, result, |_| 1.0, 1e-6);
            }
            assert_all("bias", &results[4], |_| shape[0] as f32, 0.0);
        }
        // The place of a maximum at the very end, also among several axes of others.
        for shape in [[70_000, 3], [1, 1_000_003]] {
            let axis = usize::from(shape[0] == 1);
            let mut values = vec![0.0f32; shape[0] * shape[1]];
            let last = values.len() - 1;
            values[last] = 1.0;
            let results = run(device, |tape| {
                vec![tape.input(shape, &values).argmax(axis).to_f32()]
            });
            let place = shape[axis] - 1;
            assert_eq!(*results[0].last().unwrap(), place as f32);
        }
    }
}

/// Several reduced axes that don't merge: finding a step is a loop, too.
#[test]
fn reductions_over_several_axes() {
    for device in devices() {
        let results = run(device, |tape| {
            let ones = tape.full([401, 2, 409, 3], 1.0) + tape.input([1, 1, 1, 1], &[0.0f32]);
            vec![ones.sum(&[0, 2]), ones.permute(&[3, 2, 1, 0]).sum(&[1, 3])]
        });
        assert_all("sum", &results[0], |_| 401.0 * 409.0, 0.0);
        assert_all("permuted", &results[1], |_| 401.0 * 409.0, 0.0);
    }
}

#[test]
fn products_of_any_depth() {
    for device in devices() {
        for (m, depth, n) in [
            (1, 262_145, 1),
            (1, 262_145, 3),
            (8, 229_300, 8),
            (8, 240_000, 8),
            (40, 270_001, 33),
        ] {
            let results = run(device, |tape| {
                let a = tape.variable([m, depth], &vec![1.0; m * depth]);
                let b = tape.variable([depth, n], &vec![1.0; depth * n]);
                let product = a.matmul(b);
                let transposed = a.transpose().reshape([depth, m]).transpose().matmul(b) + 1.0;
                let gradient = tape.backward(product.sum_all()).of(a).unwrap();
                vec![product, transposed, gradient.sum(&[1])]
            });
            assert_all("product", &results[0], |_| depth as f32, 0.0);
            assert_all("with an epilogue", &results[1], |_| depth as f32 + 1.0, 0.0);
            assert_all("gradient", &results[2], |_| (n * depth) as f32, 1e-5);
        }
    }
}

#[test]
fn cross_entropy_over_many_and_over_long_rows() {
    for (shape, tested) in [
        ([550_000, 3], device()),
        ([3, 450_000], device()),
        ([70_000, 5], gpu_device()),
        ([2, 600_000], portable_device()),
    ] {
        let [rows, classes] = shape;
        let ignored = CrossEntropy::ignoring(1);
        let results = run(tested, |tape| {
            let logits = tape.variable(shape, &vec![0.0; rows * classes]);
            let mut targets = vec![0u32; rows];
            targets[rows - 1] = 1;
            let targets = tape.input([rows], &targets);
            let loss = logits.cross_entropy(targets, CrossEntropy::default());
            let counted = logits.cross_entropy(targets, ignored);
            let gradient = tape.backward(counted).of(logits).unwrap();
            vec![loss, counted, gradient.sum(&[1]), gradient.abs().sum(&[1])]
        });
        let each = (classes as f32).ln();
        assert_all("loss", &results[0], |_| each, 1e-4);
        assert_all("with an ignored target", &results[1], |_| each, 1e-4);
        let last = rows - 1;
        let size = 2.0 * (1.0 - 1.0 / classes as f32) / last as f32;
        assert_all(
            "gradient",
            &results[2],
            |_| 0.0,
            1e-4 * size.min(1.0) + 1e-9,
        );
        assert_all(
            "its size",
            &results[3],
            |row| if row == last { 0.0 } else { size },
            3e-4,
        );
    }
}

#[test]
fn gradients_of_many_indices() {
    for device in devices() {
        for (vocabulary, places) in [(3, 130_000), (5000, 130_000)] {
            let results = run(device, |tape| {
                let table = tape.variable([vocabulary, 4], &vec![0.5; vocabulary * 4]);
                // Nearly all have the same.
                let mut ids = vec![1u32; places];
                ids[places - 1] = 2;
                let ids = tape.input([places], &ids);
                let rows = tape
                    .backward(table.embedding(ids).sum_all())
                    .of(table)
                    .unwrap();
                let x = tape.variable([3, 2], &[0.0; 6]);
                let picks = tape.input([places, 1], &vec![2u32; places]);
                let picked = x.slice(1, 0..1).gather(0, picks).sum_all();
                vec![rows, tape.backward(picked).of(x).unwrap()]
            });
            let expected = |row: usize| match row {
                1 => (places - 1) as f32,
                2 => 1.0,
                _ => 0.0,
            };
            assert_all("embedding", &results[0], |i| expected(i / 4), 0.0);
            assert_all(
                "gather",
                &results[1],
                |i| if i == 4 { places as f32 } else { 0.0 },
                0.0,
            );
        }
    }
}

#[test]
fn gated_units_over_many_and_over_long_rows() {
    for device in devices() {
        for shape in [[140_000, 8], [3, 400_000]] {
            let [rows, columns] = shape;
            let results = run(device, |tape| {
                let x = signs(tape, shape).abs();
                let h = x.swiglu();
                let gradient = tape.backward(h.sum_all()).of(x).unwrap();
                vec![h.sum(&[1]), gradient.sum(&[1])]
            });
            let (half, each) = (columns as f32 / 2.0, 1.0 / (1.0 + (-1f32).exp()));
            assert_eq!(results[0].len(), rows);
            assert_all("swiglu", &results[0], |_| each * half, 1e-4);
            assert_all(
                "gradient",
                &results[1],
                |_| each * (3.0 - each) * half,
                1e-4,
            );
        }
    }
}

/// A training step of the shape in which weight gradients were left zero: batch 16,400, one small layer.
#[test]
fn a_step_on_a_large_batch() {
    use shadegrad::nn::{Gpt, GptConfig, ParameterBuilder, PositionKind};
    use shadegrad::optim::{Optimizer, Sgd, SgdConfig};

    let config = GptConfig {
        context: 16,
        d_model: 16,
        n_heads: 2,
        n_layers: 1,
        positions: PositionKind::Rotary,
        tie_weights: false,
        d_ff: 24,
        ..GptConfig::new(27)
    };
    let mut builder = ParameterBuilder::new(1);
    let gpt = Gpt::new(&config, &mut builder).unwrap();
    let parameters = builder.build(device()).unwrap();
    let changed = |batch: usize| {
        let start = parameters.to_host().unwrap();
        let mut optimizer = Sgd::new(&parameters, SgdConfig::default()).unwrap();
        let one = Random::new(3).indices(16 * 2, 27);
        let tokens = one[..16].repeat(batch);
        let targets = one[16..].repeat(batch);
        let tape = Tape::training(device());
        let [tokens, targets] = [&tokens, &targets].map(|ids| tape.input([batch, 16], ids));
        let loss = gpt.loss(tokens, targets, CrossEntropy::default());
        optimizer.step(&tape, loss, 1.0);
        tape.run().unwrap();
        let after = parameters.to_host().unwrap();
        parameters.load(start.clone()).unwrap();
        (start, after)
    };
    // The mean over repeated rows has the gradient of one.
    let (start, few) = changed(1);
    let (_, many) = changed(16_400);
    for (((name, _, start), (.., few)), (.., many)) in start.iter().zip(&few).zip(&many) {
        let step: Vec<f32> = few
            .iter()
            .zip(start)
            .map(|(after, before)| after - before)
            .collect();
        let most = step.iter().fold(0f32, |most, step| most.max(step.abs()));
        assert!(most > 0.0, "{name}");
        for (index, (step, (after, before))) in step.iter().zip(many.iter().zip(start)).enumerate()
        {
            let off = (after - before - step).abs();
            assert!(
                off < 1e-2 * most,
                "{name}, element {index}: {} instead of {step}",
                after - before
            );
        }
    }
}

/// An operation from outside that goes round a loop and may state how often.
#[derive(Debug, Hash)]
struct Looping {
    rounds: usize,
    stated: bool,
}

impl Operation for Looping {
    fn name(&self) -> &'static str {
        "looping"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        vec![inputs[0]]
    }

    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        node.not_differentiable("it is a test")
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        let source = "@group(0) @binding(0) var<uniform> rounds: vec4<u32>;
            @group(0) @binding(1) var<storage, read_write> output: array<f32>;
            @compute @workgroup_size(1)
            fn looping() {
                var sum = 0.0;
                for (var i = 0u; i < rounds.x; i++) { sum += 1.0; }
                output[0] = sum;
            }";
        let output = cx.output(0);
        let dispatch = Dispatch::new(Kernel::new("looping", source, "looping"))
            .write(&output)
            .params(&[self.rounds as u32, 0, 0, 0]);
        cx.dispatch(match self.stated {
            true => dispatch.iterations(self.rounds + 1),
            false => dispatch,
        });
    }
}

fn count(rounds: usize, stated: bool) -> Result<f32, Error> {
    let tape = Tape::inference(device());
    let start = tape.full(Shape::SCALAR, 0.0);
    let result = tape.record(Looping { rounds, stated }, &[start]);
    let result = tape.fetch::<f32>(result);
    tape.run()?;
    result.item()
}

/// A row has one workgroup, which goes through it again for each digit that equal logits agree in.
#[test]
fn draws_from_long_rows() {
    let draw = |device: &Device, n: usize, config| {
        let mut samplers = [Sampler::new(config, 1).unwrap()];
        let tape = Tape::inference(device);
        let logits = tape.full([1, n], 0.5);
        let drawn = Sampler::draw(&mut samplers, logits).fetch();
        tape.run()?;
        drawn.get()?.remove(0)
    };
    let config = SamplingConfig {
        top_k: Some(400_000),
        top_p: Some(0.5),
        ..SamplingConfig::default()
    };
    let n = 500_000;
    // Of the first 200,000, as many as the host.
    let expected = Sampler::new(config, 1).unwrap().next_token(&vec![0.5; n]);
    let expected = expected.unwrap();
    assert!(expected < 200_000);
    for device in [device(), portable_device()] {
        assert_eq!(draw(device, n, config).unwrap(), expected);
    }
    match draw(device(), 3_000_000, config) {
        Err(Error::Limit { what, .. }) => assert!(what.starts_with("kernel `sample`"), "{what}"),
        // Other adapters have no such limit.
        other => {
            other.unwrap();
        }
    }
}

#[test]
fn more_than_a_driver_allows_is_an_error_before_anything_runs() {
    assert_eq!(count(65_534, true).unwrap(), 65_534.0);
    match count(65_535, true) {
        Err(Error::Limit {
            what,
            needed: 65_536,
            limit: 65_535,
        }) => assert!(what.starts_with("kernel `looping`"), "{what}"),
        // Other adapters have no such limit.
        other => {
            let is_software = device().description().to_string().contains("software");
            assert!(!is_software, "{other:?}");
            assert_eq!(other.unwrap(), 65_536.0);
        }
    }
}

#[test]
#[should_panic(expected = "kernel `looping` has loops: state how often they go round")]
fn loops_of_unstated_length_are_refused() {
    let _ = count(3, false);
}
