//! Parameters and the layers of transformers that are built from them.
//!
//! A model is made in two moments. First its constructor describes every parameter to a [`ParameterBuilder`] and keeps
//! the [`Parameter`] handles; then [`ParameterBuilder::build`] puts all of them into a few large buffers. From there on
//! the handles work on any tape of that device, and the [`Parameters`] are what an optimizer and a checkpoint take.
//!
//! ```
//! # fn main() -> shadegrad::Result<()> {
//! use shadegrad::nn::{Init, ParameterBuilder};
//! use shadegrad::{Device, Tape};
//!
//! let device = Device::new()?;
//! let mut builder = ParameterBuilder::new(42);
//! let (weight, bias) = builder.scope("linear", |b| {
//!     let weight = b.parameter("weight", [3, 2], Init::Normal { std: 0.02 });
//!     (weight, b.parameter("bias", [3], Init::Zeros))
//! });
//! let parameters = builder.build(&device)?;
//! assert_eq!(weight.name(), "linear.weight");
//! assert_eq!(parameters.element_count(), 9);
//!
//! let tape = Tape::training(&device);
//! let loss = (weight.on(&tape).transpose() + bias.on(&tape)).sum_all();
//! let gradients = tape.backward(loss);
//! let gradient = tape.fetch::<f32>(gradients.of(bias.on(&tape)).expect("the loss depends on it"));
//! tape.run()?;
//! assert_eq!(gradient.get()?, [2.0; 3]);
//! # Ok(())
//! # }
//! ```

mod attention;
mod block;
mod cached_texts;
mod config;
mod constant;
mod embedding;
mod encoder;
mod feed_forward;
mod flat;
mod generate;
mod generation;
mod gpt;
mod init;
mod kinds;
mod kv_cache;
mod linear;
mod lora;
mod multi_head_attention;
mod norm;
mod parameter;
mod parameter_builder;
mod parameters;
mod position;
mod rotary;
mod summary;

pub use attention::CausalSelfAttention;
pub use block::DecoderBlock;
pub use cached_texts::CachedTexts;
pub use config::{GptConfig, SINUSOIDAL_BASE};
pub use constant::Constant;
pub use embedding::Embedding;
pub use encoder::{Encoder, EncoderBlock, EncoderConfig};
pub use feed_forward::FeedForward;
pub use flat::FlatTensors;
pub use generation::{Generation, NextToken};
pub use gpt::Gpt;
pub use init::{INIT_STD, Init, InitKind};
pub use kinds::{FeedForwardKind, NormKind, NormPlacement, PositionKind};
pub use kv_cache::KvCache;
pub use linear::Linear;
pub use lora::{Lora, LoraConfig};
pub use multi_head_attention::{MultiHeadAttention, MultiHeadAttentionConfig};
pub use norm::{LayerNorm, Norm, RmsNorm};
pub use parameter::Parameter;
pub use parameter_builder::{ParameterBuilder, Scope};
pub use parameters::Parameters;
pub(crate) use parameters::checksum;
pub use position::Positions;
pub use rotary::{LocalAttention, ROTARY_BASE, Rotary, RotaryScaling, Yarn};
pub use summary::{Summary, SummaryLine};
