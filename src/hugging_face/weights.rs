//! The files of weights: which tensor belongs to which parameter, and its values.

use std::ops::Range;
use std::path::Path;

use safetensors::tensor::TensorInfo;

use super::files::{CONFIG, WeightFiles};
use super::names::{Entry, HEAD, Names, Part};
use crate::checkpoint::{PIECE, TensorsFile, number_size};
use crate::error::{Error, Result};
use crate::gpu::DType;

/// The most numbers of a transposed matrix that the host holds at a time.
const STRIP: usize = 1 << 25;

/// The files of a model's weights.
#[derive(Debug)]
pub(super) struct Weights {
    files: Vec<(String, TensorsFile)>,
    /// The index of several files, as it is.
    index: Option<Vec<u8>>,
    names: &'static Names,
    /// What names of tensors begin with.
    prefix: &'static str,
}

impl Weights {
    /// Opens the files and reads their headers.
    pub fn open(directory: &Path, names: &'static Names) -> Result<Weights> {
        let found = WeightFiles::find(directory)?;
        let mut files = Vec::new();
        for name in &found.names {
            files.push((name.clone(), TensorsFile::open(&directory.join(name))?));
        }
        if let Some(index) = &found.index {
            index.check(directory, &files)?;
        }
        let has_prefix = files.iter().any(|(_, file)| {
            let mut tensors = file.metadata.offset_keys().into_iter();
            tensors.any(|tensor| tensor.starts_with(names.prefix))
        });
        Ok(Weights {
            files,
            index: found.index.map(|index| index.json),
            names,
            prefix: if has_prefix { names.prefix } else { "" },
        })
    }

    /// The name of a tensor in the files.
    fn name(&self, theirs: &str) -> String {
        match theirs {
            HEAD => HEAD.to_owned(),
            theirs => format!("{}{theirs}", self.prefix),
        }
    }

