//! The crate's one error type.

use std::path::PathBuf;

/// What can go wrong for reasons outside the calling code. Messages name the thing, the value and the remedy.
///
/// Mistakes in the calling code itself, such as shapes that do not fit, panic instead: see the `# Panics` sections.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No adapter was found that can run compute shaders.
    #[error(
        "no GPU adapter found{}: install a Vulkan driver (Debian/Ubuntu: apt-get install -y mesa-vulkan-drivers \
         libvulkan1; Fedora: dnf install mesa-vulkan-drivers vulkan-loader; Arch: pacman -S vulkan-swrast \
         vulkan-icd-loader; Alpine: apk add mesa-vulkan-swrast vulkan-loader) or run scripts/setup-vulkan.sh",
        .wanted.as_ref().map(|wanted| format!(" that matches `{wanted}`")).unwrap_or_default()
    )]
    NoAdapter {
        /// The selector that nothing matched, if one was given.
        wanted: Option<String>,
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
    #[error("{what} needs {needed}, this adapter's limit is {limit}")]
    Limit {
        /// What was asked for.
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
    #[error("cannot access {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A text file holds bytes that are not UTF-8.
    #[error("{} is not UTF-8 text: invalid byte at offset {offset}; convert it first", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Offset of the first invalid byte.
        offset: usize,
    },
    /// There is nothing to train on.
    #[error("{what} is empty: it needs at least one line of text")]
    EmptyData {
        /// What is empty.
        what: String,
    },
    /// The text is shorter than one window.
    #[error(
        "{what} has {len} tokens, at least {needed} are needed: give more text or a shorter context"
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
    #[error("{name} = {value} is not possible: expected {expected}")]
    InvalidArgument {
        /// The setting's name.
        name: String,
        /// Its value.
        value: String,
        /// What would be accepted.
        expected: String,
    },
    /// Values that do not fit the model's parameters.
    #[error("parameter `{name}`: {reason}")]
    Parameter {
        /// The parameter's full name.
        name: String,
        /// What does not fit.
        reason: String,
    },
    /// A checkpoint that cannot be used.
    #[error("checkpoint {}: {reason}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
