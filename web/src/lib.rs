//! The engine of the browser page: what runs in its Web Worker (`docs/web.md`). It trains as the example programs do, by their
//! own modules.

mod common;
mod flags;
mod gate;
mod messages;
mod program;
mod session;
mod train_names;
mod train_text;
mod training;

use std::cell::RefCell;
use std::rc::Rc;

use js_sys::{Array, JsString, Reflect, Uint8Array, WebAssembly};
use serde_json::json;
use shadegrad::checkpoint::Checkpoint;
use shadegrad::{Device, DeviceOptions};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::spawn_local;

use common::Result;
use gate::Mode;
use messages::{post, to_js};
use program::{Program, Request};
use session::Session;
use train_names::Names;
use train_text::Text;

thread_local! {
    static ENGINE: RefCell<Engine> = const { RefCell::new(Engine { device: None, session: None }) };
}

/// What the worker has.
struct Engine {
    device: Option<Device>,
    session: Option<Rc<Session>>,
}

/// Opens the device and tells the page which it is, or why there is none.
#[wasm_bindgen]
pub async fn start() {
    messages::report_panics();
    match device().await {
        Ok(device) => {
            post(&json!({ "event": "ready", "adapter": device.description().to_string() }))
        }
        Err(error) => post(&json!({ "event": "unsupported", "message": error.to_string() })),
    }
}

/// Does what a message asks for.
///
/// # Errors
///
/// One line.
#[wasm_bindgen]
pub async fn call(name: String, arguments: JsValue) -> std::result::Result<JsValue, JsValue> {
    let outcome = answer(&name, &Arguments(arguments)).await;
    outcome.map_err(|error| error.to_string().replace('\n', " ").into())
}

async fn answer(name: &str, arguments: &Arguments) -> Result<JsValue> {
    let done = JsValue::NULL;
    Ok(match name {
        "defaults" => to_js(&match arguments.string("program")?.as_str() {
            train_names::NAME => flags::form::<train_names::Cli>(&[]),
            train_text::NAME => flags::form::<train_text::Cli>(&train_text::DEFAULTS),
            other => return Err(no_program(other)),
        }),
        "open" => {
            let program = arguments.string("program")?;
            let request = Request {
                flags: arguments.strings("flags")?,
                text: arguments.optional_string("text"),
                checkpoint: None,
                checkpoint_name: String::new(),
            };
            open(&program, request).await?
        }
        "openCheckpoint" => {
            let bytes: Uint8Array = arguments
                .get("bytes")
                .dyn_into()
                .map_err(|_| "openCheckpoint: no bytes")?;
            let name = arguments.string("name")?;
            let checkpoint = Checkpoint::from_bytes(&bytes.to_vec(), &name)?;
            let program = checkpoint.metadata.extra["program"].as_str();
            let program = program.unwrap_or(train_names::NAME).to_owned();
            let request = Request {
                flags: arguments.strings("flags").unwrap_or_default(),
                text: arguments.optional_string("text"),
                checkpoint: Some(checkpoint),
                checkpoint_name: name,
            };
            open(&program, request).await?
        }
        "run" => {
            let session = session()?;
            session.gate.set(Mode::Run);
            training::tell_state(&session);
            done
        }
        "pause" => {
            let session = session()?;
            session.gate.set(Mode::Pause);
            session.gate.rest().await;
            training::tell_state(&session);
            done
        }
        "step" => {
            let session = session()?;
            session.gate.step().await;
            training::tell_state(&session);
            done
        }
        "sample" => {
            let prompt = arguments.optional_string("prompt").unwrap_or_default();
            let count = arguments.number("count").unwrap_or(1.0) as usize;
            let temperature = arguments.number("temperature").unwrap_or(1.0) as f32;
            let top_k = arguments.number("topK").unwrap_or(0.0) as usize;
            to_js(
                &session()?
                    .sample(&prompt, count, temperature, top_k)
                    .await?,
            )
        }
        "attention" => session()?.attention(&arguments.string("text")?).await?,
        "save" => session()?.save().await?.into(),
        "memory" => {
            let stats = device().await?.stats();
            let memory: WebAssembly::Memory = wasm_bindgen::memory().unchecked_into();
            let bytes = Reflect::get(&memory.buffer(), &"byteLength".into());
            to_js(&json!({
                "device": stats.buffer_bytes,
                "wasm": bytes.ok().and_then(|bytes| bytes.as_f64()),
                "plans": stats.plans,
                "pipelines": stats.pipelines,
                "buffers": stats.buffers,
                "bindGroups": stats.bind_groups,
                "dispatches": stats.dispatches,
                "submits": stats.submits,
            }))
        }
        "destroy" => {
            device().await?.destroy();
            done
        }
        other => return Err(format!("there is no call {other}").into()),
    })
}

