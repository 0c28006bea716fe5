//! Writing directories.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use half::vec::HalfFloatVecExt;
use half::{bf16, f16};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use serde_json::{Map, Value, json};

use super::files::{ADAPTER, CONFIG, INDEX, WEIGHTS, is_there};
use super::model_type::{ModelType, TYPES};
use super::names::{Entry, HEAD, Part, parts};
use super::weights::transpose;
use crate::checkpoint::{Staged, TensorsFile, number_size, replace_with};
use crate::data::CharTokenizer;
use crate::error::{Error, Result, named};
use crate::gpu::{DType, Tensor};
use crate::nn::{GptConfig, Parameters};

/// Numbers that are read back from the device at a time.
const PIECE: usize = 1 << 20;

/// A transposed matrix of more numbers than that goes to its file in so many strips.
const STRIPS: usize = 8;

/// The most bytes of a file of weights that [`export`] writes, but for a single tensor that is larger.
const LARGEST_FILE: u64 = 5_000_000_000;

/// What the weights of a saved model are stored as. What is narrower than on the device rounds them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SaveDType {
    /// As the files that were opened have them; for a model of this crate, as the device has them.
    #[default]
    AsStored,
    /// All in 32 bits.
    F32,
    /// All in IEEE's 16 bits: 11 bits of precision, up to 65,504.
    F16,
    /// All in bfloat16: 8 bits of precision, as far as `F32`.
    BF16,
}

named!(
    SaveDType,
    "save_dtype",
    AsStored = "as-stored",
    F32 = "f32",
    F16 = "f16",
    BF16 = "bf16"
);

impl SaveDType {
    pub(super) fn of(self, stored: Dtype) -> Dtype {
        match self {
            SaveDType::AsStored => stored,
            SaveDType::F32 => Dtype::F32,
            SaveDType::F16 => Dtype::F16,
            SaveDType::BF16 => Dtype::BF16,
        }
    }
}

/// What `config.json` calls a type.
fn in_config(dtype: Dtype) -> Value {
    Value::from(match dtype {
        Dtype::F16 => "float16",
        Dtype::BF16 => "bfloat16",
        _ => "float32",
    })
}

/// Saves a model of this crate as one of the `transformers` library: `config.json` and `model.safetensors` in a
/// directory, which is made if there is none. `AutoModelForCausalLM.from_pretrained` reads it. Weights of more than 5 GB
/// are spread over several files, as by [`export_in_files`].
///
/// The model must be what one of the [types](super) is: GPT-2 has layer norms, learned positions, biases but for the head,
/// and no gates; `llama` has RMS norms, rotary positions, SwiGLU and no biases.
///
/// ```
/// # fn main() -> shadegrad::Result<()> {
/// use shadegrad::Device;
/// use shadegrad::hugging_face::{self, ModelFiles};
/// use shadegrad::nn::{FeedForwardKind, Gpt, GptConfig, NormKind, ParameterBuilder};
///
/// let config = GptConfig {
///     norm: NormKind::LayerNorm,
///     ffn: FeedForwardKind::GeluTanh,
///     bias: true,
///     n_layers: 1,
///     ..GptConfig::new(27)
/// };
/// let device = Device::new()?;
/// let mut builder = ParameterBuilder::new(42);
/// Gpt::new(&config, &mut builder)?;
/// let directory = std::env::temp_dir().join("shadegrad-doc-gpt2");
/// hugging_face::export(&directory, &config, &builder.build(&device)?, Some(0))?;
///
/// let files = ModelFiles::open(&directory)?;
/// assert_eq!((files.config().d_ff, files.end_of_text()), (85, Some(0)));
/// # std::fs::remove_dir_all(directory).unwrap();
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// [`Error::InvalidArgument`] if no type has such a thing, [`Error::Parameter`] if the parameters are another model's,
/// [`Error::Checkpoint`] if the directory holds weights that readers would take instead; [`Error::File`],
/// [`Error::DeviceLost`], [`Error::Readback`]. Nothing has been replaced then.
pub fn export(
    directory: impl AsRef<Path>,
    config: &GptConfig,
    parameters: &Parameters,
    end_of_text: Option<u32>,
) -> Result<()> {
    let (dtype, largest) = (SaveDType::AsStored, LARGEST_FILE);
    export_in_files(directory, config, parameters, end_of_text, dtype, largest)
}

