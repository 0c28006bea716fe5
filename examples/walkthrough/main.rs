//! Self-attention step by step, from dot products to several heads, every tensor printed.
//!
//! ```sh
//! cargo run --release --example walkthrough
//! ```
//!
//! The tables are those of a walkthrough that computes them with PyTorch (`docs/reference.md` says which), here computed
//! by this crate's kernels from the same weights: `weights.safetensors`, which `make_weights.py` wrote. `tables.rs` is
//! the walkthrough, `layers.rs` its attention layers.

mod layers;
mod page;
mod tables;

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;
use shadegrad::Device;

/// Prints self-attention step by step, from dot products to several heads.
#[derive(Parser)]
#[command(name = "walkthrough", version)]
struct Cli {}

fn main() -> ExitCode {
    let Cli {} = Cli::parse();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let device = Device::new()?;
    println!("adapter: {}", device.description());
    let entries = tables::compute(&device)?;
    for entry in &entries {
        println!("{entry}");
    }
    tables::check(&entries)
}
