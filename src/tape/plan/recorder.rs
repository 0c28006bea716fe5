//! What is noted down of each run while somebody profiles a device.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::replay::Plan;
use super::timing::DeviceTimes;

/// What the host does for a tape, in this order; waiting comes in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// From the tape's making to [`Tape::run`](crate::Tape::run).
    Record,
    /// Finding its plan, or making it.
    Plan,
    /// Uploading the inputs and encoding the commands.
    Encode,
    /// Handing them to the driver.
    Submit,
    /// Waiting for the device.
    Wait,
}

impl Phase {
    pub const ALL: [Phase; 5] = [
        Phase::Record,
        Phase::Plan,
        Phase::Encode,
        Phase::Submit,
        Phase::Wait,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Phase::Record => "record",
            Phase::Plan => "plan",
            Phase::Encode => "encode",
            Phase::Submit => "submit",
            Phase::Wait => "wait",
        }
    }
}

/// A interval of the host's time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub phase: Phase,
    pub start: Instant,
    pub end: Instant,
}

/// One run of a tape.
pub(crate) struct Run {
    pub plan: Arc<Plan>,
    pub spans: Vec<Span>,
    pub device: DeviceTimes,
}

/// What a device's tapes note down while somebody profiles it.
#[derive(Default)]
pub(crate) struct Recorder {
    runs: Mutex<Vec<Run>>,
}

impl Recorder {
    /// Whether to time each dispatch of the plan's next run, or only all of them together. They take turns, because timing
    /// dispatches one by one costs host and device something.
    pub fn is_each_next(&self, plan: &Arc<Plan>) -> bool {
        let runs = self.runs.lock().unwrap();
        let runs = runs.iter().filter(|run| Arc::ptr_eq(&run.plan, plan));
        runs.count() % 2 == 1
    }

    pub fn push(&self, run: Run) {
        self.runs.lock().unwrap().push(run);
    }

    /// All runs since this was last called.
    pub fn take(&self) -> Vec<Run> {
        std::mem::take(&mut self.runs.lock().unwrap())
    }
}

/// A clock that cuts the host's time for one tape into phases.
pub(crate) struct PhaseClock {
    last: Instant,
    pub spans: Vec<Span>,
}

impl PhaseClock {
    pub fn since(start: Instant) -> PhaseClock {
        PhaseClock {
            last: start,
            spans: Vec::with_capacity(Phase::ALL.len()),
        }
    }

    /// Ends a phase.
    pub fn lap(&mut self, phase: Phase) {
        let end = Instant::now();
        self.spans.push(Span {
            phase,
            start: self.last,
            end,
        });
        self.last = end;
    }

    /// Leaves out the time since the last lap.
    pub fn skip(&mut self) {
        self.last = Instant::now();
    }
}
