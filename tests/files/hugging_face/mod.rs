//! GPT-2 as the `transformers` library saves it: `golden/gpt2_tiny`, made by `golden/make_gpt2.py`.

mod bad_directories;
mod expected;
mod files;
mod layouts;
mod memory;
mod needs;
mod refusals;
mod values;

use std::path::PathBuf;

/// The directory that the library saved.
fn golden() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/golden/gpt2_tiny"]
        .iter()
        .collect()
}
