//! Ctrl-C, and the signals that a batch system, `kill` or a terminal that goes away send: the first one asks the program
//! to finish what it is doing, the second one ends it at once.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// What Ctrl-C sends.
const INTERRUPT: i32 = 2;

/// What tells a program to end.
const TERMINATE: i32 = 15;

/// The first signal that came; zero before.
static FIRST: AtomicI32 = AtomicI32::new(0);

/// Whether several processes stop together, so that a signal counts once they have heard of it.
static IS_SHARED: AtomicBool = AtomicBool::new(false);

/// Whether they have.
static IS_HEARD: AtomicBool = AtomicBool::new(false);

/// From here on the first signal only makes [`requested`] true.
///
/// # Errors
///
/// If the system refuses the handler.
pub fn install() -> io::Result<()> {
    system::install()
}

/// Whether the program is to finish: a signal has come.
pub fn requested() -> bool {
    has_come() && (!IS_SHARED.load(Ordering::Relaxed) || IS_HEARD.load(Ordering::Relaxed))
}

/// Whether a signal has come to this process.
pub fn has_come() -> bool {
    FIRST.load(Ordering::Relaxed) != 0
}

/// From here on a signal only makes [`requested`] true when [`request`] is called.
pub fn share() {
    IS_SHARED.store(true, Ordering::Relaxed);
}

/// A signal has come to this process or another one of the run.
pub fn request() {
    let _ = FIRST.compare_exchange(0, TERMINATE, Ordering::Relaxed, Ordering::Relaxed);
    IS_HEARD.store(true, Ordering::Relaxed);
}

/// Whether what has come is no Ctrl-C: nobody is waiting for more than what must be saved, and not for long.
pub fn is_final() -> bool {
    requested() && FIRST.load(Ordering::Relaxed) != INTERRUPT
}

/// `count` samples, or none if nobody is waiting for any.
pub fn still_wanted(count: usize) -> usize {
    if is_final() { 0 } else { count }
}

/// The exit code of a program that a signal ended: 128 and the signal's number, as shells have it.
pub fn exit_code() -> u8 {
    128 + FIRST.load(Ordering::Relaxed) as u8
}

#[cfg(unix)]
mod system {
    use std::io;
    use std::sync::atomic::Ordering;

    use super::{FIRST, INTERRUPT, TERMINATE};

    const HANG_UP: i32 = 1;

    const IGNORE: usize = 1;
    const REFUSED: usize = usize::MAX;

    // Of the C library.
    unsafe extern "C" {
        fn signal(number: i32, handler: usize) -> usize;
        /// Ends the process without the clean-up that is registered for its end.
        fn _exit(code: i32) -> !;
    }

    extern "C" fn handle(number: i32) {
        let first = FIRST.compare_exchange(0, number, Ordering::Relaxed, Ordering::Relaxed);
        if first.is_err() {
            // `std::process::exit` would take down the GPU's driver here while the program may be inside it, and some
            // drivers crash then: the process would end by that signal instead.
            // SAFETY: it takes any code, touches nothing of this process, and may be called in a signal handler.
            unsafe { _exit(128 + number) }
        }
    }

    pub fn install() -> io::Result<()> {
        let handler = handle as extern "C" fn(i32) as usize;
        for number in [HANG_UP, INTERRUPT, TERMINATE] {
            // SAFETY: the handler only does what handlers may, and lives as long as the program.
            let before = unsafe { signal(number, handler) };
            if before == REFUSED {
                return Err(io::Error::last_os_error());
            }
            if before == IGNORE && number == HANG_UP {
                // `nohup` started the program so that it outlives its terminal.
                // SAFETY: as above.
                unsafe { signal(number, IGNORE) };
            }
        }
        Ok(())
    }
}

#[cfg(not(unix))]
mod system {
    use std::io;
    use std::sync::atomic::Ordering;

    use super::{FIRST, INTERRUPT};

    pub fn install() -> io::Result<()> {
        let handle = || {
            if FIRST.swap(INTERRUPT, Ordering::Relaxed) != 0 {
                std::process::exit(128 + INTERRUPT);
            }
        };
        ctrlc::set_handler(handle).map_err(io::Error::other)
    }
}
