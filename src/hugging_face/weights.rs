//! `model.safetensors`: which tensor belongs to which parameter, and its values.

use std::ops::Range;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorInfo};

use super::files::CONFIG;
use crate::checkpoint::{PIECE, TensorsFile, number_size};
use crate::error::{Error, Result};
use crate::gpu::{DType, Tensor};
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
    pub ours: String,
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
    /// How many numbers it has.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The file's numbers in the order of the model, if the file holds the transposed matrix.
    pub fn transposed(&self, values: &[f32]) -> Vec<f32> {
        let (rows, columns) = (self.shape[0], self.shape[1]);
        let from = (0..values.len()).map(|index| index % rows * columns + index / rows);
        from.map(|index| values[index]).collect()
    }

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
        let needed = self.elements();
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

/// The file, and what its names begin with.
#[derive(Debug)]
pub(super) struct Weights {
    file: TensorsFile,
    prefix: &'static str,
}

/// The data of one tensor of a file.
pub(super) enum Content<'a> {
    /// The values of a parameter, which lie in some tensors one behind the other.
    Parameter {
        name: &'a str,
        parts: &'a [Tensor],
        dtype: Dtype,
        /// If the file has the parameter transposed, its rows in the model.
        rows_of_transposed: Option<usize>,
    },
    /// What is to be kept of a file.
    Kept {
        file: &'a TensorsFile,
        info: &'a TensorInfo,
    },
}

impl Weights {
    /// Opens a file and reads its header.
    pub fn open(path: &Path) -> Result<Weights> {
        let file = TensorsFile::open(path)?;
        let is_bare = file.metadata.info(&format!("{PREFIX}{TABLE}")).is_none();
        let prefix = if is_bare { "" } else { PREFIX };
        Ok(Weights { file, prefix })
    }

    /// Whether the file holds an output head with other values than the token table.
    pub fn has_own_head(&self) -> Result<bool> {
        let table = self.file.metadata.info(&format!("{}{TABLE}", self.prefix));
        let (Some(head), Some(table)) = (self.file.metadata.info(HEAD), table) else {
            return Ok(false);
        };
        let known = |info: &TensorInfo| number_size(info.dtype).is_some();
        if head.shape != table.shape || !known(head) || !known(table) {
            return Ok(true);
        }
        let count: usize = head.shape.iter().product();
        for start in (0..count).step_by(PIECE) {
            let range = start..count.min(start + PIECE);
            let [head, table] = [head, table].map(|info| self.file.numbers(info, range.clone()));
            let differs = |(a, b): (&f32, &f32)| a != b && !(a.is_nan() && b.is_nan());
            if head?.iter().zip(&table?).any(differs) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Checks that every parameter is there in the right shape, and nothing else that would matter.
    pub fn check(&self, entries: &[Entry], config: &GptConfig) -> Result<()> {
        let refuse = |reason: String| Err(self.file.refuse(reason));
        for name in self.file.metadata.offset_keys() {
            let info = self
                .file
                .metadata
                .info(&name)
                .expect("it is one of the names");
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
            if number_size(info.dtype).is_none() {
                return refuse(format!(
                    "tensor `{name}` has type {}, expected one of F32, F16, BF16",
                    info.dtype
                ));
            }
        }
        let mut names = entries.iter().map(|entry| entry.name(self.prefix));
        match names.find(|name| self.file.metadata.info(name).is_none()) {
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

    /// A parameter's numbers as the file holds them, of which `range` is wanted, to be rounded to a type.
    pub fn values(&self, entry: &Entry, range: Range<usize>, dtype: DType) -> Result<Vec<f32>> {
        let name = entry.name(self.prefix);
        let info = self.file.metadata.info(&name).expect("it has been checked");
        let first = range.start;
        let values = self.file.numbers(info, range)?;
        let fits = dtype.require_range(&values);
        fits.map_err(|reason| self.file.refuse(format!("tensor `{name}`: {reason}")))?;
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(values),
            Some(at) => Err(self.file.refuse(format!(
                "tensor `{name}` holds {} at element {}: the model is damaged or its training has diverged; use an \
                 older copy",
                values[at],
                first + at
            ))),
        }
    }

    /// What a file of the same layout is made of: everything before the tensors' data, and that data, the parameters'
    /// now in `places`.
    pub fn layout<'a>(
        &'a self,
        places: &'a [(&'a Entry, Vec<Tensor>)],
    ) -> (&'a [u8], Vec<Content<'a>>) {
        let names = self.file.metadata.offset_keys();
        let infos = names
            .iter()
            .filter_map(|name| Some((name, self.file.metadata.info(name)?)));
        let contents = infos.map(|(name, info)| {
            let owner = self.owner(name, places.iter().map(|(entry, _)| *entry));
            let owned = places
                .iter()
                .find(|(entry, _)| owner.is_some_and(|owner| owner.theirs == entry.theirs));
            match owned {
                Some((entry, parts)) => Content::Parameter {
                    name: &entry.ours,
                    parts,
                    dtype: info.dtype,
                    rows_of_transposed: entry.is_transposed.then(|| info.shape[1]),
                },
                None => Content::Kept {
                    file: &self.file,
                    info,
                },
            }
        });
        (&self.file.header, contents.collect())
    }
}
