//! Adapters from and to directories of the `peft` library.

use std::ops::Range;
use std::path::Path;

use safetensors::tensor::Dtype;
use serde::Deserialize;
use serde_json::{Value, json};

use super::fields::{shortest, unique};
use super::files::{self, ADAPTER as CONFIG, is_there, read, refuse};
use super::model_files::ModelFiles;
use super::names::{Entry, Part};
use super::save::{self, Stored};
use super::weights::Weights;
use crate::checkpoint::TensorsFile;
use crate::error::{Error, Result};
use crate::gpu::Device;
use crate::nn::{Gpt, LoraConfig, Parameter, ParameterBuilder, Parameters};

const WEIGHTS: &str = "adapter_model.safetensors";

/// What `peft` calls all linear layers but the head.
const ALL: &str = "all-linear";

/// Keys that may have any value: they say where adapters are, how they started, or nothing that changes what is computed.
/// All others that are not read must say no.
const ANY: [&str; 16] = [
    "auto_mapping",
    "base_model_name_or_path",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "fan_in_fan_out",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
];

/// Ways to start that leave the weights of the model as they are.
const STARTS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// The low-rank adapters of a model in the words of the `peft` library: which modules have one. Made by
/// [`ModelFiles::add_lora`] or by [`AdapterFiles::load`].
#[derive(Debug)]
pub struct Adapter {
    json: Value,
    factors: Vec<Factor>,
}

/// One of the two factors of a layer's adapters, and what files call its parts.
type Factor = (Entry, Parameter);

impl ModelFiles {
    /// The modules that get adapters if nothing else is said: those of `peft` for the model's type.
    pub fn lora_targets(&self) -> Vec<String> {
        let targets = self.names().lora_targets.iter();
        targets.map(|name| (*name).to_owned()).collect()
    }

    /// Describes [adapters](crate::nn::Lora) of a loaded model to a builder, on the modules that one of the `targets` names: `q_proj`,
    /// `layers.0.self_attn.q_proj`, or `all-linear` for all but the head.
    ///
    /// ```no_run
    /// # fn main() -> shadegrad::Result<()> {
    /// use shadegrad::hugging_face::ModelFiles;
    /// use shadegrad::nn::{LoraConfig, ParameterBuilder};
    /// use shadegrad::optim::{AdamW, AdamWConfig};
    /// use shadegrad::{DType, Device};
    ///
    /// let device = Device::new()?;
    /// let files = ModelFiles::open("models/SmolLM2-135M")?;
    /// let (mut gpt, _) = files.load_frozen(DType::F16, None, &device)?;
    /// let mut builder = ParameterBuilder::new(42);
    /// let adapter = files.add_lora(&mut gpt, &mut builder, &LoraConfig::new(8), &files.lora_targets())?;
    /// let optimizer = AdamW::new(&builder.build(&device)?, AdamWConfig::default())?;
    /// // … training on tapes of mixed precision
    /// adapter.save("adapters/mine", Some("models/SmolLM2-135M"))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] if a target names no module, or there cannot be such adapters.
    ///
    /// # Panics
    ///
    /// If the builder has adapters of this model already.
    #[track_caller]
    pub fn add_lora(
        &self,
        gpt: &mut Gpt,
        builder: &mut ParameterBuilder,
        config: &LoraConfig,
        targets: &[String],
    ) -> Result<Adapter> {
        config.validate()?;
        let is_all = targets == [ALL];
        let modules: Vec<String> = self.modules(gpt);
        let unknown = targets
            .iter()
            .find(|target| !modules.iter().any(|module| names(target, module)));
        if !is_all && (targets.is_empty() || unknown.is_some()) {
            let ends = modules
                .iter()
                .filter_map(|module| module.rsplit('.').next());
            let mut ends: Vec<&str> = ends.collect();
            ends.sort_unstable();
            ends.dedup();
            let expected = format!("some of {}, or {ALL}", ends.join(", "));
            let unknown = unknown.map_or("none", String::as_str);
            return Err(Error::invalid("target module", unknown, expected));
        }
        let factors = self.adapt(gpt, builder, config, |module| {
            is_all || targets.iter().any(|target| names(target, module))
        });
        let json = json!({
            "alpha_pattern": {},
            "bias": "none",
            "fan_in_fan_out": !self.names().transposes,
            "inference_mode": true,
            "init_lora_weights": true,
            "lora_alpha": shortest(config.alpha),
            "lora_dropout": shortest(config.dropout),
            "peft_type": "LORA",
            "r": config.rank,
            "rank_pattern": {},
            "target_modules": if is_all { json!(ALL) } else { json!(targets) },
            "task_type": "CAUSAL_LM",
            "use_dora": false,
            "use_rslora": config.rank_stabilized,
        });
        Ok(Adapter { json, factors })
    }

