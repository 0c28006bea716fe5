//! Files of tensors, in the safetensors format: the header, and the values of one tensor after the other.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use half::f16;
use half::slice::HalfFloatSliceExt;
use half::vec::HalfFloatVecExt;
use safetensors::SafeTensorError;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use super::replace::not_regular;
use crate::error::{Error, Result};
use crate::gpu::DType;

/// No header is longer than this, in bytes.
const LONGEST_HEADER: u64 = 100_000_000;

/// Numbers that are read at a time.
pub(crate) const PIECE: usize = 1 << 17;

/// A file: its header, and the tensors' data for as long as nobody changes it.
#[derive(Debug)]
pub(crate) struct TensorsFile {
    path: PathBuf,
    file: Mutex<File>,
    /// Of the file as it was opened.
    stamp: (u64, Option<SystemTime>),
    /// Everything before the tensors' data.
    pub header: Vec<u8>,
    pub metadata: Metadata,
}

impl TensorsFile {
    /// Opens a file and reads its header.
    pub fn open(path: &Path) -> Result<TensorsFile> {
        let fail = |source| Error::file(path)(source);
        let mut file = open_file(path)?;
        let stamp = stamp(&file).map_err(fail)?;
        let (header, metadata) = header(path, &mut file, stamp.0)?;
        Ok(TensorsFile {
            path: path.to_owned(),
            file: Mutex::new(file),
            stamp,
            header,
            metadata,
        })
    }

    /// That something is wrong with the file.
    pub fn refuse(&self, reason: String) -> Error {
        Error::checkpoint(&self.path, reason)
    }

    /// Some of the numbers of a tensor whose type [is one that can be read](number_size).
    pub fn numbers(&self, info: &TensorInfo, range: Range<usize>) -> Result<Vec<f32>> {
        let mut bytes = Vec::new();
        self.bytes(info, range, &mut bytes)?;
        Ok(widened(info.dtype, &bytes))
    }

    /// The bytes of such numbers, instead of what `bytes` holds.
    pub fn bytes(&self, info: &TensorInfo, range: Range<usize>, bytes: &mut Vec<u8>) -> Result<()> {
        let size = number_size(info.dtype).expect("it has been checked");
        bytes.resize(size * range.len(), 0);
        self.read(info.data_offsets.0 + size * range.start, bytes)
    }

    /// All tensors' data.
    pub fn data(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.metadata.data_len()];
        self.read(0, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads from the tensors' data.
    fn read(&self, first: usize, bytes: &mut [u8]) -> Result<()> {
        // A reader that has panicked leaves nothing behind that matters: every read says where.
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let start = (self.header.len() + first) as u64;
        let read = read_at(&mut file, start, bytes).and_then(|()| stamp(&file));
        match read {
            Ok(stamp) if stamp == self.stamp => Ok(()),
            Err(source) if source.kind() != io::ErrorKind::UnexpectedEof => {
                Err(Error::file(&self.path)(source))
            }
            _ => {
                Err(self
                    .refuse("it has been changed since it was opened: open it again".to_owned()))
            }
        }
    }

    /// Copies a tensor's data; an error of this crate comes wrapped.
    pub fn copy(&self, info: &TensorInfo, to: &mut impl Write) -> io::Result<()> {
        let (from, end) = info.data_offsets;
        for start in (from..end).step_by(PIECE) {
            let mut bytes = vec![0; PIECE.min(end - start)];
            self.read(start, &mut bytes).map_err(io::Error::other)?;
            to.write_all(&bytes)?;
        }
        Ok(())
    }
}

/// The header of a file of `size` bytes, which begins with it: everything before the tensors' data.
pub(super) fn header(path: &Path, file: &mut impl Read, size: u64) -> Result<(Vec<u8>, Metadata)> {
    let fail = |source| Error::file(path)(source);
    let mut header = Vec::new();
    let mut read = |count: u64| file.by_ref().take(count).read_to_end(&mut header);
    read(8).map_err(fail)?;
    let length = json_length(&header);
    let mut read = |count: u64| file.by_ref().take(count).read_to_end(&mut header);
    // Of a file that is another one, the byte that tells.
    let length = length.map_or(0, |n| if n > LONGEST_HEADER { 1 } else { n });
    read(length).map_err(fail)?;
    let metadata = parse(&header, size)
        .map_err(|error| Error::checkpoint(path, what_is_wrong(&header, size as usize, &error)))?;
    Ok((header, metadata))
}

#[cfg(unix)]
fn read_at(file: &mut File, start: u64, bytes: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, start)
}

