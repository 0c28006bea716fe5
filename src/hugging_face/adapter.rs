//! Adapters from and to directories of the `peft` library.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::fields::shortest;
use super::files::{read, refuse};
use super::model_files::ModelFiles;
use crate::checkpoint::{Staged, TensorsFile, number_size, stored};
use crate::error::{Error, Result};
use crate::gpu::{DType, Device};
use crate::nn::{Gpt, Lora, LoraConfig, ParameterBuilder, Parameters};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// What `peft` calls all linear layers but the head.
const ALL: &str = "all-linear";

/// Keys that may have any value: they say where adapters are, which their tensors do as well, how they started, or nothing
/// that changes what is computed. All others that are not read must say no.
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
    json: Map<String, Value>,
    layers: Vec<Layer>,
}

/// A layer, and what its adapters are called.
#[derive(Debug)]
struct Layer {
    lora: Lora,
    modules: Vec<String>,
}

impl ModelFiles {
    /// The modules that get adapters if nothing else is said: those of `peft` for the model's type.
    pub fn lora_targets(&self) -> Vec<String> {
        let targets = self.names().lora_targets.iter();
        targets.map(|name| (*name).to_owned()).collect()
    }

    /// Describes [adapters](Lora) of a loaded model to a builder, on the modules that one of the `targets` names: `q_proj`,
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
        let names = |target: &String, module: &str| {
            let before = module.strip_suffix(target.as_str());
            before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
        };
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
        let layers = self.adapt(gpt, builder, config, |module| {
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
        match json {
            Value::Object(json) => Ok(Adapter { json, layers }),
            _ => unreachable!("it is written as an object"),
        }
    }

    /// What `peft` calls the parts of the layers that may have adapters.
    fn modules(&self, gpt: &mut Gpt) -> Vec<String> {
        let layers = gpt.linears_mut();
        let modules = layers.flat_map(|linear| self.modules_of(linear.name()));
        modules.map(|(module, _)| module).collect()
    }

    /// The modules of a layer, with their columns.
    fn modules_of(&self, layer: &str) -> Vec<(String, std::ops::Range<usize>)> {
        let weight = format!("{layer}.weight");
        let mut entries = self.entries().iter();
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

    #[track_caller]
    fn adapt(
        &self,
        gpt: &mut Gpt,
        builder: &mut ParameterBuilder,
        config: &LoraConfig,
        wanted: impl Fn(&str) -> bool,
    ) -> Vec<Layer> {
        let mut layers = Vec::new();
        for linear in gpt.linears_mut() {
            let parts = self.modules_of(linear.name()).into_iter();
            let (modules, columns): (Vec<_>, Vec<_>) =
                parts.filter(|(module, _)| wanted(module)).unzip();
            if columns.is_empty() {
                continue;
            }
            linear.add_lora_to(builder, config, &columns);
            let lora = linear.lora().expect("it has been added").clone();
            layers.push(Layer { lora, modules });
        }
        layers
    }
}

impl Adapter {
    /// Writes `adapter_config.json` and `adapter_model.safetensors` into a directory, which is made if there is none.
    /// `PeftModel.from_pretrained` reads it; `base_model` is where `AutoPeftModelForCausalLM` looks for the model.
    ///
    /// # Errors
    ///
    /// [`Error::File`], [`Error::DeviceLost`], [`Error::Readback`].
    ///
    /// # Panics
    ///
    /// If the adapters have not been built yet.
    pub fn save(&self, directory: impl AsRef<Path>, base_model: Option<&str>) -> Result<()> {
        let directory = directory.as_ref();
        let mut tensors = Vec::new();
        for layer in &self.layers {
            let lora = &layer.lora;
            let [a, b] = [lora.a(), lora.b()].map(|factor| factor.tensor());
            let (rank, inputs) = (lora.config().rank, a.shape().dim(0));
            let [a, b] = [a.to_floats()?, b.to_floats()?];
            let mut first = 0;
            for (index, (module, columns)) in layer.modules.iter().zip(lora.columns()).enumerate() {
                let width = columns.len();
                let factors = [
                    ("A", &a, inputs, index * rank, rank),
                    ("B", &b, rank, first, width),
                ];
                for (factor, values, rows, start, count) in factors {
                    let all = values.len() / rows;
                    let turned =
                        (0..rows * count).map(|i| values[i % rows * all + start + i / rows]);
                    let (_, bytes) = stored(DType::F32, &turned.collect::<Vec<f32>>());
                    tensors.push((tensor_name(module, factor), vec![count, rows], bytes));
                }
                first += width;
            }
        }
        let views = tensors.iter().map(|(name, shape, bytes)| {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
            (name, view.expect("the bytes are those of the shape"))
        });
        let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let weights = safetensors::serialize(views, Some(format)).expect("names are strings");
        let mut json = self.json.clone();
        if let Some(base_model) = base_model {
            json.insert("base_model_name_or_path".to_owned(), base_model.into());
        }
        let json = serde_json::to_vec_pretty(&json).expect("keys are strings");
        let fail = |path: PathBuf| move |source| Error::File { path, source };
        std::fs::create_dir_all(directory).map_err(fail(directory.to_owned()))?;
        let mut staged = Vec::new();
        for (name, bytes) in [(WEIGHTS, weights), (CONFIG, json)] {
            let path = directory.join(name);
            let file = Staged::write(&path, |file| file.write_all(&bytes));
            staged.push(file.map_err(fail(path))?);
        }
        let mut placed = staged.into_iter().map(Staged::place);
        placed.try_for_each(|placed| placed.map_err(fail(directory.to_owned())))
    }
}

/// What `peft` calls a factor of a module's adapter.
fn tensor_name(module: &str, factor: &str) -> String {
    format!("base_model.model.{module}.lora_{factor}.weight")
}

/// An opened directory of the `peft` library that holds low-rank adapters.
#[derive(Debug)]
pub struct AdapterFiles {
    config: LoraConfig,
    json: Map<String, Value>,
    file: TensorsFile,
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
        if !directory.join(WEIGHTS).exists() && directory.join(old).exists() {
            return Err(refuse(directory.to_owned())(format!(
                "there is a {old}, but no {WEIGHTS}: the adapters are in PyTorch's own format: save them with peft once more"
            )));
        }
        let file = TensorsFile::open(&directory.join(WEIGHTS))?;
        Ok(AdapterFiles { config, json, file })
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
        let mut known = Vec::new();
        let has = |module: &str| {
            let mut names = ["A", "B"]
                .into_iter()
                .map(|factor| tensor_name(module, factor));
            names.any(|name| self.file.metadata.info(&name).is_some())
        };
        for module in model.modules(gpt).iter().filter(|module| has(module)) {
            known.extend(["A", "B"].map(|factor| tensor_name(module, factor)));
        }
        let mut names = self.file.metadata.offset_keys().into_iter();
        if let Some(other) = names.find(|name| !known.contains(name)) {
            return Err(self.file.refuse(format!(
                "tensor `{other}` is no adapter of a linear layer of the model"
            )));
        }
        if known.is_empty() {
            return Err(self.file.refuse("it holds no adapter".to_owned()));
        }
        let mut builder = ParameterBuilder::new(0);
        let layers = model.adapt(gpt, &mut builder, &self.config, has);
        let parameters = builder.build_zeroed(device)?;
        let mut values = Vec::new();
        for Layer { lora, modules } in &layers {
            for (factor, parameter) in [("A", lora.a()), ("B", lora.b())] {
                let shape = parameter.shape();
                let [rows, all] = [0, 1].map(|axis| shape.dim(axis));
                let mut whole = vec![0.0; rows * all];
                let mut first = 0;
                for (module, columns) in modules.iter().zip(lora.columns()) {
                    let count = match factor {
                        "A" => self.config.rank,
                        _ => columns.len(),
                    };
                    let part = self.numbers(&tensor_name(module, factor), [count, rows])?;
                    for (i, number) in part.into_iter().enumerate() {
                        whole[i % rows * all + first + i / rows] = number;
                    }
                    first += count;
                }
                values.push((parameter.name(), shape, whole));
            }
        }
        parameters.load(values)?;
        let json = self.json.clone();
        Ok((Adapter { json, layers }, parameters))
    }

    fn numbers(&self, name: &str, shape: [usize; 2]) -> Result<Vec<f32>> {
        let Some(info) = self.file.metadata.info(name) else {
            return Err(self.file.refuse(format!("tensor `{name}` is missing")));
        };
        if info.shape != shape || number_size(info.dtype).is_none() {
            return Err(self.file.refuse(format!(
                "tensor `{name}` is {} {:?}, the model needs numbers {shape:?}",
                info.dtype, info.shape
            )));
        }
        let numbers = self.file.numbers(info, 0..shape[0] * shape[1])?;
        match numbers.iter().find(|number| !number.is_finite()) {
            None => Ok(numbers),
            Some(number) => Err(self.file.refuse(format!("tensor `{name}` holds {number}"))),
        }
    }
}

/// The adapters that a file describes; else the key that cannot be followed.
fn parse(json: &[u8]) -> Result<(LoraConfig, Map<String, Value>), String> {
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
    let map: Map<String, Value> = serde_json::from_slice(json).map_err(damaged)?;
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
    Ok((config, map))
}