    /// What `peft` calls the parts of the layers that may have adapters.
    fn modules(&self, gpt: &mut Gpt) -> Vec<String> {
        let layers = gpt.linears_mut();
        let modules = layers.flat_map(|linear| self.modules_of(linear.name()));
        modules.map(|(module, _)| module).collect()
    }

    /// The modules of a layer, with their columns.
    fn modules_of(&self, layer: &str) -> Vec<(String, Range<usize>)> {
        let weight = format!("{layer}.weight");
        let mut entries = self.entries.iter();
        let entry = entries.find(|entry| entry.ours == weight);
        let parts = entry.map_or(&[][..], |entry| &entry.parts).iter();
        let named = parts.map(|part| {
            let module = part.name.trim_end_matches(".weight");
            (
                format!("{}{module}", self.names().prefix),
                part.columns.clone(),
            )
        });
        named.collect()
    }

    /// Adds adapters on the wanted modules, and gives their factors.
    #[track_caller]
    fn adapt(
        &self,
        gpt: &mut Gpt,
        builder: &mut ParameterBuilder,
        config: &LoraConfig,
        wanted: impl Fn(&str) -> bool,
    ) -> Vec<Factor> {
        let mut factors = Vec::new();
        for linear in gpt.linears_mut() {
            let parts = self.modules_of(linear.name()).into_iter();
            let (modules, columns): (Vec<_>, Vec<_>) =
                parts.filter(|(module, _)| wanted(module)).unzip();
            if columns.is_empty() {
                continue;
            }
            linear.add_lora_to(builder, config, &columns);
            let lora = linear.lora().expect("it has been added");
            let ranks = vec![config.rank; columns.len()];
            let outputs = columns.iter().map(Range::len).collect();
            for (name, parameter, widths) in [("A", lora.a(), ranks), ("B", lora.b(), outputs)] {
                let names = modules.iter().map(|module| tensor_name(module, name));
                let entry = Entry {
                    ours: parameter.name().to_owned(),
                    parts: Part::side_by_side(names.zip(widths)),
                    shape: parameter.shape().dims().to_vec(),
                    is_transposed: true,
                    offset: 0.0,
                };
                factors.push((entry, parameter.clone()));
            }
        }
        factors
    }
}

impl Adapter {
    /// Writes `adapter_config.json` and `adapter_model.safetensors` into a directory, which is made if there is none.
    /// `PeftModel.from_pretrained` reads it; `base_model` is where `AutoPeftModelForCausalLM` looks for the model.
    ///
    /// # Errors
    ///
    /// [`Error::File`], [`Error::DeviceLost`], [`Error::Readback`]; those of [`Adapter::check_output`].
    ///
    /// # Panics
    ///
    /// If the adapters have not been built yet.
    pub fn save(&self, directory: impl AsRef<Path>, base_model: Option<&str>) -> Result<()> {
        Adapter::check_output(&directory)?;
        let mut tensors = Vec::new();
        for (entry, parameter) in &self.factors {
            for part in &entry.parts {
                let stored = Stored {
                    entry,
                    part,
                    tensors: vec![parameter.tensor().clone()],
                    dtype: Dtype::F32,
                };
                tensors.push((part.name.clone(), stored));
            }
        }
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        let mut json = self.json.clone();
        if let Some(base_model) = base_model {
            json["base_model_name_or_path"] = base_model.into();
        }
        let json = serde_json::to_vec_pretty(&json).expect("keys are strings");
        let file = save::file_of(WEIGHTS.to_owned(), tensors);
        save::write(directory.as_ref(), &[file], &[(CONFIG, &json)])
    }