/// [`export`] as another type, with at most so many bytes of weights in a file, but for a single tensor that is larger:
/// `model-00001-of-00002.safetensors` and so on, and `model.safetensors.index.json`, if one file does not hold all.
///
/// # Errors
///
/// As [`export`].
pub fn export_in_files(
    directory: impl AsRef<Path>,
    config: &GptConfig,
    parameters: &Parameters,
    end_of_text: Option<u32>,
    dtype: SaveDType,
    largest: u64,
) -> Result<()> {
    let (model_type, mut json) = describe(config)?;
    let names = model_type.names;
    let ids = end_of_text.map_or(Value::Null, Value::from);
    for key in ["bos_token_id", "eos_token_id"] {
        json.insert(key.to_owned(), ids.clone());
    }
    let dtype = dtype.of(match parameters.dtype() {
        DType::F16 => Dtype::F16,
        _ => Dtype::F32,
    });
    json.insert("dtype".to_owned(), in_config(dtype));
    let entries = names.entries(config)?;
    let mut all = Vec::new();
    for (entry, part) in parts(&entries) {
        let name = match part.name.as_str() {
            HEAD => HEAD.to_owned(),
            theirs => format!("{}{theirs}", names.prefix),
        };
        let tensors = entry.tensors(parameters)?;
        let stored = Stored {
            entry,
            part,
            tensors,
            dtype,
        };
        all.push((name, stored));
    }
    // The order in which safetensors writes tensors of one type.
    all.sort_by(|a, b| a.0.cmp(&b.0));
    let mut shards = Vec::new();
    while !all.is_empty() {
        let mut bytes = 0;
        let fits = all.iter().take_while(|(_, stored)| {
            bytes += stored.bytes() as u64;
            bytes <= largest
        });
        let rest = all.split_off(fits.count().max(1));
        shards.push(std::mem::replace(&mut all, rest));
    }
    let count = shards.len();
    let name_of = |number: usize| match count {
        1 => WEIGHTS.to_owned(),
        _ => format!("model-{number:05}-of-{count:05}.safetensors"),
    };
    let (mut files, mut total, mut weight_map) = (Vec::new(), 0, Map::new());
    for (number, shard) in (1..).zip(shards) {
        for (name, stored) in &shard {
            weight_map.insert(name.clone(), Value::from(name_of(number)));
            total += stored.bytes();
        }
        files.push(file_of(name_of(number), shard));
    }
    let index = json!({
        "metadata": { "total_parameters": total / number_size(dtype).expect("it is a type of numbers"), "total_size": total },
        "weight_map": weight_map,
    });
    let [json, index] = [Value::Object(json), index]
        .map(|value| serde_json::to_vec_pretty(&value).expect("keys are strings"));
    let index = (count > 1).then_some((INDEX, &index[..]));
    check(directory.as_ref(), index.is_some())?;
    let texts: Vec<_> = index.into_iter().chain([(CONFIG, &json[..])]).collect();
    write(directory.as_ref(), &files, &texts)
}

/// A file of these tensors, which are in the order of their names.
pub(super) fn file_of<'a>(name: String, tensors: Vec<(String, Stored<'a>)>) -> WeightsFile<'a> {
    let tensors = tensors.into_iter();
    let tensors = tensors.map(|(name, stored)| (name, Content::Stored(stored)));
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    file_with(name, tensors.collect(), Some(format))
}

/// A file of these tensors, one behind the other, with what it says beside them.
pub(super) fn file_with(
    name: String,
    tensors: Vec<(String, Content<'_>)>,
    metadata: Option<HashMap<String, String>>,
) -> WeightsFile<'_> {
    let (mut end, mut infos, mut contents) = (0, Vec::new(), Vec::new());
    for (name, content) in tensors {
        let mut info = content.info();
        info.data_offsets = (end, end + info.data_offsets.1 - info.data_offsets.0);
        end = info.data_offsets.1;
        infos.push((name, info));
        contents.push(content);
    }
    (name, header_of(infos, metadata), contents)
}

/// Everything of a file before the tensors' data.
fn header_of(
    infos: Vec<(String, TensorInfo)>,
    metadata: Option<HashMap<String, String>>,
) -> Cow<'static, [u8]> {
    let metadata = Metadata::new(metadata, infos).expect("the offsets fit the shapes");
    let mut header = serde_json::to_vec(&metadata).expect("names are strings");
    header.resize(header.len().next_multiple_of(8), b' ');
    header.splice(..0, (header.len() as u64).to_le_bytes());
    header.into()
}

