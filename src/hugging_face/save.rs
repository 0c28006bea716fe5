//! Writing directories.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use half::{bf16, f16};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use super::config::Gpt2Config;
use super::files::{CONFIG, WEIGHTS};
use super::weights::{Content, PREFIX, entries};
use crate::checkpoint::replace_with;
use crate::error::{Error, Result};
use crate::gpu::DType;
use crate::nn::{GptConfig, Parameters};

/// Numbers that are read back from the device at a time.
const PIECE: usize = 1 << 20;

/// Saves a model of this crate as a GPT-2 of the `transformers` library: `config.json` and `model.safetensors` in a
/// directory, which is made if there is none. `GPT2LMHeadModel.from_pretrained` reads it.
///
/// The model must be what GPT-2 is: layer norms, learned positions, biases but for the head, and no SwiGLU.
///
/// ```
/// # fn main() -> shadegrad::Result<()> {
/// use shadegrad::Device;
/// use shadegrad::hugging_face::{self, Gpt2Files};
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
/// let files = Gpt2Files::open(&directory)?;
/// assert_eq!((files.config().d_ff, files.end_of_text()), (85, Some(0)));
/// # std::fs::remove_dir_all(directory).unwrap();
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// [`Error::InvalidArgument`] if GPT-2 has no such thing, [`Error::Parameter`] if the parameters are another model's,
/// [`Error::File`], [`Error::DeviceLost`], [`Error::Readback`].
pub fn export(
    directory: impl AsRef<Path>,
    config: &GptConfig,
    parameters: &Parameters,
    end_of_text: Option<u32>,
) -> Result<()> {
    let theirs = Gpt2Config::of(config, end_of_text).map_err(|lacks| Error::InvalidArgument {
        name: "the model's configuration".to_owned(),
        value: lacks.clone(),
        expected: format!("a GPT-2, which has {lacks}"),
    })?;
    let mut entries = entries(config);
    let (dtype, size) = match parameters.dtype() {
        DType::F16 => (Dtype::F16, 2),
        _ => (Dtype::F32, 4),
    };
    // The order in which safetensors writes tensors of one type.
    entries.sort_by_key(|entry| entry.name(PREFIX));
    let mut end = 0;
    let mut infos = Vec::new();
    for entry in &entries {
        let start = end;
        end += size * entry.elements();
        let info = TensorInfo {
            dtype,
            shape: entry.shape.clone(),
            data_offsets: (start, end),
        };
        infos.push((entry.name(PREFIX), info));
    }
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(format), infos).expect("the offsets fit the shapes");
    let mut header = serde_json::to_vec(&metadata).expect("names are strings");
    header.resize(header.len().next_multiple_of(8), b' ');
    header.splice(..0, (header.len() as u64).to_le_bytes());
    let parts = entries.iter().map(|entry| entry.parts(parameters));
    let parts = parts.collect::<Result<Vec<_>>>()?;
    let contents: Vec<Content<'_>> = entries
        .iter()
        .zip(&parts)
        .map(|(entry, parts)| Content::Parameter {
            name: &entry.ours,
            parts,
            dtype,
            rows_of_transposed: entry.is_transposed.then(|| entry.shape[1]),
        })
        .collect();
    let json = serde_json::to_vec_pretty(&theirs).expect("keys are strings");
    write(directory.as_ref(), &json, &header, &contents)
}

/// Writes both files.
pub(super) fn write(
    directory: &Path,
    json: &[u8],
    header: &[u8],
    contents: &[Content<'_>],
) -> Result<()> {
    let refuse = |path: &Path, source: io::Error| match source.downcast::<Error>() {
        Ok(error) => error,
        Err(source) => Error::File {
            path: path.to_owned(),
            source,
        },
    };
    fs::create_dir_all(directory).map_err(|source| refuse(directory, source))?;
    let path = directory.join(WEIGHTS);
    replace_with(&path, |file| {
        let mut file = BufWriter::new(file);
        file.write_all(header)?;
        for content in contents {
            content.write(&mut file)?;
        }
        file.flush()
    })
    .map_err(|source| refuse(&path, source))?;
    let path = directory.join(CONFIG);
    replace_with(&path, |file| file.write_all(json)).map_err(|source| refuse(&path, source))
}

impl Content<'_> {
    /// Errors of the device come wrapped.
    fn write(&self, file: &mut BufWriter<&mut File>) -> io::Result<()> {
        match self {
            Content::Kept { file: from, info } => from.copy(info, file),
            &Content::Parameter {
                name,
                parts,
                dtype,
                rows_of_transposed: Some(rows),
            } => {
                let mut values = Vec::new();
                for part in parts {
                    values.extend(part.to_floats().map_err(io::Error::other)?);
                }
                require_range(name, dtype, &values)?;
                let columns = values.len() / rows;
                let transposed = (0..values.len()).map(|i| values[i % rows * columns + i / rows]);
                write_numbers(file, dtype, transposed)
            }
            &Content::Parameter {
                name, parts, dtype, ..
            } => {
                for part in parts {
                    let count = part.shape().elements();
                    for start in (0..count).step_by(PIECE) {
                        let piece = part.part(start, [count.min(start + PIECE) - start]);
                        let values = piece.to_floats().map_err(io::Error::other)?;
                        require_range(name, dtype, &values)?;
                        write_numbers(file, dtype, values.into_iter())?;
                    }
                }
                Ok(())
            }
        }
    }
}

/// Checks that a parameter's values can be rounded to the file's type. BF16 reaches as far as F32.
fn require_range(name: &str, dtype: Dtype, values: &[f32]) -> io::Result<()> {
    let fits = match dtype {
        Dtype::F16 => DType::F16.require_range(values),
        _ => Ok(()),
    };
    fits.map_err(|reason| {
        io::Error::other(Error::Parameter {
            name: name.to_owned(),
            reason,
        })
    })
}

fn write_numbers(
    file: &mut impl Write,
    dtype: Dtype,
    mut values: impl Iterator<Item = f32>,
) -> io::Result<()> {
    match dtype {
        Dtype::F16 => {
            values.try_for_each(|value| file.write_all(&f16::from_f32(value).to_le_bytes()))
        }
        Dtype::BF16 => {
            values.try_for_each(|value| file.write_all(&bf16::from_f32(value).to_le_bytes()))
        }
        _ => values.try_for_each(|value| file.write_all(&value.to_le_bytes())),
    }
}
