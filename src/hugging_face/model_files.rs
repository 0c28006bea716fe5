//! A model's directory, opened.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use safetensors::tensor::Dtype;
use serde_json::Value;

use super::fields::{Fields, Reason, unique};
use super::files::{CONFIG, INDEX, read, refuse};
use super::generation::{GenerationConfig, TokenIds};
use super::model_type::{ModelType, TYPES};
use super::names::{Entry, Names};
use super::needs::MemoryNeeds;
use super::save::{self, Content, SaveDType, Stored};
use super::weights::Weights;
use crate::error::{Error, Result};
use crate::gpu::{DType, Device};
use crate::nn::{Gpt, GptConfig, ParameterBuilder, Parameters, PositionKind, checksum};

/// An opened directory that holds a model: see the [module documentation](super).
#[derive(Debug)]
pub struct ModelFiles {
    model_type: &'static ModelType,
    /// `config.json` as it is, and as it is to be.
    json: Vec<u8>,
    config: GptConfig,
    stop_tokens: Vec<u32>,
    generation: GenerationConfig,
    weights: Weights,
    pub(super) entries: Vec<Entry>,
    progress: Progress,
}

/// What is told how far loading is: see [`ModelFiles::with_progress`].
struct Progress(Box<dyn Fn(u64, u64) + Send + Sync>);

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Progress")
    }
}

impl ModelFiles {
    /// Reads `config.json` and the headers of the weights, `model.safetensors` or the files of
    /// `model.safetensors.index.json`, and checks that they fit together. Replacing a file of weights by another one does
    /// no harm to what was opened; if it is changed in place, loading and saving fail.
    ///
    /// A stored `lm_head.weight` with other values than the token table is the model's own head, also where
    /// `tie_word_embeddings` says or means that there is none. [`ModelFiles::save`] then says `false` there, so that it is
    /// nowhere overwritten by the table.
    ///
    /// Weights may be F32, F16 or BF16, their names with or without what stands before those of the transformer
    /// (`transformer.`, `model.`).
    ///
    /// # Errors
    ///
    /// [`Error::File`] if one cannot be read, [`Error::Checkpoint`], with the file, if one is damaged, describes a model
    /// of another type or one that does what is not implemented, or has tensors that are missing, of another shape, or not
    /// of the model.
    pub fn open(directory: impl AsRef<Path>) -> Result<ModelFiles> {
        let directory = directory.as_ref();
        let path = directory.join(CONFIG);
        let mut json = read(&path)?;
        let refuse = refuse(path);
        let (model_type, mut config, stop_tokens) = match parse(&json) {
            Ok(parsed) => parsed,
            Err(reason) => return Err(refuse(reason)),
        };
        let generation = GenerationConfig::open(directory)?;
        let stop_tokens = generation.stop_tokens.clone().unwrap_or(stop_tokens);
        let mut entries = model_type.names.entries(&config)?;
        let table = entries.iter().find(|entry| entry.is_table());
        let table = &table.expect("every model has one").parts[0];
        let weights = Weights::open(directory, model_type.names)?;
        if config.tie_weights && weights.has_own_head(table)? {
            config.tie_weights = false;
            json = untied(&json);
            entries = model_type.names.entries(&config)?;
        }
        let (model, n_layers) = (format!("the model of {CONFIG}"), config.n_layers);
        let unknown = format!("belongs to no part of {model}, which has {n_layers} layers");
        weights.check(&entries, &model, &unknown)?;
        Ok(ModelFiles {
            model_type,
            json,
            config,
            stop_tokens,
            generation,
            weights,
            entries,
            progress: Progress(Box::new(|_, _| ())),
        })
    }

    /// The same files for a model that sees `context` positions at most. Models are published with contexts of 131,072 and
    /// more, which few texts need: their tables of positions shrink with it, as do caches that are as long as the context.
    /// [`ModelFiles::save`] writes the configuration as it was.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] if it is 0 or more than the model's context, or the model has a trained vector for each
    /// position.
    pub fn with_context(mut self, context: usize) -> Result<ModelFiles> {
        let most = self.config.context;
        let expected = match self.config.positions {
            PositionKind::Learned if context != most => {
                format!("{most}: the model has trained positions")
            }
            _ if (1..=most).contains(&context) => {
                self.config.context = context;
                return Ok(self);
            }
            _ => format!("1 to {most}, the model's context"),
        };
        Err(Error::invalid("context", context, expected))
    }

