//! Files that are replaced as one step, or not at all.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Checks that [`save`](super::save) will be able to write `path`, without touching a file that is there already. To be called
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
    check().map_err(Error::file(path))
}

pub(super) fn not_regular() -> io::Error {
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
pub(crate) fn replace_with(
    path: &Path,
    contents: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    Staged::write(path, contents)?.place()
}

/// What is to replace a file's contents: whole and on the disk, beside it. Dropped, it goes.
#[derive(Debug)]
pub(crate) struct Staged {
    target: PathBuf,
    temporary: PathBuf,
}

impl Staged {
    /// Writes the new contents.
    pub fn write(
        path: &Path,
        contents: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> io::Result<Staged> {
        let target = target(path)?;
        let temporary = temporary(&target)?;
        let staged = Staged { target, temporary };
        let mut file = create(&staged.temporary, &staged.target)?;
        contents(&mut file)?;
        file.sync_all()?;
        Ok(staged)
    }

    /// Puts them into the file's place.
    pub fn place(self) -> io::Result<()> {
        fs::rename(&self.temporary, &self.target)?;
        // Makes the renaming itself last. Not every system can do this, and the file is whole either way.
        #[cfg(unix)]
        {
            let directory = self.target.parent();
            let directory = directory.filter(|parent| *parent != Path::new(""));
            let directory = File::open(directory.unwrap_or(Path::new(".")));
            let _ = directory.and_then(|directory| directory.sync_all());
        }
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // There is none any more where it has been put into its place.
        let _ = fs::remove_file(&self.temporary);
    }
}
