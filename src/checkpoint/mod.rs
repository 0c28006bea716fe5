//! Training state on disk, in the safetensors format.
//!
//! A checkpoint holds everything that a run needs to continue to the same bits: parameters as `param.<name>`, the
//! optimizer's moments as `<optimizer>.<moment>.<name>` (such as `adamw.m.head.weight`), its loss scale as
//! `<optimizer>.loss_scale`, and, as JSON under the key
//! `shadegrad` of the file's metadata, the [`Metadata`] and the optimizer's settings and step count. Random draws are
//! functions of seed and step, so these two are the whole random state. Parameters of `F16` are saved as such; those of
//! either type are loaded into those of either.
//!
//! Writing never leaves a damaged file: the new one is complete and on the disk before it takes the old one's place. It
//! gets the old one's permissions, and where the path is a link, what it leads to is replaced.
//!
//! ```
//! # fn main() -> shadegrad::Result<()> {
//! use shadegrad::checkpoint::{self, Checkpoint, Metadata};
//! use shadegrad::nn::{Init, ParameterBuilder};
//! use shadegrad::optim::{AdamW, AdamWConfig};
//! use shadegrad::Device;
//!
//! let device = Device::new()?;
//! let mut builder = ParameterBuilder::new(1);
//! let x = builder.parameter("x", [3], Init::Normal { std: 1.0 });
//! let parameters = builder.build(&device)?;
//! let mut optimizer = AdamW::new(&parameters, AdamWConfig::default())?;
//!
//! let path = std::env::temp_dir().join("shadegrad-doc.safetensors");
//! checkpoint::check_writable(&path)?; // Before the training, not after it.
//! let metadata = Metadata { step: 100, seed: 1, ..Metadata::default() };
//! checkpoint::save(&path, &parameters, Some(&optimizer), &metadata)?;
//!
//! let checkpoint = Checkpoint::open(&path)?;
//! assert_eq!(checkpoint.metadata.step, 100);
//! checkpoint.restore(&parameters, Some(&mut optimizer))?;
//! # std::fs::remove_file(path).unwrap();
//! # Ok(())
//! # }
//! ```

mod part;
mod replace;
mod tensors;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use safetensors::tensor::{self, Dtype, SafeTensorError, TensorInfo, TensorView};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use part::{LoadedPart, load_part};
pub use replace::check_writable;
#[cfg(not(target_family = "wasm"))]
pub(crate) use replace::{Staged, replace_with};
use tensors::widened;
#[cfg(not(target_family = "wasm"))]
pub(crate) use tensors::{PIECE, number_size, open_file, widen};
pub(crate) use tensors::{TensorsFile, stored};

use crate::data::CharTokenizer;
use crate::error::{Error, Result};
use crate::gpu::{DType, Device, Tensor};
use crate::nn::{FlatTensors, Gpt, GptConfig, Parameter, ParameterBuilder, Parameters};
use crate::optim::{Optimizer, is_scale};
use crate::shape::Shape;

/// The version of the layout described in the [module documentation](self).
const VERSION: u64 = 1;

/// The key of the file's metadata under which everything that is not a tensor lies.
const KEY: &str = "shadegrad";

/// What a checkpoint says beside its tensors. The crate only stores it; its meaning is the program's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Metadata {
    /// The model's configuration, by which the model can be built again.
    pub config: Value,
    /// The tokenizer's characters in the order of their tokens.
    pub vocabulary: Vec<char>,
    /// The text of its `tokenizer.json`, if its tokens are no characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
    /// Finished training steps.
    pub step: u64,
    /// The seed of everything random.
    pub seed: u64,
    /// Anything else that the program needs to continue: its settings, its best loss.
    pub extra: Value,
}

impl Metadata {
    /// What [`Gpt::from_checkpoint`] needs: the model's configuration and its tokenizer's vocabulary.
    pub fn of(config: &GptConfig, tokenizer: &CharTokenizer) -> Metadata {
        Metadata {
            config: serde_json::to_value(config).expect("keys are strings"),
            vocabulary: tokenizer.vocabulary().to_vec(),
            ..Metadata::default()
        }
    }
}

