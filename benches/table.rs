//! The lines that benchmarks leave, as fractions of what the device can do.

use std::time::Duration;

use shadegrad::profile::Ceiling;
use shadegrad::tape::{Cost, KernelTime};
use shadegrad::{Device, Result};

/// What one benchmark found.
pub struct Line {
    pub id: String,
    /// The median.
    pub time: Duration,
    pub work: Work,
    pub note: String,
}

/// What the kernels of a tape have to do.
pub struct Work {
    costs: Vec<Cost>,
}

impl Work {
    pub fn of(kernels: &[KernelTime]) -> Work {
        Work {
            costs: kernels.iter().map(|kernel| kernel.cost).collect(),
        }
    }

    fn flops(&self) -> f64 {
        self.costs.iter().map(|cost| cost.flops as f64).sum()
    }

    fn bytes(&self) -> f64 {
        self.costs.iter().map(|cost| cost.bytes as f64).sum()
    }

    /// The seconds that it takes at the ceiling: for each kernel the longer of arithmetic and memory traffic.
    fn ideal(&self, ceiling: &Ceiling) -> f64 {
        let seconds = self.costs.iter().map(|cost| {
            let arithmetic = cost.flops as f64 / ceiling.flops_per_second;
            let traffic = cost.bytes as f64 / ceiling.bytes_per_second;
            arithmetic.max(traffic)
        });
        seconds.sum()
    }
}

impl Line {
    fn fraction(&self, ceiling: &Ceiling) -> f64 {
        self.work.ideal(ceiling) / self.time.as_secs_f64()
    }

    /// As a row of Markdown.
    fn row(&self, ceiling: &Ceiling) -> String {
        let seconds = self.time.as_secs_f64();
        row([
            &self.id,
            &readable(self.time),
            &three_digits(self.work.flops() / seconds / 1e9),
            &three_digits(self.work.bytes() / seconds / 1e9),
            &format!("{:.0} %", 100.0 * self.fraction(ceiling)),
            &self.work.costs.len().to_string(),
            &self.note,
        ])
    }
}

fn row(cells: [&str; 7]) -> String {
    let [id, time, flops, bytes, fraction, dispatches, note] = cells;
    format!(
        "| {id:<44} | {time:>9} | {flops:>8} | {bytes:>8} | {fraction:>10} | {dispatches:>10} | {note:<12} |"
    )
}

/// Three digits and a unit.
fn readable(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    let (value, unit) = match seconds {
        1.0.. => (seconds, "s"),
        1e-3.. => (1e3 * seconds, "ms"),
        _ => (1e6 * seconds, "µs"),
    };
    format!("{} {unit}", three_digits(value))
}

fn three_digits(value: f64) -> String {
    let decimals = match value {
        100.0.. => 0,
        10.0.. => 1,
        _ => 2,
    };
    format!("{value:.decimals$}")
}

/// All lines of a run.
#[derive(Default)]
pub struct Table {
    ceiling: Option<Ceiling>,
    lines: Vec<Line>,
    left_out: Vec<(String, String)>,
}

impl Table {
    /// Measures the ceiling if that hasn't been done.
    pub fn ceiling(&mut self, device: &Device) -> Result<()> {
        if self.ceiling.is_none() {
            let ceiling = self.ceiling.insert(Ceiling::measure(device)?);
            println!("\n{}\n", described(ceiling));
        }
        Ok(())
    }

    pub fn add(&mut self, line: Line) {
        let ceiling = self.ceiling.as_ref().expect("it is measured first");
        println!("{}\n", line.row(ceiling));
        self.lines.push(line);
    }

    pub fn leave_out(&mut self, id: &str, reason: &str) {
        self.left_out.push((id.to_owned(), reason.to_owned()));
    }

    /// Prints the table as Markdown, and writes it as JSON to the file that `SHADEGRAD_BENCH_JSON` names.
    pub fn print(&self, device: &Device) -> std::io::Result<()> {
        let Some(ceiling) = &self.ceiling else {
            return Ok(());
        };
        println!("\n{}", device.description());
        println!("{}", described(ceiling));
        let clock = if device.has_timestamps() {
            "timestamps on the device"
        } else {
            "wall time of one submission and wait"
        };
        println!("Kernels: {clock}. Steps: wall time. Medians.\n");
        let heads = [
            "benchmark",
            "time",
            "GFLOP/s",
            "GB/s",
            "of ceiling",
            "dispatches",
            "",
        ];
        println!("{}", row(heads));
        println!(
            "{}",
            row(heads.map(|head| if head == "benchmark" { "---" } else { "---:" }))
        );
        for line in &self.lines {
            println!("{}", line.row(ceiling));
        }
        // Only of groups that the command line selects something of.
        let group = |id: &str| id.split('/').next().map(str::to_owned);
        for (id, reason) in &self.left_out {
            if self.lines.iter().any(|line| group(&line.id) == group(id)) {
                println!("left out: {id}: {reason}");
            }
        }
        if let Some(path) = std::env::var_os("SHADEGRAD_BENCH_JSON") {
            std::fs::write(path, self.json(device, ceiling))?;
        }
        Ok(())
    }

    fn json(&self, device: &Device, ceiling: &Ceiling) -> String {
        let lines = self.lines.iter().map(|line| {
            serde_json::json!({
                "id": line.id,
                "seconds": line.time.as_secs_f64(),
                "flops": line.work.flops(),
                "bytes": line.work.bytes(),
                "fraction_of_ceiling": line.fraction(ceiling),
                "dispatches": line.work.costs.len(),
            })
        });
        let report = serde_json::json!({
            "device": device.description().to_string(),
            "flops_per_second": ceiling.flops_per_second,
            "bytes_per_second": ceiling.bytes_per_second,
            "lines": lines.collect::<Vec<_>>(),
        });
        format!("{report:#}\n")
    }
}

fn described(ceiling: &Ceiling) -> String {
    format!(
        "Ceiling: {:.1} GFLOP/s of multiply-adds, {:.2} GB/s of copying.",
        ceiling.flops_per_second / 1e9,
        ceiling.bytes_per_second / 1e9
    )
}
