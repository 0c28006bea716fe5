//! The model, the text, and every value between the model's layers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use shadegrad::checkpoint::Checkpoint;
use shadegrad::data::CharTokenizer;
use shadegrad::gpu::Fetch;
use shadegrad::nn::{GptConfig, Parameters};
use shadegrad::{Device, Error, Tape, Var};

use crate::common::Result;

/// A checkpoint of a model with a vocabulary of characters.
pub struct Source {
    path: PathBuf,
    checkpoint: Checkpoint,
    tokenizer: CharTokenizer,
    config: GptConfig,
}

/// The layer and the head that pictures of one show.
#[derive(Clone, Copy, Debug)]
pub struct Focus {
    pub layer: usize,
    pub head: usize,
}

impl Source {
    /// Reads a checkpoint.
    ///
    /// # Errors
    ///
    /// Those of [`Checkpoint::open`]; also if its model or its vocabulary is of another kind.
    pub fn open(path: &Path) -> Result<Source> {
        let checkpoint = Checkpoint::open(path)?;
        let refuse = |reason: String| Error::Checkpoint {
            path: path.to_owned(),
            reason,
        };
        let config: GptConfig = serde_json::from_value(checkpoint.metadata.config.clone())
            .map_err(|error| refuse(format!("it is not of a Gpt ({error})")))?;
        let setting = |name| {
            checkpoint
                .metadata
                .config
                .get(name)
                .and_then(|v| v.as_str())
        };
        if setting("ffn") == Some("none") || setting("norm_placement") == Some("after") {
            let reason =
                "the pictures are of blocks that normalise first and have a feed-forward part";
            return Err(refuse(reason.to_owned()).into());
        }
        let tokenizer = checkpoint.tokenizer()?;
        Ok(Source {
            path: path.to_owned(),
            checkpoint,
            tokenizer,
            config,
        })
    }

    /// The tokens of a text, after a line break if there is one in the vocabulary.
    ///
    /// # Errors
    ///
    /// If the text has fewer than two tokens, is too long for the model, or has characters that the vocabulary lacks.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let start = self.tokenizer.token('\n');
        let tokens: Vec<u32> = start
            .into_iter()
            .chain(self.tokenizer.encode(text)?)
            .collect();
        let context = self.config.context;
        if tokens.len() < 2 || tokens.len() > context {
            let first = usize::from(start.is_some());
            let (least, most) = (2 - first, context.saturating_sub(first));
            return Err(format!(
                "--text: {} characters; the pictures are of texts of {least} to {most}, as long as this model reads",
                text.chars().count()
            )
            .into());
        }
        Ok(tokens)
    }

    /// A layer and a head of this model.
    ///
    /// # Errors
    ///
    /// If it has not so many.
    pub fn focus(&self, layer: usize, head: usize) -> Result<Focus> {
        let GptConfig {
            n_layers, n_heads, ..
        } = self.config;
        if layer >= n_layers {
            return Err(format!(
                "--layer {layer}: the model has layers 0 to {}",
                n_layers - 1
            )
            .into());
        }
        if head >= n_heads {
            return Err(format!("--head {head}: the model has heads 0 to {}", n_heads - 1).into());
        }
        Ok(Focus { layer, head })
    }

    /// Why there are no pictures of values that are not finite.
    fn not_finite(&self, parameters: &Parameters) -> Result<String> {
        for (name, _, values) in parameters.to_host()? {
            if values.iter().any(|x| !x.is_finite()) {
                return Ok(format!(
                    "there are weights in {name} that are not finite numbers: the training has diverged; take an earlier \
                     checkpoint"
                ));
            }
        }
        Ok(
            "what its model computes from this text is beyond what finite numbers can say"
                .to_owned(),
        )
    }
}

/// Values of some shape, in row-major order.
#[derive(Clone, Debug)]
pub struct Value {
    pub shape: Vec<usize>,
    pub data: Vec<f64>,
}

impl Value {
    /// The last extent.
    pub fn width(&self) -> usize {
        *self.shape.last().expect("no scalar is traced")
    }

    /// The vectors along the last axis.
    pub fn rows(&self) -> Vec<&[f64]> {
        self.data.chunks(self.width()).collect()
    }

    /// The length of every row.
    pub fn norms(&self) -> Vec<f64> {
        let squares = |row: &&[f64]| row.iter().map(|x| x * x).sum::<f64>().sqrt();
        self.rows().iter().map(squares).collect()
    }
}

/// What the pictures are of.
pub struct Subject {
    pub device: Device,
    pub config: GptConfig,
    pub focus: Focus,
    /// The checkpoint's path and how many steps it has behind it.
    pub source: String,
    pub step: u64,
    pub tokens: Vec<u32>,
    /// How the tokens of the text are shown.
    pub text: Vec<String>,
    /// How all tokens are shown.
    pub vocabulary: Vec<String>,
    /// The vectors of all tokens, `[vocab_size, d_model]`.
    pub token_table: Value,
    /// The vectors of all positions, `[context, d_model]`, unless positions are rotary.
    pub position_table: Option<Value>,
    trace: BTreeMap<String, Value>,
}

