//! A model that is open: what can be asked of it, whether it is being trained or not.

use std::cell::{Cell, RefCell};

use js_sys::{Float32Array, Uint8Array};
use serde_json::{Value, json};
use shadegrad::checkpoint;
use shadegrad::nn::{Gpt, GptConfig};
use shadegrad::optim::{AdamW, Optimizer};
use shadegrad::sampling::SamplingConfig;
use shadegrad::{AdapterClass, Device, Tape};
use wasm_bindgen::JsValue;

use crate::common::course::{NextToken, Options};
use crate::common::settings::{lower, require};
use crate::common::steps::Recorder;
use crate::common::{Result, texts, words};
use crate::gate::Gate;
use crate::program::Program;
use crate::{flags, messages};

/// More samples than this at once are a slip of the keyboard.
const MOST_SAMPLES: usize = 1000;

/// A model, what trains it, and on what.
pub struct Session {
    pub device: Device,
    pub program: Box<dyn Program>,
    pub gpt: Gpt,
    pub optimizer: RefCell<AdamW>,
    pub gate: Gate,
    config: GptConfig,
    /// Its settings, as flags.
    flags: Vec<String>,
    is_own_text: bool,
    /// How often samples have been asked for, so that each time brings others.
    asked: Cell<u64>,
}

impl Session {
    /// Makes the model.
    ///
    /// # Errors
    ///
    /// One line about what is impossible, or what the device refuses.
    pub async fn new(
        device: &Device,
        mut program: Box<dyn Program>,
        flags: Vec<String>,
        is_own_text: bool,
    ) -> Result<Session> {
        let settings = program.settings();
        let vocabulary = program.tokenizer().vocab_size();
        let config = settings.model.config(vocabulary, settings.batch.context);
        let (gpt, mut optimizer) = settings.model.build(&config, settings.training, device)?;
        program.restore(&mut optimizer)?;
        // A browser says only later what it could not do.
        device.wait_async().await.map_err(|error| {
            let flags = "--d-model, --d-ff, --n-layers or --context";
            lower(error, "the model", flags)
        })?;
        Ok(Session {
            device: device.clone(),
            program,
            gpt,
            optimizer: optimizer.into(),
            gate: Gate::new(),
            config,
            flags,
            is_own_text,
            asked: Cell::new(0),
        })
    }

    /// Steps behind the model.
    pub fn step(&self) -> u64 {
        self.optimizer.borrow().steps()
    }

