//! What ends all ranks: a rank that fails, that panics, or that MPI refuses something.

use std::ffi::{c_char, c_int};
use std::io::Write;
use std::sync::OnceLock;
use std::time::Duration;

use mpi::ffi;
use mpi::raw::AsRaw;
use mpi::topology::SimpleCommunicator;
use mpi::traits::Communicator;

/// MPICH's launcher reads what a rank has printed before it hears that this one ends all, and not afterwards.
const READING: Duration = Duration::from_millis(250);

/// Who prints a line.
#[derive(Clone, Debug)]
struct Line {
    rank: usize,
    size: usize,
    host: String,
}

impl Line {
    fn of(comm: &SimpleCommunicator) -> Line {
        Line {
            rank: comm.rank() as usize,
            size: comm.size() as usize,
            host: mpi::environment::processor_name().unwrap_or_default(),
        }
    }

    /// Prints it in one write, so that those of several ranks don't mix.
    fn print(&self, message: &str) {
        let Line { rank, size, host } = self;
        let message = message.trim_end().replace('\n', "; ");
        let line = format!("error: rank {rank} of {size} ({host}): {message}\n");
        // Where standard error is gone, nobody reads.
        let _ = std::io::stderr().write_all(line.as_bytes());
        std::thread::sleep(READING);
    }
}

/// This process, for the handlers.
static LINE: OnceLock<Line> = OnceLock::new();

/// Makes panics and MPI's errors end all ranks.
pub(super) fn install(comm: &SimpleCommunicator) {
    if LINE.set(Line::of(comm)).is_err() || comm.size() == 1 {
        return;
    }
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        before(panic);
        end("it panicked");
    }));
    handle_errors(comm);
    handle_errors(&SimpleCommunicator::world());
}

/// Ends all ranks, with one line that names this one.
pub(super) fn abort(comm: &SimpleCommunicator, message: &str) -> ! {
    Line::of(comm).print(message);
    comm.abort(1)
}

/// Ends all ranks, from wherever.
fn end(message: &str) -> ! {
    if let Some(line) = LINE.get() {
        line.print(message);
    }
    SimpleCommunicator::world().abort(1)
}

/// An error handler of MPI's: says what was wrong.
///
/// # Safety
///
/// Of MPI's making: the code is readable.
unsafe extern "C" fn on_error(_comm: *mut ffi::MPI_Comm, code: *mut c_int) {
    let mut text = [0u8; ffi::MPI_MAX_ERROR_STRING as usize];
    let mut length = 0;
    // SAFETY: the text has the size that MPI asks for, and the code is MPI's.
    unsafe { ffi::MPI_Error_string(*code, text.as_mut_ptr().cast::<c_char>(), &mut length) };
    let text = &text[..text.len().min(length as usize)];
    end(&format!("MPI failed: {}", String::from_utf8_lossy(text)))
}

fn handle_errors(comm: &SimpleCommunicator) {
    type Handler = unsafe extern "C" fn(*mut ffi::MPI_Comm, *mut c_int);
    type Variadic = unsafe extern "C" fn(*mut ffi::MPI_Comm, *mut c_int, ...);
    // SAFETY: C's callers of a variadic function pass the named arguments as they do to any other, and nobody reads more.
    let handler = unsafe { std::mem::transmute::<Handler, Variadic>(on_error) };
    // SAFETY: MPI has begun, the communicator lives, and MPI writes the handle before it is read. It is never freed, as the
    // communicator keeps it.
    unsafe {
        let mut handle = std::mem::MaybeUninit::uninit();
        ffi::MPI_Comm_create_errhandler(Some(handler), handle.as_mut_ptr());
        ffi::MPI_Comm_set_errhandler(comm.as_raw(), handle.assume_init());
    }
}
