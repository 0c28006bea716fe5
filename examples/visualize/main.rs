//! Pictures of what a trained model does with a text, as a report in one HTML file and as single SVG files.
//!
//! ```sh
//! cargo run --release --example train_names -- --checkpoint names.safetensors
//! cargo run --release --example visualize -- names.safetensors --text isabella --out pictures
//! ```
//!
//! All values are the model's own, seen by [`Tape::trace`](shadegrad::Tape::trace); all curves of functions are drawn
//! from what the crate's kernels compute. Nothing in the report is loaded from elsewhere.

#[macro_use]
#[path = "../common/mod.rs"]
mod common;

mod chart;
mod pictures;
mod report;
mod statistics;
mod subject;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use common::Result;
use shadegrad::{Device, DeviceOptions};

use subject::Subject;

/// Draws what a trained model does with a text: a report in one HTML file, and every picture as SVG.
///
/// Takes checkpoints of models with a vocabulary of characters, such as train_names writes.
#[derive(Debug, Parser)]
#[command(name = "visualize", version)]
struct Cli {
    /// The checkpoint
    checkpoint: PathBuf,
    /// What the model reads, after the line break that starts a name if its vocabulary has one
    #[arg(allow_hyphen_values = true, long, default_value = "isabella")]
    text: String,
    /// The folder for the report (index.html) and the pictures, made if it isn't there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The layer that pictures of one layer show, counted from 0
    #[arg(long, default_value_t = 0)]
    layer: usize,
    /// The head that pictures of one head show, counted from 0
    #[arg(long, default_value_t = 0)]
    head: usize,
    /// The adapter to run on: its number in train_names --list-adapters, or a part of its name
    #[arg(long, value_name = "SELECTOR")]
    adapter: Option<String>,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let checkpoint = subject::Source::open(&cli.checkpoint)?;
    let tokens = checkpoint.encode(&cli.text)?;
    let focus = checkpoint.focus(cli.layer, cli.head)?;
    let options = DeviceOptions {
        adapter: cli.adapter.clone(),
        ..DeviceOptions::default()
    };
    let device = Device::with_options(&options)?;
    say!("adapter: {}", device.description());
    let subject = Subject::read(&device, &checkpoint, tokens, focus)?;
    let pictures = pictures::all(&subject)?;
    report::write(&cli.out, &subject, &pictures)?;
    for picture in &pictures {
        say!("{}: {}", picture.title, picture.caption);
    }
    let index = cli.out.join("index.html");
    say!(
        "written: {} pictures and {}",
        pictures.len(),
        index.display()
    );
    Ok(())
}
