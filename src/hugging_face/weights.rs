//! The files of weights: which tensor belongs to which parameter, and its values.

use std::ops::Range;
use std::path::Path;

use safetensors::tensor::TensorInfo;

use super::files::{Index, WEIGHTS};
use super::names::{Entry, HEAD, LLAMA, Names, Part, parts};
use crate::checkpoint::{PIECE, TensorsFile, number_size, widen};
use crate::error::{Error, Result};
use crate::gpu::DType;
use crate::nn::Parameters;

/// The numbers of a transposed matrix that the host holds at a time, but at least an eighth of it: each strip of rows reads a
/// piece of every column.
const STRIP: usize = 1 << 20;
const STRIPS: usize = 8;

/// Numbers that are written at a time, and that wgpu may keep on the host until they have arrived.
const WRITTEN: usize = 1 << 20;
const MOST_UNDER_WAY: usize = 1 << 23;

/// Rows and columns that are transposed together.
const TILE: usize = 16;

/// The files of a model's weights.
#[derive(Debug)]
pub(super) struct Weights {
    pub files: Vec<(String, TensorsFile)>,
    /// The index of several files, as it is.
    pub index: Option<Vec<u8>>,
    names: &'static Names,
    /// What names of tensors begin with.
    prefix: &'static str,
}

impl Weights {
    /// Opens the files and reads their headers.
    pub fn open(directory: &Path, names: &'static Names) -> Result<Weights> {
        let index = Index::find(directory)?;
        let one = || [WEIGHTS.to_owned()].into();
        let all = index.as_ref().map_or_else(one, Index::names);
        let mut files = Vec::new();
        for name in all {
            let file = TensorsFile::open(&directory.join(&name))?;
            files.push((name, file));
        }
        if let Some(index) = &index {
            index.check(directory, &files)?;
        }
        let has_prefix = files.iter().any(|(_, file)| {
            let mut tensors = file.metadata.offset_keys().into_iter();
            tensors.any(|tensor| tensor.starts_with(names.prefix))
        });
        Ok(Weights {
            files,
            index: index.map(|index| index.json),
            names,
            prefix: if has_prefix { names.prefix } else { "" },
        })
    }

    /// A file by itself, whose tensors are called what entries say.
    pub fn of(name: &str, file: TensorsFile) -> Weights {
        Weights {
            files: vec![(name.to_owned(), file)],
            index: None,
            names: &LLAMA,
            prefix: "",
        }
    }

    /// The name of a tensor in the files.
    fn name(&self, theirs: &str) -> String {
        match theirs {
            HEAD => HEAD.to_owned(),
            theirs => format!("{}{theirs}", self.prefix),
        }
    }

    pub fn find(&self, name: &str) -> Option<(&TensorsFile, &TensorInfo)> {
        let mut files = self.files.iter();
        files.find_map(|(_, file)| Some((file, file.metadata.info(name)?)))
    }

    /// The name of the tensor that holds a part: that of the part, but where files hold a token table as the head only
    /// that it is tied to.
    fn stored(&self, entry: &Entry, part: &Part) -> String {
        let name = self.name(&part.name);
        match entry.is_table() && self.find(&name).is_none() && self.find(HEAD).is_some() {
            true => HEAD.to_owned(),
            false => name,
        }
    }

    /// The first file, for what is wrong with all of them.
    pub fn refuse(&self, reason: String) -> Error {
        self.files[0].1.refuse(reason)
    }

