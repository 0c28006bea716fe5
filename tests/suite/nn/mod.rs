//! The transformer library: configurations, models, training, generation.

mod cache;
mod checkpoints;
mod configurations;
mod generation;
mod gpt;
mod inference;
mod lora;

use shadegrad::Tape;
use shadegrad::nn::{Gpt, GptConfig, ParameterBuilder, Parameters};

use crate::common::{Random, device};

/// Small, and with every kind of parameter.
fn small() -> GptConfig {
    GptConfig {
        context: 8,
        d_model: 16,
        n_heads: 2,
        n_layers: 2,
        d_ff: 21,
        ..GptConfig::new(11)
    }
}

fn model(config: &GptConfig) -> (Gpt, Parameters) {
    let mut builder = ParameterBuilder::new(7);
    let gpt = Gpt::new(config, &mut builder).unwrap();
    (gpt, builder.build(device()).unwrap())
}

/// Replaces the initial values, which leave every softmax flat, by wider ones.
fn widen(parameters: &Parameters) {
    let mut random = Random::new(8);
    let values = parameters.iter().map(|parameter| {
        let shape = parameter.shape();
        let drawn = random.values(shape.elements(), -0.4, 0.4);
        let shift = if parameter.name().contains("norm") {
            1.0
        } else {
            0.0
        };
        let values = drawn.iter().map(|value| value + shift).collect();
        (parameter.name(), shape, values)
    });
    let values: Vec<_> = values.collect();
    parameters.load(values).unwrap();
}

fn logits(gpt: &Gpt, tape: Tape, tokens: &[u32], batch: usize) -> Vec<f32> {
    let tokens = tape.input([batch, tokens.len() / batch], tokens);
    let logits = tape.fetch::<f32>(gpt.logits(tokens));
    tape.run().unwrap();
    logits.get().unwrap()
}

fn inferred(gpt: &Gpt, tokens: &[u32], batch: usize) -> Vec<f32> {
    logits(gpt, Tape::inference(device()), tokens, batch)
}