/// What a checkpoint says about the optimizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OptimizerMetadata {
    /// [`Optimizer::name`].
    pub name: String,
    /// [`Optimizer::steps`].
    pub steps: u64,
    /// [`Optimizer::settings`].
    pub settings: Value,
}

#[derive(Serialize, Deserialize)]
struct Header {
    version: u64,
    #[serde(flatten)]
    metadata: Metadata,
    optimizer: Option<OptimizerMetadata>,
}

/// A checkpoint that has been read and found whole. See the [module documentation](self).
#[derive(Debug)]
pub struct Checkpoint {
    /// What it says beside its tensors.
    pub metadata: Metadata,
    /// What it says about the optimizer, if it was saved with one.
    pub optimizer: Option<OptimizerMetadata>,
    path: PathBuf,
    bytes: Vec<u8>,
    /// Where in `bytes` the tensors lie.
    file: tensor::Metadata,
}

/// Named values, as [`Parameters::load`] takes them.
type Values = Vec<(String, Shape, Vec<f32>)>;

/// Writes a checkpoint, waiting for the device. Whatever happens meanwhile, `path` holds either what it held before or
/// the whole new checkpoint.
///
/// # Errors
///
/// [`Error::File`] if it cannot be written; those of [`to_bytes`].
#[cfg(not(target_family = "wasm"))]
pub fn save(
    path: impl AsRef<Path>,
    parameters: &Parameters,
    optimizer: Option<&dyn Optimizer>,
    metadata: &Metadata,
) -> Result<()> {
    let path = path.as_ref();
    let bytes = crate::gpu::block_on(to_bytes(parameters, optimizer, metadata))?;
    replace_with(path, |file| std::io::Write::write_all(file, &bytes)).map_err(Error::file(path))
}

/// A checkpoint as the bytes of its file, for where there are no files. [`Checkpoint::from_bytes`] takes them.
///
/// Gradients [accumulated](Optimizer::accumulate) for an unfinished step are not part of it.
///
/// # Errors
///
/// [`Error::DeviceLost`], [`Error::Readback`].
pub async fn to_bytes(
    parameters: &Parameters,
    optimizer: Option<&dyn Optimizer>,
    metadata: &Metadata,
) -> Result<Vec<u8>> {
    let mut tensors = Vec::new();
    let mut add =
        |prefix: &str, dtype: DType, values: Values| {
            let named = values.into_iter();
            tensors.extend(named.map(|(name, shape, data)| {
                (format!("{prefix}.{name}"), shape, stored(dtype, &data))
            }));
        };
    add(
        "param",
        parameters.dtype(),
        parameters.to_host_async().await?,
    );
    for (prefix, moment) in moments(optimizer) {
        add(&prefix, DType::F32, parameters.read(moment).await?);
    }
    if let Some((name, state, first)) = loss_scale(optimizer) {
        let values: Vec<f32> = state.to_vec_async().await?;
        // One that no step has changed says nothing.
        if values[..] != [first, 0.0, 0.0, first] {
            tensors.push((name, state.shape(), stored(DType::F32, &values)));
        }
    }
    let header = Header {
        version: VERSION,
        metadata: metadata.clone(),
        optimizer: optimizer.map(|optimizer| OptimizerMetadata {
            name: optimizer.name().to_owned(),
            steps: optimizer.steps(),
            settings: optimizer.settings(),
        }),
    };
    let refuse = |reason: String| Error::checkpoint("", reason);
    let header = serde_json::to_string(&header).map_err(|error| refuse(error.to_string()))?;
    let views = tensors.iter().map(|(name, shape, (dtype, bytes))| {
        TensorView::new(*dtype, shape.dims().to_vec(), bytes).map(|view| (name, view))
    });
    views
        .collect::<Result<Vec<_>, SafeTensorError>>()
        .and_then(|views| {
            // One entry only: with several, the file's bytes would depend on a map's random order.
            let information = HashMap::from([(KEY.to_owned(), header)]);
            safetensors::serialize(views, Some(information))
        })
        .map_err(|error| refuse(error.to_string()))
}

/// The moments with the prefixes of their names in the file.
fn moments(optimizer: Option<&dyn Optimizer>) -> Vec<(String, &FlatTensors)> {
    let Some(optimizer) = optimizer else {
        return Vec::new();
    };
    let named = optimizer.state().into_iter();
    named
        .map(|(moment, flat)| (format!("{}.{moment}", optimizer.name()), flat))
        .collect()
}

