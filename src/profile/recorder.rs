//! What a device notes down while somebody profiles it.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::tape::{DeviceTimes, Plan};

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

/// A stretch of the host's time.
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

/// Everything since profiling began.
pub(crate) struct Recording {
    pub began: Instant,
    pub runs: Vec<Run>,
    pub waits: Vec<Span>,
}

/// A device's notebook, closed unless somebody profiles: then all that a step pays is a look at a flag.
#[derive(Default)]
pub(crate) struct Recorder {
    open: AtomicBool,
    recording: Mutex<Option<Recording>>,
}

impl Recorder {
    /// Begins; whether nobody else was at it.
    pub fn begin(&self) -> bool {
        let mut recording = self.recording.lock().unwrap();
        let is_free = recording.is_none();
        recording.get_or_insert_with(|| Recording {
            began: Instant::now(),
            runs: Vec::new(),
            waits: Vec::new(),
        });
        self.open.store(true, Relaxed);
        is_free
    }

    pub fn end(&self) -> Option<Recording> {
        self.open.store(false, Relaxed);
        self.recording.lock().unwrap().take()
    }

    /// The time, if it is of interest to anybody.
    pub fn now(&self) -> Option<Instant> {
        self.open.load(Relaxed).then(Instant::now)
    }

    /// Notes that the host has been waiting since `start`.
    pub fn waited(&self, start: Option<Instant>) {
        if let Some(start) = start
            && let Some(recording) = &mut *self.recording.lock().unwrap()
        {
            recording.waits.push(Span {
                phase: Phase::Wait,
                start,
                end: Instant::now(),
            });
        }
    }

    /// Whether to time each dispatch of the plan's next run, or only all of them together. They take turns, because timing
    /// dispatches one by one costs host and device something.
    pub fn is_each_next(&self, plan: &Arc<Plan>) -> bool {
        let recording = self.recording.lock().unwrap();
        let runs = recording
            .iter()
            .flat_map(|recording| &recording.runs)
            .filter(|run| Arc::ptr_eq(&run.plan, plan))
            .count();
        runs % 2 == 1
    }

    pub fn push(&self, run: Run) {
        if let Some(recording) = &mut *self.recording.lock().unwrap() {
            recording.runs.push(run);
        }
    }
}

/// A clock that cuts the host's time for one tape into phases.
pub(crate) struct Laps {
    last: Instant,
    pub spans: Vec<Span>,
}

impl Laps {
    pub fn since(start: Instant) -> Laps {
        Laps {
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
