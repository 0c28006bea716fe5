//! Data-parallel training over MPI: several processes, each with a device, train one model on their shares of each batch.
//!
//! Every rank (MPI's word for one of the processes) holds all parameters. A step records the gradient of the rank's share of
//! the batch by [`Optimizer::accumulate`](crate::optim::Optimizer::accumulate), sums it over the ranks by [`World::sum`], and
//! updates by [`Optimizer::step_accumulated`](crate::optim::Optimizer::step_accumulated): so clipping, the skipping of steps
//! that are not finite, and loss scaling see the gradient of the whole batch. Sums are made in the order of ranks, each
//! element by one rank that hands it to all: all ranks hold the same bits, and the same run gives the same bits again,
//! whatever MPI is underneath.
//!
//! ```no_run
//! # fn main() -> shadegrad::Result<()> {
//! # use shadegrad::nn::{Init, ParameterBuilder};
//! use shadegrad::optim::{AdamW, AdamWConfig, Optimizer};
//! use shadegrad::parallel::World;
//! use shadegrad::{DType, Device, Tape, Tensor};
//!
//! let world = World::new();
//! let device = Device::new()?;
//! # let mut builder = ParameterBuilder::new(1);
//! # let x = builder.parameter("x", [2], Init::Ones);
//! # let parameters = builder.build(&device)?;
//! let mut optimizer = AdamW::new(&parameters, AdamWConfig::default())?;
//! let total = Tensor::zeros(&device, [1], DType::F32)?;
//! for step in 0..100 {
//!     let rows = world.share(32);
//!     let tape = Tape::training(&device);
//!     tape.set_rows(rows.start, rows.len()); // Dropout as one device would have it.
//!     tape.set_seed(1, step);
//!     let part = tape.scalar(rows.len() as f32 / 32.0);
//!     # let mean_loss = x.on(&tape).powi(2.0).sum_all();
//!     let loss = mean_loss * part; // Of the rank's rows.
//!     tape.assign(&total, loss.reshape([1]));
//!     optimizer.accumulate(&tape, loss)?;
//!     tape.run()?;
//!     let gradient = optimizer.accumulated().expect("accumulated above").segments();
//!     world.sum(gradient.iter().chain([&total]), DType::F32)?;
//!     let tape = Tape::training(&device);
//!     let report = optimizer.step_accumulated(&tape, tape.tensor(&total).sum_all(), 1e-3).fetch();
//!     tape.run()?;
//!     if world.is_first() {
//!         println!("{}", report.get()?.loss);
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The program is started by MPI's launcher, such as `mpirun -n 4`; `docs/parallel.md` says more. A rank that panics, that
//! MPI refuses something, or that others wait for in vain, ends all ranks with a line that names it.

mod agreement;
mod faults;
mod sum;

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::ops::Range;
use std::time::Duration;

use mpi::environment::{Threading, Universe, initialize_with_threading};
use mpi::topology::SimpleCommunicator;
use mpi::traits::Communicator;

use faults::Line;
use sum::Buffers;

/// All ranks of a parallel run, as one of them sees them. Its methods but the plain getters are collective: all ranks
/// call the same ones in the same order.
///
/// It belongs to the thread that made it. Dropping it waits for the others to do so, for ten minutes at most: one of them may
/// be writing files.
pub struct World {
    // Freed before the universe, which ends MPI.
    comm: SimpleCommunicator,
    local_rank: usize,
    /// How long to wait for another rank.
    patience: Cell<Duration>,
    /// How many collective calls there have been.
    calls: Cell<u64>,
    buffers: RefCell<Option<Buffers>>,
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
            buffers: RefCell::default(),
            _universe: universe,
            _thread: PhantomData,
        };
        faults::install(&world);
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

    /// Ends all ranks, with one line on standard error that names this one.
    pub fn abort(&self, message: &str) -> ! {
        Line::of(self).print(message);
        self.comm.abort(1)
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
