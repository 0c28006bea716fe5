//! What goes from the worker to its page.

use js_sys::{JSON, Reflect};
use serde_json::{Value, json};
use wasm_bindgen::prelude::*;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_name = postMessage)]
    fn post_message(message: &JsValue);

    /// Milliseconds on a clock that runs evenly.
    #[wasm_bindgen(js_namespace = performance)]
    pub fn now() -> f64;
}

/// A value as JavaScript has it.
pub fn to_js(value: &Value) -> JsValue {
    JSON::parse(&value.to_string()).unwrap_or(JsValue::NULL)
}

/// Sets an object's field.
pub fn set(object: &JsValue, name: &str, value: &JsValue) {
    // It fails for what is no object, which nobody passes.
    let _ = Reflect::set(object, &name.into(), value);
}

/// Sends the page an event.
pub fn post(event: &Value) {
    post_message(&to_js(event));
}

/// Tells the page that training has stopped, and why.
pub fn failed(error: &dyn std::error::Error) {
    post(&json!({ "event": "failed", "message": error.to_string() }));
}

/// Lets a panic say where and why, as what the page is told last.
pub fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let message = format!("this is a bug in shadegrad: {panic}").replace('\n', " ");
        post(&json!({ "event": "failed", "message": message }));
    }));
}