/// The state of the loss scale, with its name in the file, and where it began.
fn loss_scale(optimizer: Option<&dyn Optimizer>) -> Option<(String, &Tensor, f32)> {
    let optimizer = optimizer?;
    let (state, first) = optimizer.loss_scale()?;
    Some((format!("{}.loss_scale", optimizer.name()), state, first))
}

impl Checkpoint {
    /// Reads a checkpoint and checks that it is whole.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if it cannot be read, [`Error::Checkpoint`] if it is truncated, something else, or of another
    /// version.
    pub fn open(path: impl AsRef<Path>) -> Result<Checkpoint> {
        let file = TensorsFile::open(path.as_ref())?;
        let checkpoint = Checkpoint::described(path.as_ref(), &file.metadata)?;
        // Last: what is no checkpoint may be of any size.
        let bytes = file.data()?;
        Ok(Checkpoint {
            bytes,
            ..checkpoint
        })
    }

    /// A checkpoint from the bytes of its file, which errors call `name`.
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`], as [`Checkpoint::open`].
    pub fn from_bytes(bytes: &[u8], name: impl Into<PathBuf>) -> Result<Checkpoint> {
        let path = name.into();
        let (header, metadata) = tensors::header(&path, &mut &*bytes, bytes.len() as u64)?;
        Ok(Checkpoint {
            bytes: bytes[header.len()..].to_vec(),
            ..Checkpoint::described(&path, &metadata)?
        })
    }

    /// A checkpoint without the tensors' data.
    fn described(path: &Path, file: &tensor::Metadata) -> Result<Checkpoint> {
        let refuse = |reason: String| Error::checkpoint(path, reason);
        let header = file
            .metadata()
            .as_ref()
            .and_then(|entries| entries.get(KEY))
            .ok_or_else(|| {
                refuse(format!(
                    "it is a safetensors file, but no checkpoint of this crate: its metadata has no entry `{KEY}`"
                ))
            })?;
        let header = parse(header).map_err(refuse)?;
        for (name, info) in file.tensors() {
            let is_half = info.dtype == Dtype::F16 && name.starts_with("param.");
            if info.dtype != Dtype::F32 && !is_half {
                return Err(refuse(format!(
                    "tensor `{name}` has type {}, not F32",
                    info.dtype
                )));
            }
        }
        Ok(Checkpoint {
            metadata: header.metadata,
            optimizer: header.optimizer,
            path: path.to_owned(),
            bytes: Vec::new(),
            file: file.clone(),
        })
    }

    /// The [`Gpt`] that [`Metadata::config`] describes, with its parameters: to generate text, or to be trained further.
    ///
    /// ```no_run
    /// # fn main() -> shadegrad::Result<()> {
    /// use shadegrad::Device;
    /// use shadegrad::checkpoint::Checkpoint;
    ///
    /// let checkpoint = Checkpoint::open("names.safetensors")?;
    /// let (gpt, parameters) = checkpoint.gpt(&Device::new()?)?;
    /// println!("{}", parameters.summary());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`] if it is of another kind of model; those of [`GptConfig::validate`],
    /// [`ParameterBuilder::build`] and [`Checkpoint::restore`].
    pub fn gpt(&self, device: &Device) -> Result<(Gpt, Parameters)> {
        self.gpt_as(DType::F32, device)
    }

    /// [`Checkpoint::gpt`] with its parameters [stored as `dtype`](ParameterBuilder::with_dtype), whatever the file has:
    /// `F16` to generate text in half of the memory.
    ///
    /// # Errors
    ///
    /// As [`Checkpoint::gpt`]; [`Error::Parameter`] if a number is too large for that type.
    ///
    /// # Panics
    ///
    /// If it is `U32`.
    #[track_caller]
    pub fn gpt_as(&self, dtype: DType, device: &Device) -> Result<(Gpt, Parameters)> {
        let config: GptConfig = serde_json::from_value(self.metadata.config.clone())
            .map_err(|error| self.refuse(format!("it is not of a Gpt ({error})")))?;
        let mut builder = ParameterBuilder::new(self.metadata.seed).with_dtype(dtype);
        if let Some(rows) = self.file.info("param.token_embedding.weight.0") {
            // The table was split where it was made, and is to be split so again, after as many rows.
            let elements = rows.shape.iter().product::<usize>().next_multiple_of(64);
            builder = builder.with_parameter_limit((dtype.bytes() * elements) as u64);
        }
        let gpt = Gpt::new(&config, &mut builder)?;
        // Before memory is taken for what the file merely claims to have.
        for parameter in builder.parameters() {
            self.find("param", parameter)?;
        }
        let parameters = builder.build_zeroed(device)?;
        self.restore(&parameters, None)?;
        Ok((gpt, parameters))
    }

