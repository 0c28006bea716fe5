//! A model that several ranks train, against one.

use std::ops::Range;

use shadegrad::nn::{Gpt, GptConfig, ParameterBuilder, Parameters};
use shadegrad::ops::CrossEntropy;
use shadegrad::optim::{AdamW, AdamWConfig, Optimizer};
use shadegrad::parallel::World;
use shadegrad::{DType, Device, Tape, Tensor, Var};

use crate::{device, launch};

const STEPS: u64 = 100;

/// Rows of a batch: two ranks have as many each, three and four have not.
pub const ROWS: usize = 6;

/// Batches whose gradients make a step.
const BATCHES: u64 = 2;

const VOCABULARY: usize = 11;
const CONTEXT: usize = 8;

/// Batch number `number`, the same on all ranks: rows of counting in some step.
fn batch(number: u64) -> Vec<u32> {
    let row = |row: usize| {
        let mixed = (number * ROWS as u64 + row as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let (start, stride) = (mixed % 11, 1 + mixed / 11 % 3);
        (0..=CONTEXT as u64).map(move |at| ((start + at * stride) % VOCABULARY as u64) as u32)
    };
    (0..ROWS).flat_map(row).collect()
}

/// The model as it begins, with dropout.
pub fn model(device: &Device) -> (Gpt, Parameters) {
    let config = GptConfig {
        context: CONTEXT,
        d_model: 16,
        n_heads: 2,
        n_layers: 2,
        d_ff: 32,
        dropout: 0.1,
        ..GptConfig::new(VOCABULARY)
    };
    let mut builder = ParameterBuilder::new(5);
    let gpt = Gpt::new(&config, &mut builder).unwrap();
    let parameters = builder.build(device).unwrap();
    (gpt, parameters)
}

/// The mean loss of some rows of batch number `number`.
pub fn loss<'t>(gpt: &Gpt, tape: &'t Tape, number: u64, rows: &Range<usize>) -> Var<'t> {
    let tokens = batch(number);
    let own = |shift: usize| -> Vec<u32> {
        let rows = rows
            .clone()
            .map(|row| &tokens[row * (CONTEXT + 1) + shift..][..CONTEXT]);
        rows.flatten().copied().collect()
    };
    tape.set_rows(rows.start, rows.len());
    tape.set_seed(3, number);
    let shape = [rows.len(), CONTEXT];
    let (inputs, targets) = (tape.input(shape, &own(0)), tape.input(shape, &own(1)));
    gpt.loss(inputs, targets, CrossEntropy::default())
}

/// Prints each step's loss and norm, and in the end a checksum of the parameters.
pub fn program(world: &World) {
    let device = device();
    let (gpt, parameters) = model(&device);
    // Some gradients are longer, some are not.
    let config = AdamWConfig {
        clip_norm: Some(0.9),
        ..AdamWConfig::default()
    };
    let mut optimizer = AdamW::new(&parameters, config).unwrap();
    let total = Tensor::zeros(&device, [1], DType::F32).unwrap();
    let rows = world.share(ROWS);
    for step in 0..STEPS {
        for part in 0..BATCHES {
            let tape = Tape::training(&device);
            let share = rows.len() as f32 / (ROWS as u64 * BATCHES) as f32;
            let loss = loss(&gpt, &tape, step * BATCHES + part, &rows) * tape.scalar(share);
            let sum = match part {
                0 => loss.reshape([1]),
                _ => tape.tensor(&total) + loss.reshape([1]),
            };
            tape.assign(&total, sum);
            optimizer.accumulate(&tape, loss).unwrap();
            tape.run().unwrap();
        }
        let gradient = optimizer.accumulated().unwrap().segments();
        world
            .sum(gradient.iter().chain([&total]), DType::F32)
            .unwrap();
        let tape = Tape::training(&device);
        let loss = tape.tensor(&total).sum_all();
        let report = optimizer.step_accumulated(&tape, loss, 1e-2).fetch();
        tape.run().unwrap();
        let metrics = report.get().unwrap();
        if world.is_first() {
            println!(
                "step {} {:e} {:e}",
                metrics.step, metrics.loss, metrics.grad_norm
            );
        }
        if metrics.step.is_multiple_of(25) {
            world.check_identical(&parameters, metrics.step).unwrap();
        }
    }
    if world.is_first() {
        let bits = parameters
            .segments()
            .iter()
            .flat_map(|segment| segment.to_vec::<f32>().unwrap());
        let sum = bits.fold(0u64, |sum, value| {
            sum.rotate_left(7) ^ u64::from(value.to_bits()).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        });
        println!("parameters {sum:016x}");
    }
}

fn steps(output: &str) -> Vec<[f64; 2]> {
    let steps = output.lines().filter_map(|line| line.strip_prefix("step "));
    let steps = steps.map(|line| {
        let words: Vec<f64> = line.split(' ').map(|word| word.parse().unwrap()).collect();
        [words[1], words[2]]
    });
    steps.collect()
}

pub fn ranks_train_as_one_does() {
    let one = launch::run(1, "training");
    let expected = steps(&one);
    assert_eq!(expected.len(), STEPS as usize);
    let (first, last) = (expected[0][0], expected[STEPS as usize - 1][0]);
    assert!(last < 0.7 * first, "it learns: {first} {last}");
    let clipped = expected.iter().filter(|[_, norm]| *norm > 0.9).count();
    assert!(
        (1..STEPS as usize).contains(&clipped),
        "{clipped} gradients are clipped"
    );
    for ranks in [2, 3, 4] {
        let output = launch::run(ranks, "training");
        for (step, ([loss, _], [expected, _])) in
            steps(&output).into_iter().zip(&expected).enumerate()
        {
            let error = (loss - expected).abs() / expected;
            assert!(
                error < 1e-4,
                "{ranks} ranks, step {step}: {loss}, alone {expected}"
            );
        }
        if ranks == 3 {
            assert_eq!(
                launch::run(ranks, "training"),
                output,
                "the same bits again"
            );
        }
    }
}
