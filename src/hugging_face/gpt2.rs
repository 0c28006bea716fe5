//! A GPT-2's directory, opened.

use std::path::Path;

use super::config::{Gpt2Config, TokenIds};
use super::files::{CONFIG, find_weights, read};
use super::save;
use super::weights::{Entry, Weights, entries};
use crate::checkpoint::PIECE;
use crate::error::{Error, Result};
use crate::gpu::{DType, Device, Tensor};
use crate::nn::{Gpt, GptConfig, ParameterBuilder, Parameters};

/// Numbers that wgpu may keep on the host until they have arrived.
const MOST_UNDER_WAY: usize = 1 << 23;

/// An opened directory that holds a GPT-2: see the [module documentation](super).
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
        self.load_as(DType::F32, device)
    }

    /// [`Gpt2Files::load`] with the parameters [stored as `dtype`](ParameterBuilder::with_dtype), whatever the file has:
    /// `F16` to generate text in half of the memory.
    ///
    /// # Errors
    ///
    /// As [`Gpt2Files::load`]; [`Error::Checkpoint`] if a number is too large for that type.
    ///
    /// # Panics
    ///
    /// If it is `U32`.
    #[track_caller]
    pub fn load_as(&self, dtype: DType, device: &Device) -> Result<(Gpt, Parameters)> {
        self.load_model(&self.config, dtype, device)
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
        self.load_model(&config, DType::F32, device)
    }

    #[track_caller]
    fn load_model(
        &self,
        config: &GptConfig,
        dtype: DType,
        device: &Device,
    ) -> Result<(Gpt, Parameters)> {
        let limit = ParameterBuilder::parameter_limit_of(device);
        let builder = ParameterBuilder::new(0).with_parameter_limit(limit);
        let mut builder = builder.with_dtype(dtype);
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
        let (device, dtype) = (parameters.device(), parameters.dtype());
        let mut under_way = 0;
        for (entry, parts) in self.places(parameters)? {
            let values = |range| self.weights.values(entry, range, dtype);
            let whole = match entry.is_transposed {
                true => Some(entry.transposed(&values(0..entry.elements())?)),
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
                        Some(whole) => part.write_floats(&whole[range])?,
                        None => part.write_floats(&values(range)?)?,
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
    /// [`Error::File`] if something cannot be written, [`Error::Parameter`] if the parameters are another model's, or too
    /// large for the file's type; [`Error::DeviceLost`], [`Error::Readback`]; [`Error::Checkpoint`] if the opened file has been changed meanwhile.
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
