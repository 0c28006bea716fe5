//! Output files: found unwritable before the work, not after it, and never left half written.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use shadegrad::optim::Optimizer;
use shadegrad::{Error, checkpoint};

use super::Result;
use super::checkpoint::{Checkpoint, Contents};
use super::settings::Settings;
use super::terminal::note;

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
    pub replaces: Option<&'a str>,
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
        let read = read.filter(|(flag, _)| replaces != Some(flag));
        let mut others = earlier.chain(read).chain(printed());
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

/// The files that what is printed goes to, if it goes to files.
fn printed<'a>() -> impl Iterator<Item = (&'a str, &'a Path)> {
    let streams: [(&str, &Path); 2] = [
        ("standard output", Path::new("/dev/stdout")),
        ("standard error", Path::new("/dev/stderr")),
    ];
    let streams = streams.into_iter().filter(|_| cfg!(unix));
    streams.filter(|(_, path)| path.is_file())
}

fn writable(path: &Path, mode: Mode) -> Result<()> {
    if path.is_dir() {
        return Err(format!("{} is a folder, a file is expected", path.display()).into());
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
    if mode == Mode::Replace || !path.exists() {
        return Ok(checkpoint::check_writable(path)?);
    }
    // A pipe would wait here until somebody reads it: that is found out when it is opened for good.
    if !is_pipe(path) {
        let opened = OpenOptions::new().append(true).open(path);
        opened.map_err(|source| access(path, source))?;
    }
    Ok(())
}

fn access(path: &Path, source: std::io::Error) -> Error {
    let path = path.to_owned();
    Error::File { path, source }
}

/// Whether something can only be opened when there is somebody at its other end.
fn is_pipe(path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo())
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        false
    }
}

/// Whether two paths lead to one file, which need not exist yet.
fn same_file(a: &Path, b: &Path) -> bool {
    fn resolved(path: &Path) -> PathBuf {
        let whole = path.canonicalize();
        whole.unwrap_or_else(|_| {
            let target = target(path);
            let folder = folder_of(&target);
            let folder = folder.canonicalize().unwrap_or(folder);
            folder.join(target.file_name().unwrap_or_default())
        })
    }
    resolved(a) == resolved(b) || have_one_inode(a, b)
}

/// Whether two names are of one file.
fn have_one_inode(a: &Path, b: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let inode = |path: &Path| {
            fs::metadata(path)
                .ok()
                .map(|found| (found.dev(), found.ino()))
        };
        inode(a).is_some() && inode(a) == inode(b)
    }
    #[cfg(not(unix))]
    {
        let _ = (a, b);
        false
    }
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// What a path leads to if it is a link, which need not exist.
fn target(path: &Path) -> PathBuf {
    let mut target = path.to_owned();
    // As many links as Linux follows.
    for _ in 0..40 {
        match fs::read_link(&target) {
            Ok(link) => target = target.with_file_name(link),
            Err(_) => break,
        }
    }
    target
}

/// Lets `write` make a file under another name and gives it the right one, and the old one's permissions, if that
/// succeeds; otherwise the file at `path` stays as it was. Where `path` is a link, what it leads to is replaced.
///
/// # Errors
///
/// Those of `write`; [`Error::File`] with the system's reason.
pub fn replace(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let target = target(path);
    // In the same folder, so that renaming stays within one file system, and with the same extension.
    let mut name = std::ffi::OsString::from(".tmp.");
    name.push(target.file_name().unwrap_or_default());
    let temporary = target.with_file_name(name);
    let begin = || -> std::io::Result<()> {
        let _ = fs::remove_file(&temporary);
        let file = File::create_new(&temporary)?;
        match fs::metadata(&target) {
            Ok(old) => file.set_permissions(old.permissions()),
            Err(_) => Ok(()),
        }
    };
    let renamed = begin()
        .map_err(|source| access(path, source).into())
        .and_then(|()| write(&temporary))
        .and_then(|()| Ok(fs::rename(&temporary, &target).map_err(|source| access(path, source))?));
    match renamed {
        Ok(()) => written(path),
        Err(_) => {
            let _ = fs::remove_file(&temporary);
        }
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
        Ok(fs::write(temporary, text).map_err(|source| access(path, source))?)
    })
}

/// What has been written, under the names that it was asked for.
static WRITTEN: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Notes that a file has been written.
pub fn written(path: &Path) {
    WRITTEN.lock().unwrap().push(path.to_owned());
}

/// Whether a file has been written, and is there.
pub fn is_written(path: &Path) -> bool {
    path.exists()
        && WRITTEN
            .lock()
            .unwrap()
            .iter()
            .any(|written| written == path)
}

impl<S: Settings> Contents<'_, S> {
    /// Writes everything that a run needs to continue to the same bits.
    ///
    /// # Errors
    ///
    /// Those of [`checkpoint::save`].
    pub fn save(&self, path: &Path, optimizer: &dyn Optimizer) -> Result<()> {
        let metadata = self.metadata(optimizer)?;
        checkpoint::save(path, optimizer.parameters(), Some(optimizer), &metadata)?;
        written(path);
        Ok(())
    }
}

impl<S: Settings> Checkpoint<S> {
    /// Reads and checks a checkpoint of `program`.
    ///
    /// # Errors
    ///
    /// Those of [`checkpoint::Checkpoint::open`]; also if another program wrote it.
    pub fn open(path: &Path, program: &str) -> Result<Checkpoint<S>> {
        Checkpoint::new(checkpoint::Checkpoint::open(path)?, path, program)
    }

    /// Says so if the run that wrote it did not read the text with this digest.
    pub fn note_other_text(&self, text_digest: &str, source: &str) {
        if let Some(text) = self.on_other_text(text_digest, source) {
            note(format_args!("{text}"));
        }
    }
}
