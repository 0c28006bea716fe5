//! GPT-2 from and to the directories of Hugging Face's `transformers` library.
//!
//! Such a directory holds `config.json`, the weights in `model.safetensors`, and the tokenizer. [`Gpt2Files`] opens one,
//! of any size of GPT-2, and finds out what does not fit before anything is loaded; then the weights go from the file to
//! the device, a piece at a time. Saved back, they have the same names, order and element types, so that
//! `GPT2LMHeadModel.from_pretrained` reads them, and weights that have not changed give the same bytes. [`export`] saves
//! a model that was made here.
//!
//! ```no_run
//! # fn main() -> shadegrad::Result<()> {
//! use shadegrad::Device;
//! use shadegrad::hugging_face::Gpt2Files;
//! use shadegrad::sampling::{Sampler, SamplingConfig};
//!
//! let files = Gpt2Files::open("models/gpt2")?;
//! let (gpt, parameters) = files.load(&Device::new()?)?;
//! let mut sampler = Sampler::new(SamplingConfig::default(), 42)?;
//! let tokens = gpt.generate(&[15496, 11, 995], 20, &mut sampler, files.stop_tokens().iter().copied())?;
//! files.save("models/tuned", &parameters)?; // … after training
//! # Ok(())
//! # }
//! ```
//!
//! With the feature `tokenizers`, `Tokenizer` turns text into tokens as the directory says.

mod config;
mod save;
#[cfg(feature = "tokenizers")]
mod tokenizer;
mod weights;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::gpu::{Device, Tensor};
use crate::nn::{Gpt, GptConfig, ParameterBuilder, Parameters};

pub use save::export;
#[cfg(feature = "tokenizers")]
pub use tokenizer::Tokenizer;

use config::{Gpt2Config, TokenIds};
use weights::{Entry, PIECE, Weights, entries};

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";

/// Numbers that wgpu may keep on the host until they have arrived.
const MOST_UNDER_WAY: usize = 1 << 23;

/// An opened directory that holds a GPT-2: see the [module documentation](self).
#[derive(Debug)]
pub struct Gpt2Files {
    /// `config.json` as it is, and as it is to be.
    json: Vec<u8>,
    config: GptConfig,
    stop_tokens: Vec<u32>,
    weights: Weights,
    entries: Vec<Entry>,
}

impl Gpt2Files {
    /// Reads `config.json` and the header of `model.safetensors`, and checks that they fit together. Replacing the file
    /// of weights by another one does no harm to what was opened; if it is changed in place, loading and saving fail.
    ///
    /// A stored `lm_head.weight` with other values than the token table is the model's own head, also where
    /// `tie_word_embeddings` says or means that there is none. [`Gpt2Files::save`] then says `false` there, so that it is
    /// nowhere overwritten by the table.
    ///
    /// Weights may be F32, F16 or BF16, their names with or without `transformer.` in front.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if one cannot be read, [`Error::Checkpoint`], with the file, if one is damaged, describes another
    /// model than GPT-2, or has tensors that are missing, of another shape, or not of the model.
    pub fn open(directory: impl AsRef<Path>) -> Result<Gpt2Files> {
        let directory = directory.as_ref();
        let path = directory.join(CONFIG);
        let mut json = read(&path)?;
        let parsed = Gpt2Config::parse(&json).and_then(|parsed| {
            let config = parsed.gpt()?;
            Ok((config, parsed.eos_token_id))
        });
        let (mut config, stop) = parsed.map_err(|reason| Error::Checkpoint { path, reason })?;
        let weights = Weights::open(&find_weights(directory)?)?;
        if config.tie_weights && weights.has_own_head()? {
            config.tie_weights = false;
            json = Gpt2Config::untied(&json);
        }
        let entries = entries(&config);
        weights.check(&entries, &config)?;
        Ok(Gpt2Files {
            json,
            config,
            stop_tokens: stop.map_or(Vec::new(), TokenIds::into_vec),
            weights,
            entries,
        })
    }

    /// What the model is made of. Its dropouts are what training applies; inference does not change with them.
    pub fn config(&self) -> &GptConfig {
        &self.config
    }

    /// The token that ends texts, `eos_token_id` of the configuration; the first if there are several.
    pub fn end_of_text(&self) -> Option<u32> {
        self.stop_tokens.first().copied()
    }

    /// All tokens that end texts, for [`Gpt::generate`].
    pub fn stop_tokens(&self) -> &[u32] {
        &self.stop_tokens
    }

    /// Makes the model and loads its weights. They go from the file to the device in pieces; the host holds no
    /// copy, but of a head of its own, which is transposed. A token table larger than the adapter lets a kernel bind is split into parts.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`] if a parameter is larger than the adapter lets a kernel bind, [`Error::OutOfMemory`],
    /// [`Error::DeviceLost`]. [`Error::Checkpoint`] if a weight is NaN or infinite, or the file has been changed since it
    /// was opened; [`Error::File`] if it cannot be read.
    pub fn load(&self, device: &Device) -> Result<(Gpt, Parameters)> {
        self.load_as(&self.config, device)
    }

