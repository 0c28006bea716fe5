//! `model.safetensors`: which tensor belongs to which parameter, and its values from the mapped file.

use std::borrow::Cow;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use super::CONFIG;
use super::save::Content;
use crate::checkpoint::what_is_wrong;
use crate::error::{Error, Result};
use crate::gpu::Tensor;
use crate::nn::{GptConfig, Parameters};

/// What the names of all tensors but the head begin with, unless the file holds the bare transformer.
pub(super) const PREFIX: &str = "transformer.";

/// The output head's name, which has no prefix. Files leave it out if it is tied to the token table.
pub(super) const HEAD: &str = "lm_head.weight";

/// The token table's name.
pub(super) const TABLE: &str = "wte.weight";

/// A parameter of the model, and what the library calls it.
#[derive(Debug)]
pub(super) struct Entry {
    ours: String,
    /// Without the prefix.
    pub theirs: String,
    /// In the file.
    pub shape: Vec<usize>,
    /// Whether the file holds the transposed matrix.
    pub is_transposed: bool,
}

/// All parameters of a model. Linear layers are `[inputs, outputs]` on both sides, but for the head.
pub(super) fn entries(config: &GptConfig) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut add = |ours: String, theirs: String, shape: &[usize]| {
        entries.push(Entry {
            ours,
            theirs,
            shape: shape.to_vec(),
            is_transposed: false,
        });
    };
    let (d, hidden) = (config.d_model, config.d_ff);
    add(
        "token_embedding.weight".to_owned(),
        TABLE.to_owned(),
        &[config.vocab_size, d],
    );
    add(
        "position_embedding.weight".to_owned(),
        "wpe.weight".to_owned(),
        &[config.context, d],
    );
    let norm = |n: usize| (vec![n], n);
    let linear = |inputs: usize, outputs: usize| (vec![inputs, outputs], outputs);
    let layers = [
        ("norm1", "ln_1", norm(d)),
        ("attention.qkv", "attn.c_attn", linear(d, 3 * d)),
        ("attention.out", "attn.c_proj", linear(d, d)),
        ("norm2", "ln_2", norm(d)),
        ("ffn.up", "mlp.c_fc", linear(d, hidden)),
        ("ffn.down", "mlp.c_proj", linear(hidden, d)),
    ];
    let mut add_layer = |ours: String, theirs: String, (weight, bias): &(Vec<usize>, usize)| {
        add(format!("{ours}.weight"), format!("{theirs}.weight"), weight);
        add(format!("{ours}.bias"), format!("{theirs}.bias"), &[*bias]);
    };
    for i in 0..config.n_layers {
        for (ours, theirs, shapes) in &layers {
            add_layer(
                format!("blocks.{i}.{ours}"),
                format!("h.{i}.{theirs}"),
                shapes,
            );
        }
    }
    add_layer("norm".to_owned(), "ln_f".to_owned(), &norm(d));
    if !config.tie_weights {
        entries.push(Entry {
            ours: "head.weight".to_owned(),
            theirs: HEAD.to_owned(),
            shape: vec![config.vocab_size, d],
            is_transposed: true,
        });
    }
    entries
}

impl Entry {
    /// The name in a file.
    pub fn name(&self, prefix: &str) -> String {
        match self.theirs.as_str() {
            HEAD => HEAD.to_owned(),
            theirs => format!("{prefix}{theirs}"),
        }
    }

    /// The tensors that hold the parameter, one behind the other.
    pub fn parts(&self, parameters: &Parameters) -> Result<Vec<Tensor>> {
        let whole = parameters.get(&self.ours);
        let parts = match whole {
            Some(whole) => vec![whole.tensor().clone()],
            None => (0..)
                .map_while(|part| parameters.get(&format!("{}.{part}", self.ours)))
                .map(|part| part.tensor().clone())
                .collect(),
        };
        let found: usize = parts.iter().map(|part| part.shape().elements()).sum();
        let needed: usize = self.shape.iter().product();
        if found != needed {
            return Err(Error::Parameter {
                name: self.ours.clone(),
                reason: format!(
                    "the model has {found} numbers there, the GPT-2 of the configuration {needed}"
                ),
            });
        }
        Ok(parts)
    }
}

/// The mapped file.
#[derive(Debug)]
pub(super) struct Weights {
    path: PathBuf,
    map: Mmap,
    /// Where the tensors' data begins.
    start: usize,
    metadata: Metadata,
    prefix: &'static str,
}

impl Weights {
    /// Maps a file and reads its header.
    pub fn open(path: &Path) -> Result<Weights> {
        let open = || {
            let file = File::open(path)?;
            // SAFETY: nobody may change the file while it is mapped, as the documentation of `Gpt2Files::open` says.
            // This crate replaces files and never writes into one that exists.
            unsafe { Mmap::map(&file) }
        };
        let map = open().map_err(|source| Error::File {
            path: path.to_owned(),
            source,
        })?;
        let read = SafeTensors::read_metadata(&map);
        let (length, metadata) = read.map_err(|error| Error::Checkpoint {
            path: path.to_owned(),
            reason: what_is_wrong(&map, &error),
        })?;
        let is_bare = metadata.info(&format!("{PREFIX}{TABLE}")).is_none();
        Ok(Weights {
            path: path.to_owned(),
            map,
            start: 8 + length,
            prefix: if is_bare { "" } else { PREFIX },
            metadata,
        })
    }

