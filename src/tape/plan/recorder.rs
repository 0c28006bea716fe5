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
    /// Writing the inputs and encoding the commands.
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

/// An interval of the host's time.
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
    runs: Mutex<Option<Vec<Run>>>,
}

impl Recorder {
    pub fn begin(&self) {
        *self.runs.lock().unwrap() = Some(Vec::new());
    }

    /// All runs since it began.
    pub fn end(&self) -> Vec<Run> {
        self.runs.lock().unwrap().take().unwrap_or_default()
    }

    /// Whether to time each dispatch of the plan's next run, or only all of them together. They take turns, because timing
    /// dispatches one by one costs host and device something.
    pub fn is_each_next(&self, plan: &Arc<Plan>) -> bool {
        let runs = self.runs.lock().unwrap();
        let runs = runs.iter().flatten();
        runs.filter(|run| Arc::ptr_eq(&run.plan, plan)).count() % 2 == 1
    }

    /// Notes a run, if somebody still profiles: a tape may run later than it was recorded.
    pub fn push(&self, run: Run) {
        if let Some(runs) = &mut *self.runs.lock().unwrap() {
            runs.push(run);
        }
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
