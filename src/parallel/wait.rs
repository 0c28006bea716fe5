//! Waiting for other ranks, and who is waited for in vain.

use std::time::{Duration, Instant};

use mpi::point_to_point::{Destination, Source};
use mpi::request::{Request, Scope, StaticScope};
use mpi::topology::SimpleCommunicator;
use mpi::traits::Communicator;

use super::faults;

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
    pub comm: &'w SimpleCommunicator,
    /// The number of the call.
    pub call: u64,
    pub patience: Duration,
    /// What error messages call it.
    pub what: &'w str,
    pub since: Instant,
    pub has_told: bool,
}

impl Wait<'_> {
    /// Waits for a request's end. Ends all ranks if that takes longer than its patience.
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
        if waited > self.patience {
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
            let call: &'static u64 = Box::leak(Box::new(self.call));
            let process = self.comm.process_at_rank(rank as i32);
            std::mem::forget(process.immediate_send_with_tag(StaticScope, call, WAITS));
        }
    }

    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let own = self.comm.rank() as usize;
        (0..self.comm.size() as usize).filter(move |&rank| rank != own)
    }

    /// Ends all ranks. Those that don't wait here are waited for.
    fn give_up(&self, waited: Duration) -> ! {
        let mut missing: Vec<usize> = self.others().collect();
        let until = Instant::now() + LISTENING;
        while Instant::now() < until && !missing.is_empty() {
            let any = self.comm.any_process();
            match any.immediate_matched_probe_with_tag(WAITS) {
                Some((message, status)) => {
                    let (call, _) = message.matched_receive::<u64>();
                    // What it waits in may be a part of the same sum before or behind.
                    let waits = call.abs_diff(self.call) <= 2;
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
        let message = format!(
            "waited {seconds} s for {}, and {who}; all ranks end here, and can go on from the last checkpoint",
            self.what
        );
        faults::abort(self.comm, &message)
    }
}
