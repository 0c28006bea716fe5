//! Trains a small GPT on names, on the GPU, and prints new ones.
//!
//! ```sh
//! cargo run --release --example train_names
//! cargo run --release --example train_names -- --help
//! ```
//!
//! Everything that can be wrong with files and settings is found before the training starts, and costs one line and
//! exit code 1. The same seed on the same adapter gives the same run, bit by bit, also across `--resume`.

#[macro_use]
#[path = "../common/mod.rs"]
mod common;

mod checkpoint;
mod cli;
mod data;
mod report;
mod samples;
mod settings;

use std::process::ExitCode;
use std::time::Instant;

use common::metrics::Metrics;
use common::outputs::{self, Mode, Output};
use common::training::{Options, Training};
use common::{Result, interrupt, plot};
use shadegrad::nn::{Gpt, ParameterBuilder};
use shadegrad::optim::AdamW;
use shadegrad::{Device, DeviceOptions};

use checkpoint::Checkpoint;
use cli::Cli;
use data::Data;

fn main() -> ExitCode {
    common::terminal::hush_driver();
    let cli = Cli::read();
    let ended = if cli.list_adapters {
        list_adapters()
    } else {
        run(cli)
    };
    ended.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}

fn list_adapters() -> Result<ExitCode> {
    let adapters = Device::list_adapters();
    if adapters.is_empty() {
        return Err(shadegrad::Error::NoAdapter { wanted: None }.into());
    }
    for (index, adapter) in adapters.iter().enumerate() {
        say!("{index}: {adapter}");
    }
    Ok(ExitCode::SUCCESS)
}

fn run(mut cli: Cli) -> Result<ExitCode> {
    let began = Instant::now();

    // Everything that can be wrong, before anything is begun.
    cli.validate()?;
    let checkpoint = cli.resume.as_deref().map(Checkpoint::open).transpose()?;
    if let (Some(checkpoint), Some(path)) = (&checkpoint, cli.resume.clone()) {
        cli.adopt(checkpoint.settings(), &path)?;
        cli.validate()?;
    }
    let start = checkpoint.as_ref().map_or(0, Checkpoint::step);
    let vocabulary = checkpoint.as_ref().map(Checkpoint::tokenizer).transpose()?;
    let data = Data::load(&cli.settings, cli.eval_batch_size, vocabulary)?;
    if start > cli.settings.steps {
        return Err(format!(
            "--steps {} is less than the {start} steps that the checkpoint has behind it",
            cli.settings.steps
        )
        .into());
    }
    check_outputs(&cli)?;
    let mut metrics = Metrics::start(cli.metrics.as_deref(), start)?;

    let options = DeviceOptions {
        adapter: cli.adapter.clone(),
        ..DeviceOptions::default()
    };
    let device = Device::with_options(&options)?;
    say!("adapter: {}", device.description());

    let settings = &cli.settings;
    let config = settings.model(data.tokenizer().vocab_size());
    let mut builder = ParameterBuilder::new(settings.seed);
    let model = Gpt::new(&config, &mut builder)?;
    let parameters = builder.build(&device)?;
    let mut optimizer = AdamW::new(&parameters, settings.optimizer())?;
    if let Some(checkpoint) = &checkpoint {
        checkpoint.restore(&mut optimizer)?;
        if !checkpoint.is_of(&data) {
            eprintln!(
                "note: {} is not the text that the checkpoint was trained on; the test split is another one too",
                data.source()
            );
        }
    }
    report::describe(&cli, &data, &config, start);

    interrupt::install()?;
    let mut save = |optimizer: &AdamW| match &cli.checkpoint {
        Some(path) => checkpoint::save(path, optimizer, &config, settings, &data),
        None => Ok(()),
    };
    let training = Training {
        device: &device,
        model: &model,
        optimizer: &mut optimizer,
        data: &data,
        options: options_of(&cli),
        metrics: &mut metrics,
        save: &mut save,
    };
    let summary = training.run()?;
    if let Some(path) = &cli.plot {
        plot::write(path, &report::title(&data, &config), metrics.records())?;
    }

    let names = samples::draw(
        &model,
        &data,
        settings.batching,
        cli.sampling(),
        settings.seed,
        cli.samples,
    )?;
    report::finish(&cli, &summary, &names, &data, start, began);
    Ok(if summary.interrupted {
        ExitCode::from(interrupt::EXIT_CODE)
    } else {
        ExitCode::SUCCESS
    })
}

/// Finds out whether all files can be written, without touching one.
fn check_outputs(cli: &Cli) -> Result<()> {
    if let Some(path) = &cli.plot {
        plot::check(path)?;
    }
    if cli.checkpoint.is_some() {
        // A file name that is not Unicode has no place in a checkpoint.
        serde_json::to_value(&cli.settings).map_err(|error| format!("--checkpoint: {error}"))?;
    }
    let files = [
        // A run may go on in the checkpoint that it was resumed from.
        (
            "--checkpoint",
            &cli.checkpoint,
            Mode::Replace,
            Some("--resume"),
        ),
        ("--metrics", &cli.metrics, Mode::InPlace, None),
        ("--plot", &cli.plot, Mode::Replace, None),
    ];
    let outputs = files.iter().filter_map(|&(flag, path, mode, replaces)| {
        let path = path.as_deref()?;
        Some(Output {
            flag,
            path,
            mode,
            replaces,
        })
    });
    let read = [
        ("--filename", &cli.settings.filename),
        ("--resume", &cli.resume),
    ];
    let inputs = read
        .iter()
        .filter_map(|&(flag, path)| Some((flag, path.as_deref()?)));
    outputs::check(&outputs.collect::<Vec<_>>(), &inputs.collect::<Vec<_>>())
}

/// The training loop's options.
fn options_of(cli: &Cli) -> Options {
    let settings = &cli.settings;
    Options {
        total: settings.steps,
        lr: settings.lr,
        schedule: settings.schedule(),
        seed: settings.seed,
        eval_interval: cli.eval_interval,
        eval_iters: cli.eval_iters,
        final_eval_iters: cli.final_eval_iters,
        checkpoint_interval: cli.checkpoint_interval,
        log_interval: cli.log_interval.unwrap_or(settings.steps.div_ceil(20)),
    }
}