/// Saves what belongs to an [exported](export) model whose tokens are characters: `tokenizer.json` and
/// `tokenizer_config.json`, for `AutoTokenizer` and `Tokenizer`. As here, a character that is no token
/// is an error.
///
/// # Errors
///
/// [`Error::File`].
pub fn export_characters(
    directory: impl AsRef<Path>,
    tokenizer: &CharTokenizer,
    end_of_text: Option<u32>,
) -> Result<()> {
    let characters = tokenizer.vocabulary();
    let tokens: Map<String, Value> = (0u32..)
        .zip(characters)
        .map(|(token, character)| (character.to_string(), token.into()))
        .collect();
    let json = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [],
        "normalizer": null,
        "pre_tokenizer": {
            "type": "Split", "pattern": { "Regex": "[\\s\\S]" }, "behavior": "Isolated", "invert": false,
        },
        "post_processor": null,
        "decoder": { "type": "Fuse" },
        // Its name for what is unknown is none that a character has.
        "model": { "type": "WordLevel", "vocab": tokens, "unk_token": "<unk>" },
    });
    let end = end_of_text.and_then(|token| characters.get(token as usize));
    let mut settings = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": false,
    });
    if let Some(end) = end {
        settings["bos_token"] = json!(end.to_string());
        settings["eos_token"] = json!(end.to_string());
    }
    for (name, json) in [
        ("tokenizer.json", json),
        ("tokenizer_config.json", settings),
    ] {
        let path = directory.as_ref().join(name);
        let text = serde_json::to_vec_pretty(&json).expect("keys are strings");
        replace_with(&path, |file| file.write_all(&text)).map_err(Error::file(path))?;
    }
    Ok(())
}

/// The type of models that a configuration is one of, and its keys.
fn describe(config: &GptConfig) -> Result<(&'static ModelType, Map<String, Value>)> {
    config.validate()?;
    let mut differences = Vec::new();
    for model_type in TYPES {
        match model_type.write(config) {
            Ok(json) => return Ok((model_type, json)),
            Err(key) => differences.push(format!("{} has no {key}", model_type.name)),
        }
    }
    let expected = "a model that one of these types describes";
    let name = "the model's configuration";
    Err(Error::invalid(name, differences.join("; "), expected))
}

/// A file of weights: its name, everything before the tensors' data, and that data.
pub(super) type WeightsFile<'a> = (String, Cow<'a, [u8]>, Vec<Content<'a>>);

/// Refuses a directory in which readers would find other weights than those of a model that is to be written, with or without
/// an index, or adapters beside them.
pub(super) fn check(directory: &Path, has_index: bool) -> Result<()> {
    check_without(
        directory,
        [if has_index { WEIGHTS } else { INDEX }, ADAPTER],
    )
}

/// Refuses a directory with one of the files: what a program hasn't written it doesn't remove.
pub(super) fn check_without(directory: &Path, others: [&str; 2]) -> Result<()> {
    let mut others = others.into_iter();
    match others.find(|name| is_there(&directory.join(name))) {
        None => Ok(()),
        Some(other) => Err(Error::checkpoint(
            directory,
            format!(
                "it holds a {other}, by which readers would find other weights than those to be saved: name another \
                 directory, or remove that file"
            ),
        )),
    }
}

/// Writes the weights, and texts beside them by their names. All are complete before the first takes the place of what was
/// there.
pub(super) fn write(
    directory: &Path,
    files: &[WeightsFile<'_>],
    texts: &[(&str, &[u8])],
) -> Result<()> {
    let refuse = |path: &Path, source: io::Error| match source.downcast::<Error>() {
        Ok(error) => error,
        Err(source) => Error::file(path)(source),
    };
    fs::create_dir_all(directory).map_err(|source| refuse(directory, source))?;
    let mut staged = Vec::new();
    for (name, header, contents) in files {
        let path = directory.join(name);
        let file = Staged::write(&path, |file| {
            let mut file = BufWriter::new(file);
            file.write_all(header)?;
            for content in contents {
                match content {
                    Content::Stored(stored) => stored.write(&mut file)?,
                    Content::Kept { file: from, info } => from.copy(info, &mut file)?,
                }
            }
            file.flush()
        });
        staged.push(file.map_err(|source| refuse(&path, source))?);
    }
    for (name, text) in texts {
        let path = directory.join(name);
        let file = Staged::write(&path, |file| file.write_all(text));
        staged.push(file.map_err(|source| refuse(&path, source))?);
    }
    let mut placed = staged.into_iter().map(Staged::place);
    placed.try_for_each(|placed| placed.map_err(|source| refuse(directory, source)))
}

/// The data of one tensor of a file.
pub(super) enum Content<'a> {
    Stored(Stored<'a>),
    /// What is to be kept of a file.
    Kept {
        file: &'a TensorsFile,
        info: &'a TensorInfo,
    },
}

impl Content<'_> {
    pub fn bytes(&self) -> usize {
        let (start, end) = self.info().data_offsets;
        end - start
    }

    fn info(&self) -> TensorInfo {
        match self {
            Content::Kept { info, .. } => (*info).clone(),
            Content::Stored(stored) => TensorInfo {
                dtype: stored.dtype,
                shape: stored.entry.shape_of(stored.part),
                data_offsets: (0, stored.bytes()),
            },
        }
    }
}

