//! GPT-2 from and to the directories of Hugging Face's `transformers` library.
//!
//! Such a directory holds `config.json`, the weights in `model.safetensors`, and the tokenizer. [`Gpt2Files`] opens one,
//! of any size of GPT-2, and finds out what does not fit before anything is loaded; then the weights go from the file to
//! the device, a piece at a time. Saved back, they have the same names, order and element types, so that
//! `GPT2LMHeadModel.from_pretrained` reads them, and weights that have not changed give the same bytes. [`export`] saves
//! a model that was made here.
//!
//! ```no_run
//! # fn main() -> shadegrad::Result<()> {
//! use shadegrad::Device;
//! use shadegrad::hugging_face::Gpt2Files;
//! use shadegrad::sampling::{Sampler, SamplingConfig};
//!
//! let files = Gpt2Files::open("models/gpt2")?;
//! let (gpt, parameters) = files.load(&Device::new()?)?;
//! let mut sampler = Sampler::new(SamplingConfig::default(), 42)?;
//! let tokens = gpt.generate(&[15496, 11, 995], 20, &mut sampler, files.stop_tokens().iter().copied())?;
//! files.save("models/tuned", &parameters)?; // … after training
//! # Ok(())
//! # }
//! ```
//!
//! With the feature `tokenizers`, `Tokenizer` turns text into tokens as the directory says.

mod config;
mod files;
mod gpt2;
mod save;
#[cfg(feature = "tokenizers")]
mod tokenizer;
mod weights;

pub use gpt2::Gpt2Files;
pub use save::export;
#[cfg(feature = "tokenizers")]
pub use tokenizer::Tokenizer;
