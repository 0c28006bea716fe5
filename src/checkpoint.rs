//! Training state on disk, in the safetensors format.
//!
//! A checkpoint holds everything that a run needs to continue to the same bits: parameters as `param.<name>`, the
//! optimizer's moments as `<optimizer>.<moment>.<name>` (such as `adamw.m.head.weight`), and, as JSON under the key
//! `shadegrad` of the file's metadata, the [`Metadata`] and the optimizer's settings and step count. Random draws are
//! functions of seed and step, so these two are the whole random state.
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

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, SafeTensorError, TensorView};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::nn::{FlatTensors, Parameter, Parameters};
use crate::optim::Optimizer;
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
    /// Finished training steps.
    pub step: u64,
    /// The seed of everything random.
    pub seed: u64,
    /// Anything else that the program needs to continue: its settings, its best loss.
    pub extra: Value,
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
    /// By name: the shape, and where in `bytes` the values lie.
    tensors: BTreeMap<String, (Vec<usize>, Range<usize>)>,
}

/// Named values, as [`Parameters::load`] takes them.
type Values = Vec<(String, Shape, Vec<f32>)>;

/// Writes a checkpoint, waiting for the device. Whatever happens meanwhile, `path` holds either what it held before or
/// the whole new checkpoint.
///
/// Gradients [accumulated](Optimizer::accumulate) for an unfinished step are not part of it.
///
/// # Errors
///
/// [`Error::File`] if it cannot be written, [`Error::DeviceLost`], [`Error::Readback`].
pub fn save(
    path: impl AsRef<Path>,
    parameters: &Parameters,
    optimizer: Option<&dyn Optimizer>,
    metadata: &Metadata,
) -> Result<()> {
    let path = path.as_ref();
    let mut tensors: Values = Vec::new();
    let mut add = |prefix: &str, values: Values| {
        let named = values.into_iter();
        tensors.extend(named.map(|(name, shape, data)| (format!("{prefix}.{name}"), shape, data)));
    };
    add("param", parameters.to_host()?);
    for (prefix, moment) in moments(optimizer) {
        add(&prefix, parameters.read(moment)?);
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
    let refuse = |reason: String| Error::Checkpoint {
        path: path.to_owned(),
        reason,
    };
    let header = serde_json::to_string(&header).map_err(|error| refuse(error.to_string()))?;
    let views = tensors.iter().map(|(name, shape, data)| {
        let bytes = bytemuck::cast_slice(data);
        TensorView::new(Dtype::F32, shape.dims().to_vec(), bytes).map(|view| (name, view))
    });
    let bytes = views
        .collect::<Result<Vec<_>, SafeTensorError>>()
        .and_then(|views| {
            // One entry only: with several, the file's bytes would depend on a map's random order.
            let information = HashMap::from([(KEY.to_owned(), header)]);
            safetensors::serialize(views, Some(information))
        })
        .map_err(|error| refuse(error.to_string()))?;
    replace(path, &bytes).map_err(|source| Error::File {
        path: path.to_owned(),
        source,
    })
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

impl Checkpoint {
    /// Reads a checkpoint and checks that it is whole.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if it cannot be read, [`Error::Checkpoint`] if it is truncated, something else, or of another
    /// version.
    pub fn open(path: impl AsRef<Path>) -> Result<Checkpoint> {
        let path = path.as_ref();
        let read = || {
            let found = fs::metadata(path)?;
            // A pipe would wait for a writer, and a device may have no end.
            match found.is_file() {
                true => fs::read(path),
                false => Err(not_regular()),
            }
        };
        let bytes = read().map_err(|source| Error::File {
            path: path.to_owned(),
            source,
        })?;
        let refuse = |reason: String| Error::Checkpoint {
            path: path.to_owned(),
            reason,
        };
        let (header_bytes, information) = SafeTensors::read_metadata(&bytes)
            .map_err(|error| refuse(what_is_wrong(&bytes, bytes.len(), &error)))?;
        let header = information
            .metadata()
            .as_ref()
            .and_then(|entries| entries.get(KEY))
            .ok_or_else(|| {
                refuse(format!(
                    "it is a safetensors file, but no checkpoint of this crate: its metadata has no entry `{KEY}`"
                ))
            })?;
        let header = parse(header).map_err(refuse)?;
        let start = 8 + header_bytes;
        let mut tensors = BTreeMap::new();
        for (name, info) in information.tensors() {
            if info.dtype != Dtype::F32 {
                return Err(refuse(format!(
                    "tensor `{name}` has type {}, not F32",
                    info.dtype
                )));
            }
            let (from, to) = info.data_offsets;
            tensors.insert(name, (info.shape.clone(), start + from..start + to));
        }
        Ok(Checkpoint {
            metadata: header.metadata,
            optimizer: header.optimizer,
            path: path.to_owned(),
            bytes,
            tensors,
        })
    }

    /// Puts the saved state into a model's parameters and, for a run that is to continue, its optimizer. All or
    /// nothing: on error, nothing has been changed.
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`] if a tensor is missing, has another shape, or belongs to no parameter; or if an optimizer
    /// is to be restored and none, or one of another kind, was saved. [`Error::DeviceLost`].
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
        parameters.load(values)?;
        for (flat, values) in restored {
            parameters.write(flat, values)?;
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
            let (name, shape) = (parameter.name(), parameter.shape());
            let Some((dims, range)) = self.tensors.get(&format!("{prefix}.{name}")) else {
                return Err(self.refuse(format!(
                    "tensor `{prefix}.{name}`, which the model needs, is missing"
                )));
            };
            if dims != shape.dims() {
                return Err(self.refuse(format!(
                    "tensor `{prefix}.{name}` has shape {dims:?}, the model needs {shape}"
                )));
            }
            let data = bytemuck::pod_collect_to_vec(&self.bytes[range.clone()]);
            values.push((name.to_owned(), shape, data));
        }
        Ok(values)
    }

    fn refuse_unknown(&self, parameters: &Parameters) -> Result<()> {
        let mut saved = self.tensors.keys().filter_map(|n| n.strip_prefix("param."));
        match saved.find(|name| parameters.get(name).is_none()) {
            None => Ok(()),
            Some(name) => Err(self.refuse(format!(
                "tensor `param.{name}` belongs to no parameter of the model"
            ))),
        }
    }

    fn refuse(&self, reason: String) -> Error {
        Error::Checkpoint {
            path: self.path.clone(),
            reason,
        }
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

/// Why a file of so many bytes, of which `bytes` are the first, is no whole safetensors file, in words that say what to do
/// about it.
pub(crate) fn what_is_wrong(bytes: &[u8], size: usize, error: &SafeTensorError) -> String {
    // The file begins with the length of a JSON object that begins right after.
    let length = bytes
        .first_chunk::<8>()
        .map(|length| u64::from_le_bytes(*length));
    let looks_right = length.is_some_and(|length| length <= 100_000_000)
        && bytes.get(8).is_none_or(|&first| first == b'{');
    match error {
        _ if bytes.is_empty() => "it is empty".to_owned(),
        SafeTensorError::InvalidHeaderLength | SafeTensorError::MetadataIncompleteBuffer
            if looks_right =>
        {
            format!(
                "it is truncated or damaged ({size} bytes are not what its header announces); use an older one"
            )
        }
        _ => format!("it is not a safetensors file ({error})"),
    }
}

/// Checks that [`save`] will be able to write `path`, without touching a file that is there already. To be called
/// before a long training run, rather than finding out after it.
///
/// # Errors
///
/// [`Error::File`] with the system's reason.
pub fn check_writable(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let check = || -> io::Result<()> {
        let target = target(path)?;
        if target.exists() {
            // Opening for appending changes nothing.
            OpenOptions::new().append(true).open(&target)?;
        }
        let temporary = temporary(&target)?;
        create(&temporary, &target)?;
        fs::remove_file(&temporary)
    };
    check().map_err(|source| Error::File {
        path: path.to_owned(),
        source,
    })
}

fn not_regular() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")
}

/// The file to replace: links are followed, also to a file that is not there yet, and anything but a regular file is left
/// alone.
fn target(path: &Path) -> io::Result<PathBuf> {
    // `folder/` and `folder/.` have a file name, but are not the names of files.
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    if !path.as_os_str().as_encoded_bytes().ends_with(name) {
        return Err(not_regular());
    }
    let mut target = path.to_owned();
    // As many links as Linux follows.
    for _ in 0..40 {
        match fs::metadata(&target) {
            Ok(found) if found.is_file() => return fs::canonicalize(&target),
            Ok(_) => return Err(not_regular()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Err(_) => match fs::read_link(&target) {
                Ok(link) => target = target.with_file_name(link),
                Err(_) => break,
            },
        }
    }
    Ok(target)
}

/// A name in the same directory. Always the same one, so that killed runs do not litter.
fn temporary(target: &Path) -> io::Result<PathBuf> {
    let name = target
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it does not name a file"))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(".tmp");
    Ok(target.with_file_name(hidden))
}

/// Makes the file that is to take the place of `target`: whoever may not read that one may not read this one either.
fn create(temporary: &Path, target: &Path) -> io::Result<File> {
    // What a killed run has left may have other rights.
    match fs::remove_file(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = File::create_new(temporary)?;
    if let Ok(old) = fs::metadata(target) {
        // Not everybody may give files away.
        #[cfg(unix)]
        {
            use std::os::unix::fs::{MetadataExt, fchown};
            let _ = fchown(&file, Some(old.uid()), Some(old.gid()));
        }
        file.set_permissions(old.permissions())?;
    }
    Ok(file)
}

/// Replaces a file's contents as one step: written beside it, flushed to the disk, renamed over it.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_with(path, |file| file.write_all(bytes))
}

/// [`replace`] with contents that are written piece by piece.
pub(crate) fn replace_with(
    path: &Path,
    contents: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let target = target(path)?;
    let temporary = temporary(&target)?;
    let write = || {
        let mut file = create(&temporary, &target)?;
        contents(&mut file)?;
        file.sync_all()?;
        drop(file);
        fs::rename(&temporary, &target)
    };
    write().inspect_err(|_| {
        // The error that matters is the one that is being returned.
        let _ = fs::remove_file(&temporary);
    })?;
    // Makes the renaming itself last. Not every system can do this, and the file is whole either way.
    #[cfg(unix)]
    {
        let directory = target.parent().filter(|parent| *parent != Path::new(""));
        let directory = File::open(directory.unwrap_or(Path::new(".")));
        let _ = directory.and_then(|directory| directory.sync_all());
    }
    Ok(())
}
