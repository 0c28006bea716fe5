//! How far the training has come: a bar on a terminal, plain lines elsewhere.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use shadegrad::metrics::Smoothed;

use super::metrics::Record;
use super::words::HumanCount;

/// The factor by which a loss counts less with each step that it is old.
const SMOOTHING: f64 = 0.98;

/// Where there is no bar, nothing is said for no longer than this.
const QUIET: Duration = Duration::from_secs(30);

/// The display of a run's progress. Dropping it clears the bar.
pub struct Progress {
    bar: ProgressBar,
    /// Print a line every so many steps; `None` where there is a bar.
    every: Option<u64>,
    /// When the last line was printed.
    printed: Instant,
    /// The first step, which compiles the kernels, tells nothing about the others.
    first: u64,
    total: u64,
    loss: Smoothed,
    step_ms: Smoothed,
}

impl Progress {
    /// A display of the steps from `start` to `total`. Where no bar can be drawn there is a line every `interval` steps.
    pub fn new(start: u64, total: u64, interval: u64) -> Progress {
        // Hidden where standard error is no terminal, or one that knows no more than to print.
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(8));
        let every = bar.is_hidden().then_some(interval.max(1));
        let style = ProgressStyle::with_template("{wide_bar:.cyan/blue} {pos}/{len} {msg}");
        bar.set_style(style.expect("the template is valid").progress_chars("━╸─"));
        bar.set_position(start);
        Progress {
            bar,
            every,
            printed: Instant::now(),
            first: start + 1,
            total,
            loss: Smoothed::new(SMOOTHING),
            step_ms: Smoothed::new(SMOOTHING),
        }
    }

    /// Whether there is a line about this step.
    pub fn is_due(&self, step: u64) -> bool {
        self.every
            .is_some_and(|every| step.is_multiple_of(every) || step == self.total)
    }

    /// Shows a step whose loss has arrived.
    pub fn step(&mut self, record: &Record) {
        let loss = self.loss.push(record.train_loss.into());
        let step_ms = match record.step > self.first {
            true => self.step_ms.push(record.step_ms),
            false => record.step_ms,
        };
        let left = self.total.saturating_sub(record.step);
        let status = || {
            let tokens = record.tokens_per_second * record.step_ms / step_ms.max(1e-9);
            format!(
                "loss {loss:.4} · {step_ms:.1} ms/step · {} tokens/s · {} left",
                HumanCount(tokens as u64),
                duration(step_ms * left as f64 / 1e3)
            )
        };
        if self.every.is_none() {
            self.bar.set_position(record.step);
            // The bar redraws itself a few times a second: no need to format more often, but this is cheap beside a
            // step.
            self.bar.set_message(status());
        } else if self.is_due(record.step) || self.printed.elapsed() > QUIET {
            say!("step {}/{} · {}", record.step, self.total, status());
            self.printed = Instant::now();
        }
    }

    /// Says what the program is doing while no steps are made: always on a bar, now and then elsewhere.
    pub fn note(&mut self, text: &str) {
        if self.every.is_none() {
            self.bar.set_message(text.to_owned());
            self.bar.tick();
        } else if self.printed.elapsed() > QUIET {
            say!("{text}");
            self.printed = Instant::now();
        }
    }

    /// Prints a line on standard output without tearing the bar.
    pub fn line(&mut self, text: &str) {
        self.bar.suspend(|| say!("{text}"));
        self.printed = Instant::now();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A duration in one or two units.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..=9 => format!("{seconds:.1} s"),
        10..=99 => format!("{whole} s"),
        100..=5999 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole / 60 % 60),
    }
}

/// Measures wall-clock time in pieces.
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts now.
    pub fn start() -> Stopwatch {
        Stopwatch(Instant::now())
    }

    /// Milliseconds since the start or the last lap.
    pub fn ms(&self) -> f64 {
        self.0.elapsed().as_secs_f64() * 1e3
    }

    /// The same; a new lap begins.
    pub fn lap_ms(&mut self) -> f64 {
        let lap = self.ms();
        self.0 = Instant::now();
        lap
    }
}
