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

/// Keeps Mesa from printing `error: XDG_RUNTIME_DIR is invalid` where there is no desktop, as in a container: its layer
/// that asks the desktop for the preferred adapter has nobody to ask there.
///
/// To be called first thing in `main`, before there are other threads.
pub fn hush_driver() {
    let desktop = ["XDG_RUNTIME_DIR", "WAYLAND_DISPLAY", "DISPLAY"];
    if cfg!(unix) && desktop.iter().all(|name| std::env::var_os(name).is_none()) {
        // SAFETY: no other thread is running that could read the environment meanwhile.
        unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    }
}
