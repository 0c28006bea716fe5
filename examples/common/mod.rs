//! What every training example shares: the loop, its progress, metrics, loss curves, Ctrl-C, and output files.
//!
//! A program brings its data as [`training::Data`] and its model as [`training::Session`]; see `train_names`.

#[macro_use]
pub mod terminal;
pub mod interrupt;
pub mod metrics;
pub mod outputs;
pub mod plot;
pub mod progress;
pub mod training;

/// What programs end with when something goes wrong: one line, printed after `error: `.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;