    /// Lets something be done with what steps and evaluations are recorded from.
    pub fn recorder<'a>(&'a self, model: &'a NextToken<'a>) -> Recorder<'a> {
        let settings = self.program.settings();
        Recorder {
            device: &self.device,
            model,
            data: self.program.data(),
            options: Options::evaluated(settings.training, settings.evaluation),
        }
    }

    /// What is trained.
    pub fn model(&self) -> NextToken<'_> {
        NextToken {
            gpt: &self.gpt,
            criterion: self.program.criterion(),
        }
    }

    /// What there is to say about it.
    pub fn description(&self) -> Value {
        let (program, config) = (&self.program, &self.config);
        let settings = program.settings();
        let text = match (self.is_own_text, program.name()) {
            (true, _) => None,
            (false, crate::train_names::NAME) => Some("names.txt"),
            (false, _) => Some("text.txt"),
        };
        json!({
            "program": program.name(),
            "adapter": self.device.description().to_string(),
            "isSoftware": self.device.class() == AdapterClass::Software,
            "parameters": config.parameter_count(),
            "vocabulary": program.tokenizer().vocabulary().iter().collect::<String>(),
            "summary": program.summary(),
            "note": program.note(),
            "model": words::model(config),
            "flags": self.flags,
            "command": flags::command_line(program.name(), text, &self.flags),
            "step": self.step(),
            "steps": settings.training.steps,
            "context": config.context,
            "layers": config.n_layers,
            "heads": config.n_heads,
        })
    }

    /// Texts with a beginning, as they stand.
    ///
    /// # Errors
    ///
    /// One line about what is wrong with the question; what the device reports.
    pub async fn sample(
        &self,
        prompt: &str,
        count: usize,
        temperature: f32,
        top_k: usize,
    ) -> Result<Value> {
        require(count <= MOST_SAMPLES, "count", &count, "at most a thousand")?;
        let config = SamplingConfig {
            temperature,
            top_k: Some(top_k).filter(|&k| k > 0),
            ..self.program.settings().sampling
        };
        config.validate()?;
        let beginning = self.program.beginning(prompt, self.config.context)?;
        if beginning.most == 0 {
            return Err("--prompt: it fills the model's window: take a shorter one".into());
        }
        let number = self.asked.get();
        self.asked.set(number + 1);
        let seed = self.program.settings().training.seed.wrapping_add(number);
        let size = (count, beginning.most);
        let _hold = self.gate.hold().await;
        let texts = texts::texts(
            &self.gpt,
            &beginning.tokens,
            size,
            config,
            seed,
            beginning.stop,
        )
        .await?;
        let tokenizer = self.program.tokenizer();
        let texts = texts.iter().map(|text| {
            let text = tokenizer.decode(text)?;
            Ok(self.sampled(format!("{prompt}{text}")))
        });
        Ok(Value::Array(texts.collect::<Result<_>>()?))
    }

    /// Samples as the program draws them at an evaluation.
    ///
    /// # Errors
    ///
    /// What the device reports.
    pub async fn samples(&self) -> Result<Value> {
        let settings = self.program.settings();
        let seed = settings.training.seed;
        let program = &self.program;
        let texts = program.samples(&self.gpt, settings.sampling, seed).await?;
        Ok(texts.into_iter().map(|text| self.sampled(text)).collect())
    }

    fn sampled(&self, text: String) -> Value {
        json!({ "isNew": self.program.is_new(&text), "text": text })
    }

    /// What all heads of all layers look at in a text.
    ///
    /// # Errors
    ///
    /// One line about the text; what the device reports.
    pub async fn attention(&self, text: &str) -> Result<JsValue> {
        let beginning = self.program.beginning(text, self.config.context)?;
        let (tokens, most) = (beginning.tokens, self.config.context);
        let length = tokens.len();
        if length > most {
            return Err(format!(
                "the text has {length} tokens, the model sees {most} at most: take a shorter one"
            )
            .into());
        }
        let (layers, heads) = (self.config.n_layers, self.config.n_heads);
        let tape = Tape::inference(&self.device);
        let (_, trace) = tape.trace(|| self.gpt.hidden(tape.input([1, length], &tokens)));
        let fetches = (0..layers).map(|layer| {
            let weights = trace.get(&format!("blocks.{layer}.attention.weights"));
            tape.fetch::<f32>(weights.expect("every block attends"))
        });
        let fetches: Vec<_> = fetches.collect();
        tape.run()?;
        let mut weights = Vec::new();
        for layer in fetches {
            weights.extend(layer.ready().await?);
        }
        let vocabulary = self.program.tokenizer().vocabulary();
        let tokens = tokens.iter().map(|&token| vocabulary[token as usize]);
        let result = messages::to_js(&json!({
            "tokens": tokens.map(String::from).collect::<Vec<_>>(),
            "layers": layers,
            "heads": heads,
        }));
        messages::set(&result, "weights", &Float32Array::from(&weights[..]));
        Ok(result)
    }

    /// A checkpoint, from which the program goes on on a desktop.
    ///
    /// # Errors
    ///
    /// If the training has diverged; what the device reports.
    #[expect(
        clippy::await_holding_refcell_ref,
        reason = "only a step borrows it to change it, and none is made meanwhile"
    )]
    pub async fn save(&self) -> Result<Uint8Array> {
        let _hold = self.gate.hold().await;
        let step = self.step();
        // The loss of a step is that before its update, which may have made the loss what no number is.
        self.recorder(&self.model()).sound_loss(step).await?;
        let metadata = self
            .program
            .metadata(&self.config, &self.optimizer.borrow())?;
        let optimizer = self.optimizer.borrow();
        let parameters = optimizer.parameters();
        let bytes = checkpoint::to_bytes(parameters, Some(&*optimizer), &metadata).await?;
        Ok(Uint8Array::from(&bytes[..]))
    }
}
