//! Models from and to the directories of Hugging Face's `transformers` library, of the types `gpt2`, `llama`, `mistral`,
//! `qwen2`, `qwen3` and `gemma3_text`: `docs/models.md` says what of each is followed, what memory common ones need, and how a
//! type is added.
//!
//! Such a directory holds `config.json`, the weights in `model.safetensors` or several such files, and the tokenizer.
//! [`ModelFiles`] opens one and finds out what does not fit before anything is loaded; then the weights go from the files
//! to the device, a piece at a time. Saved back, they have the same names, order and element types, so that
//! `AutoModelForCausalLM.from_pretrained` reads them, and weights that have not changed give the same bytes; but for norms of
//! Gemma, which are stored less 1: what of them is below 2⁻²⁴ is lost beside that. [`export`] saves a model that was made
//! here.
//!
//! ```no_run
//! # fn main() -> shadegrad::Result<()> {
//! use shadegrad::Device;
//! use shadegrad::hugging_face::ModelFiles;
//! use shadegrad::sampling::{Sampler, SamplingConfig};
//!
//! let files = ModelFiles::open("models/gpt2")?;
//! let (gpt, parameters) = files.load(&Device::new()?)?;
//! let mut sampler = Sampler::new(SamplingConfig::default(), 42)?;
//! let tokens = gpt.generate(&[15496, 11, 995], 20, &mut sampler, files.stop_tokens().iter().copied())?;
//! files.save("models/tuned", &parameters)?; // … after training
//! # Ok(())
//! # }
//! ```
//!
//! Low-rank adapters are trained on a model that is [loaded frozen](ModelFiles::load_frozen), and go to and from
//! directories of the `peft` library: [`ModelFiles::add_lora`], [`AdapterFiles`].
//!
//! With the feature `tokenizers`, `Tokenizer` turns text into tokens as the directory says, `DecodeStream` tokens into text as
//! they are drawn, and `ChatTemplate` chats into text.

mod adapter;
#[cfg(feature = "tokenizers")]
mod chat;
#[cfg(feature = "tokenizers")]
mod decode_stream;
mod fields;
mod files;
mod generation;
#[cfg(feature = "tokenizers")]
mod guard;
mod model_files;
mod model_type;
mod names;
mod needs;
#[cfg(feature = "tokenizers")]
mod python;
mod rope;
mod save;
#[cfg(feature = "tokenizers")]
mod tokenizer;
mod weights;
mod windows;

pub use adapter::{Adapter, AdapterFiles};
#[cfg(feature = "tokenizers")]
pub use chat::{ChatTemplate, Message};
#[cfg(feature = "tokenizers")]
pub use decode_stream::DecodeStream;
pub use generation::GenerationConfig;
pub use model_files::ModelFiles;
pub use needs::MemoryNeeds;
pub use save::{SaveDType, export, export_characters, export_in_files};
#[cfg(feature = "tokenizers")]
pub use tokenizer::Tokenizer;
