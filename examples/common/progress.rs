//! How far the training has come: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::Instant;

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::metrics::Record;

/// The factor by which a loss counts less with each step that it is old.
const SMOOTHING: f64 = 0.98;

/// An exponential moving average without the bias towards its start value, as Adam's moments.
#[derive(Clone, Copy, Debug, Default)]
pub struct Smoothed {
    sum: f64,
    weight: f64,
}

impl Smoothed {
    /// Takes in a value and gives the average with it.
    pub fn push(&mut self, value: f64) -> f64 {
        self.sum = SMOOTHING * self.sum + (1.0 - SMOOTHING) * value;
        self.weight = SMOOTHING * self.weight + (1.0 - SMOOTHING);
        self.sum / self.weight
    }
}

/// The display of a run's progress. Dropping it clears the bar.
pub struct Progress {
    bar: ProgressBar,
    /// Print a line every so many steps; `None` where there is a bar.
    every: Option<u64>,
    /// The first step, which compiles the kernels, tells nothing about the others.
    first: u64,
    total: u64,
    loss: Smoothed,
    step_ms: Smoothed,
}

impl Progress {
    /// A display of the steps from `start` to `total`. Without a terminal there is a line every `interval` steps.
    pub fn new(start: u64, total: u64, interval: u64) -> Progress {
        let terminal = std::io::stderr().is_terminal();
        let bar = if terminal {
            ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(8))
        } else {
            ProgressBar::hidden()
        };
        let style = ProgressStyle::with_template("{wide_bar:.cyan/blue} {pos}/{len} {msg}");
        bar.set_style(style.expect("the template is valid").progress_chars("━╸─"));
        bar.set_position(start);
        Progress {
            bar,
            every: (!terminal).then_some(interval.max(1)),
            first: start + 1,
            total,
            loss: Smoothed::default(),
            step_ms: Smoothed::default(),
        }
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
        match self.every {
            None => {
                self.bar.set_position(record.step);
                // The bar redraws itself a few times a second: no need to format more often, but this is cheap
                // beside a step.
                self.bar.set_message(status());
            }
            Some(every) if record.step.is_multiple_of(every) || left == 0 => {
                say!("step {}/{} · {}", record.step, self.total, status());
            }
            Some(_) => {}
        }
    }

    /// Says what the program is doing while no steps are made.
    pub fn note(&self, text: &'static str) {
        self.bar.set_message(text);
        self.bar.tick();
    }

    /// Prints a line on standard output without tearing the bar.
    pub fn line(&self, text: &str) {
        self.bar.suspend(|| say!("{text}"));
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

    /// Milliseconds since the start or the last call.
    pub fn lap_ms(&mut self) -> f64 {
        let now = Instant::now();
        let lap = now - self.0;
        self.0 = now;
        lap.as_secs_f64() * 1e3
    }
}