    /// Whether the files hold an output head with other values than the token table.
    pub fn has_own_head(&self, table: &Part) -> Result<bool> {
        let (head, table) = (self.find(HEAD), self.find(&self.name(&table.name)));
        let (Some(head), Some(table)) = (head, table) else {
            return Ok(false);
        };
        let known = |info: &TensorInfo| number_size(info.dtype).is_some();
        if head.1.shape != table.1.shape || !known(head.1) || !known(table.1) {
            return Ok(true);
        }
        let count: usize = head.1.shape.iter().product();
        for start in (0..count).step_by(PIECE) {
            let range = start..count.min(start + PIECE);
            let numbers = |(file, info): (&TensorsFile, _)| file.numbers(info, range.clone());
            let differs = |(a, b): (&f32, &f32)| a != b && !(a.is_nan() && b.is_nan());
            if numbers(head)?.iter().zip(&numbers(table)?).any(differs) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Checks that every parameter is there in the right shape, and nothing else that would matter. `model` is what needs them,
    /// `unknown` what is wrong with other tensors.
    pub fn check(&self, entries: &[Entry], model: &str, unknown: &str) -> Result<()> {
        // What has other tensors is another model, whatever their shapes.
        let mut misfit = None;
        for (_, file) in &self.files {
            for name in file.metadata.offset_keys() {
                let Some((entry, part)) = self.owner(&name, entries) else {
                    let bare = name.strip_prefix(self.prefix).unwrap_or(&name);
                    if self.names.is_constant(bare) {
                        continue;
                    }
                    return Err(file.refuse(format!("tensor `{name}` {unknown}")));
                };
                let info = file.metadata.info(&name).expect("it is one of the names");
                let (shape, dtype, needed) = (&info.shape, info.dtype, entry.shape_of(part));
                let reason = if *shape != needed {
                    format!("has shape {shape:?}, {model} needs {needed:?}")
                } else if number_size(dtype).is_none() {
                    format!("has type {dtype}, expected one of F32, F16, BF16")
                } else {
                    continue;
                };
                misfit.get_or_insert_with(|| file.refuse(format!("tensor `{name}` {reason}")));
            }
        }
        if let Some(error) = misfit {
            return Err(error);
        }
        let has_head = entries.iter().any(|entry| entry.parts[0].name == HEAD);
        let names = parts(entries).map(|(entry, part)| match has_head {
            true => self.name(&part.name),
            false => self.stored(entry, part),
        });
        let mut missing = names.filter(|name| self.find(name).is_none());
        match missing.next() {
            None => Ok(()),
            Some(name) => {
                let remedy = match name == HEAD {
                    true => ": if it is tied to the token table, set tie_word_embeddings to true",
                    false => "",
                };
                Err(self.refuse(format!(
                    "tensor `{name}`, which {model} needs, is missing{remedy}"
                )))
            }
        }
    }

    /// Whose values a tensor of a file holds. A head that is saved although it is tied is the token table.
    pub fn owner<'a>(&self, name: &str, entries: &'a [Entry]) -> Option<(&'a Entry, &'a Part)> {
        let named = |theirs: &str| {
            let mut all = parts(entries);
            all.find(|(_, part)| part.name == theirs)
        };
        match name {
            HEAD => named(HEAD).or_else(|| {
                let table = entries.iter().find(|entry| entry.is_table())?;
                Some((table, table.parts.first()?))
            }),
            _ => named(name.strip_prefix(self.prefix)?),
        }
    }

    /// Puts the numbers of all entries into parameters. `progress` is told the bytes of these that have been read, and all that
    /// there are.
    pub fn restore(
        &self,
        entries: &[Entry],
        parameters: &Parameters,
        progress: impl Fn(u64, u64),
    ) -> Result<()> {
        let (device, dtype) = (parameters.device(), parameters.dtype());
        let all: usize = entries.iter().map(Entry::elements).sum();
        let in_bytes = |count: usize| (count * dtype.bytes()) as u64;
        let (mut under_way, mut done) = (0, 0);
        for entry in entries {
            let mut tensors = entry.tensors(parameters)?.into_iter();
            let (mut tensor, mut start) = (tensors.next(), 0);
            self.read(entry, dtype, |numbers| {
                done += numbers.len();
                progress(in_bytes(done), in_bytes(all));
                let mut rest = numbers;
                while let Some(place) = &tensor {
                    let room = place.shape().elements() - start;
                    let (piece, behind) = rest.split_at(rest.len().min(room).min(WRITTEN));
                    if !piece.is_empty() {
                        place.part(start, [piece.len()]).write_floats(piece)?;
                    }
                    start += piece.len();
                    under_way += piece.len();
                    rest = behind;
                    if under_way >= MOST_UNDER_WAY {
                        device.flush()?;
                        under_way = 0;
                    }
                    if start == place.shape().elements() {
                        (tensor, start) = (tensors.next(), 0);
                    } else if rest.is_empty() {
                        break;
                    }
                }
                Ok(())
            })?;
        }
        device.flush()
    }

    /// Hands over all numbers of a parameter in its own order, to be rounded to a type, a piece at a time.
    fn read(
        &self,
        entry: &Entry,
        dtype: DType,
        mut take: impl FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        let [rows, columns] = entry.extents();
        if entry.parts.len() == 1 && !entry.is_transposed {
            let source = self.source(entry, &entry.parts[0], dtype);
            let mut bytes = Vec::new();
            let mut piece = vec![0.0; PIECE.min(rows * columns)];
            for start in (0..rows * columns).step_by(PIECE) {
                let end = (rows * columns).min(start + PIECE);
                source.file.bytes(source.info, start..end, &mut bytes)?;
                let piece = &mut piece[..end - start];
                source.numbers(&bytes, start, piece)?;
                take(piece)?;
            }
            return Ok(());
        }
        // Some rows of it at a time are a piece of each column, and columns are what files hold.
        let height = (STRIP / columns).max(rows.div_ceil(STRIPS)).min(rows);
        let mut strip = vec![0.0; height * columns];
        for top in (0..rows).step_by(height) {
            let height = height.min(rows - top);
            let strip = &mut strip[..height * columns];
            for part in &entry.parts {
                let source = self.source(entry, part, dtype);
                match entry.is_transposed {
                    true => source.fill_columns(rows, top..top + height, strip)?,
                    false => source.fill_rows(top..top + height, strip)?,
                }
            }
            take(strip)?;
        }
        Ok(())
    }

    fn source<'a>(&'a self, entry: &'a Entry, part: &'a Part, dtype: DType) -> Source<'a> {
        let name = self.stored(entry, part);
        let (file, info) = self.find(&name).expect("it has been checked");
        Source {
            entry,
            part,
            dtype,
            name,
            file,
            info,
        }
    }
}

