//! Watching a device, and what was seen.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::gpu::Device;
use crate::tape::{
    Intervals, KernelTime, MemoryUse, Phase, Plan, Recorder, Run, Span, kernel_times, length,
};

/// Watches everything that tapes do on a device, until it is finished or dropped. See the [module](super).
pub struct Profiler {
    device: Device,
    began: Instant,
}

impl Profiler {
    /// Begins to watch. Tapes that are being recorded already are not seen.
    ///
    /// # Panics
    ///
    /// If another profiler is watching the device.
    #[track_caller]
    pub fn start(device: &Device) -> Profiler {
        assert!(
            device.shared.wait_times.begin(),
            "profile: another profiler is watching the device"
        );
        device.attached::<Recorder>().begin();
        Profiler {
            device: device.clone(),
            began: Instant::now(),
        }
    }

    /// Waits for the device, and gives what was seen.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceLost`](crate::Error::DeviceLost), [`Error::Readback`](crate::Error::Readback).
    pub fn finish(self) -> Result<Profile> {
        self.device.wait()?;
        let waits = self.device.shared.wait_times.end().into_iter();
        let mut runs = Vec::new();
        for run in self.device.attached::<Recorder>().end() {
            let intervals = run.device.read(&self.device)?;
            runs.push((run, intervals));
        }
        let runs = on_one_clock(self.began, runs);
        let phase = Phase::Wait;
        let wait = |[start, end]: [Instant; 2]| Span { phase, start, end };
        Ok(Profile {
            adapter: self.device.description().to_string(),
            timed_by: match self.device.has_timestamps() {
                true => TimedBy::Timestamps,
                false => TimedBy::Waiting,
            },
            tapes: tapes(&runs),
            began: self.began,
            waits: waits.map(wait).collect(),
            runs,
        })
    }
}

impl Drop for Profiler {
    fn drop(&mut self) {
        self.device.shared.wait_times.end();
        self.device.attached::<Recorder>().end();
    }
}

/// How device times were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TimedBy {
    /// By timestamp queries within the submissions.
    Timestamps,
    /// By waiting on the host, since the adapter has no timestamps: every time includes a submission and a wait.
    Waiting,
}

/// What a [`Profiler`] saw.
pub struct Profile {
    pub(super) adapter: String,
    pub(super) timed_by: TimedBy,
    pub(super) tapes: Vec<TapeProfile>,
    pub(super) began: Instant,
    pub(super) waits: Vec<Span>,
    pub(super) runs: Vec<TimedRun>,
}

/// What was seen of all tapes of one structure, such as the steps of a training.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TapeProfile {
    /// How many of them ran.
    pub runs: usize,
    /// The dispatches in order, with median times; those of one kernel are added up in [`Profile::table`]. Empty if
    /// there were fewer than two runs.
    pub kernels: Vec<KernelTime>,
    /// The median time that the device was busy with one.
    pub device_time: Duration,
    /// What one costs the host.
    pub host: HostTime,
    /// How many dispatches one makes.
    pub dispatches: usize,
    /// Distinct pipelines among them.
    pub pipelines: usize,
    /// What one needs.
    pub memory: MemoryUse,
}

/// Median times that one tape costs the host, none of which is spent waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HostTime {
    /// Recording, from the tape's making to [`Tape::run`](crate::Tape::run), and whatever the program does in between.
    pub record: Duration,
    /// Finding the plan.
    pub plan: Duration,
    /// Writing the inputs and encoding the commands.
    pub encode: Duration,
    /// Handing them to the driver.
    pub submit: Duration,
}

impl HostTime {
    /// All of it.
    pub fn total(&self) -> Duration {
        self.record + self.plan + self.encode + self.submit
    }
}

impl Profile {
    /// What was seen of each structure, the one that took the device longest first.
    pub fn tapes(&self) -> &[TapeProfile] {
        &self.tapes
    }

    /// How device times were found.
    pub fn timed_by(&self) -> TimedBy {
        self.timed_by
    }

