//! All ranks, as one of them sees them.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::ops::Range;
use std::time::{Duration, Instant};

use mpi::collective::CommunicatorCollectives;
use mpi::environment::{Threading, Universe, initialize_with_threading};
use mpi::request::scope;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Buffer, BufferMut, Communicator, Equivalence};

use super::faults;
use super::times::SumTimes;
use super::wait::Wait;

/// All ranks of a parallel run, as one of them sees them. Its methods but the plain getters are collective: all ranks
/// call the same ones in the same order.
///
/// It belongs to the thread that made it. Dropping it waits for the others to do so, for ten minutes at most: one of them may
/// be writing files.
pub struct World {
    // Freed before the universe, which ends MPI.
    pub(super) comm: SimpleCommunicator,
    local_rank: usize,
    /// How long to wait for another rank.
    patience: Cell<Duration>,
    /// How many collective calls there have been.
    calls: Cell<u64>,
    pub(super) sum_times: Cell<SumTimes>,
    /// What [`World::sum`] keeps.
    pub(super) buffers: RefCell<Option<Box<dyn Any>>>,
    _universe: Universe,
    /// MPI is called from one thread.
    _thread: PhantomData<*const ()>,
}

impl World {
    /// How long a rank waits for another one, if nobody says otherwise.
    pub const PATIENCE: Duration = Duration::from_secs(20);

    /// Begins MPI. A process that no launcher started is a world of its own.
    ///
    /// From here on, a panic ends all ranks.
    ///
    /// # Panics
    ///
    /// If MPI has begun in this process before.
    #[track_caller]
    pub fn new() -> World {
        let Some((universe, _)) = initialize_with_threading(Threading::Funneled) else {
            panic!("World::new: MPI has begun in this process before");
        };
        // Errors of MPI's own calls on it end all ranks, see `faults`.
        let comm = universe.world().duplicate();
        let local_rank = comm.split_shared(comm.rank()).rank() as usize;
        let world = World {
            comm,
            local_rank,
            patience: Cell::new(World::PATIENCE),
            calls: Cell::new(0),
            sum_times: Cell::default(),
            buffers: RefCell::default(),
            _universe: universe,
            _thread: PhantomData,
        };
        faults::install(&world.comm);
        world
    }

    /// This process's number, from 0.
    pub fn rank(&self) -> usize {
        self.comm.rank() as usize
    }

    /// How many ranks there are.
    pub fn size(&self) -> usize {
        self.comm.size() as usize
    }

    /// This process's number among those of its machine, from 0: for the choice of an adapter.
    pub fn local_rank(&self) -> usize {
        self.local_rank
    }

    /// Whether this is rank 0, which prints and writes files.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// This rank's share of so many rows: consecutive ones, the first ranks one more where they don't divide evenly.
    pub fn share(&self, rows: usize) -> Range<usize> {
        let (each, more) = (rows / self.size(), rows % self.size());
        let first = |rank: usize| rank * each + rank.min(more);
        first(self.rank())..first(self.rank() + 1)
    }

    /// How long this rank waits for others in each collective call, [`World::PATIENCE`] at first. What one rank does alone in
    /// between, such as writing a checkpoint, has to be done by then; the first calls after it may be given more. Gives what
    /// it was before.
    pub fn set_patience(&self, patience: Duration) -> Duration {
        self.patience.replace(patience)
    }

    /// Waits for all ranks to come here; as patient as after [`World::set_patience`]. `what` is what error messages call it.
    pub fn meet(&self, what: &str) {
        let request = self.comm.immediate_barrier();
        self.wait(what).complete(request);
    }

    /// Begins to wait in a collective call.
    pub(super) fn wait<'w>(&'w self, what: &'w str) -> Wait<'w> {
        self.calls.set(self.calls.get() + 1);
        Wait {
            comm: &self.comm,
            call: self.calls.get(),
            patience: self.patience.get(),
            what,
            since: Instant::now(),
            has_told: false,
        }
    }

    /// What all ranks bring, in their order.
    pub(super) fn gathered<T: Equivalence + Copy + Default>(&self, what: &str, own: &[T]) -> Vec<T>
    where
        [T]: Buffer + BufferMut,
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

    /// Ends all ranks, with one line on standard error that names this one.
    pub fn abort(&self, message: &str) -> ! {
        faults::abort(&self.comm, message)
    }
}

impl Default for World {
    fn default() -> World {
        World::new()
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "World(rank {} of {})", self.rank(), self.size())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // MPI would wait without end for a rank that hangs.
            self.set_patience(Duration::from_secs(600));
            self.meet("the end");
        }
    }
}
