//! Reverse-mode tape autograd whose every operation runs as a WGSL compute shader through [wgpu](https://wgpu.rs), with a
//! decoder-only transformer, its loss and its optimizer written against that tape.
//!
//! ```
//! # fn main() -> shadegrad::Result<()> {
//! use shadegrad::{Device, Tape};
//!
//! let device = Device::new()?;
//! let tape = Tape::training(&device);
//! let x = tape.variable([2, 2], &[1.0, 2.0, 3.0, 4.0]);
//! let w = tape.variable([2, 1], &[0.5, -0.5]);
//! let loss = x.matmul(w).tanh().mean_all();
//! let gradients = tape.backward(loss); // records; nothing has run yet
//! let dw = gradients.of(w).expect("the loss depends on w");
//! let (loss, dw) = (tape.fetch::<f32>(loss), tape.fetch::<f32>(dw));
//! tape.run()?; // plans, fuses, submits once
//! println!("loss {}, dw {:?}", loss.item()?, dw.get()?);
//! # Ok(())
//! # }
//! ```
//!
//! | module | what is there |
//! | --- | --- |
//! | [`tape`] | recording, reverse mode, the plan and its replay |
//! | [`ops`] | the operations, and the trait to add more |
//! | [`nn`] | parameters, layers, [`nn::Gpt`], generation |
//! | [`optim`] | AdamW, SGD, clipping, schedules |
//! | [`data`], [`sampling`] | tokenizers and batches, choosing the next token |
//! | [`metrics`] | losses and hits over many batches |
//! | [`checkpoint`] | complete training state in a safetensors file |
//! | [`hugging_face`] | today's open models from and to the directories of the `transformers` library |
//! | [`gpu`] | devices, tensors, kernels, results on their way back |
//! | `parallel` | data-parallel training over MPI, with the feature `mpi` |
//! | [`profile`] | where the time of a step goes, as a table and as a trace |
//! | [`check`](mod@check) | the gradient checker, also for operations of your own |
//!
//! The repository's `docs/architecture.md` tells how it works, `docs/adding-an-op.md` how to extend it, `docs/models.md` which
//! published models it opens.

// What only waiting callers need is compiled, but not used, where nobody can wait.
#![cfg_attr(target_family = "wasm", allow(dead_code))]

#[cfg(not(target_family = "wasm"))]
pub mod check;
pub mod checkpoint;
pub mod data;
mod error;
pub mod gpu;
#[cfg(not(target_family = "wasm"))]
pub mod hugging_face;
pub mod metrics;
pub mod nn;
pub mod ops;
pub mod optim;
#[cfg(all(feature = "mpi", not(target_family = "wasm")))]
pub mod parallel;
#[cfg(not(target_family = "wasm"))]
pub mod profile;
mod rng;
pub mod sampling;
mod shape;
pub mod tape;

pub use error::{Error, Result};
pub use gpu::{AdapterClass, DType, Device, DeviceOptions, Feature, Kernel, MatrixUnits, Tensor};
pub use half::f16;
pub use shape::{Layout, MAX_RANK, Shape};
pub use tape::{Tape, Var};

/// The README's example, compiled and run with the documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// The page's examples, compiled.
#[cfg(doctest)]
#[doc = include_str!("../docs/using-a-trained-model.md")]
struct UsingATrainedModel;