#[cfg(not(unix))]
fn read_at(file: &mut File, start: u64, bytes: &mut [u8]) -> io::Result<()> {
    use std::io::{Seek, SeekFrom};
    file.seek(SeekFrom::Start(start))?;
    file.read_exact(bytes)
}

/// Opens what is a file: a pipe would wait for a writer, and a device may have no end.
pub(crate) fn open_file(path: &Path) -> Result<File> {
    let access = |source| Error::file(path)(source);
    let found = fs::metadata(path).map_err(access)?;
    if !found.is_file() {
        return Err(access(not_regular()));
    }
    File::open(path).map_err(access)
}

/// A file begins with the length of a JSON object that begins right after.
fn json_length(file: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(*file.first_chunk()?))
}

/// The header of a file of `size` bytes that begins with `header`.
fn parse(header: &[u8], size: u64) -> Result<Metadata, SafeTensorError> {
    let length = json_length(header).ok_or(SafeTensorError::HeaderTooSmall)?;
    if length > LONGEST_HEADER {
        return Err(SafeTensorError::HeaderTooLarge);
    }
    let json = header.get(8..8 + length as usize);
    let json = json.ok_or(SafeTensorError::InvalidHeaderLength)?;
    let metadata: Metadata =
        serde_json::from_slice(json).map_err(SafeTensorError::InvalidHeaderDeserialization)?;
    match (metadata.data_len() as u64).checked_add(8 + length) {
        Some(whole) if whole == size => Ok(metadata),
        _ => Err(SafeTensorError::MetadataIncompleteBuffer),
    }
}

/// What changes when a file does.
fn stamp(file: &File) -> io::Result<(u64, Option<SystemTime>)> {
    let found = file.metadata()?;
    Ok((found.len(), found.modified().ok()))
}

/// Numbers of a type [that can be read](number_size).
pub(crate) fn widened(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    let size = number_size(dtype).expect("it has been checked");
    let mut values = vec![0.0; bytes.len() / size];
    widen(dtype, bytes, &mut values);
    values
}

/// [`widened`], into `values`.
pub(crate) fn widen(dtype: Dtype, bytes: &[u8], values: &mut [f32]) {
    let halves = bytes.as_chunks().0.iter().copied();
    let halves = values.iter_mut().zip(halves);
    match (dtype, bytemuck::try_cast_slice::<u8, f16>(bytes)) {
        (Dtype::F16, Ok(halves)) => halves.convert_to_f32_slice(values),
        (Dtype::F16, _) => halves.for_each(|(x, half)| *x = f16::from_le_bytes(half).to_f32()),
        // They are the upper halves of floats.
        (Dtype::BF16, _) => {
            halves.for_each(|(x, [low, high])| *x = f32::from_le_bytes([0, 0, low, high]))
        }
        _ => bytemuck::cast_slice_mut(values).copy_from_slice(bytes),
    }
}

/// The type in files of what is stored as such on the device, and its bytes.
pub(crate) fn stored(dtype: DType, values: &[f32]) -> (Dtype, Vec<u8>) {
    match dtype {
        DType::F16 => {
            let halves = Vec::<f16>::from_f32_slice(values);
            (Dtype::F16, bytemuck::cast_slice(&halves).to_vec())
        }
        _ => (Dtype::F32, bytemuck::cast_slice(values).to_vec()),
    }
}

/// The bytes of a number of those types that are read.
pub(crate) fn number_size(dtype: Dtype) -> Option<usize> {
    match dtype {
        Dtype::F32 => Some(4),
        Dtype::F16 | Dtype::BF16 => Some(2),
        _ => None,
    }
}

/// Why a file of so many bytes, of which `bytes` are the first, is no whole safetensors file, in words that say what to do
/// about it.
fn what_is_wrong(bytes: &[u8], size: usize, error: &SafeTensorError) -> String {
    let looks_right = json_length(bytes).is_some_and(|length| length <= LONGEST_HEADER)
        && bytes.get(8).is_none_or(|&first| first == b'{');
    match error {
        _ if bytes.is_empty() => "it is empty".to_owned(),
        // As much of it as has been read.
        _ if bytes == b"version h" => {
            "it is a pointer of Git LFS, not the file that it stands for: fetch that with `git lfs pull`".to_owned()
        }
        SafeTensorError::InvalidHeaderLength | SafeTensorError::MetadataIncompleteBuffer
            if looks_right =>
        {
            format!(
                "it is truncated or damaged ({size} bytes are not what its header announces); use an older one"
            )
        }
        _ => format!("it is not a safetensors file ({error})"),
    }
}
