//! Traces in Chrome's event format: a JSON object of events with times in microseconds.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use super::profiler::Profile;
use crate::error::{Error, Result};
use crate::tape::{Phase, Span};

impl Profile {
    /// Writes a trace in Chrome's event format, which [Perfetto](https://ui.perfetto.dev) opens: what the host did, and
    /// when the device worked on it.
    ///
    /// # Errors
    ///
    /// [`Error::File`].
    pub fn write_trace(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let write = || -> std::io::Result<()> {
            let file = std::io::BufWriter::new(std::fs::File::create(path)?);
            write(self, file)
        };
        write().map_err(Error::file(path))
    }
}

/// A track: Perfetto shows a process as a group of them, and a thread as one.
type Track = (u32, usize);

const HOST: u32 = 1;
const DEVICE: u32 = 2;

const RUNS: Track = (DEVICE, 1);
const KERNELS: Track = (DEVICE, 2);

/// Writes a profile's trace.
fn write(profile: &Profile, mut out: impl Write) -> std::io::Result<()> {
    let trace = json!({
        "displayTimeUnit": "ms",
        "otherData": { "adapter": profile.adapter },
        "traceEvents": events(profile),
    });
    serde_json::to_writer(&mut out, &trace)?;
    out.flush()
}

fn events(profile: &Profile) -> Vec<Value> {
    let mut events = vec![
        name("process_name", (HOST, 0), "host"),
        name(
            "process_name",
            (DEVICE, 0),
            &format!("device: {}", profile.adapter),
        ),
        name("thread_name", RUNS, "tapes"),
        name("thread_name", KERNELS, "kernels"),
    ];
    let phases = Phase::ALL.iter();
    events.extend(phases.map(|&phase| name("thread_name", track(phase), phase.name())));
    let at = |instant: Instant| instant.duration_since(profile.began).as_nanos() as f64;
    let span = |span: &Span, arguments: Value| {
        let ends = [at(span.start), at(span.end)];
        complete(
            ["host", span.phase.name()],
            track(span.phase),
            ends,
            arguments,
        )
    };
    events.extend(profile.waits.iter().map(|wait| span(wait, json!({}))));
    for (index, run) in profile.runs.iter().enumerate() {
        let number = json!({ "tape": index });
        events.extend(run.spans.iter().map(|part| span(part, number.clone())));
        let (Some(first), Some(last)) = (run.device.first(), run.device.last()) else {
            continue;
        };
        let ends = [first[0], last[1]];
        events.push(complete(["tape", "tape"], RUNS, ends, number));
        if run.each {
            for (&ends, step) in run.device.iter().zip(&run.plan.steps) {
                let arguments = json!({
                    "workgroups": step.grid,
                    "flops": step.cost.flops,
                    "bytes": step.cost.bytes,
                });
                events.push(complete(["kernel", step.name], KERNELS, ends, arguments));
            }
        }
        // An arrow from the submission to what came of it.
        if let Some(submit) = run.spans.iter().find(|span| span.phase == Phase::Submit) {
            events.push(arrow("s", index, track(Phase::Submit), at(submit.start)));
            events.push(arrow("f", index, RUNS, ends[0]));
        }
    }
    events
}

/// The host's tracks, one a phase.
fn track(phase: Phase) -> Track {
    (HOST, 1 + phase as usize)
}

fn name(what: &str, (process, thread): Track, name: &str) -> Value {
    json!({ "ph": "M", "name": what, "pid": process, "tid": thread, "args": { "name": name } })
}

fn complete(
    [category, name]: [&str; 2],
    (process, thread): Track,
    ends: [f64; 2],
    arguments: Value,
) -> Value {
    json!({
        "ph": "X",
        "cat": category,
        "name": name,
        "pid": process,
        "tid": thread,
        "ts": ends[0] / 1e3,
        "dur": (ends[1] - ends[0]).max(0.0) / 1e3,
        "args": arguments,
    })
}

fn arrow(end: &str, id: usize, (process, thread): Track, at: f64) -> Value {
    json!({
        "ph": end,
        "bp": "e",
        "name": "submission",
        "cat": "submission",
        "id": id,
        "pid": process,
        "tid": thread,
        "ts": at / 1e3,
    })
}
