//! Traces in Chrome's event format: a JSON object of events with times in microseconds.

use std::io::Write;
use std::path::Path;

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

/// Perfetto shows a process as a group of tracks and a thread as one of them.
const HOST: u32 = 1;
const DEVICE: u32 = 2;

/// The device's tracks.
const RUNS: usize = 1;
const KERNELS: usize = 2;

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
        name("process_name", HOST, 0, "host"),
        name(
            "process_name",
            DEVICE,
            0,
            &format!("device: {}", profile.adapter),
        ),
        name("thread_name", DEVICE, RUNS, "tapes"),
        name("thread_name", DEVICE, KERNELS, "kernels"),
    ];
    events.extend(
        Phase::ALL
            .iter()
            .map(|&phase| name("thread_name", HOST, track(phase), phase.name())),
    );
    let span = |span: &Span, arguments: Value| {
        let at =
            |instant: std::time::Instant| instant.duration_since(profile.began).as_nanos() as f64;
        let ends = [at(span.start), at(span.end)];
        complete(
            "host",
            span.phase.name(),
            HOST,
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
        events.push(complete("tape", "tape", DEVICE, RUNS, ends, number));
        if run.each {
            for (&ends, step) in run.device.iter().zip(&run.plan.steps) {
                let arguments = json!({
                    "workgroups": step.grid,
                    "flops": step.cost.flops,
                    "bytes": step.cost.bytes,
                });
                events.push(complete(
                    "kernel", step.name, DEVICE, KERNELS, ends, arguments,
                ));
            }
        }
        // An arrow from the submission to what came of it.
        if let Some(submit) = run.spans.iter().find(|span| span.phase == Phase::Submit) {
            let start = submit.start.duration_since(profile.began).as_nanos() as f64;
            events.push(arrow("s", index, HOST, track(Phase::Submit), start));
            events.push(arrow("f", index, DEVICE, RUNS, ends[0]));
        }
    }
    events
}

/// The host's tracks, one a phase.
fn track(phase: Phase) -> usize {
    1 + phase as usize
}

fn name(what: &str, process: u32, thread: usize, name: &str) -> Value {
    json!({ "ph": "M", "name": what, "pid": process, "tid": thread, "args": { "name": name } })
}

fn complete(
    category: &str,
    name: &str,
    process: u32,
    thread: usize,
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

fn arrow(end: &str, id: usize, process: u32, thread: usize, at: f64) -> Value {
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