    /// The tokenizer that its model reads and writes with.
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`] if its tokens are no characters, or more than the model has.
    pub fn tokenizer(&self) -> Result<CharTokenizer> {
        let (characters, config) = (&self.metadata.vocabulary, &self.metadata.config);
        if characters.is_empty() {
            let reason = "it has no vocabulary of characters: its tokens are others";
            return Err(self.refuse(reason.to_owned()));
        }
        let (known, scored) = (characters.len() as u64, config["vocab_size"].as_u64());
        if let Some(scored) = scored.filter(|&scored| scored < known) {
            return Err(self.refuse(format!(
                "its vocabulary has {known} characters, its model {scored} tokens"
            )));
        }
        let tokenizer = CharTokenizer::from_vocabulary(characters.clone());
        tokenizer.map_err(|error| self.refuse(error.to_string()))
    }

    /// Puts the saved state into a model's parameters and, for a run that is to continue, its optimizer. All or
    /// nothing: on error, nothing has been changed.
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`] if a tensor is missing, has another shape, or belongs to no parameter; or if an optimizer
    /// is to be restored and none, or one of another kind, was saved. [`Error::Parameter`] if a number is too large for the
    /// parameters' type, [`Error::DeviceLost`].
    pub fn restore(
        &self,
        parameters: &Parameters,
        optimizer: Option<&mut dyn Optimizer>,
    ) -> Result<()> {
        let values = self.values("param", parameters.iter())?;
        self.refuse_unknown(parameters)?;
        let Some(optimizer) = optimizer else {
            return parameters.load(values);
        };
        let Some(saved) = &self.optimizer else {
            return Err(self.refuse("it was saved without an optimizer".to_owned()));
        };
        if saved.name != optimizer.name() {
            return Err(self.refuse(format!(
                "it was saved with the optimizer {}, not {}",
                saved.name,
                optimizer.name()
            )));
        }
        let mut restored = Vec::new();
        for (prefix, flat) in moments(Some(optimizer)) {
            let was_frozen = |name: &str| saved.settings["groups"][name][0] == 0.0;
            let mut names = parameters.members(flat).map(Parameter::name);
            if let Some(name) = names.find(|name| was_frozen(name)) {
                return Err(self.refuse(format!(
                    "parameter `{name}` was frozen when it was saved, so there are no moments to go on with: freeze it, \
                     or restore the parameters without the optimizer"
                )));
            }
            restored.push((flat, self.values(&prefix, parameters.members(flat))?));
        }
        let mut scale = None;
        if let Some((name, state, first)) = loss_scale(Some(optimizer)) {
            let mut values = vec![first, 0.0, 0.0, first];
            if let Some(info) = self.file.info(&name) {
                values = widened(info.dtype, self.data(info));
                let is_count = |value: &f32| *value >= 0.0 && value.fract() == 0.0;
                if info.shape != [4] || !(is_scale(values[0]) && values[1..3].iter().all(is_count))
                {
                    return Err(self.refuse(format!("tensor `{name}` is no loss scale")));
                }
                values[3] = first;
            }
            scale = Some((state, values));
        }
        parameters.load(values)?;
        for (flat, values) in restored {
            parameters.write(flat, values)?;
        }
        if let Some((state, values)) = scale {
            state.write(&values)?;
        }
        optimizer.resume(saved.steps);
        Ok(())
    }

    /// The tensors of one kind, for some parameters.
    fn values<'a>(
        &self,
        prefix: &str,
        parameters: impl Iterator<Item = &'a Parameter>,
    ) -> Result<Values> {
        let mut values = Vec::new();
        for parameter in parameters {
            let info = self.find(prefix, parameter)?;
            let data = widened(info.dtype, self.data(info));
            values.push((parameter.name().to_owned(), parameter.shape(), data));
        }
        Ok(values)
    }

    fn data(&self, info: &TensorInfo) -> &[u8] {
        &self.bytes[info.data_offsets.0..info.data_offsets.1]
    }

    /// The tensor of a parameter's values.
    fn find(&self, prefix: &str, parameter: &Parameter) -> Result<&TensorInfo> {
        let (name, shape) = (parameter.name(), parameter.shape());
        match self.file.info(&format!("{prefix}.{name}")) {
            Some(info) if info.shape == shape.dims() => Ok(info),
            Some(TensorInfo { shape: dims, .. }) => Err(self.refuse(format!(
                "tensor `{prefix}.{name}` has shape {dims:?}, the model needs {shape}"
            ))),
            None => Err(self.refuse(format!(
                "tensor `{prefix}.{name}`, which the model needs, is missing"
            ))),
        }
    }

    fn refuse_unknown(&self, parameters: &Parameters) -> Result<()> {
        let names = self.file.offset_keys();
        let mut saved = names.iter().filter_map(|n| n.strip_prefix("param."));
        match saved.find(|name| parameters.get(name).is_none()) {
            None => Ok(()),
            Some(name) => Err(self.refuse(format!(
                "tensor `param.{name}` belongs to no parameter of the model"
            ))),
        }
    }

    fn refuse(&self, reason: String) -> Error {
        Error::checkpoint(&self.path, reason)
    }
}

