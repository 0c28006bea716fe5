//! What is printed around a training.

use std::time::Instant;

use shadegrad::nn::GptConfig;

use super::args::{FileArgs, TrainingArgs};
use super::course::Pace;
use super::training::Summary;
use super::words::{self, HumanCount};
use super::{outputs, progress};

/// Prints what is going to be trained, on batches of so many rows and tokens in a row, which may be fewer than the model
/// could see.
pub fn describe(config: &GptConfig, training: &TrainingArgs, shape: [usize; 2], start: u64) {
    say!("model: {}", words::model(config));
    course(training, shape, start);
}

/// Prints how it is going to be trained, on batches of so many rows and tokens in a row.
pub fn course(training: &TrainingArgs, shape: [usize; 2], start: u64) {
    say!("training: {}", words::training(training, shape, start));
}

/// Prints that a run was interrupted, if it was.
pub fn interruption(summary: &Summary, total: u64) {
    if summary.interrupted {
        let (steps, total) = (HumanCount(summary.steps), HumanCount(total));
        say!("interrupted after step {steps} of {total}");
    }
}

/// Prints the losses, with the perplexity if asked for, how long the run took and what it wrote.
pub fn finish(summary: &Summary, perplexity: bool, files: &FileArgs, start: u64, began: Instant) {
    if let Some(losses) = summary.losses {
        say!("final {}", losses.words(perplexity));
    }
    let steps = summary.steps - start;
    say!(
        "{} step{}{} · {} in all",
        HumanCount(steps),
        if steps == 1 { "" } else { "s" },
        pace(summary.pace),
        progress::duration(began.elapsed().as_secs_f64())
    );
    let written = [
        &files.checkpoint,
        &files.metrics,
        &files.plot,
        &files.profile,
    ];
    let written = written.into_iter().flatten();
    let written: Vec<String> = written
        .filter(|path| outputs::is_written(path))
        .map(|path| path.display().to_string())
        .collect();
    if !written.is_empty() {
        say!("written: {}", written.join(", "));
    }
}

/// How long steps took and how many tokens a second that was; nothing if there was none but the first.
pub fn pace(pace: Pace) -> String {
    match pace.steps {
        0 => String::new(),
        _ => format!(
            " · mean {:.2} ms/step · {} tokens/s",
            pace.step_ms(),
            HumanCount(pace.tokens_per_second() as u64)
        ),
    }
}