    fn find(&self, name: &str) -> Option<(&TensorsFile, &TensorInfo)> {
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
    fn refuse(&self, reason: String) -> Error {
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

    /// Checks that every parameter is there in the right shape, and nothing else that would matter.
    pub fn check(&self, entries: &[Entry], n_layers: usize) -> Result<()> {
        for (_, file) in &self.files {
            for name in file.metadata.offset_keys() {
                let info = file.metadata.info(&name).expect("it is one of the names");
                let Some((entry, part)) = self.owner(&name, entries) else {
                    let bare = name.strip_prefix(self.prefix).unwrap_or(&name);
                    if self.names.is_constant(bare) {
                        continue;
                    }
                    return Err(file.refuse(format!(
                        "tensor `{name}` belongs to no part of the model of {CONFIG}, which has {n_layers} layers"
                    )));
                };
                let needed = entry.shape_of(part);
                if info.shape != needed {
                    return Err(file.refuse(format!(
                        "tensor `{name}` has shape {:?}, the model of {CONFIG} needs {needed:?}",
                        info.shape
                    )));
                }
                if number_size(info.dtype).is_none() {
                    return Err(file.refuse(format!(
                        "tensor `{name}` has type {}, expected one of F32, F16, BF16",
                        info.dtype
                    )));
                }
            }
        }
        let has_head = entries.iter().any(|entry| entry.parts[0].name == HEAD);
        let names = entries.iter().flat_map(|entry| {
            entry.parts.iter().map(move |part| match has_head {
                true => self.name(&part.name),
                false => self.stored(entry, part),
            })
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
                    "tensor `{name}`, which the model of {CONFIG} needs, is missing{remedy}"
                )))
            }
        }
    }

    /// Whose values a tensor of a file holds. A head that is saved although it is tied is the token table.
    pub fn owner<'a>(&self, name: &str, entries: &'a [Entry]) -> Option<(&'a Entry, &'a Part)> {
        let named = |theirs: &str| {
            let mut parts = entries
                .iter()
                .flat_map(|entry| entry.parts.iter().map(move |part| (entry, part)));
            parts.find(|(_, part)| part.name == theirs)
        };
        match name {
            HEAD => named(HEAD).or_else(|| {
                let table = entries.iter().find(|entry| entry.is_table())?;
                Some((table, table.parts.first()?))
            }),
            _ => named(name.strip_prefix(self.prefix)?),
        }
    }

    /// Hands over all numbers of a parameter in its own order, to be rounded to a type, a piece at a time.
    pub fn read(
        &self,
        entry: &Entry,
        dtype: DType,
        mut take: impl FnMut(Vec<f32>) -> Result<()>,
    ) -> Result<()> {
        let [rows, columns] = entry.extents();
        if entry.parts.len() == 1 && !entry.is_transposed {
            let count = rows * columns;
            for start in (0..count).step_by(PIECE) {
                let range = start..count.min(start + PIECE);
                take(self.numbers(entry, &entry.parts[0], range, dtype)?)?;
            }
            return Ok(());
        }
        // Some rows of it at a time are some columns of what files hold transposed.
        let height = (STRIP / columns).clamp(1, rows);
        for top in (0..rows).step_by(height) {
            let height = height.min(rows - top);
            let mut strip = vec![0.0; height * columns];
            for part in &entry.parts {
                self.fill(entry, part, top..top + height, &mut strip, dtype)?;
            }
            take(strip)?;
        }
        Ok(())
    }

    /// Puts the columns of a part into rows of its parameter.
    fn fill(
        &self,
        entry: &Entry,
        part: &Part,
        rows: Range<usize>,
        strip: &mut [f32],
        dtype: DType,
    ) -> Result<()> {
        let [all_rows, columns] = entry.extents();
        let (first, width) = (part.columns.start, part.columns.len());
        if !entry.is_transposed {
            for (row, strip) in rows.zip(strip.chunks_mut(columns)) {
                let range = row * width..(row + 1) * width;
                let numbers = self.numbers(entry, part, range, dtype)?;
                strip[first..first + width].copy_from_slice(&numbers);
            }
            return Ok(());
        }
        // Whole columns lie one behind the other; of parts of them each is read for itself.
        let at_once = match rows.len() == all_rows {
            true => (PIECE / all_rows).max(1),
            false => 1,
        };
        for column in (0..width).step_by(at_once) {
            let end = width.min(column + at_once);
            let range = column * all_rows + rows.start..(end - 1) * all_rows + rows.end;
            let numbers = self.numbers(entry, part, range, dtype)?;
            for (index, number) in numbers.into_iter().enumerate() {
                let (column, row) = (column + index / rows.len(), index % rows.len());
                strip[row * columns + first + column] = number;
            }
        }
        Ok(())
    }

    /// Some numbers of a part in the order of the file, as the parameter has them.
    fn numbers(
        &self,
        entry: &Entry,
        part: &Part,
        range: Range<usize>,
        dtype: DType,
    ) -> Result<Vec<f32>> {
        let name = self.stored(entry, part);
        let (file, info) = self.find(&name).expect("it has been checked");
        let start = range.start;
        let mut numbers = file.numbers(info, range)?;
        if entry.offset != 0.0 {
            numbers
                .iter_mut()
                .for_each(|number| *number += entry.offset);
        }
        let fits = dtype.require_range(&numbers);
        fits.map_err(|reason| file.refuse(format!("tensor `{name}`: {reason}")))?;
        match numbers.iter().position(|number| !number.is_finite()) {
            None => Ok(numbers),
            Some(at) => Err(file.refuse(format!(
                "tensor `{name}` holds {} at element {}: the model is damaged or its training has diverged; use an \
                 older copy",
                numbers[at],
                start + at
            ))),
        }
    }

    /// The files by name.
    pub fn files(&self) -> &[(String, TensorsFile)] {
        &self.files
    }

    /// The index of several files.
    pub fn index(&self) -> Option<&[u8]> {
        self.index.as_deref()
    }
}
