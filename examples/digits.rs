//! A network of two hidden layers learns to read handwritten digits of 8 × 8 pixels, in seconds: nothing of a transformer.
//!
//! ```sh
//! cargo run --release --example digits
//! ```

use shadegrad::data::Shuffle;
use shadegrad::nn::{InitKind, Linear, ParameterBuilder};
use shadegrad::ops::CrossEntropy;
use shadegrad::optim::{AdamW, AdamWConfig, Optimizer, Reports, Schedule};
use shadegrad::{Device, Result, Tape, Var, metrics};

const SEED: u64 = 42;
const PIXELS: usize = 64;
const CLASSES: usize = 10;
const BATCH: usize = 64;
const EPOCHS: u64 = 30;

/// One digit a line, what it is and 64 pixels from 0 to G (16): see `data/README.md`.
const DIGITS: &str = include_str!("../data/digits.txt");

struct Digit {
    class: u32,
    /// 0 to 1.
    pixels: Vec<f32>,
}

fn read() -> Vec<Digit> {
    let digit = |line: &str| {
        let (class, pixels) = line.split_once(' ').expect("a class and pixels");
        let pixel = |c: char| c.to_digit(17).expect("0 to G") as f32 / 16.0;
        Digit {
            class: class.parse().expect("a digit"),
            pixels: pixels.chars().map(pixel).collect(),
        }
    };
    DIGITS.lines().map(digit).collect()
}

struct Network {
    hidden: [Linear; 2],
    output: Linear,
}

impl Network {
    fn new(builder: &mut ParameterBuilder) -> Network {
        let first = Linear::new(&mut builder.enter("first"), PIXELS, 128, true);
        let second = Linear::new(&mut builder.enter("second"), 128, 64, true);
        Network {
            hidden: [first, second],
            output: Linear::new(&mut builder.enter("output"), 64, CLASSES, true),
        }
    }

    /// `[N, 64] → [N, 10]`
    fn logits<'t>(&self, x: Var<'t>) -> Var<'t> {
        let hidden = self
            .hidden
            .iter()
            .fold(x, |x, layer| layer.forward(x).relu());
        self.output.forward(hidden)
    }
}

/// Some digits on a tape: their pixels, and what they are.
fn on<'t>(tape: &'t Tape, digits: &[&Digit]) -> (Var<'t>, Var<'t>) {
    let pixels: Vec<f32> = digits
        .iter()
        .flat_map(|digit| digit.pixels.clone())
        .collect();
    let classes: Vec<u32> = digits.iter().map(|digit| digit.class).collect();
    (
        tape.input([digits.len(), PIXELS], &pixels),
        tape.input([digits.len()], &classes),
    )
}

fn main() -> Result<()> {
    let device = Device::new()?;
    println!("adapter: {}", device.description());
    let digits = read();
    let order = Shuffle::new(digits.len(), digits.len(), SEED)
        .batch(0)
        .to_vec();
    let (test, train) = order.split_at(digits.len() / 5);

    let mut builder = ParameterBuilder::new(SEED).with_init(InitKind::KaimingUniform);
    let network = Network::new(&mut builder);
    let parameters = builder.build(&device)?;
    println!("{}", parameters.summary());

    let mut optimizer = AdamW::new(&parameters, AdamWConfig::default())?;
    let mut shuffle = Shuffle::new(train.len(), BATCH, SEED);
    let per_epoch = shuffle.batches_per_epoch();
    let total = EPOCHS * per_epoch;
    let schedule = Schedule::WarmupCosine {
        warmup: 20,
        total,
        min_ratio: 0.0,
    };
    let (mut reports, mut smoothed) = (Reports::default(), metrics::Smoothed::new(0.95));
    for step in 0..total {
        let batch: Vec<&Digit> = shuffle
            .batch(step)
            .iter()
            .map(|&i| &digits[train[i]])
            .collect();
        let tape = Tape::training(&device);
        let (pixels, classes) = on(&tape, &batch);
        let loss = network
            .logits(pixels)
            .cross_entropy(classes, CrossEntropy::default());
        let rate = schedule.lr(4e-3, step);
        reports.push(optimizer.step(&tape, loss, rate).fetch());
        tape.run()?;
        while let Some(metrics) = reports.take(if step + 1 == total { 0 } else { 4 })? {
            let loss = smoothed.push(metrics.loss.into());
            if metrics.step % (5 * per_epoch) == 0 {
                println!("epoch {}: loss {loss:.4}", metrics.step / per_epoch);
            }
        }
    }

    let right = metrics::mean(&device, test.chunks(BATCH), |tape, indices| {
        let batch: Vec<&Digit> = indices.iter().map(|&i| &digits[i]).collect();
        let (pixels, classes) = on(tape, &batch);
        (
            metrics::accuracy(network.logits(pixels), classes),
            batch.len(),
        )
    })?;
    println!(
        "test accuracy {:.1} % of {} digits",
        100.0 * right,
        test.len()
    );
    Ok(())
}
