//! Tiny models of every type as the `transformers` library saves them, `golden/models`, made by `golden/make_models.py`.

mod cache;
mod configurations;
mod exported;
mod files;
mod layouts;
mod lora;
mod saved;
mod table;
mod tensors;
mod values;

use std::path::PathBuf;

use shadegrad::hugging_face::ModelFiles;
use shadegrad::nn::{Gpt, Parameters};
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

/// The model of a directory, its parameters stored as `dtype`. Training drops nothing.
fn load(name: &str, dtype: DType, device: &Device) -> (Gpt, Parameters) {
    let files = ModelFiles::open(directory(name)).unwrap();
    match dtype {
        DType::F32 => files.load_with_dropout(0.0, device).unwrap(),
        _ => files.load_as(dtype, device).unwrap(),
    }
}

/// The logits behind each token of some texts of one length, without a cache.
fn logits(gpt: &Gpt, texts: usize, tokens: &[u32]) -> Vec<f32> {
    let tape = Tape::inference(gpt.device());
    tape.set_precision(gpt.precision());
    let tokens = tape.input([texts, tokens.len() / texts], tokens);
    let logits = tape.fetch::<f32>(gpt.logits(tokens).cast(DType::F32));
    tape.run().unwrap();
    logits.get().unwrap()
}

impl Model {
    /// Draws the most likely token that the tokenizer knows.
    fn greedy(&self) -> Sampler {
        let vocab_size = (self.config)().vocab_size as u32;
        let sampler = Sampler::new(SamplingConfig::GREEDY, 0).unwrap();
        sampler.with_suppressed(self.known.unwrap_or(vocab_size)..vocab_size)
    }
}