impl Subject {
    /// Builds the model, lets it read the tokens, and keeps all that a trace sees.
    ///
    /// # Errors
    ///
    /// What the device and the checkpoint report.
    pub fn read(
        device: &Device,
        source: &Source,
        tokens: Vec<u32>,
        focus: Focus,
    ) -> Result<Subject> {
        let config = source.config.clone();
        let (gpt, parameters) = source.checkpoint.gpt(device)?;

        let tape = Tape::inference(device);
        let input = tape.input([1, tokens.len()], &tokens);
        let (_, trace) = tape.trace(|| gpt.logits(input));
        let trace: Vec<(String, Pending)> = trace
            .iter()
            .map(|(name, var)| (name.to_owned(), Pending::of(var)))
            .collect();
        let token_table = parameters
            .get("token_embedding.weight")
            .expect("every model has one");
        let token_table = Pending::of(token_table.on(&tape));
        // All positions are seen in a text as long as the window, whatever its tokens.
        let longest = tape.input([1, config.context], &vec![0u32; config.context]);
        let (_, positions) = tape.trace(|| gpt.hidden(longest));
        let position_table = positions.get("position_embedding").map(Pending::of);
        tape.run()?;

        let trace = trace.into_iter();
        let trace = trace.map(|(name, value)| Ok((name, value.get()?)));
        let trace: BTreeMap<String, Value> = trace.collect::<Result<_>>()?;
        let token_table = token_table.get()?;
        let position_table = position_table.map(Pending::get).transpose()?;
        let tables = [Some(&token_table), position_table.as_ref()];
        let seen = trace.values().chain(tables.into_iter().flatten());
        let mut numbers = seen.flat_map(|value| &value.data);
        let is_finite = numbers.all(|x| x.is_finite());
        drop(numbers);
        if !is_finite {
            return Err(Error::Checkpoint {
                path: source.path.clone(),
                reason: source.not_finite(&parameters)?,
            }
            .into());
        }
        let known = source.tokenizer.vocabulary().iter();
        let known: Vec<String> = known.map(|&c| shown(c)).collect();
        // A head may be padded: what no character belongs to is shown by its number.
        let padding = (known.len()..config.vocab_size).map(|token| format!("#{token}"));
        let vocabulary: Vec<String> = known.iter().cloned().chain(padding).collect();
        Ok(Subject {
            device: device.clone(),
            focus,
            source: source.path.display().to_string(),
            step: source.checkpoint.metadata.step,
            text: tokens
                .iter()
                .map(|&token| vocabulary[token as usize].clone())
                .collect(),
            tokens,
            vocabulary,
            token_table,
            position_table,
            trace,
            config,
        })
    }

    /// A value by the name that [`Gpt`] lists.
    ///
    /// # Panics
    ///
    /// If the model has no such value.
    pub fn value(&self, name: &str) -> &Value {
        self.trace
            .get(name)
            .unwrap_or_else(|| panic!("{name} is not traced"))
    }

    /// A value of a layer.
    pub fn of_layer(&self, layer: usize, name: &str) -> &Value {
        match name {
            "" => self.value(&format!("blocks.{layer}")),
            name => self.value(&format!("blocks.{layer}.{name}")),
        }
    }

    /// A value of the layer in focus.
    pub fn in_focus(&self, name: &str) -> &Value {
        self.of_layer(self.focus.layer, name)
    }

    /// The residual stream as it enters a layer; as it leaves the last one for `n_layers`.
    pub fn stream(&self, layer: usize) -> &Value {
        match layer.checked_sub(1) {
            None => self.value("embedded"),
            Some(before) => self.of_layer(before, ""),
        }
    }

    /// What kernels make of some values: functions by their curves.
    ///
    /// # Errors
    ///
    /// What the device reports.
    pub fn evaluate<const N: usize>(
        &self,
        x: &[f64],
        functions: impl for<'t> FnOnce(Var<'t>) -> [Var<'t>; N],
    ) -> Result<[Vec<f64>; N]> {
        let tape = Tape::inference(&self.device);
        let values: Vec<f32> = x.iter().map(|&x| x as f32).collect();
        let pending = functions(tape.input([x.len()], &values)).map(Pending::of);
        tape.run()?;
        let mut results = Vec::with_capacity(N);
        for value in pending {
            results.push(value.get()?.data);
        }
        Ok(results.try_into().expect("as many as functions"))
    }
}

/// A value on its way to the host.
pub struct Pending {
    shape: Vec<usize>,
    fetch: Fetch<f32>,
}

impl Pending {
    pub fn of(var: Var<'_>) -> Pending {
        Pending {
            shape: var.shape().dims().to_vec(),
            fetch: var.tape().fetch(var),
        }
    }

    /// The value, once its tape has run.
    ///
    /// # Errors
    ///
    /// What the device reports.
    pub fn get(self) -> Result<Value> {
        let data = self.fetch.get()?.into_iter().map(f64::from);
        Ok(Value {
            shape: self.shape,
            data: data.collect(),
        })
    }
}

/// A character as a label.
fn shown(character: char) -> String {
    match character {
        ' ' => "␣".to_owned(),
        c if c.is_control() => c.escape_default().to_string(),
        c => c.to_string(),
    }
}