/// A tensor of a file that holds a part of a parameter.
struct Source<'a> {
    entry: &'a Entry,
    part: &'a Part,
    /// Of the parameter.
    dtype: DType,
    name: String,
    file: &'a TensorsFile,
    info: &'a TensorInfo,
}

impl Source<'_> {
    /// Puts the part, whose rows are rows of the file, into rows of the parameter.
    fn fill_rows(&self, rows: Range<usize>, strip: &mut [f32]) -> Result<()> {
        let [_, columns] = self.entry.extents();
        let width = self.part.columns.len();
        let mut bytes = Vec::new();
        for (row, strip) in rows.zip(strip.chunks_mut(columns)) {
            let start = row * width;
            self.file
                .bytes(self.info, start..start + width, &mut bytes)?;
            self.numbers(&bytes, start, &mut strip[self.part.columns.clone()])?;
        }
        Ok(())
    }

    /// Puts the part, whose columns are rows of the file, into rows of the parameter. Whole columns are read, so that they
    /// are read in few pieces, wherever the rows are.
    fn fill_columns(&self, all_rows: usize, rows: Range<usize>, strip: &mut [f32]) -> Result<()> {
        let [_, columns] = self.entry.extents();
        let Range { start: first, end } = self.part.columns;
        let (width, height) = (end - first, rows.len());
        let at_once = (PIECE / all_rows).clamp(1, width);
        // No power of two, so that the columns' numbers don't drive each other out of the processor's cache.
        let stride = height.next_multiple_of(TILE) + TILE;
        let mut turned = vec![0.0; at_once * stride];
        let mut bytes = Vec::new();
        for column in (0..width).step_by(at_once) {
            let end = width.min(column + at_once);
            let range = column * all_rows..end * all_rows;
            self.file.bytes(self.info, range, &mut bytes)?;
            let size = bytes.len() / (end - column) / all_rows;
            let all = bytes.chunks(size * all_rows).zip(turned.chunks_mut(stride));
            for (column, (bytes, numbers)) in (column..end).zip(all) {
                let bytes = &bytes[size * rows.start..size * rows.end];
                let start = column * all_rows + rows.start;
                self.numbers(bytes, start, &mut numbers[..height])?;
            }
            let strip = &mut strip[first + column..];
            transpose(&turned, stride, strip, columns, [end - column, height]);
        }
        Ok(())
    }

    /// The numbers in some bytes of the file, from its number `start` on, as the parameter has them.
    fn numbers(&self, bytes: &[u8], start: usize, numbers: &mut [f32]) -> Result<()> {
        widen(self.info.dtype, bytes, numbers);
        if self.entry.offset != 0.0 {
            let all = numbers.iter_mut();
            all.for_each(|number| *number += self.entry.offset);
        }
        let refuse = |reason| Err(self.file.refuse(format!("tensor `{}` {reason}", self.name)));
        // Without a branch for each.
        let is_finite = numbers.iter().fold(true, |all, n| all & n.is_finite());
        if let Err(reason) = self.dtype.require_range(numbers) {
            return Err(self
                .file
                .refuse(format!("tensor `{}`: {reason}", self.name)));
        }
        let damaged = numbers.iter().position(|n| !is_finite && !n.is_finite());
        match damaged {
            None => Ok(()),
            Some(at) => refuse(format!(
                "holds {} at element {}: the model is damaged or its training has diverged; use an older copy",
                numbers[at],
                start + at
            )),
        }
    }
}

/// Copies a matrix of so many rows and columns, which lie `from_stride` apart, to where its columns lie `to_stride` apart, in
/// tiles that stay in the processor's cache.
pub(super) fn transpose(
    from: &[f32],
    from_stride: usize,
    to: &mut [f32],
    to_stride: usize,
    [rows, columns]: [usize; 2],
) {
    for top in (0..rows).step_by(TILE) {
        let bottom = rows.min(top + TILE);
        for left in (0..columns).step_by(TILE) {
            for column in left..columns.min(left + TILE) {
                let to = &mut to[column * to_stride..][top..bottom];
                let from = from[top * from_stride + column..].iter();
                to.iter_mut()
                    .zip(from.step_by(from_stride))
                    .for_each(|(to, from)| *to = *from);
            }
        }
    }
}
