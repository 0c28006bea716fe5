//! What is printed around the training.

use std::path::PathBuf;
use std::time::Instant;

use indicatif::HumanCount;
use shadegrad::nn::GptConfig;

use super::cli::Cli;
use super::data::Data;
use super::samples;
use crate::common::metrics::Evaluation;
use crate::common::progress;
use crate::common::training::Summary;

/// Prints what is going to be trained, on what, and how.
pub fn describe(cli: &Cli, data: &Data, config: &GptConfig, start: u64) {
    let settings = &cli.settings;
    let GptConfig {
        context,
        d_model,
        n_heads,
        n_layers,
        d_ff,
        norm,
        ffn,
        positions,
        ..
    } = config;
    say!("data: {}", data.summary());
    say!(
        "model: {} parameters · layers {n_layers}, width {d_model}, heads {n_heads}, {ffn} {d_ff}, {norm}, {positions} \
         positions, context {context}, {} head{}",
        HumanCount(config.parameter_count() as u64),
        if config.tie_weights { "tied" } else { "own" },
        if config.bias { ", biases" } else { "" },
    );
    let from = match start {
        0 => String::new(),
        start => format!(", resumed after step {}", HumanCount(start)),
    };
    say!(
        "training: {} steps of {} × {context} tokens{from} · AdamW, learning rate {} ({}), warm-up {}, seed {}",
        HumanCount(settings.steps),
        settings.batch_size,
        settings.lr,
        format!("{:?}", settings.schedule).to_lowercase(),
        settings.warmup(),
        settings.seed,
    );
}

/// Prints the samples and how the run went.
pub fn finish(
    cli: &Cli,
    summary: &Summary,
    names: &[String],
    data: &Data,
    start: u64,
    began: Instant,
) {
    if summary.interrupted {
        let (steps, total) = (HumanCount(summary.steps), HumanCount(cli.settings.steps));
        say!("interrupted after step {steps} of {total}");
    }
    if !names.is_empty() {
        say!("samples:");
    }
    for name in names {
        say!("  {name}");
    }
    if !names.is_empty() {
        say!("{}", samples::summary(names, data));
    }
    if let Some(Evaluation { train, test }) = summary.losses {
        say!("final train loss {train:.4} | test loss {test:.4}");
    }
    say!(
        "{} steps · mean {:.2} ms/step · {} tokens/s · {} in all",
        HumanCount(summary.steps - start),
        summary.step_ms,
        HumanCount(summary.tokens_per_second as u64),
        progress::duration(began.elapsed().as_secs_f64())
    );
    let written = [&cli.checkpoint, &cli.metrics, &cli.plot]
        .into_iter()
        .flatten();
    let written: Vec<String> = written
        .map(|path: &PathBuf| path.display().to_string())
        .collect();
    if !written.is_empty() {
        say!("written: {}", written.join(", "));
    }
}

/// The caption of the plot.
pub fn title(data: &Data, config: &GptConfig) -> String {
    format!(
        "train_names: {} parameters, {}",
        HumanCount(config.parameter_count() as u64),
        data.source()
    )
}
