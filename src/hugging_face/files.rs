//! The files of a model's directory.

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::checkpoint::open_file;
use crate::error::{Error, Result};

pub(super) const CONFIG: &str = "config.json";
pub(super) const WEIGHTS: &str = "model.safetensors";

pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = open_file(path)?.read_to_end(&mut bytes);
    read.map_err(|source| Error::File {
        path: path.to_owned(),
        source,
    })?;
    Ok(bytes)
}

/// The file of weights; where there is none, what there is instead says what to do.
pub(super) fn find_weights(directory: &Path) -> Result<PathBuf> {
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
