//! What ends all ranks: a rank that panics, that MPI refuses something, or that the others wait for in vain.

use std::ffi::{c_char, c_int};
use std::io::Write;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use mpi::collective::CommunicatorCollectives;
use mpi::ffi;
use mpi::point_to_point::{Destination, Source};
use mpi::raw::AsRaw;
use mpi::request::{Request, Scope, StaticScope, scope};
use mpi::topology::SimpleCommunicator;
use mpi::traits::Communicator;

use super::World;

/// Who prints a line.
#[derive(Clone, Debug)]
pub(super) struct Line {
    rank: usize,
    size: usize,
    host: String,
}

impl Line {
    pub fn of(world: &World) -> Line {
        Line {
            rank: world.rank(),
            size: world.size(),
            host: mpi::environment::processor_name().unwrap_or_default(),
        }
    }

    /// Prints it in one write, so that those of several ranks don't mix.
    pub fn print(&self, message: &str) {
        let Line { rank, size, host } = self;
        let line = format!("error: rank {rank} of {size} ({host}): {message}\n");
        // Where standard error is gone, nobody reads.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}

/// This process, for the handlers.
static LINE: OnceLock<Line> = OnceLock::new();

/// Makes panics and MPI's errors end all ranks.
pub(super) fn install(world: &World) {
    if LINE.set(Line::of(world)).is_err() || world.size() == 1 {
        return;
    }
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        before(panic);
        end("it panicked");
    }));
    handle_errors(&world.comm);
    handle_errors(&SimpleCommunicator::world());
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

/// So long a rank only lets others run while it waits; then it sleeps in between.
const AWAKE: Duration = Duration::from_micros(200);

/// After so long it tells the others that it waits.
const TELLING: Duration = Duration::from_secs(2);

/// So long it listens who else waits, before it says who doesn't.
const LISTENING: Duration = Duration::from_secs(2);

/// Messages that say which call their sender waits in.
const WAITS: i32 = 77;

/// A rank that is waiting for the others in a collective call.
pub(super) struct Wait<'w> {
    world: &'w World,
    what: &'w str,
    since: Instant,
    has_told: bool,
}

impl World {
    /// Waits for all ranks to come here; as patient as after [`World::set_patience`]. `what` is what error messages call it.
    pub fn meet(&self, what: &str) {
        let request = self.comm.immediate_barrier();
        self.wait(what).complete(request);
    }

    /// Begins to wait in a collective call.
    pub(super) fn wait<'w>(&'w self, what: &'w str) -> Wait<'w> {
        self.calls.set(self.calls.get() + 1);
        Wait {
            world: self,
            what,
            since: Instant::now(),
            has_told: false,
        }
    }
}

impl Wait<'_> {
    /// Waits for a request's end. Ends all ranks if that takes longer than the world's patience.
    pub fn complete<'a, D: ?Sized, S: Scope<'a>>(&mut self, mut request: Request<'a, D, S>) {
        loop {
            match request.test() {
                Ok(_) => return,
                Err(pending) => request = pending,
            }
            self.idle();
        }
    }

    fn idle(&mut self) {
        let waited = self.since.elapsed();
        if waited > self.world.patience.get() {
            self.give_up(waited);
        }
        if waited > TELLING && !self.has_told {
            self.has_told = true;
            self.tell();
        }
        match waited < AWAKE {
            true => std::thread::yield_now(),
            false => std::thread::sleep(Duration::from_micros(50)),
        }
    }

    /// Tells the others that this rank waits.
    fn tell(&self) {
        for rank in self.others() {
            // Whoever hangs may never receive it, and what must not be waited for has to live on.
            let call: &'static u64 = Box::leak(Box::new(self.world.calls.get()));
            let process = self.world.comm.process_at_rank(rank as i32);
            std::mem::forget(process.immediate_send_with_tag(StaticScope, call, WAITS));
        }
    }

    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let own = self.world.rank();
        (0..self.world.size()).filter(move |&rank| rank != own)
    }

    /// Ends all ranks. Those that don't wait here are waited for.
    fn give_up(&self, waited: Duration) -> ! {
        let mut missing: Vec<usize> = self.others().collect();
        let until = Instant::now() + LISTENING;
        while Instant::now() < until && !missing.is_empty() {
            let any = self.world.comm.any_process();
            match any.immediate_matched_probe_with_tag(WAITS) {
                Some((message, status)) => {
                    let (call, _) = message.matched_receive::<u64>();
                    // What it waits in may be a part of the same sum before or behind.
                    let waits = call.abs_diff(self.world.calls.get()) <= 2;
                    missing.retain(|&rank| !waits || rank != status.source_rank() as usize);
                }
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        let missing: Vec<String> = missing.iter().map(usize::to_string).collect();
        let who = match &missing[..] {
            [] => "all others wait, too: the network may be down".to_owned(),
            [one] => format!("rank {one} does not come: it hangs, or was stopped"),
            several => format!(
                "ranks {} do not come: they hang, or were stopped",
                several.join(", ")
            ),
        };
        let seconds = waited.as_secs();
        self.world.abort(&format!(
            "waited {seconds} s for {}, and {who}; all ranks end here, and can go on from the last checkpoint",
            self.what
        ))
    }
}

impl World {
    /// What all ranks bring, in their order.
    pub(super) fn gathered<T: mpi::traits::Equivalence + Copy + Default>(
        &self,
        what: &str,
        own: &[T],
    ) -> Vec<T>
    where
        [T]: mpi::traits::Buffer + mpi::traits::BufferMut,
    {
        let mut all = vec![T::default(); own.len() * self.size()];
        if !own.is_empty() {
            scope(|scope| {
                let request = self
                    .comm
                    .immediate_all_gather_into(scope, own, &mut all[..]);
                self.wait(what).complete(request);
            });
        }
        all
    }
}