    /// [`Gpt2Files::load`] with this share of dropout everywhere, for training, instead of the configuration's.
    ///
    /// # Errors
    ///
    /// As [`Gpt2Files::load`]; [`Error::InvalidArgument`] if it is not a share.
    pub fn load_with_dropout(&self, dropout: f32, device: &Device) -> Result<(Gpt, Parameters)> {
        let config = GptConfig {
            dropout,
            embedding_dropout: None,
            attention_dropout: None,
            ..self.config.clone()
        };
        self.load_as(&config, device)
    }

    fn load_as(&self, config: &GptConfig, device: &Device) -> Result<(Gpt, Parameters)> {
        let limit = ParameterBuilder::parameter_limit_of(device);
        let mut builder = ParameterBuilder::new(0).with_parameter_limit(limit);
        let gpt = Gpt::new(config, &mut builder)?;
        let parameters = builder.build_zeroed(device)?;
        self.restore(&parameters)?;
        Ok((gpt, parameters))
    }

    /// Puts the file's weights into the parameters of a model of the same configuration.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] if the model has other parameters, [`Error::DeviceLost`]; [`Error::Checkpoint`] and
    /// [`Error::File`] as for [`Gpt2Files::load`].
    pub fn restore(&self, parameters: &Parameters) -> Result<()> {
        let device = parameters.device();
        let mut under_way = 0;
        for (entry, parts) in self.places(parameters)? {
            let whole = match entry.is_transposed {
                true => Some(entry.transposed(&self.weights.values(entry, 0..entry.elements())?)),
                false => None,
            };
            let mut first = 0;
            for tensor in parts {
                let count = tensor.shape().elements();
                for start in (0..count).step_by(PIECE) {
                    let end = count.min(start + PIECE);
                    let range = first + start..first + end;
                    let part = tensor.part(start, [end - start]);
                    match &whole {
                        Some(whole) => part.write(&whole[range])?,
                        None => part.write(&self.weights.values(entry, range)?)?,
                    }
                    under_way += end - start;
                    if under_way >= MOST_UNDER_WAY {
                        device.flush()?;
                        under_way = 0;
                    }
                }
                first += count;
            }
        }
        device.flush()
    }

    /// Saves a model of this configuration into a directory, which is made if there is none: `config.json` as it was,
    /// but for a [head of its own](Gpt2Files::open), and the parameters' values in a `model.safetensors` of the same layout. It may be the directory that was opened.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if something cannot be written, [`Error::Parameter`] if the parameters are another model's,
    /// [`Error::DeviceLost`], [`Error::Readback`]; [`Error::Checkpoint`] if the opened file has been changed meanwhile.
    pub fn save(&self, directory: impl AsRef<Path>, parameters: &Parameters) -> Result<()> {
        let places = self.places(parameters)?;
        let (header, contents) = self.weights.layout(&places);
        save::write(directory.as_ref(), &self.json, header, &contents)
    }

    fn places(&self, parameters: &Parameters) -> Result<Vec<(&Entry, Vec<Tensor>)>> {
        let entries = self.entries.iter();
        entries
            .map(|entry| Ok((entry, entry.parts(parameters)?)))
            .collect()
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = open_file(path)?.read_to_end(&mut bytes);
    read.map_err(|source| access(path, source))?;
    Ok(bytes)
}

/// Opens what is a file: a pipe would wait for somebody to write.
fn open_file(path: &Path) -> Result<File> {
    let found = fs::metadata(path).map_err(|source| access(path, source))?;
    if !found.is_file() {
        let source = io::Error::other("it is not a file");
        return Err(access(path, source));
    }
    File::open(path).map_err(|source| access(path, source))
}

fn access(path: &Path, source: io::Error) -> Error {
    let path = path.to_owned();
    Error::File { path, source }
}

/// The file of weights; where there is none, what there is instead says what to do.
fn find_weights(directory: &Path) -> Result<PathBuf> {
    let path = directory.join(WEIGHTS);
    let others = [
        (
            "model.safetensors.index.json",
            "the weights are spread over several files: save the model with a larger max_shard_size",
        ),
        (
            "pytorch_model.bin",
            "the weights are in PyTorch's own format: save the model with transformers once more",
        ),
    ];
    let found = others
        .into_iter()
        .find(|(name, _)| !path.exists() && directory.join(name).exists());
    match found {
        None => Ok(path),
        Some((name, remedy)) => Err(Error::Checkpoint {
            path: directory.to_owned(),
            reason: format!("there is a {name}, but no {WEIGHTS}: {remedy}"),
        }),
    }
}
