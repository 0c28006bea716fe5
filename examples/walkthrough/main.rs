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

use shadegrad::Device;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::new()?;
    println!("adapter: {}", device.description());
    for entry in tables::compute(&device)? {
        println!("{entry}");
    }
    Ok(())
}
