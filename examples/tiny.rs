//! A complete program: data, model, training, evaluation, checkpoint, text. It learns given names, in a few seconds.
//!
//! ```sh
//! cargo run --release --example tiny
//! ```

use shadegrad::checkpoint::{self, Metadata};
use shadegrad::data::{Batch, IGNORE_INDEX, NamesDataset};
use shadegrad::nn::{Gpt, GptConfig, InitKind, ParameterBuilder};
use shadegrad::ops::CrossEntropy;
use shadegrad::optim::{AdamW, AdamWConfig, Optimizer, Reports};
use shadegrad::sampling::{Sampler, SamplingConfig};
use shadegrad::{Device, Result, Tape, Var, metrics};

const SEED: u64 = 42;
const STEPS: u64 = 400;

fn loss<'t>(gpt: &Gpt, tape: &'t Tape, batch: &Batch) -> Var<'t> {
    let (tokens, targets) = batch.on(tape);
    gpt.loss(tokens, targets, CrossEntropy::ignoring(IGNORE_INDEX))
}

fn main() -> Result<()> {
    let device = Device::new()?;
    println!("adapter: {}", device.description());

    // One name a row, in windows of 16 characters; one in ten names is kept for the test.
    let data = NamesDataset::new(include_str!("../data/names.txt"), 16, SEED)?;
    let tokenizer = data.tokenizer();

    let mut config = GptConfig::new(tokenizer.vocab_size());
    (config.n_layers, config.tie_weights) = (2, false);
    let mut builder = ParameterBuilder::new(SEED).with_init(InitKind::Pytorch);
    let gpt = Gpt::new(&config, &mut builder)?;
    let parameters = builder.build(&device)?;
    println!("{}", parameters.summary());

    let mut optimizer = AdamW::new(&parameters, AdamWConfig::default())?;
    let mut reports = Reports::default();
    for step in 0..STEPS {
        let tape = Tape::training(&device);
        let loss = loss(&gpt, &tape, &data.train_batch(32, step));
        let learning_rate = 6e-3 * (1.0 - step as f32 / STEPS as f32);
        reports.push(optimizer.step(&tape, loss, learning_rate).fetch());
        tape.run()?;
        // Losses are read up to four steps late, so that the device never waits; the last step waits for all.
        while let Some(metrics) = reports.take(if step + 1 == STEPS { 0 } else { 4 })? {
            if metrics.step % 50 == 0 {
                println!("step {}: loss {:.3}", metrics.step, metrics.loss);
            }
        }
    }

    let test_loss = metrics::mean(&device, data.test_batches(64), |tape, batch| {
        (loss(&gpt, tape, &batch), batch.target_count())
    })?;
    println!("test loss {test_loss:.3}");

    let path = std::env::temp_dir().join("tiny.safetensors");
    let metadata = Metadata::of(&config, tokenizer);
    checkpoint::save(&path, &parameters, Some(&optimizer), &metadata)?;
    println!("written: {}", path.display());

    // As another program would go on.
    let (gpt, tokenizer) = Gpt::from_checkpoint(&path, &device)?;
    let mut sampler = Sampler::new(SamplingConfig::default(), SEED)?;
    let edge = tokenizer.encode("\n")?; // where a name begins, and ends
    for _ in 0..10 {
        let name = gpt.generate(&edge, 15, &mut sampler, edge.clone())?;
        println!("  {}", tokenizer.decode(&name)?);
    }
    Ok(())
}
