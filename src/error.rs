//! The crate's one error type.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

/// What can go wrong for reasons outside the calling code. Messages name the thing, the value and the remedy.
///
/// Mistakes in the calling code itself, such as shapes that do not fit, panic instead: see the `# Panics` sections.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No adapter was found that can run compute shaders.
    #[cfg_attr(
        target_family = "wasm",
        error(
            "no GPU adapter: this browser shows none. WebGPU is in Chrome and Edge from 113 on, Safari from 26, and Firefox from \
             141 on Windows; elsewhere it may have to be turned on (in Chrome by chrome://flags/#enable-unsafe-webgpu), and pages \
             have to come from https or localhost"
        )
    )]
    #[cfg_attr(
        not(target_family = "wasm"),
        error(
            "no GPU adapter found: install a Vulkan driver (Debian/Ubuntu: apt-get install -y mesa-vulkan-drivers \
         libvulkan1; Fedora: dnf install mesa-vulkan-drivers vulkan-loader; Arch: pacman -S vulkan-swrast \
         vulkan-icd-loader; Alpine: apk add mesa-vulkan-swrast vulkan-loader) or run scripts/setup-vulkan.sh"
        )
    )]
    NoAdapter,
    /// There are adapters, but not the one that was asked for.
    #[error(
        "no adapter matches `{}`: give the number of one of these, or a part of its name: {}",
        line(wanted, SHORT), found.join("; ")
    )]
    NoSuchAdapter {
        /// The selector that nothing matched.
        wanted: String,
        /// Those that there are, with their numbers.
        found: Vec<String>,
    },
    /// The adapter refused to give a device.
    #[error("adapter `{adapter}` gave no device: {reason}")]
    DeviceRequest {
        /// The adapter's name.
        adapter: String,
        /// What the driver said.
        reason: String,
    },
    /// The device was lost: driver reset, removed hardware, or destroyed on purpose.
    #[error(
        "the GPU device was lost ({reason}); make a new Device and resume from the last checkpoint"
    )]
    DeviceLost {
        /// What the driver said.
        reason: String,
    },
    /// The device ran out of memory.
    #[error("out of device memory: {reason}; use a smaller batch, context or model")]
    OutOfMemory {
        /// What the driver said.
        reason: String,
    },
    /// wgpu refused a call: a bug in this crate or in a custom operation.
    #[error("GPU validation failed: {reason}")]
    Validation {
        /// wgpu's own message.
        reason: String,
    },
    /// A kernel's WGSL does not parse, validate or compile.
    #[error("kernel `{kernel}` does not compile: {reason}")]
    Kernel {
        /// The kernel's name.
        kernel: String,
        /// The compiler's message.
        reason: String,
    },
    /// Something needs more than the adapter offers.
    #[error("{}: use a smaller batch, context or model", beyond(what, *needed, *limit))]
    Limit {
        /// What was asked for, and in which unit: ``buffer `x`, in bytes,``.
        what: String,
        /// How much it needs.
        needed: u64,
        /// How much there is.
        limit: u64,
    },
    /// Reading a result back failed.
    #[error("cannot read `{what}` back: {reason}")]
    Readback {
        /// What was being read.
        what: String,
        /// Why not.
        reason: String,
    },
    /// The loss or the gradient norm became infinite or not a number.
    #[error(
        "{what} is {value} at step {step}; the update was skipped: lower the learning rate or clip gradients harder"
    )]
    NonFinite {
        /// Which quantity.
        what: String,
        /// Its value.
        value: f32,
        /// The step it was seen at.
        step: u64,
    },
    /// The ranks of a parallel run differ in what they must have in common, or one of them can't go on. All of them have this
    /// error.
    #[error("{reason}")]
    Ranks {
        /// Which rank, and why.
        reason: String,
    },
    /// An operation computes something else than its oracle. See [`check`](crate::check).
    #[error(
        "{what}: element {element} is {actual}, expected {expected}, which is {excess:.1} times the tolerance apart"
    )]
    Mismatch {
        /// Which tensor, and in which graph.
        what: String,
        /// The element that is off most, in row-major order.
        element: usize,
        /// What the device computed.
        actual: f32,
        /// What the oracle, or its finite differences, say.
        expected: f64,
        /// The deviation divided by the tolerance.
        excess: f64,
    },
    /// A file could not be read or written.
    #[error("cannot access {}: {source}", shown(path))]
    File {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A text file holds bytes that are not UTF-8.
    #[error(
        "{} is not UTF-8 text: invalid byte at offset {offset}; convert it first",
        shown(path)
    )]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Offset of the first invalid byte.
        offset: usize,
    },
    /// There is nothing to train on.
    #[error("{} is empty: it needs at least one line of text", line(what, LONG))]
    EmptyData {
        /// What is empty.
        what: String,
    },
    /// The text is shorter than one window.
    #[error(
        "{} has {len} tokens, at least {needed} are needed: give more text or a shorter context",
        line(what, LONG)
    )]
    TextTooShort {
        /// Which part of the text.
        what: String,
        /// Its length in tokens.
        len: usize,
        /// The length needed.
        needed: usize,
    },
    /// A character that the vocabulary lacks.
    #[error("character {character:?} at position {position} is not in the vocabulary")]
    UnknownCharacter {
        /// The character.
        character: char,
        /// Its position, in characters.
        position: usize,
    },
    /// A token id beyond the vocabulary.
    #[error("token {token} is out of range for a vocabulary of {vocab_size}")]
    TokenOutOfRange {
        /// The token id.
        token: u32,
        /// The vocabulary's size.
        vocab_size: usize,
    },
    /// A model that can say nothing about the next token.
    #[error(
        "the logit of token {token} is {value}: the model's weights are damaged or its training has diverged; use an \
         older copy"
    )]
    NonFiniteLogit {
        /// The first such token.
        token: usize,
        /// Its logit.
        value: f32,
    },
    /// An operation was given indices of something that is not there.
    #[error(
        "{operation}: {count} of the indices are out of range, the largest is {largest}, there are {extent}: check the \
         data, and that the model is as large as its vocabulary"
    )]
    IndexOutOfRange {
        /// The operation.
        operation: String,
        /// How many indices are out of range.
        count: u32,
        /// The largest of them.
        largest: u32,
        /// How many rows, classes or elements there are.
        extent: usize,
    },
    /// A setting that makes no sense.
    #[error(
        "{} = {} is not possible: expected {}",
        line(name, SHORT),
        line(value, SHORT),
        line(expected, LONG)
    )]
    InvalidArgument {
        /// The setting's name.
        name: String,
        /// Its value.
        value: String,
        /// What would be accepted.
        expected: String,
    },
    /// Values that do not fit the model's parameters.
    #[error("parameter `{}`: {}", line(name, SHORT), line(reason, LONG))]
    Parameter {
        /// The parameter's full name.
        name: String,
        /// What does not fit.
        reason: String,
    },
    /// A checkpoint that cannot be used.
    #[error("checkpoint {}: {}", shown(path), line(reason, LONG))]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl Error {
    /// [`Error::InvalidArgument`]: a setting, its value, and what would be accepted.
    pub(crate) fn invalid(
        name: impl Into<String>,
        value: impl ToString,
        expected: impl Into<String>,
    ) -> Error {
        Error::InvalidArgument {
            name: name.into(),
            value: value.to_string(),
            expected: expected.into(),
        }
    }

    /// [`Error::File`] of whatever the system says, for `map_err`.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        |source| Error::File { path, source }
    }

    /// [`Error::Checkpoint`]: what is wrong with a file or a directory.
    pub(crate) fn checkpoint(path: impl Into<PathBuf>, reason: impl Into<String>) -> Error {
        Error::Checkpoint {
            path: path.into(),
            reason: reason.into(),
        }
    }

    /// [`Error::Parameter`]: a parameter, and what does not fit.
    pub(crate) fn parameter(name: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::Parameter {
            name: name.into(),
            reason: reason.into(),
        }
    }
}