impl Gpt {
    /// A trained model of characters, ready to generate: [`Checkpoint::open`], [`Checkpoint::gpt`] and
    /// [`Checkpoint::tokenizer`] in one call.
    ///
    /// ```
    /// # fn main() -> shadegrad::Result<()> {
    /// use shadegrad::Device;
    /// use shadegrad::nn::Gpt;
    /// use shadegrad::sampling::{Sampler, SamplingConfig};
    /// # use shadegrad::checkpoint::{self, Metadata};
    /// # use shadegrad::data::CharTokenizer;
    /// # use shadegrad::nn::{GptConfig, ParameterBuilder};
    ///
    /// let device = Device::new()?;
    /// # let path = std::env::temp_dir().join("shadegrad-doc-gpt.safetensors");
    /// # let config = GptConfig { n_layers: 1, ..GptConfig::new(27) };
    /// # let mut builder = ParameterBuilder::new(42);
    /// # Gpt::new(&config, &mut builder)?;
    /// # let tokenizer = CharTokenizer::from_text("\nabcdefghijklmnopqrstuvwxyz")?;
    /// # let metadata = Metadata::of(&config, &tokenizer);
    /// # checkpoint::save(&path, &builder.build(&device)?, None, &metadata)?;
    /// // The file that `train_names --checkpoint` writes.
    /// let (gpt, tokenizer) = Gpt::from_checkpoint(&path, &device)?;
    /// let mut sampler = Sampler::new(SamplingConfig::default(), 42)?;
    /// let prompt = tokenizer.encode("\nem")?;
    /// let tokens = gpt.generate(&prompt, 12, &mut sampler, tokenizer.token('\n'))?;
    /// println!("em{}", tokenizer.decode(&tokens)?);
    /// # std::fs::remove_file(path).unwrap();
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of the three.
    pub fn from_checkpoint(
        path: impl AsRef<Path>,
        device: &Device,
    ) -> Result<(Gpt, CharTokenizer)> {
        let checkpoint = Checkpoint::open(path)?;
        Ok((checkpoint.gpt(device)?.0, checkpoint.tokenizer()?))
    }
}

/// Reads what is not tensors, the version first.
fn parse(header: &str) -> Result<Header, String> {
    let damaged = |error: serde_json::Error| format!("its metadata is damaged: {error}");
    let value: Value = serde_json::from_str(header).map_err(damaged)?;
    match value["version"].as_u64() {
        Some(VERSION) => serde_json::from_value(value).map_err(damaged),
        Some(other) => Err(format!(
            "it is of format version {other}, this version of the crate reads version {VERSION}"
        )),
        None => Err("its metadata is damaged: it states no version".to_owned()),
    }
}
