//! Metrics as JSON lines.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shadegrad::Error;
use shadegrad::data::excerpt;

use super::course::Evaluation;
use super::terminal::note;
use super::{Result, outputs};

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
    /// The global norm of the gradients before clipping; none if they overflowed.
    pub grad_norm: Option<f32>,
    /// What the loss was multiplied by to be differentiated, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<f32>,
    /// Whether the gradients overflowed, so that there was no update.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skipped: bool,
    /// The learning rate of the update.
    pub lr: f32,
    /// Wall-clock time of the step, without evaluations and checkpoints: its share of that of the steps whose results
    /// arrived together with its own.
    pub step_ms: f64,
    /// Tokens of these steps over that time.
    pub tokens_per_second: f64,
}

/// The records of a run, kept for its summary and plot, and written to a file if one is asked for.
pub struct Metrics {
    records: Vec<Record>,
    /// How many records were taken over.
    earlier: usize,
    path: Option<PathBuf>,
    /// Opened when there is something to write: a run that fails before its first step leaves an older file alone.
    file: Option<File>,
    /// Whether it can be read again, and a line of it written again, unlike /dev/stderr or a pipe.
    is_plain: bool,
    /// So many records stand in the file for good,
    settled: usize,
    /// and take so many bytes of it.
    position: u64,
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
        let is_plain = path.is_none_or(|path| path.is_file() || !path.exists());
        let (records, position) = match path {
            Some(path) if start > 0 && is_plain => earlier(path, start)?,
            _ => (Vec::new(), 0),
        };
        let stream = path.filter(|_| !is_plain).map(open_stream);
        Ok(Metrics {
            earlier: records.len(),
            settled: records.len(),
            records,
            path: path.map(Path::to_owned),
            file: stream.transpose()?,
            is_plain,
            position,
        })
    }

    /// Adds a record.
    pub fn push(&mut self, record: Record) {
        self.records.push(record);
    }

    /// Adds an evaluation to the last record, if this run has made it.
    pub fn evaluated(&mut self, losses: Evaluation) {
        if self.records.len() > self.earlier
            && let Some(record) = self.records.last_mut()
        {
            record.train_split_loss = Some(losses.train);
            record.test_loss = Some(losses.test);
        }
    }

    /// Puts all records into the file. To be called before a checkpoint is written, so that a run that goes on from there
    /// finds them. What can't be written again waits for the evaluation that may be added to the last one.
    ///
    /// # Errors
    ///
    /// [`Error::File`].
    pub fn write(&mut self) -> Result<()> {
        self.put(self.is_plain)
    }

    /// Puts all records into the file, for good.
    ///
    /// # Errors
    ///
    /// [`Error::File`].
    pub fn finish(&mut self) -> Result<()> {
        self.put(true)?;
        if let (Some(path), Some(_)) = (&self.path, &self.file) {
            outputs::written(path);
        }
        Ok(())
    }

    fn put(&mut self, with_last: bool) -> Result<()> {
        let Some(path) = self.path.clone() else {
            return Ok(());
        };
        let end = self.records.len() - usize::from(!with_last && !self.records.is_empty());
        if self.settled >= end {
            return Ok(());
        }
        let written = self.put_up_to(&path, end);
        Ok(written.map_err(|source| format!("--metrics: {}", access(&path, source)))?)
    }

    fn put_up_to(&mut self, path: &Path, end: usize) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(open(path, self.position)?),
        };
        let (mut text, mut last) = (Vec::new(), 0);
        for record in &self.records[self.settled..end] {
            last = text.len();
            serde_json::to_writer(&mut text, record)?;
            text.push(b'\n');
        }
        if !self.is_plain {
            file.write_all(&text)?;
            self.settled = end;
            return Ok(());
        }
        // Nobody would find what is written to a file that has been removed.
        std::fs::metadata(path)?;
        file.seek(SeekFrom::Start(self.position))?;
        file.write_all(&text)?;
        // The last line may get longer.
        self.settled = end - 1;
        self.position += last as u64;
        Ok(())
    }

    /// All records, those taken over included.
    pub fn records(&self) -> &[Record] {
        &self.records
    }
}

fn access(path: &Path, source: io::Error) -> Error {
    let path = path.to_owned();
    Error::File { path, source }
}

/// Opens a plain file to write behind its first `kept` bytes.
fn open(path: &Path, kept: u64) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = options
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)?;
    file.set_len(kept)?;
    Ok(file)
}

/// How long somebody may take to open the other end of a pipe.
const PATIENCE: Duration = Duration::from_secs(3);

/// Opens what is no plain file, such as /dev/stderr or a pipe.
fn open_stream(path: &Path) -> Result<File> {
    let (sender, receiver) = mpsc::channel();
    let name = path.to_owned();
    // Opening a pipe takes until somebody reads it, for ever if nobody does.
    std::thread::spawn(move || {
        let _ = sender.send(OpenOptions::new().append(true).open(name));
    });
    let opened = receiver.recv_timeout(PATIENCE);
    let nobody = |_| {
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "nobody reads this pipe",
        ))
    };
    let opened = opened.unwrap_or_else(nobody);
    Ok(opened.map_err(|source| format!("--metrics: {}", access(path, source)))?)
}

/// The records of a metrics file up to step `last`, and the number of bytes that they take.
fn earlier(path: &Path, last: u64) -> Result<(Vec<Record>, u64)> {
    // A resumed run may start its metrics now.
    if !path.exists() {
        return Ok((Vec::new(), 0));
    }
    let text = std::fs::read_to_string(path).map_err(|source| access(path, source))?;
    let mut records: Vec<Record> = Vec::new();
    let mut kept = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if !line.ends_with('\n') {
            // A program that was killed while writing leaves an unfinished line.
            break;
        }
        let record: Record = serde_json::from_str(line).map_err(|error| {
            format!(
                "--metrics: line {} of {} is not a record of a training run ({}): choose another file",
                index + 1,
                path.display(),
                excerpt(&error.to_string(), 200),
            )
        })?;
        if record.step > last {
            break;
        }
        kept += line.len() as u64;
        records.push(record);
    }
    let reached = records.last().map_or(0, |record| record.step);
    if !text.is_empty() && reached < last {
        note(format_args!(
            "{} lacks the steps from {} to {last}, where the checkpoint begins",
            path.display(),
            reached + 1
        ));
    }
    Ok((records, kept))
}
