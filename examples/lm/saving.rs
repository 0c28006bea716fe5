//! Files that models and adapters are saved in: looked at before the work, and what is kept of the model they came from.

use std::fs;
use std::path::{Path, PathBuf};

use shadegrad::Error;
use shadegrad::hugging_face::{ModelFiles, SaveDType};

use super::{FILES, files_of};
use crate::common::Result;
use crate::common::outputs::{self, Mode, Output};

/// The files of adapters, with what they are called in messages.
pub const ADAPTER: [(&str, &str); 2] = [
    ("the adapter_config.json", "adapter_config.json"),
    ("the adapter_model.safetensors", "adapter_model.safetensors"),
];

/// Makes the directory, and finds out whether a model's files can be written there: each where the same file of the
/// model may be, but no `other` one.
pub fn prepare(out: &Path, model: &ModelFiles, others: &[(&str, &Path)]) -> Result<()> {
    let files = files_of(Path::new(""), model);
    let files = files.iter().map(|(what, name)| (&**what, &**name));
    prepare_files(out, files, others)
}

pub fn prepare_files<'a>(
    out: &Path,
    files: impl IntoIterator<Item = (&'a str, impl AsRef<Path>)>,
    others: &[(&str, &Path)],
) -> Result<()> {
    fs::create_dir_all(out).map_err(|source| Error::File {
        path: out.to_owned(),
        source,
    })?;
    let paths = files.into_iter().map(|(what, name)| (what, out.join(name)));
    let paths: Vec<_> = paths.collect();
    let written = paths.iter().map(|(what, path)| Output {
        flag: "--out",
        path,
        mode: Mode::Replace,
        replaces: Some(what),
    });
    outputs::check(&written.collect::<Vec<_>>(), others)
}

/// Says that what has been trained is saved in a narrower type, if it is.
pub fn note_rounding(model: &ModelFiles, dtype: SaveDType) {
    let dtypes = model.dtypes();
    let kept = dtypes
        .keys()
        .find(|kind| ["F16", "BF16"].contains(&&***kind));
    let (narrow, why) = match dtype {
        SaveDType::F32 => return,
        SaveDType::AsStored => (kept.cloned(), ", as the model's files are"),
        other => (Some(other.to_string().to_uppercase()), ""),
    };
    if let Some(narrow) = narrow {
        say!(
            "saved as {narrow}{why}: weights are rounded to it; --save-dtype f32 keeps them as they are"
        );
    }
}

/// Copies what belongs to a model and does not change with its weights.
pub fn keep(from: &Path, to: &Path) -> Result<()> {
    let fail = |path: PathBuf| move |source| Error::File { path, source };
    let [here, there] = [from, to].map(|path| path.canonicalize().map_err(fail(path.to_owned())));
    if here? == there? {
        return Ok(());
    }
    let kept = FILES.iter().filter(|name| **name != "config.json");
    let kept = kept.map(|name| (from.join(name), to.join(name)));
    for (from, to) in kept.filter(|(from, _)| from.exists()) {
        outputs::replace(&to, |temporary| {
            fs::copy(&from, temporary).map_err(fail(from.clone()))?;
            Ok(())
        })?;
    }
    Ok(())
}
