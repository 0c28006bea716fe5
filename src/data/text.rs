//! Reading a text file.

use std::path::Path;
use std::{fs, io};

use crate::error::{Error, Result};

/// Reads a UTF-8 text file.
///
/// Line ends `\r\n` become `\n` and a leading byte-order mark is dropped, so that a file saved on another system gives
/// the same vocabulary.
///
/// # Errors
///
/// * [`Error::File`] if the file cannot be read, or is a device such as `/dev/zero`, which may have no end;
/// * [`Error::NotUtf8`] with the offset of the first byte that is not part of valid UTF-8;
/// * [`Error::EmptyData`] if there is nothing in it but white space.
pub fn read_text(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    let bytes = read(path).map_err(Error::file(path))?;
    parse_text(bytes, path)
}

/// [`read_text`] for what a file holds; `path` is what errors call it.
///
/// # Errors
///
/// As [`read_text`] but for the reading.
pub fn parse_text(bytes: Vec<u8>, path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    let mut text = String::from_utf8(bytes).map_err(|error| Error::NotUtf8 {
        path: path.to_owned(),
        offset: error.utf8_error().valid_up_to(),
    })?;
    if text.starts_with('\u{feff}') {
        text.remove(0);
    }
    if text.contains("\r\n") {
        text = text.replace("\r\n", "\n");
    }
    if text.trim().is_empty() {
        return Err(Error::EmptyData {
            what: path.display().to_string(),
        });
    }
    Ok(text)
}

/// The bytes of a file, or of a pipe.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        let kind = fs::metadata(path)?.file_type();
        if kind.is_char_device() || kind.is_block_device() {
            let reason = "it is a device, not a text";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
    }
    fs::read(path)
}
