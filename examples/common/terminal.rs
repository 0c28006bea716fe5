//! What the terminal sees.

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use shadegrad::data::excerpt;

/// Why a line could not be printed.
static FAILURE: Mutex<Option<io::Error>> = Mutex::new(None);

/// Whether another process prints what this one would.
static IS_SILENT: AtomicBool = AtomicBool::new(false);

/// Nobody reads standard output any more.
static IS_UNREAD: AtomicBool = AtomicBool::new(false);

/// From here on nothing is printed.
pub fn silence() {
    IS_SILENT.store(true, Ordering::Relaxed);
}

fn is_silent() -> bool {
    IS_SILENT.load(Ordering::Relaxed)
}

/// Prints a line. Unlike `println!` it survives a reader that has gone away (`train_names | head`): losing a run over a
/// line that nobody reads would be a bad trade. Of a full disk the program tells in the end: see [`failure`].
pub fn line(text: fmt::Arguments<'_>) {
    print(format_args!("{text}\n"));
}

/// Prints a part of a line in the same way.
pub fn text(text: &str) {
    print(format_args!("{text}"));
}

fn print(text: fmt::Arguments<'_>) {
    if is_silent() {
        return;
    }
    let mut out = io::stdout().lock();
    match write!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {
            IS_UNREAD.store(true, Ordering::Relaxed);
        }
        Err(error) => *FAILURE.lock().unwrap() = Some(error),
        _ => {}
    }
}

/// Why lines are missing in the output, if some are although somebody reads it.
pub fn failure() -> Option<io::Error> {
    FAILURE.lock().unwrap().take()
}

/// Whether the reader has gone away: what is made for it alone may end.
pub fn is_unread() -> bool {
    IS_UNREAD.load(Ordering::Relaxed)
}

/// `println!` that survives a closed pipe: see [`line`].
macro_rules! say {
    ($($text:tt)*) => {
        $crate::common::terminal::line(format_args!($($text)*))
    };
}

/// Prints a line on standard error that something is not as one might think, if anybody reads there.
pub fn note(text: fmt::Arguments<'_>) {
    if !is_silent() {
        let _ = writeln!(std::io::stderr(), "note: {text}");
    }
}

/// Prints what a program ends with; if input is quoted in it at length, not all of that.
pub fn error(error: &dyn std::error::Error) {
    if is_silent() {
        return;
    }
    let text = error.to_string();
    let _ = writeln!(std::io::stderr(), "error: {}", excerpt(&text, LONGEST));
}

/// Characters of the longest error.
pub const LONGEST: usize = 4000;
