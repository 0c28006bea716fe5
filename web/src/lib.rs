//! The engine of the browser page: what runs in its Web Worker (`docs/web.md`).

use wasm_bindgen::prelude::*;

/// The version of this engine.
#[wasm_bindgen]
pub fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}
