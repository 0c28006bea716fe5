//! The example programs, from outside: what they refuse, what they write, and that a run is the same run whenever and
//! however often it is interrupted. All but `chat`, `echo`, `lm`, `masked`, `reference` and `text` are about `train_names`.

#[cfg(feature = "tokenizers")]
mod chat;
#[path = "../common/mod.rs"]
mod common;
mod echo;
#[path = "../common/example.rs"]
mod example;
mod files;
mod hostile;
#[cfg(unix)]
mod interrupts;
#[cfg(feature = "tokenizers")]
mod lm;
mod masked;
#[path = "../common/pictures.rs"]
mod pictures;
mod reference;
mod refusals;
mod runs;
mod saved;
mod small;
#[cfg(target_os = "linux")]
mod terminal;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use common::Random;
use example::program;

/// A model that trains in a moment.
const TINY: &[&str] = &[
    "-d",
    "8",
    "-n",
    "2",
    "-l",
    "1",
    "-b",
    "4",
    "--eval-iters",
    "2",
    "--final-eval-iters",
    "2",
];

/// A folder of its own for a test, gone when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("train-names-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.0.join(name), bytes).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.0.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// All files with their contents.
    fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        let entries = std::fs::read_dir(&self.0)
            .unwrap()
            .map(|entry| entry.unwrap());
        let files = entries.filter(|entry| entry.path().is_file());
        let named = files.map(|entry| entry.file_name().into_string().unwrap());
        named.map(|name| (name.clone(), self.read(&name))).collect()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        self.command_of("train_names", arguments)
    }

    fn command_of(&self, name: &'static str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program(name));
        // Some drivers complain on standard error where there is no such folder.
        command
            .current_dir(&self.0)
            .args(arguments)
            .env("XDG_RUNTIME_DIR", &self.0);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments)
            .output()
            .expect("the program starts")
    }

    /// Runs a tiny model to the end and gives what it printed.
    fn train(&self, arguments: &[&str]) -> String {
        let output = self.run(&[TINY, arguments].concat());
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    /// The metrics but for the times.
    fn metrics(&self, name: &str) -> Vec<Value> {
        let text = text(&self.read(name));
        let records = text.lines().map(|line| {
            let mut record: Value = serde_json::from_str(line).unwrap();
            let fields = record.as_object_mut().unwrap();
            assert!(fields.remove("step_ms").unwrap().as_f64().unwrap() > 0.0);
            assert!(
                fields
                    .remove("tokens_per_second")
                    .unwrap()
                    .as_f64()
                    .unwrap()
                    > 0.0
            );
            record
        });
        records.collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Compares without printing hundreds of records.
#[track_caller]
fn assert_same(a: &[Value], b: &[Value]) {
    if let Some((a, b)) = a.iter().zip(b).find(|(a, b)| a != b) {
        panic!("the metrics differ:\n{a}\n{b}");
    }
    assert_eq!(a.len(), b.len(), "the number of records");
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The program refuses with one line that contains `expected`, and no file has changed.
#[track_caller]
fn assert_refused(folder: &Folder, arguments: &[&str], expected: &str) {
    let before = folder.contents();
    // Were it not refused, it would at least not take long.
    let output = folder.run(&[TINY, &["--steps", "40", "--warmup", "0"], arguments].concat());
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(
        output.status.code(),
        Some(1),
        "{arguments:?}\n{stdout}\n{stderr}"
    );
    let lines: Vec<&str> = stderr.lines().collect();
    let [line] = lines[..] else {
        panic!("{arguments:?}: one line expected\n{stderr}");
    };
    assert!(
        line.starts_with("error: ") && line.contains(expected),
        "{arguments:?}: `{expected}` expected\n{line}"
    );
    assert!(
        !stdout.contains("step"),
        "{arguments:?}: training has started\n{stdout}"
    );
    assert_eq!(
        before,
        folder.contents(),
        "{arguments:?}: a file has changed"
    );
}
