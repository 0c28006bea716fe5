//! Tiny models of every type as the `transformers` library saves them, `golden/models`, made by `golden/make_models.py`.

mod cache;
mod table;
mod tensors;
mod values;

use std::path::PathBuf;

use shadegrad::nn::{Gpt, GptConfig, ParameterBuilder, Parameters};
use shadegrad::sampling::{Sampler, SamplingConfig};
use shadegrad::{DType, Device, Tape};

use table::Model;
use tensors::Tensors;

/// How far logits may be off; gradients relative to the largest of their tensor.
const TOLERANCE: f64 = 1e-4;

fn directory(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/golden/models", name]
        .iter()
        .collect()
}

fn expected(name: &str) -> Tensors {
    Tensors::read(&directory(name).join("expected.safetensors"))
}

/// The model as the table describes it, but that nothing is dropped; its parameters stored as `dtype`.
fn load(model: &Model, dtype: DType, device: &Device) -> (Gpt, Parameters) {
    let config = GptConfig {
        dropout: 0.0,
        ..(model.config)()
    };
    let mut builder = ParameterBuilder::new(0).with_dtype(dtype);
    let gpt = Gpt::new(&config, &mut builder).unwrap();
    let parameters = builder.build_zeroed(device).unwrap();
    let weights = Tensors::of_directory(&directory(model.name));
    let values = parameters.iter().map(|parameter| {
        let values = weights.parameter(&config, "", parameter.name(), model.norm_shift);
        (parameter.name(), parameter.shape(), values)
    });
    parameters.load(values).unwrap();
    (gpt, parameters)
}

impl Model {
    /// Draws the most likely token that the tokenizer knows.
    fn greedy(&self) -> Sampler {
        let vocab_size = (self.config)().vocab_size as u32;
        let sampler = Sampler::new(SamplingConfig::GREEDY, 0).unwrap();
        sampler.with_suppressed(self.known.unwrap_or(vocab_size)..vocab_size)
    }

    /// The logits behind each token of a text, without a cache.
    fn logits(&self, gpt: &Gpt, text: &[u32]) -> Vec<f32> {
        let tape = Tape::inference(gpt.device());
        let logits = tape.fetch::<f32>(gpt.logits(tape.input([1, text.len()], text)));
        tape.run().unwrap();
        logits.get().unwrap()
    }
}