    /// Has loading call `progress` with the bytes of the parameters, as they are stored on the device, that have been read,
    /// and with all that there are.
    pub fn with_progress(
        mut self,
        progress: impl Fn(u64, u64) + Send + Sync + 'static,
    ) -> ModelFiles {
        self.progress = Progress(Box::new(progress));
        self
    }

    /// What the model will take of a device's memory.
    pub fn needs(&self) -> MemoryNeeds {
        MemoryNeeds::of(&self.config).expect("the configuration has been checked")
    }

    /// Bytes of the files of weights.
    pub fn bytes(&self) -> u64 {
        let files = self.weights.files.iter();
        files
            .map(|(_, file)| (file.header.len() + file.metadata.data_len()) as u64)
            .sum()
    }

    /// The types that the weights have in the files, with the bytes of each.
    pub fn dtypes(&self) -> BTreeMap<String, u64> {
        let mut bytes = BTreeMap::new();
        for (_, file) in &self.weights.files {
            for info in file.metadata.tensors().values() {
                let (start, end) = info.data_offsets;
                *bytes.entry(info.dtype.to_string()).or_default() += (end - start) as u64;
            }
        }
        bytes
    }

    /// What tells models of one shape apart: a sum over all tensors, of any order and type, of hashes of their first numbers.
    ///
    /// # Errors
    ///
    /// [`Error::File`], [`Error::Checkpoint`].
    pub fn fingerprint(&self) -> Result<u64> {
        let mut sum = 0u64;
        for (_, file) in &self.weights.files {
            for (name, info) in file.metadata.tensors() {
                if self.weights.owner(&name, &self.entries).is_some() {
                    let most = info.shape.iter().product::<usize>().min(64);
                    let numbers = file.numbers(info, 0..most)?;
                    sum = sum.wrapping_add(checksum(&numbers));
                }
            }
        }
        Ok(sum)
    }

    /// The names of the files that hold the weights, and of the index if they are several.
    pub fn weight_files(&self) -> Vec<&str> {
        let files = self.weights.files.iter();
        let index = self.weights.index.as_ref().map(|_| INDEX);
        files.map(|(name, _)| &**name).chain(index).collect()
    }

