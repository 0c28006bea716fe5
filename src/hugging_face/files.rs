//! The files of a model's directory.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::fields::Unique;
use crate::checkpoint::{TensorsFile, open_file};
use crate::error::{Error, Result};

pub(super) const CONFIG: &str = "config.json";
pub(super) const WEIGHTS: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";
pub(super) const ADAPTER: &str = "adapter_config.json";

/// No text of a directory is longer than this, in bytes.
const LONGEST: u64 = 100_000_000;

/// Whether there is such a file; also where a link leads to one that isn't there, as it does in a half-fetched copy: what cannot
/// be read must not pass for what nobody wanted.
pub(super) fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = open_file(path)?.take(LONGEST + 1).read_to_end(&mut bytes);
    read.map_err(Error::file(path))?;
    match bytes.len() as u64 > LONGEST {
        true => Err(Error::checkpoint(
            path,
            "it has more than 100 MB: that is something else",
        )),
        false => Ok(bytes),
    }
}

/// `model.safetensors.index.json`.
pub(super) struct Index {
    pub json: Vec<u8>,
    /// The file of each tensor.
    files: BTreeMap<String, String>,
}

impl Index {
    /// That of a directory, if it has several files of weights; where there are none, what there is instead says what to do.
    pub fn find(directory: &Path) -> Result<Option<Index>> {
        let has = |name: &str| is_there(&directory.join(name));
        if has(WEIGHTS) || !has(INDEX) {
            let other = "pytorch_model.bin";
            if !has(WEIGHTS) && (has(other) || has("pytorch_model.bin.index.json")) {
                let reason = format!(
                    "there is a {other}, but no {WEIGHTS}: the weights are in PyTorch's own format: save the model with \
                     transformers once more"
                );
                return Err(Error::checkpoint(directory, reason));
            }
            return Ok(None);
        }
        let path = directory.join(INDEX);
        let json = read(&path)?;
        let files = Index::parse(&json).map_err(|reason| Error::checkpoint(&path, reason))?;
        let index = Index { json, files };
        match index.names().into_iter().find(|name| !has(name)) {
            None => Ok(Some(index)),
            Some(missing) => {
                let reason = format!("it names {missing}, which is not there: get that file, too");
                Err(Error::checkpoint(path, reason))
            }
        }
    }

    /// The files of weights.
    pub fn names(&self) -> BTreeSet<String> {
        self.files.values().cloned().collect()
    }

    fn parse(json: &[u8]) -> Result<BTreeMap<String, String>, String> {
        #[derive(Deserialize)]
        struct File {
            weight_map: Unique<String>,
        }
        let file: File = serde_json::from_slice(json)
            .map_err(|error| format!("it is no index of weights: {error}"))?;
        let weight_map = file.weight_map.0;
        if weight_map.is_empty() {
            return Err("its weight_map is empty".to_owned());
        }
        // A name leads to this directory and nowhere else.
        let is_plain = |name: &str| Path::new(name).file_name().is_some_and(|own| own == name);
        match weight_map.values().find(|name| !is_plain(name)) {
            Some(name) => Err(format!(
                "its weight_map names `{name}`, which is no file's name"
            )),
            None => Ok(weight_map),
        }
    }

    /// Checks that the files hold what the index says, each tensor once.
    pub fn check(&self, directory: &Path, files: &[(String, TensorsFile)]) -> Result<()> {
        let refuse = |reason: String| Err(refuse(directory.join(INDEX))(reason));
        for (name, file) in files {
            for tensor in file.metadata.offset_keys() {
                match self.files.get(&tensor) {
                    Some(listed) if listed == name => (),
                    Some(listed) => {
                        return refuse(format!(
                            "tensor `{tensor}` is in {name}, the index says {listed}"
                        ));
                    }
                    None => {
                        return refuse(format!("tensor `{tensor}` of {name} is not in the index"));
                    }
                }
            }
        }
        let is_there = |(tensor, name): &(&String, &String)| {
            let mut files = files.iter().filter(|(other, _)| other == *name);
            files.any(|(_, file)| file.metadata.info(tensor).is_some())
        };
        match self.files.iter().find(|entry| !is_there(entry)) {
            None => Ok(()),
            Some((tensor, name)) => refuse(format!("tensor `{tensor}` is not in {name}")),
        }
    }
}

/// What is wrong with one of a directory's files.
pub(super) fn refuse(path: PathBuf) -> impl FnOnce(String) -> Error {
    |reason| Error::Checkpoint { path, reason }
}