/// The message, as [`Display`](fmt::Display) has it: a `main` that returns a [`Result`] ends with the remedy, as does `unwrap`.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Refuses a setting unless it is sound, see [`Error::invalid`].
pub(crate) fn require(
    sound: bool,
    name: impl Into<String>,
    value: impl ToString,
    expected: impl Into<String>,
) -> Result<()> {
    match sound {
        true => Ok(()),
        false => Err(Error::invalid(name, value, expected)),
    }
}

/// Refuses what needs more than the adapter offers, see [`Error::Limit`].
pub(crate) fn require_within(limit: u64, what: impl Into<String>, needed: u64) -> Result<()> {
    let what = what.into();
    match needed <= limit {
        true => Ok(()),
        false => Err(Error::Limit {
            what,
            needed,
            limit,
        }),
    }
}

pub(crate) fn require_positive(name: impl Into<String>, value: f32) -> Result<()> {
    let sound = value > 0.0 && value.is_finite();
    require(sound, name, value, "a positive number")
}

/// Names and values that come from outside may have so many characters in a message.
const SHORT: usize = 200;

/// Sentences with such names in them.
const LONG: usize = 1000;

/// A text as a message may quote it: as it is if it has at most `most` characters, else its beginning and its end with its
/// length between them. Input may have lines of many megabytes, and an error should not.
///
/// ```
/// use shadegrad::data::excerpt;
///
/// assert_eq!(excerpt("emma", 8), "emma");
/// assert_eq!(excerpt(&"emma".repeat(1000), 8), "emmaem … (4000 characters) … ma");
/// ```
pub fn excerpt(text: &str, most: usize) -> Cow<'_, str> {
    // No text has more characters than bytes.
    let count = match text.len() > most {
        true => text.chars().count(),
        false => 0,
    };
    if count <= most {
        return text.into();
    }
    let at = |position: usize| {
        let start = text.char_indices().nth(position);
        start.map_or(text.len(), |(index, _)| index)
    };
    let tail = most / 4;
    let (head, tail) = (&text[..at(most - tail)], &text[at(count - tail)..]);
    format!("{head} … ({count} characters) … {tail}").into()
}