    /// `model_type` of the configuration: `llama`, say.
    pub fn model_type(&self) -> &'static str {
        self.model_type.name
    }

    /// What its tensors are called.
    pub(super) fn names(&self) -> &'static Names {
        self.model_type.names
    }

    /// What the model is made of. Its dropouts are what training applies; inference does not change with them.
    pub fn config(&self) -> &GptConfig {
        &self.config
    }

    /// How the directory wants text to be generated: its `generation_config.json`.
    pub fn generation(&self) -> &GenerationConfig {
        &self.generation
    }

    /// The token that ends texts; the first if there are [several](ModelFiles::stop_tokens).
    pub fn end_of_text(&self) -> Option<u32> {
        self.stop_tokens.first().copied()
    }

    /// All tokens that end texts, for [`Gpt::generate`]: `eos_token_id` of `generation_config.json`, or, if that says nothing of
    /// it, of `config.json`.
    pub fn stop_tokens(&self) -> &[u32] {
        &self.stop_tokens
    }

    /// Makes the model and loads its weights. They go from the files to the device in pieces: the host holds at most an eighth
    /// of a matrix that files have transposed (or 8 MB, if that is more), and 2 MB of others. A token table larger than the adapter lets a kernel
    /// bind is split into parts. On a [meta device](Device::meta), nothing is read: so what training takes is known before.
    ///
    /// ```no_run
    /// # fn main() -> shadegrad::Result<()> {
    /// use shadegrad::hugging_face::ModelFiles;
    /// use shadegrad::ops::CrossEntropy;
    /// use shadegrad::optim::{AdamW, AdamWConfig, Optimizer};
    /// use shadegrad::{Device, Tape};
    ///
    /// let device = Device::new()?;
    /// let (gpt, parameters) = ModelFiles::open("models/SmolLM2-135M")?.load(&device.meta())?;
    /// let mut optimizer = AdamW::new(&parameters, AdamWConfig::default())?;
    /// let tape = Tape::training(&device.meta());
    /// let tokens = tape.input([4, 512], &[0u32; 4 * 512]);
    /// optimizer.step(&tape, gpt.loss(tokens, tokens, CrossEntropy::default()), 1e-4);
    /// let memory = tape.memory()?;
    /// println!("{} bytes, {} of them activations", memory.total(), memory.intermediate);
    /// memory.check(device.memory())?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Before anything is allocated, [`Error::Limit`] if a parameter is larger than the adapter lets a kernel bind, and
    /// [`Error::OutOfMemory`] if all of them are more than it [has](Device::memory). [`Error::OutOfMemory`],
    /// [`Error::DeviceLost`]. [`Error::Checkpoint`] if a weight is NaN or infinite, or the file has been changed since it
    /// was opened; [`Error::File`] if it cannot be read.
    pub fn load(&self, device: &Device) -> Result<(Gpt, Parameters)> {
        self.load_as(DType::F32, device)
    }

    /// [`ModelFiles::load`] with the parameters [stored as `dtype`](ParameterBuilder::with_dtype), whatever the file has:
    /// `F16` to generate text in half of the memory.
    ///
    /// # Errors
    ///
    /// As [`ModelFiles::load`]; [`Error::Checkpoint`] if a number is too large for that type.
    ///
    /// # Panics
    ///
    /// If it is `U32`.
    #[track_caller]
    pub fn load_as(&self, dtype: DType, device: &Device) -> Result<(Gpt, Parameters)> {
        self.load_model(
            &self.config,
            ParameterBuilder::new(0).with_dtype(dtype),
            device,
        )
    }

    /// [`ModelFiles::load_as`] for a model whose weights are to stay [as they are](ParameterBuilder::frozen), while
    /// [adapters](ModelFiles::add_lora) are trained: with this share of dropout everywhere, if one is given.
    ///
    /// # Errors
    ///
    /// As [`ModelFiles::load_as`] and [`ModelFiles::load_with_dropout`].
    ///
    /// # Panics
    ///
    /// If the type is `U32`.
    #[track_caller]
    pub fn load_frozen(
        &self,
        dtype: DType,
        dropout: Option<f32>,
        device: &Device,
    ) -> Result<(Gpt, Parameters)> {
        let builder = ParameterBuilder::new(0).with_dtype(dtype).frozen();
        self.load_model(&self.dropping(dropout), builder, device)
    }

    /// [`ModelFiles::load`] with this share of dropout everywhere, for training, instead of the configuration's.
    ///
    /// # Errors
    ///
    /// As [`ModelFiles::load`]; [`Error::InvalidArgument`] if it is not a share.
    pub fn load_with_dropout(&self, dropout: f32, device: &Device) -> Result<(Gpt, Parameters)> {
        let config = self.dropping(Some(dropout));
        self.load_model(&config, ParameterBuilder::new(0), device)
    }

    /// The configuration with this share of dropout.
    fn dropping(&self, dropout: Option<f32>) -> GptConfig {
        let Some(dropout) = dropout else {
            return self.config.clone();
        };
        GptConfig {
            dropout,
            embedding_dropout: None,
            attention_dropout: None,
            ..self.config.clone()
        }
    }

    #[track_caller]
    fn load_model(
        &self,
        config: &GptConfig,
        builder: ParameterBuilder,
        device: &Device,
    ) -> Result<(Gpt, Parameters)> {
        let limit = ParameterBuilder::parameter_limit_of(device);
        let mut builder = builder.with_parameter_limit(limit);
        let gpt = Gpt::new(config, &mut builder)?;
        self.needs()
            .check(builder.dtype(), device.memory(), device)?;
        let parameters = builder.build_zeroed(device)?;
        if !device.is_meta() {
            self.restore(&parameters)?;
        }
        Ok((gpt, parameters))
    }

    /// Puts the file's weights into the parameters of a model of the same configuration.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] if the model has other parameters, [`Error::DeviceLost`]; [`Error::Checkpoint`] and
    /// [`Error::File`] as for [`ModelFiles::load`].
    pub fn restore(&self, parameters: &Parameters) -> Result<()> {
        let progress = |done, all| (self.progress.0)(done, all);
        self.weights.restore(&self.entries, parameters, progress)
    }

    /// Saves a model of this configuration into a directory, which is made if there is none: `config.json` as it was,
    /// but for a [head of its own](ModelFiles::open), and the parameters' values in files of the same names and layout. It
    /// may be the directory that was opened. All files are complete before the first takes the place of what was there;
    /// nothing else is touched.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if something cannot be written, [`Error::Parameter`] if the parameters are another model's, or too
    /// large for the file's type; [`Error::DeviceLost`], [`Error::Readback`]; [`Error::Checkpoint`] if the opened file has
    /// been changed meanwhile, or [`ModelFiles::check_output`] refuses the directory. Nothing has been replaced then.
    pub fn save(&self, directory: impl AsRef<Path>, parameters: &Parameters) -> Result<()> {
        self.save_as(directory, parameters, SaveDType::AsStored)
    }

    /// [`ModelFiles::save`] as another type than the opened files have, which the configuration then says, too: training changes
    /// weights by less than `F16` and `BF16` tell apart.
    ///
    /// # Errors
    ///
    /// As [`ModelFiles::save`].
    pub fn save_as(
        &self,
        directory: impl AsRef<Path>,
        parameters: &Parameters,
        dtype: SaveDType,
    ) -> Result<()> {
        self.check_output(&directory)?;
        let (mut files, mut total) = (Vec::new(), 0);
        for (name, file) in &self.weights.files {
            let mut tensors = Vec::new();
            for tensor in file.metadata.offset_keys() {
                let info = file.metadata.info(&tensor).expect("it is one of the names");
                let content = match self.weights.owner(&tensor, &self.entries) {
                    Some((entry, part)) => Content::Stored(Stored {
                        entry,
                        part,
                        tensors: entry.tensors(parameters)?,
                        dtype: dtype.of(info.dtype),
                    }),
                    None => Content::Kept { file, info },
                };
                total += content.bytes();
                tensors.push((tensor, content));
            }
            let metadata = file.metadata.metadata().clone();
            let (name, header, contents) = save::file_with(name.clone(), tensors, metadata);
            let header = match dtype {
                SaveDType::AsStored => Cow::from(&file.header[..]),
                _ => header,
            };
            files.push((name, header, contents));
        }
        let mut json: Cow<'_, [u8]> = Cow::from(&self.json);
        let mut index: Option<Cow<'_, [u8]>> = self.weights.index.as_deref().map(Cow::from);
        if dtype != SaveDType::AsStored {
            json = save::retyped(&json, dtype.of(Dtype::F32)).into();
            index = index.map(|index| save::resized(&index, total).into());
        }
        let index = index.as_deref().map(|index| (INDEX, index));
        let texts: Vec<_> = index.into_iter().chain([(CONFIG, &json[..])]).collect();
        save::write(directory.as_ref(), &files, &texts)
    }

    /// Refuses a directory that cannot be [saved](ModelFiles::save) into: before the training, not after it.
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`] if the directory holds weights of the other layout, one file or several with an index, which
    /// readers would take instead of those to be saved, or an `adapter_config.json`, by which they would add adapters to them.
    pub fn check_output(&self, directory: impl AsRef<Path>) -> Result<()> {
        save::check(directory.as_ref(), self.weights.index.is_some())
    }
}

/// The type of a `config.json`, the model, and the tokens that end its texts.
fn parse(json: &[u8]) -> Result<(&'static ModelType, GptConfig, Vec<u32>), Reason> {
    let map =
        unique(json).map_err(|error| format!("it is no configuration of a model: {error}"))?;
    let fields = Fields::new(&map);
    let name: String = fields.get("model_type")?.unwrap_or_default();
    let Some(model_type) = TYPES.iter().find(|known| known.name == name) else {
        let known: Vec<&str> = TYPES.iter().map(|known| known.name).collect();
        let found = match name.is_empty() {
            true => "it names no model_type".to_owned(),
            false => format!("its model_type is `{name}`"),
        };
        return Err(format!("{found}; expected one of {}", known.join(", ")));
    };
    let config = model_type.read(&fields)?;
    let ends = TokenIds::of_end(&fields)?;
    let stop = ends.unwrap_or_else(|| model_type.end_of_text.into_iter().collect());
    Ok((model_type, config, stop))
}

/// What a file says, but that the head is no copy of the token table.
fn untied(json: &[u8]) -> Vec<u8> {
    let mut value: Value = serde_json::from_slice(json).expect("it has been parsed");
    value["tie_word_embeddings"] = Value::Bool(false);
    serde_json::to_vec_pretty(&value).expect("keys are strings")
}
