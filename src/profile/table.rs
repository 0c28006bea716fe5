//! Profiles as text.

use std::fmt;
use std::time::Duration;

use super::ceiling::Ceiling;
use super::profiler::{Profile, TapeProfile, TimedBy};
use crate::tape::Cost;

/// A [`Profile`] to be printed. See [`Profile::table`].
pub struct Table<'a> {
    profile: &'a Profile,
    ceiling: Option<Ceiling>,
}

impl Profile {
    /// The profile as a table for each structure of tapes: kernels with calls, device time, share, rates, and, if a
    /// ceiling is given, the least time that it allows as a fraction of the time taken.
    pub fn table(&self, ceiling: Option<Ceiling>) -> Table<'_> {
        Table {
            profile: self,
            ceiling,
        }
    }
}

/// All dispatches of one kernel.
#[derive(Default)]
struct Line {
    name: &'static str,
    calls: usize,
    time: Duration,
    cost: Cost,
}

impl Line {
    fn add(&mut self, time: Duration, cost: Cost) {
        self.calls += 1;
        self.time += time;
        self.cost.flops += cost.flops;
        self.cost.bytes += cost.bytes;
    }
}

fn lines(tape: &TapeProfile) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for kernel in &tape.kernels {
        let position = lines.iter().position(|line| line.name == kernel.name);
        let position = position.unwrap_or_else(|| {
            let (name, none) = (kernel.name, Line::default());
            lines.push(Line { name, ..none });
            lines.len() - 1
        });
        lines[position].add(kernel.time, kernel.cost);
    }
    lines.sort_by_key(|line| std::cmp::Reverse(line.time));
    lines
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "profile: {}", self.profile.adapter)?;
        if let Some(ceiling) = self.ceiling {
            let rates = [ceiling.flops_per_second, ceiling.bytes_per_second];
            let [flops, bytes] = rates.map(|rate| rate / 1e9);
            writeln!(f, "measured ceiling: {flops:.1} GFLOP/s, {bytes:.1} GB/s")?;
        }
        for tape in &self.profile.tapes {
            writeln!(f)?;
            self.head(f, tape)?;
            if !tape.kernels.is_empty() {
                self.kernels(f, tape)?;
            }
        }
        Ok(())
    }
}

impl Table<'_> {
    fn head(&self, f: &mut fmt::Formatter<'_>, tape: &TapeProfile) -> fmt::Result {
        let (runs, dispatches, pipelines) = (tape.runs, tape.dispatches, tape.pipelines);
        let plural = if runs == 1 { "" } else { "s" };
        let how = match self.profile.timed_by {
            TimedBy::Timestamps => "by timestamps",
            TimedBy::Waiting => "by waiting, which counts as device time",
        };
        writeln!(
            f,
            "{runs} run{plural} timed {how}; medians: device {:.3} ms · {dispatches} dispatches, {pipelines} distinct pipelines",
            milliseconds(tape.device_time),
        )?;
        let host = tape.host;
        let times = [host.record, host.plan, host.encode, host.submit];
        let [record, plan, encode, submit] = times.map(milliseconds);
        let total = milliseconds(host.total());
        writeln!(
            f,
            "host {total:.3} ms: record {record:.3}, find the plan {plan:.3}, encode {encode:.3}, submit {submit:.3}"
        )?;
        let memory = tape.memory;
        writeln!(
            f,
            "peak memory {}: persistent {}, inputs {}, results {}, intermediate {}, which is {:.2} of the least possible {}",
            bytes(memory.total()),
            bytes(memory.persistent),
            bytes(memory.inputs),
            bytes(memory.results),
            bytes(memory.intermediate),
            memory.intermediate as f64 / memory.lower_bound.max(1) as f64,
            bytes(memory.lower_bound),
        )
    }

    fn kernels(&self, f: &mut fmt::Formatter<'_>, tape: &TapeProfile) -> fmt::Result {
        let lines = lines(tape);
        let (name, none) = ("all", Line::default());
        let mut all = Line { name, ..none };
        for kernel in &tape.kernels {
            all.add(kernel.time, kernel.cost);
        }
        let width = lines.iter().map(|line| line.name.len()).max();
        let width = width.unwrap_or(0).max("kernel".len());
        write!(
            f,
            "{:width$}  calls        ms   share   GFLOP/s      GB/s",
            "kernel"
        )?;
        let ceiling = self.ceiling.map_or("", |_| "  of ceiling");
        writeln!(f, "{ceiling}")?;
        for line in lines.iter().chain([&all]) {
            let seconds = line.time.as_secs_f64().max(1e-9);
            let Cost { flops, bytes } = line.cost;
            let (flops, bytes) = (flops as f64, bytes as f64);
            write!(
                f,
                "{:width$}  {:5}  {:8.3}  {:4.1} %  {:8.2}  {:8.2}",
                line.name,
                line.calls,
                milliseconds(line.time),
                100.0 * seconds / all.time.as_secs_f64().max(1e-9),
                flops / seconds / 1e9,
                bytes / seconds / 1e9,
            )?;
            if let Some(ceiling) = self.ceiling {
                let least = flops / ceiling.flops_per_second;
                let least = least.max(bytes / ceiling.bytes_per_second);
                write!(f, "  {:8.1} %", 100.0 * least / seconds)?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A number of bytes in a unit that suits it.
fn bytes(count: u64) -> String {
    let amount = count as f64;
    match count {
        0..1_000 => format!("{count} B"),
        1_000..1_000_000 => format!("{:.1} kB", amount / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} MB", amount / 1e6),
        _ => format!("{:.2} GB", amount / 1e9),
    }
}
