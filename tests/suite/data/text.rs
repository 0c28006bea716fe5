//! Reading text files.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use shadegrad::data::read_text;
use shadegrad::{Error, Result};

/// A file that is gone again when the test ends, also by a panic.
struct Scratch(PathBuf);

impl Scratch {
    fn new(bytes: &[u8]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("shadegrad-text-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, bytes).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn read(bytes: &[u8]) -> Result<String> {
    read_text(&Scratch::new(bytes).0)
}

#[test]
fn a_text_comes_back_with_its_line_ends_normalised() {
    assert_eq!(read("emma\nzoé\n".as_bytes()).unwrap(), "emma\nzoé\n");
    assert_eq!(read(b"emma\r\nava\r\n").unwrap(), "emma\nava\n");
    assert_eq!(read(b"emma\rava\r\r\n").unwrap(), "emma\rava\r\n");
    assert_eq!(read(b"\xef\xbb\xbfemma\n").unwrap(), "emma\n");
}

#[test]
fn a_missing_file_is_named() {
    let error = read_text("/no/such/names.txt").unwrap_err();
    assert!(matches!(&error, Error::File { path, source }
        if path.ends_with("names.txt") && source.kind() == std::io::ErrorKind::NotFound));
    assert!(error.to_string().contains("/no/such/names.txt"), "{error}");
}

#[test]
fn folders_and_devices_are_no_texts() {
    let mut paths = vec![std::env::temp_dir()];
    if cfg!(unix) {
        // Neither is what has no end.
        paths.push("/dev/zero".into());
    }
    for path in paths {
        let error = read_text(path).unwrap_err();
        assert!(matches!(error, Error::File { .. }), "{error}");
    }
}

#[test]
fn nothing_but_white_space_is_empty() {
    for bytes in [&b""[..], b" \n\t\r\n", b"\xef\xbb\xbf"] {
        let error = read(bytes).unwrap_err();
        assert!(matches!(error, Error::EmptyData { .. }), "{error}");
    }
}

#[test]
fn the_first_bad_byte_is_located() {
    // 0xE9 is é in Latin-1; the last one is a sequence cut off by the end of the file.
    for (bytes, expected) in [
        (&b"zo\xe9\n"[..], 2),
        (b"\xff\xfee\0m\0", 0),
        (b"abc\xe2\x82", 3),
    ] {
        let error = read(bytes).unwrap_err();
        assert!(
            matches!(error, Error::NotUtf8 { offset, .. } if offset == expected),
            "{error}"
        );
    }
}