/// [`excerpt`] in one line, whatever characters a file has there.
fn line(text: &str, most: usize) -> String {
    let mut line = String::new();
    for c in excerpt(text, most).chars() {
        match c.is_control() {
            true => line.extend(c.escape_default()),
            false => line.push(c),
        }
    }
    line
}

fn shown(path: &Path) -> String {
    line(&path.to_string_lossy(), LONG)
}

fn beyond(what: &str, needed: u64, limit: u64) -> String {
    let (what, [needed, limit]) = match what.strip_suffix(", in bytes,") {
        Some(what) => (what, [needed, limit].map(bytes)),
        None => (what, [needed, limit].map(|amount| amount.to_string())),
    };
    let what = excerpt(what, LONG);
    format!("{what} needs {needed}, this adapter's limit is {limit}")
}

/// A number of bytes in the unit that suits it.
pub(crate) fn bytes(count: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let mut size = (count as f64, "bytes");
    for unit in units {
        if size.0 < 1024.0 {
            break;
        }
        size = (size.0 / 1024.0, unit);
    }
    match size {
        (_, "bytes") => format!("{count} bytes"),
        (number, unit) => format!("{number:.1} {unit}"),
    }
}

/// Gives an enum the names that it has in configurations, for `FromStr` and `Display`.
macro_rules! named {
    ($type:ident, $setting:literal, $($variant:ident = $name:literal),+) => {
        impl $type {
            /// All kinds.
            pub const ALL: &[$type] = &[$($type::$variant),+];

            /// The name in configurations.
            pub fn name(self) -> &'static str {
                match self {
                    $($type::$variant => $name),+
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }

        impl std::str::FromStr for $type {
            type Err = $crate::Error;

            fn from_str(text: &str) -> $crate::Result<$type> {
                let known = $type::ALL.iter().find(|kind| kind.name() == text);
                known.copied().ok_or_else(|| {
                    let names: Vec<&str> = $type::ALL.iter().map(|kind| kind.name()).collect();
                    let expected = format!("one of {}", names.join(", "));
                    $crate::Error::invalid($setting, text, expected)
                })
            }
        }
    };
}
pub(crate) use named;
