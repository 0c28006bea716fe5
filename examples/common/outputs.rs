//! Output files: found unwritable before the work, not after it, and never left half written.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use shadegrad::Error;

use super::Result;

/// How a file comes to its new contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Written beside the old one, then renamed over it.
    Replace,
    /// Written where it is, line by line.
    InPlace,
}

/// A file that the program is going to write.
pub struct Output<'a> {
    /// The flag that asked for it.
    pub flag: &'static str,
    /// Where it goes.
    pub path: &'a Path,
    /// How it gets there.
    pub mode: Mode,
    /// The flag of the one file that is read and that this may replace.
    pub replaces: Option<&'static str>,
}

/// Checks that all `outputs` can be written, without changing any, and that they are distinct from each other and from
/// the files that are read.
///
/// # Errors
///
/// One line with the flag, the path and the reason.
pub fn check(outputs: &[Output<'_>], inputs: &[(&str, &Path)]) -> Result<()> {
    for (index, output) in outputs.iter().enumerate() {
        let Output {
            flag,
            path,
            mode,
            replaces,
        } = *output;
        writable(path, mode).map_err(|error| format!("{flag}: {error}"))?;
        let earlier = outputs[..index]
            .iter()
            .map(|other| (other.flag, other.path));
        let read = inputs.iter().copied();
        let mut others = earlier.chain(read.filter(|(flag, _)| replaces != Some(flag)));
        if let Some((other, _)) = others.find(|(_, other)| same_file(path, other)) {
            return Err(format!(
                "{flag}: {} is also the file of {other}: choose another one",
                path.display()
            )
            .into());
        }
    }
    Ok(())
}

fn writable(path: &Path, mode: Mode) -> Result<()> {
    let fail = |source| Error::File {
        path: path.to_owned(),
        source,
    };
    if path.is_dir() {
        return Err(format!("{} is a folder, a file is expected", path.display()).into());
    }
    if path.file_name().is_none() {
        return Err(format!("`{}` is not the name of a file", path.display()).into());
    }
    let folder = folder_of(path);
    if !folder.is_dir() {
        return Err(format!(
            "{}: there is no folder {}",
            path.display(),
            folder.display()
        )
        .into());
    }
    if path.exists() {
        OpenOptions::new().append(true).open(path).map_err(fail)?;
    }
    if mode == Mode::Replace || !path.exists() {
        let beside = beside(path, "check");
        File::create_new(&beside).map_err(fail)?;
        fs::remove_file(&beside).map_err(fail)?;
    }
    Ok(())
}

/// Whether two paths lead to one file, which need not exist yet.
fn same_file(a: &Path, b: &Path) -> bool {
    fn resolved(path: &Path) -> PathBuf {
        let whole = path.canonicalize();
        whole.unwrap_or_else(|_| {
            let folder = folder_of(path);
            let folder = folder.canonicalize().unwrap_or(folder);
            folder.join(path.file_name().unwrap_or_default())
        })
    }
    resolved(a) == resolved(b)
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// A name in the same folder, so that renaming stays within one file system, and with the same extension.
fn beside(path: &Path, purpose: &str) -> PathBuf {
    let mut name = std::ffi::OsString::from(format!(".{purpose}-{}-", std::process::id()));
    name.push(path.file_name().unwrap_or_default());
    folder_of(path).join(name)
}

/// Lets `write` make a file under another name and gives it the right one if that succeeds; otherwise the file at
/// `path` stays as it was.
///
/// # Errors
///
/// Those of `write`; [`Error::File`] with the system's reason.
pub fn replace(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let temporary = beside(path, "new");
    let renamed = write(&temporary).and_then(|()| {
        fs::rename(&temporary, path).map_err(|source| {
            let path = path.to_owned();
            Error::File { path, source }.into()
        })
    });
    if renamed.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    renamed
}

/// Writes a text by [`replace`].
///
/// # Errors
///
/// [`Error::File`] with the system's reason.
pub fn text(path: &Path, text: &str) -> Result<()> {
    replace(path, |temporary| {
        fs::write(temporary, text).map_err(|source| {
            let path = path.to_owned();
            Error::File { path, source }.into()
        })
    })
}
