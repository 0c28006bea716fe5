//! What is printed: headings, remarks, tables.

use std::fmt;

use shadegrad::gpu::Fetch;
use shadegrad::{Result, Shape, Var};

/// A part of the output.
pub enum Entry {
    /// Begins a section.
    Heading(&'static str),
    /// A sentence about the tables around it.
    Note(&'static str),
    /// A tensor.
    Table(Table),
}

/// A printed tensor.
pub struct Table {
    pub name: &'static str,
    pub shape: Shape,
    pub values: Vec<f32>,
}

/// The output while it is being recorded.
#[derive(Default)]
pub struct Page {
    entries: Vec<Recorded>,
}

enum Recorded {
    Text(Entry),
    Table(&'static str, Shape, Fetch<f32>),
}

impl Page {
    pub fn heading(&mut self, text: &'static str) {
        self.entries.push(Recorded::Text(Entry::Heading(text)));
    }

    pub fn note(&mut self, text: &'static str) {
        self.entries.push(Recorded::Text(Entry::Note(text)));
    }

    /// Puts a value on the page, and gives it back.
    pub fn table<'t>(&mut self, name: &'static str, value: Var<'t>) -> Var<'t> {
        let fetch = value.tape().fetch(value);
        self.entries
            .push(Recorded::Table(name, value.shape(), fetch));
        value
    }

    /// The page with its values, once the tape has run.
    ///
    /// # Errors
    ///
    /// What the device reports.
    pub fn fetch(self) -> Result<Vec<Entry>> {
        let entries = self.entries.into_iter();
        let fetched = entries.map(|entry| match entry {
            Recorded::Text(entry) => Ok(entry),
            Recorded::Table(name, shape, fetch) => Ok(Entry::Table(Table {
                name,
                shape,
                values: fetch.get()?,
            })),
        });
        fetched.collect()
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Entry::Heading(text) => write!(f, "\n{text}\n{}", "=".repeat(text.chars().count())),
            Entry::Note(text) => write!(f, "\n{text}"),
            Entry::Table(table) => table.fmt(f),
        }
    }
}

impl fmt::Display for Table {
    /// Four decimals, one row a line, an empty line between matrices.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims = self.shape.dims();
        write!(f, "\n{} {}", self.name, self.shape)?;
        let columns = dims.last().copied().unwrap_or(1);
        let rows = dims.iter().rev().nth(1).copied().unwrap_or(1);
        for (row, values) in self.values.chunks(columns).enumerate() {
            if row > 0 && row % rows == 0 {
                writeln!(f)?;
            }
            write!(f, "\n ")?;
            for value in values {
                write!(f, " {value:>8.4}")?;
            }
        }
        Ok(())
    }
}
