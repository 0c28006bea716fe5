//! Ctrl-C: the first one asks the program to finish what it is doing, the second one ends it at once.

use std::sync::atomic::{AtomicU32, Ordering};

/// The exit code of a program that Ctrl-C ended: 128 + SIGINT.
pub const EXIT_CODE: u8 = 130;

unsafe extern "C" {
    /// Of the C library: ends the process without the clean-up that is registered for its end.
    fn _exit(code: i32) -> !;
}

static PRESSED: AtomicU32 = AtomicU32::new(0);

/// From here on the first Ctrl-C only makes [`requested`] true.
///
/// # Errors
///
/// If the system refuses the handler.
pub fn install() -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(|| {
        if PRESSED.fetch_add(1, Ordering::Relaxed) > 0 {
            // `std::process::exit` would take down the GPU's driver on this thread while the program's own thread is
            // inside it, and some drivers crash then: the process would end by that signal instead.
            // SAFETY: it takes any code and touches nothing of this process.
            unsafe { _exit(EXIT_CODE.into()) }
        }
    })
}

/// Whether Ctrl-C has been pressed.
pub fn requested() -> bool {
    PRESSED.load(Ordering::Relaxed) > 0
}
