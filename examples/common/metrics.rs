//! Metrics as JSON lines.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shadegrad::Error;

use super::Result;

/// What is known about one training step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The number of updates made so far, this one included.
    pub step: u64,
    /// The loss of this step's batch, before the update.
    pub train_loss: f32,
    /// After the update, the mean loss over a sample of the training split; only where evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_split_loss: Option<f64>,
    /// After the update, the mean loss over the test split or a sample of it; only where evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_loss: Option<f64>,
    /// The global norm of the gradients before clipping.
    pub grad_norm: f32,
    /// The learning rate of the update.
    pub lr: f32,
    /// Wall-clock time of the step, without evaluations and checkpoints.
    pub step_ms: f64,
    /// Tokens of the batch over that time.
    pub tokens_per_second: f64,
}

/// Loss estimates over the two splits at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// Mean loss over the training split or a sample of it.
    pub train: f64,
    /// Mean loss over the test split or a sample of it.
    pub test: f64,
}

impl Evaluation {
    /// The losses in words, with the perplexity of the test split if it is asked for.
    pub fn words(self, perplexity: bool) -> String {
        let Evaluation { train, test } = self;
        let losses = format!("train loss {train:.4} | test loss {test:.4}");
        match perplexity {
            true => format!("{losses} | test perplexity {:.2}", test.exp()),
            false => losses,
        }
    }
}

/// The records of a run, kept for its summary and plot, and written to a file if one is asked for.
pub struct Metrics {
    records: Vec<Record>,
    path: Option<PathBuf>,
    /// How many bytes of the file are taken over.
    kept: u64,
    /// Opened, and cut to what is taken over, when there is something to write: a run that fails before its first step
    /// leaves an older file alone.
    file: Option<BufWriter<File>>,
}

impl Metrics {
    /// The metrics of a run whose first new record will be that of step `start + 1`.
    ///
    /// A file is begun anew if `start` is 0; otherwise its records up to `start` stay and are taken over, and those
    /// beyond go, because their steps will be made again.
    ///
    /// # Errors
    ///
    /// [`Error::File`]; also if the file to be continued holds something else than metrics.
    pub fn start(path: Option<&Path>, start: u64) -> Result<Metrics> {
        let (records, kept) = match path {
            Some(path) if start > 0 => earlier(path, start)?,
            _ => (Vec::new(), 0),
        };
        Ok(Metrics {
            records,
            path: path.map(Path::to_owned),
            kept,
            file: None,
        })
    }

    /// Adds a record.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if the file cannot be written.
    pub fn push(&mut self, record: Record) -> Result<()> {
        if let Some(path) = &self.path {
            let mut write = || -> std::io::Result<()> {
                let file = match &mut self.file {
                    Some(file) => file,
                    none => none.insert(open(path, self.kept)?),
                };
                serde_json::to_writer(&mut *file, &record)?;
                file.write_all(b"\n")
            };
            write().map_err(|source| access(path, source))?;
        }
        self.records.push(record);
        Ok(())
    }

    /// Makes sure that all lines are in the file.
    ///
    /// # Errors
    ///
    /// [`Error::File`].
    pub fn flush(&mut self) -> Result<()> {
        if let (Some(path), Some(file)) = (&self.path, &mut self.file) {
            file.flush().map_err(|source| access(path, source))?;
        }
        Ok(())
    }

    /// All records, those taken over included.
    pub fn records(&self) -> &[Record] {
        &self.records
    }
}

fn access(path: &Path, source: std::io::Error) -> Error {
    let path = path.to_owned();
    Error::File { path, source }
}

/// Opens a file to write behind its first `kept` bytes.
fn open(path: &Path, kept: u64) -> std::io::Result<BufWriter<File>> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    // What is no plain file, such as /dev/stderr, has nothing to be cut off.
    if file.metadata()?.is_file() {
        file.set_len(kept)?;
    }
    Ok(BufWriter::new(file))
}

/// The records of a metrics file up to step `last`, and the number of bytes that they take.
fn earlier(path: &Path, last: u64) -> Result<(Vec<Record>, u64)> {
    let nothing = Ok((Vec::new(), 0));
    // A resumed run may start its metrics now.
    if !path.is_file() {
        return nothing;
    }
    let text = std::fs::read_to_string(path).map_err(|source| access(path, source))?;
    let mut records = Vec::new();
    let mut kept = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if !line.ends_with('\n') {
            // A program that was killed while writing leaves an unfinished line.
            break;
        }
        let record: Record = serde_json::from_str(line).map_err(|error| {
            format!(
                "--metrics: line {} of {} is not a record of a training run ({error}): choose another file",
                index + 1,
                path.display()
            )
        })?;
        if record.step > last {
            break;
        }
        kept += line.len() as u64;
        records.push(record);
    }
    Ok((records, kept))
}