    /// Refuses a directory with a model's weights, which `transformers` would load with the adapters from then on.
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`].
    pub fn check_output(directory: impl AsRef<Path>) -> Result<()> {
        save::check_without(directory.as_ref(), [files::WEIGHTS, files::INDEX])
    }
}

/// Whether `peft` means a module by a name.
fn names(target: &str, module: &str) -> bool {
    let before = module.strip_suffix(target);
    before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// What `peft` calls a factor of a module's adapter.
fn tensor_name(module: &str, factor: &str) -> String {
    format!("base_model.model.{module}.lora_{factor}.weight")
}

/// An opened directory of the `peft` library that holds low-rank adapters.
#[derive(Debug)]
pub struct AdapterFiles {
    config: LoraConfig,
    json: Value,
    weights: Weights,
}

impl AdapterFiles {
    /// Reads `adapter_config.json` and the header of `adapter_model.safetensors`.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if one cannot be read, [`Error::Checkpoint`], with the file, if one is damaged or describes adapters
    /// that do what is not implemented.
    pub fn open(directory: impl AsRef<Path>) -> Result<AdapterFiles> {
        let directory = directory.as_ref();
        let path = directory.join(CONFIG);
        let (config, json) = parse(&read(&path)?).map_err(refuse(path))?;
        let old = "adapter_model.bin";
        if !is_there(&directory.join(WEIGHTS)) && is_there(&directory.join(old)) {
            let reason = format!(
                "there is a {old}, but no {WEIGHTS}: the adapters are in PyTorch's own format: save them with peft once more"
            );
            return Err(Error::checkpoint(directory, reason));
        }
        let file = TensorsFile::open(&directory.join(WEIGHTS))?;
        Ok(AdapterFiles {
            config,
            json,
            weights: Weights::of(WEIGHTS, file),
        })
    }

    /// The shape of the adapters.
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// Puts the adapters on a loaded model, each where the file has one.
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`], with the file, if a tensor is missing, has another shape or type, holds what is no number, or
    /// belongs to no layer of the model that can have adapters; [`Error::File`], [`Error::OutOfMemory`],
    /// [`Error::DeviceLost`].
    pub fn load(
        &self,
        model: &ModelFiles,
        gpt: &mut Gpt,
        device: &Device,
    ) -> Result<(Adapter, Parameters)> {
        let has = |module: &str| {
            let mut names = ["A", "B"]
                .map(|factor| tensor_name(module, factor))
                .into_iter();
            names.any(|name| self.weights.find(&name).is_some())
        };
        // What fails changes nothing.
        let (mut adapted, mut builder) = (gpt.clone(), ParameterBuilder::new(0));
        let factors = model.adapt(&mut adapted, &mut builder, &self.config, has);
        let others = |module: &String| has(module) && !self.is_target(module);
        if let Some(module) = model.modules(&mut adapted).into_iter().find(others) {
            return Err(self.weights.refuse(format!(
                "it has an adapter of {module}, which target_modules, exclude_modules and layers_to_transform of {CONFIG} leave out"
            )));
        }
        let entries: Vec<Entry> = factors.iter().map(|(entry, _)| entry.clone()).collect();
        let unknown = "is no adapter of a linear layer of the model";
        self.weights.check(&entries, "the model", unknown)?;
        if entries.is_empty() {
            return Err(self.weights.refuse("it holds no adapter".to_owned()));
        }
        let parameters = builder.build_zeroed(device)?;
        self.weights.restore(&entries, &parameters, |_, _| ())?;
        *gpt = adapted;
        let json = self.json.clone();
        Ok((Adapter { json, factors }, parameters))
    }

    /// Whether the configuration has `peft` adapt a module. What it says by patterns is taken to fit: then the tensors say it.
    fn is_target(&self, module: &str) -> bool {
        let are_named = |key: &str, otherwise: bool| match &self.json.get(key) {
            Some(Value::Array(list)) => {
                let mut list = list.iter().filter_map(Value::as_str);
                list.any(|target| names(target, module))
            }
            _ => otherwise,
        };
        let number = module.split('.').find_map(|part| part.parse().ok());
        let is_layer = match &self.json.get("layers_to_transform") {
            Some(Value::Array(list)) => {
                list.is_empty() || list.iter().any(|layer| layer.as_u64() == number)
            }
            Some(Value::Number(layer)) => layer.as_u64() == number,
            _ => true,
        };
        are_named("target_modules", true) && !are_named("exclude_modules", false) && is_layer
    }
}

/// The adapters that a file describes; else the key that cannot be followed.
fn parse(json: &[u8]) -> Result<(LoraConfig, Value), String> {
    #[derive(Deserialize)]
    struct File {
        peft_type: String,
        r: usize,
        lora_alpha: f32,
        #[serde(default)]
        lora_dropout: f32,
        #[serde(default)]
        use_rslora: bool,
    }
    let damaged = |error: serde_json::Error| format!("it describes no adapter: {error}");
    let map = unique(json).map_err(damaged)?;
    let file: File = serde_json::from_slice(json).map_err(damaged)?;
    if file.peft_type != "LORA" {
        return Err(format!(
            "its peft_type is `{}`; expected LORA",
            file.peft_type
        ));
    }
    for (key, value) in &map {
        let is_read = ["peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora"];
        let says_no = match value {
            Value::Null | Value::Bool(false) => true,
            Value::Object(map) => map.is_empty(),
            Value::Array(values) => values.is_empty(),
            Value::String(text) if key == "bias" => text == "none",
            Value::String(text) if key == "init_lora_weights" => STARTS.contains(&text.as_str()),
            Value::Bool(true) => key == "init_lora_weights",
            _ => false,
        };
        let key = key.as_str();
        if !says_no && !is_read.contains(&key) && !ANY.contains(&key) {
            return Err(format!("{key} = {value} is not supported"));
        }
    }
    let config = LoraConfig {
        rank: file.r,
        alpha: file.lora_alpha,
        dropout: file.lora_dropout,
        rank_stabilized: file.use_rslora,
    };
    config.validate().map_err(|error| error.to_string())?;
    Ok((config, map.into()))
}
