//! What the training examples share: their flags and settings, the loop, its progress, metrics, loss curves, checkpoints,
//! Ctrl-C, and output files; and the ground and the heat maps of the programs that draw what a model does.
//!
//! A program brings its data as [`course::Data`] and what it trains as [`course::Model`]; `train_names` is the
//! shortest whole one.
//!
//! [`args`], [`checkpoint`], [`course`], [`settings`], [`steps`], [`stream`], [`texts`] and [`words`] know no terminal, no
//! files and no threads, and what waits in them is `async`: the browser page (`web/`) trains by the same modules.

// No program uses all of it.
#![allow(dead_code)]

#[macro_use]
pub mod terminal;
pub mod args;
pub mod canvas;
pub mod checkpoint;
pub mod course;
pub mod heat_map;
pub mod interrupt;
pub mod local_steps;
pub mod metrics;
pub mod outputs;
pub mod plot;
pub mod profiling;
pub mod program;
pub mod progress;
pub mod ranks;
pub mod report;
pub mod saved;
pub mod settings;
pub mod steps;
pub mod stream;
pub mod svg;
pub mod texts;
pub mod training;
pub mod words;

/// What programs end with when something goes wrong: one line, printed after `error: `.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;
