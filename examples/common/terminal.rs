//! What the terminal sees.

use std::fmt;
use std::io::Write;

/// Prints a line. Unlike `println!` it survives a reader that has gone away (`train_names | head`): losing a run over a
/// line that nobody reads would be a bad trade.
pub fn line(text: fmt::Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// `println!` that survives a closed pipe: see [`line`].
macro_rules! say {
    ($($text:tt)*) => {
        $crate::common::terminal::line(format_args!($($text)*))
    };
}