    /// Checks that every parameter is there in the right shape, and nothing else that would matter.
    pub fn check(&self, entries: &[Entry], config: &GptConfig) -> Result<()> {
        let refuse = |reason: String| {
            Err(Error::Checkpoint {
                path: self.path.clone(),
                reason,
            })
        };
        for name in self.metadata.offset_keys() {
            let info = self.metadata.info(&name).expect("it is one of the names");
            let Some(owner) = self.owner(&name, entries.iter()) else {
                if self.is_constant(&name) {
                    continue;
                }
                return refuse(format!(
                    "tensor `{name}` belongs to no part of the model of {CONFIG}, which has {} layers",
                    config.n_layers
                ));
            };
            if info.shape != owner.shape {
                return refuse(format!(
                    "tensor `{name}` has shape {:?}, the model of {CONFIG} needs {:?}",
                    info.shape, owner.shape
                ));
            }
            if !matches!(info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
                return refuse(format!(
                    "tensor `{name}` has type {}, expected one of F32, F16, BF16",
                    info.dtype
                ));
            }
        }
        let mut names = entries.iter().map(|entry| entry.name(self.prefix));
        match names.find(|name| self.metadata.info(name).is_none()) {
            None => Ok(()),
            Some(name) => refuse(format!(
                "tensor `{name}`, which the model of {CONFIG} needs, is missing"
            )),
        }
    }

    /// Whether the tensor is one of the causal masks that old versions of the library saved.
    fn is_constant(&self, name: &str) -> bool {
        let name = name.strip_prefix(self.prefix).unwrap_or(name);
        name.starts_with("h.") && (name.ends_with(".attn.bias") || name.ends_with(".masked_bias"))
    }

    /// Whose values a tensor of the file holds. A head that is saved although it is tied is the token table.
    fn owner<'a>(
        &self,
        name: &str,
        entries: impl Iterator<Item = &'a Entry> + Clone,
    ) -> Option<&'a Entry> {
        let named = |theirs: &str| entries.clone().find(|entry| entry.theirs == theirs);
        match name {
            HEAD => named(HEAD).or_else(|| named(TABLE)),
            _ => named(name.strip_prefix(self.prefix)?),
        }
    }

    /// A parameter's numbers, of which `range` is wanted, straight from the file where possible.
    pub fn values(&self, entry: &Entry, range: Range<usize>) -> Cow<'_, [f32]> {
        let name = entry.name(self.prefix);
        let info = self.metadata.info(&name).expect("it has been checked");
        let bytes = self.bytes(info);
        if entry.is_transposed {
            let (rows, columns) = (info.shape[0], info.shape[1]);
            let from = range.map(|index| index % rows * columns + index / rows);
            return from.map(|index| number(bytes, info.dtype, index)).collect();
        }
        if info.dtype == Dtype::F32 {
            let wanted = &bytes[4 * range.start..4 * range.end];
            if let Ok(values) = bytemuck::try_cast_slice(wanted) {
                return Cow::Borrowed(values);
            }
        }
        range
            .map(|index| number(bytes, info.dtype, index))
            .collect()
    }

    fn bytes(&self, info: &TensorInfo) -> &[u8] {
        let (from, to) = info.data_offsets;
        &self.map[self.start + from..self.start + to]
    }

    /// What a file of the same layout is made of: everything before the tensors' data, and that data, the parameters'
    /// now in `places`.
    pub fn layout<'a>(
        &'a self,
        places: &'a [(&'a Entry, Vec<Tensor>)],
    ) -> (&'a [u8], Vec<Content<'a>>) {
        let names = self.metadata.offset_keys();
        let infos = names
            .iter()
            .filter_map(|name| Some((name, self.metadata.info(name)?)));
        let contents = infos.map(|(name, info)| {
            let owner = self.owner(name, places.iter().map(|(entry, _)| *entry));
            let owned = places
                .iter()
                .find(|(entry, _)| owner.is_some_and(|owner| owner.theirs == entry.theirs));
            match owned {
                Some((entry, parts)) => Content::Parameter {
                    parts,
                    dtype: info.dtype,
                    rows_of_transposed: entry.is_transposed.then(|| info.shape[1]),
                },
                None => Content::Bytes(self.bytes(info)),
            }
        });
        (&self.map[..self.start], contents.collect())
    }
}

/// Element `index` of a tensor.
fn number(bytes: &[u8], dtype: Dtype, index: usize) -> f32 {
    match dtype {
        Dtype::F16 => f16::from_le_bytes(bytes.as_chunks().0[index]).to_f32(),
        Dtype::BF16 => bf16::from_le_bytes(bytes.as_chunks().0[index]).to_f32(),
        _ => f32::from_le_bytes(bytes.as_chunks().0[index]),
    }
}
