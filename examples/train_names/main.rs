//! Trains a small GPT on names, on the GPU, and prints new ones.
//!
//! ```sh
//! cargo run --release --example train_names
//! cargo run --release --example train_names -- --checkpoint names.safetensors
//! cargo run --release --example train_names -- sample names.safetensors --prompt em
//! cargo run --release --example train_names -- --help
//! ```
//!
//! Everything that can be wrong with files and settings is found before the training starts, and costs one line and
//! exit code 1. The same seed on the same adapter gives the same run, bit by bit, also across `--resume`.

#[macro_use]
#[path = "../common/mod.rs"]
mod common;

mod cli;
mod data;
mod preset;
mod samples;

use std::process::ExitCode;
use std::time::Instant;

use common::checkpoint::{Checkpoint, Contents, Stored};
use common::course::{NextToken, Options};
use common::metrics::Metrics;
use common::settings::{Settings as _, lower};
use common::training::Training;
use common::{Result, interrupt, plot, profiling, program, report};
use indicatif::HumanCount;
use shadegrad::nn::{Gpt, ParameterBuilder};
use shadegrad::optim::AdamW;

use cli::{Cli, Settings};
use data::Data;

const PROGRAM: &str = "train_names";

fn main() -> ExitCode {
    program::run(|| {
        let cli = Cli::read()?;
        match &cli.command {
            Some(command) => command.run(Some('\n'), samples::from_checkpoint),
            None if cli.program.device.list_adapters => program::list_adapters(),
            None => run(cli),
        }
    })
}

fn run(mut cli: Cli) -> Result<ExitCode> {
    let began = Instant::now();

    // Everything that can be wrong, before anything is begun.
    cli.validate()?;
    let resume = cli.files.resume.as_deref();
    let checkpoint = resume.map(|path| Checkpoint::<Settings>::open(path, PROGRAM));
    let checkpoint = checkpoint.transpose()?;
    if let Some(checkpoint) = &checkpoint {
        cli.settings
            .adopt(checkpoint.settings(), &cli.given, checkpoint.path())?;
        cli.validate()?;
    }
    let settings = &cli.settings;
    let start = checkpoint.as_ref().map_or(0, Checkpoint::step);
    let vocabulary = checkpoint.as_ref().map(Checkpoint::tokenizer).transpose()?;
    let stored = Stored::new(resume, &cli.given);
    let data = Data::load(
        settings,
        cli.evaluation.eval_batch_size,
        vocabulary,
        &stored,
    )?;
    settings.training.check_start(start)?;
    let read = [("--filename", settings.filename.as_deref())];
    cli.files.check(settings, &read)?;
    let mut metrics = Metrics::start(cli.files.metrics.as_deref(), start)?;

    let device = program::open_device(&cli.program.device)?;
    let config = settings
        .model
        .config(data.tokenizer().vocab_size(), settings.batch.context);
    let mut builder = ParameterBuilder::new(settings.training.seed).with_init(settings.model.init);
    let mut model = Gpt::new(&config, &mut builder)?;
    model.set_precision(settings.training.precision);
    let parameters = builder
        .build(&device)
        .map_err(|error| lower(error, "the model", "--d-model, --d-ff or --context"))?;
    let mut optimizer = AdamW::new(&parameters, settings.training.optimizer())?;
    if let Some(checkpoint) = &checkpoint {
        checkpoint.restore(&mut optimizer)?;
        checkpoint.note_other_text(data.digest(), data.source());
    }
    samples::check(&model, settings.batching, cli.samples)
        .map_err(|error| lower(error, "a batch of samples", "--samples or --context"))?;
    say!("data: {}", data.summary());
    report::describe(
        &config,
        &settings.training,
        [settings.batch.batch_size, settings.batch.context],
        start,
    );

    interrupt::install()?;
    let contents = Contents {
        program: PROGRAM,
        settings,
        seed: settings.training.seed,
        config: &config,
        vocabulary: data.tokenizer().vocabulary(),
        tokenizer: None,
        text_digest: data.digest(),
    };
    let checkpoint = cli.files.checkpoint.as_deref();
    let mut save = checkpoint.map(|path| |optimizer: &AdamW| contents.save(path, optimizer));
    let training = Training {
        device: &device,
        model: &NextToken {
            gpt: &model,
            criterion: data.criterion(),
        },
        optimizer: &mut optimizer,
        data: &data,
        options: Options::new(
            &settings.training,
            &cli.evaluation,
            &cli.files,
            &cli.program,
        ),
        metrics: &mut metrics,
        save: save.as_mut().map(|save| save as _),
        sample: &mut || Ok(String::new()),
    };
    let summary = training.run()?;
    if let Some(path) = &cli.files.plot {
        let parameters = HumanCount(config.parameter_count() as u64);
        let title = format!("{PROGRAM}: {parameters} parameters, {}", data.source());
        plot::write(path, &title, metrics.records())?;
    }

    let wanted = interrupt::still_wanted(cli.samples);
    let names = samples::draw(
        &model,
        &data,
        settings.batching,
        cli.sampling.config(),
        settings.training.seed,
        wanted,
    )?;
    report::interruption(&summary, settings.training.steps);
    samples::print(&names, &data);
    let profile = cli.files.profile.as_deref();
    profiling::report(profile, &summary, &device, &optimizer, began)?;
    report::finish(&summary, false, &cli.files, start, began);
    Ok(program::exit_code(&summary))
}
