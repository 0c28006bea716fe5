//! What is printed around a training.

use std::time::Instant;

use indicatif::HumanCount;
use shadegrad::nn::{FeedForwardKind, GptConfig};

use super::args::{FileArgs, TrainingArgs};
use super::course::{Pace, Summary};
use super::{outputs, progress};

/// Prints what is going to be trained, on batches of so many rows and tokens in a row, which may be fewer than the model
/// could see.
pub fn describe(
    config: &GptConfig,
    training: &TrainingArgs,
    [rows, length]: [usize; 2],
    start: u64,
) {
    let GptConfig {
        context,
        d_model,
        n_heads,
        n_layers,
        norm,
        positions,
        ..
    } = config;
    let ffn = match config.ffn {
        FeedForwardKind::None => "attention only".to_owned(),
        ffn => format!("{ffn} {}", config.d_ff),
    };
    let shared = match config.n_kv_heads() {
        all if all == *n_heads => String::new(),
        kv_heads => format!(" on {kv_heads} of keys and values"),
    };
    let head = match (config.tie_weights, config.head_bias) {
        (true, false) => "tied head",
        (true, true) => "tied head with a bias",
        (false, false) => "own head",
        (false, true) => "own head with a bias",
    };
    let biases = match (config.bias, config.has_attention_bias()) {
        (true, true) => ", biases",
        (true, false) => ", biases but in attention",
        (false, true) => ", biases in attention",
        (false, false) => "",
    };
    say!(
        "model: {} parameters · layers {n_layers}, width {d_model}, heads {n_heads}{shared}, {ffn}, {norm}, {positions} \
         positions, context {context}, {head}{biases}{}",
        HumanCount(config.parameter_count() as u64),
        if config.final_norm {
            ""
        } else {
            ", no final norm"
        },
    );
    course(training, [rows, length], start);
}

/// Prints how it is going to be trained, on batches of so many rows and tokens in a row.
pub fn course(training: &TrainingArgs, [rows, length]: [usize; 2], start: u64) {
    let from = match start {
        0 => String::new(),
        start => format!(", resumed after step {}", HumanCount(start)),
    };
    say!(
        "training: {} steps of {rows} × {length} tokens{from} · AdamW, precision {}, learning rate {} ({}), warm-up {}, \
         seed {}",
        HumanCount(training.steps),
        training.precision,
        training.lr,
        format!("{:?}", training.schedule).to_lowercase(),
        training.warmup(),
        training.seed,
    );
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
