//! Files that models and adapters are saved in: looked at before the work, and what is kept of the model they came from.

use std::fs;
use std::path::{Path, PathBuf};

use shadegrad::Error;

use super::FILES;
use crate::common::Result;
use crate::common::outputs::{self, Mode, Output};

/// Those of [`FILES`] that the model itself is; a tuned one keeps the others.
const MODEL: [&str; 2] = ["config.json", "model.safetensors"];

/// The files of adapters, with what they are called in messages.
pub const ADAPTER: [(&str, &str); 2] = [
    ("the adapter_config.json", "adapter_config.json"),
    ("the adapter_model.safetensors", "adapter_model.safetensors"),
];

/// Makes the directory, and finds out whether the model's files can be written there: each where the same file of the
/// model may be, but no `other` one.
pub fn prepare(out: &Path, others: &[(&str, &Path)]) -> Result<()> {
    prepare_files(out, &FILES, others)
}

pub fn prepare_files(
    out: &Path,
    files: &[(&'static str, &str)],
    others: &[(&str, &Path)],
) -> Result<()> {
    fs::create_dir_all(out).map_err(|source| Error::File {
        path: out.to_owned(),
        source,
    })?;
    let paths = files.iter().map(|(what, name)| (*what, out.join(name)));
    let paths: Vec<_> = paths.collect();
    let written = paths.iter().map(|(what, path)| Output {
        flag: "--out",
        path,
        mode: Mode::Replace,
        replaces: Some(what),
    });
    outputs::check(&written.collect::<Vec<_>>(), others)
}

/// Copies what belongs to a model and does not change with its weights.
pub fn keep(from: &Path, to: &Path) -> Result<()> {
    let fail = |path: PathBuf| move |source| Error::File { path, source };
    let [here, there] = [from, to].map(|path| path.canonicalize().map_err(fail(path.to_owned())));
    if here? == there? {
        return Ok(());
    }
    let kept = FILES.iter().filter(|(_, name)| !MODEL.contains(name));
    let kept = kept.map(|(_, name)| (from.join(name), to.join(name)));
    for (from, to) in kept.filter(|(from, _)| from.exists()) {
        outputs::replace(&to, |temporary| {
            fs::copy(&from, temporary).map_err(fail(from.clone()))?;
            Ok(())
        })?;
    }
    Ok(())
}