/// The device, which is opened if there is none.
async fn device() -> Result<Device> {
    if let Some(device) = ENGINE.with_borrow(|engine| engine.device.clone()) {
        return Ok(device);
    }
    let device = Device::open(&DeviceOptions::default()).await?;
    ENGINE.with_borrow_mut(|engine| engine.device = Some(device.clone()));
    let watched = device.clone();
    spawn_local(async move {
        let error = watched.lost().await;
        ENGINE.with_borrow_mut(|engine| engine.device = None);
        // A training that is under way ends with this error itself.
        if let Ok(session) = session()
            && session.gate.is_at_rest()
        {
            messages::failed(&error);
        }
    });
    Ok(device)
}

/// The model that is open.
fn session() -> Result<Rc<Session>> {
    let session = ENGINE.with_borrow(|engine| engine.session.clone());
    Ok(session.ok_or("no model is open")?)
}

/// Opens a model in place of the one that is open, if nothing is wrong with it.
async fn open(name: &str, request: Request) -> Result<JsValue> {
    let (given, is_own_text) = (request.flags.clone(), request.text.is_none());
    let (program, flags): (Box<dyn Program>, _) = match name {
        train_names::NAME => {
            let program = Names::new(request)?;
            let flags = flags::of_run(&[], train_names::Cli::fields, program.fields()?, &given)?;
            (Box::new(program), flags)
        }
        train_text::NAME => {
            let program = Text::new(request)?;
            let usual = train_text::Cli::fields;
            let flags = flags::of_run(&train_text::DEFAULTS, usual, program.fields()?, &given)?;
            (Box::new(program), flags)
        }
        other => return Err(no_program(other)),
    };
    // The memory of the last model is free before the next one takes any.
    let last = ENGINE.with_borrow_mut(|engine| engine.session.take());
    if let Some(last) = last {
        last.gate.close().await;
    }
    let device = device().await?;
    let session = Rc::new(Session::new(&device, program, flags, is_own_text).await?);
    let description = to_js(&session.description());
    ENGINE.with_borrow_mut(|engine| engine.session = Some(session.clone()));
    spawn_local(training::train(session));
    Ok(description)
}

fn no_program(name: &str) -> Box<dyn std::error::Error> {
    format!("there is no program {name} on this page: take train_names or train_text").into()
}

/// The fields of a message.
struct Arguments(JsValue);

impl Arguments {
    fn get(&self, name: &str) -> JsValue {
        Reflect::get(&self.0, &name.into()).unwrap_or_default()
    }

    fn optional_string(&self, name: &str) -> Option<String> {
        self.get(name).as_string()
    }

    fn string(&self, name: &str) -> Result<String> {
        let text = self.optional_string(name);
        Ok(text.ok_or_else(|| format!("the call has no {name}"))?)
    }

    fn number(&self, name: &str) -> Option<f64> {
        self.get(name).as_f64()
    }

    fn strings(&self, name: &str) -> Result<Vec<String>> {
        let list: Array = self
            .get(name)
            .dyn_into()
            .map_err(|_| format!("the call has no {name}"))?;
        let texts = list.iter().map(|text| JsString::from(text).into());
        Ok(texts.collect())
    }
}