    /// The adapter's line, as [`AdapterDescription`](crate::gpu::AdapterDescription) displays it.
    pub fn adapter(&self) -> &str {
        &self.adapter
    }
}

/// A run with all its times.
pub(super) struct TimedRun {
    pub plan: Arc<Plan>,
    pub spans: Vec<Span>,
    pub each: bool,
    /// When the device was at it, in nanoseconds since profiling began.
    pub device: Vec<[f64; 2]>,
}

/// Puts the device's times on the host's clock. How the two are related is not known, but no run can begin before it was
/// submitted: the device's clock is set so that the one that came closest began that very moment.
fn on_one_clock(began: Instant, runs: Vec<(Run, Intervals)>) -> Vec<TimedRun> {
    let since = |instant: Instant| instant.duration_since(began).as_nanos() as f64;
    let offset = runs
        .iter()
        .filter_map(|(run, intervals)| {
            let submit = run.spans.iter().find(|span| span.phase == Phase::Submit)?;
            match intervals {
                Intervals::Device(intervals) => Some(since(submit.start) - intervals.first()?[0]),
                Intervals::Host(_) => None,
            }
        })
        .fold(f64::NEG_INFINITY, f64::max);
    let timed = runs.into_iter().map(|(run, intervals)| TimedRun {
        plan: run.plan,
        spans: run.spans,
        each: run.device.each,
        device: match intervals {
            Intervals::Device(intervals) => {
                let shifted = intervals
                    .iter()
                    .map(|interval| interval.map(|at| at + offset));
                shifted.collect()
            }
            Intervals::Host(intervals) => {
                let intervals = intervals.iter();
                intervals.map(|interval| interval.map(since)).collect()
            }
        },
    });
    timed.collect()
}

/// Sums up the runs of each plan.
fn tapes(runs: &[TimedRun]) -> Vec<TapeProfile> {
    let mut plans: Vec<(&Arc<Plan>, Vec<&TimedRun>)> = Vec::new();
    for run in runs {
        match plans
            .iter_mut()
            .find(|(plan, _)| Arc::ptr_eq(plan, &run.plan))
        {
            Some((_, same)) => same.push(run),
            None => plans.push((&run.plan, vec![run])),
        }
    }
    let tapes = plans.iter().map(|(plan, runs)| tape(plan, runs));
    let mut tapes: Vec<TapeProfile> = tapes.collect();
    tapes.sort_by_key(|tape| std::cmp::Reverse(tape.device_time * tape.runs as u32));
    tapes
}

fn tape(plan: &Plan, runs: &[&TimedRun]) -> TapeProfile {
    let time = |run: &&TimedRun, index: usize| {
        let [start, end] = *run.device.get(index)?;
        Some(length(start, end))
    };
    let (each, whole): (Vec<&TimedRun>, Vec<&TimedRun>) = runs.iter().partition(|run| run.each);
    let kernels = match each.is_empty() {
        true => Vec::new(),
        false => {
            let dispatches = 0..plan.steps.len();
            let times =
                dispatches.map(|index| median(each.iter().filter_map(|run| time(run, index))));
            kernel_times(plan, times.collect())
        }
    };
    let phase = |phase: Phase| {
        let spans = whole.iter().flat_map(|run| &run.spans);
        let spans = spans.filter(|span| span.phase == phase);
        median(spans.map(|span| span.end - span.start))
    };
    TapeProfile {
        runs: runs.len(),
        kernels,
        device_time: median(whole.iter().filter_map(|run| time(run, 0))),
        host: HostTime {
            record: phase(Phase::Record),
            plan: phase(Phase::Plan),
            encode: phase(Phase::Encode),
            submit: phase(Phase::Submit),
        },
        dispatches: plan.steps.len(),
        pipelines: plan.pipelines,
        memory: plan.memory,
    }
}

/// The middle one, or the later of the two in the middle; zero if there are none.
fn median(times: impl Iterator<Item = Duration>) -> Duration {
    let mut times: Vec<Duration> = times.collect();
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