/// A configuration that says of its weights that they are of this type.
pub(super) fn retyped(json: &[u8], dtype: Dtype) -> Vec<u8> {
    let mut value: Value = serde_json::from_slice(json).expect("it has been parsed");
    let known = ["dtype", "torch_dtype"].map(|key| value.get(key).is_some().then_some(key));
    let known = known.into_iter().flatten().collect::<Vec<_>>();
    for key in if known.is_empty() {
        vec!["dtype"]
    } else {
        known
    } {
        value[key] = in_config(dtype);
    }
    serde_json::to_vec_pretty(&value).expect("keys are strings")
}

/// An index of so many bytes.
pub(super) fn resized(index: &[u8], bytes: usize) -> Vec<u8> {
    let mut value: Value = serde_json::from_slice(index).expect("it has been parsed");
    value["metadata"]["total_size"] = Value::from(bytes);
    serde_json::to_vec_pretty(&value).expect("keys are strings")
}

/// Some columns of a parameter, which lies in some tensors one behind the other.
pub(super) struct Stored<'a> {
    pub entry: &'a Entry,
    pub part: &'a Part,
    pub tensors: Vec<Tensor>,
    pub dtype: Dtype,
}

impl Stored<'_> {
    fn bytes(&self) -> usize {
        let elements: usize = self.entry.shape_of(self.part).iter().product();
        elements * number_size(self.dtype).expect("it is a type of numbers")
    }

    /// Errors of the device come wrapped.
    fn write(&self, file: &mut impl Write) -> io::Result<()> {
        let &Stored {
            entry,
            part,
            ref tensors,
            dtype,
        } = self;
        let mut write = |mut values: Vec<f32>| {
            if entry.offset != 0.0 {
                values.iter_mut().for_each(|value| *value -= entry.offset);
            }
            require_range(&entry.ours, dtype, &values)?;
            match dtype {
                Dtype::F16 => {
                    file.write_all(bytemuck::cast_slice(&Vec::<f16>::from_f32_slice(&values)))
                }
                Dtype::BF16 => {
                    file.write_all(bytemuck::cast_slice(&Vec::<bf16>::from_f32_slice(&values)))
                }
                _ => file.write_all(bytemuck::cast_slice(&values)),
            }
        };
        let [rows, columns] = entry.extents();
        let (first, width) = (part.columns.start, part.columns.len());
        // An even number, as parts of halves need it.
        let height = (PIECE / columns).max(1).next_multiple_of(2);
        // Reads the parameter from the device, some whole rows at a time.
        let read = |take: &mut dyn FnMut(usize, &[f32]) -> io::Result<()>| -> io::Result<()> {
            let mut top = 0;
            for tensor in tensors {
                let count = tensor.shape().elements();
                for start in (0..count).step_by(height * columns) {
                    let piece = tensor.part(start, [count.min(start + height * columns) - start]);
                    let piece = piece.to_floats().map_err(io::Error::other)?;
                    take(top, &piece)?;
                    top += piece.len() / columns;
                }
            }
            Ok(())
        };
        if !entry.is_transposed {
            return read(&mut |_, piece| {
                let mut values = Vec::with_capacity(piece.len());
                let rows = piece.chunks(columns);
                rows.for_each(|row| values.extend_from_slice(&row[first..first + width]));
                write(values)
            });
        }
        // What is a row of the file needs all rows of the parameter: so many are read for each strip of them.
        let at_once = (PIECE / rows).max(width.div_ceil(STRIPS));
        for column in (0..width).step_by(at_once) {
            let some = at_once.min(width - column);
            let mut turned = vec![0.0; some * rows];
            read(&mut |top, piece| {
                let size = [piece.len() / columns, some];
                let piece = &piece[first + column..];
                transpose(piece, columns, &mut turned[top..], rows, size);
                Ok(())
            })?;
            write(turned)?;
        }
        Ok(())
    }
}

/// Checks that a parameter's values can be rounded to the file's type. BF16 reaches as far as F32.
fn require_range(name: &str, dtype: Dtype, values: &[f32]) -> io::Result<()> {
    let fits = match dtype {
        Dtype::F16 => DType::F16.require_range(values),
        _ => Ok(()),
    };
    fits.map_err(|reason| io::Error::other(Error::parameter(name, reason)))
}
