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

use std::collections::HashSet;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Instant;

use clap::Parser;
use common::args::{DeviceArgs, FileArgs, ProgramArgs};
use common::checkpoint::{Checkpoint, Contents, Stored};
use common::course::{NextToken, Options, Ranks, Trainer};
use common::metrics::Metrics;
use common::saved::{self, SampleArgs};
use common::settings::{Settings as _, lower};
use common::steps::Recorder;
use common::training::Training;
use common::words::HumanCount;
use common::{Result, interrupt, local_steps, plot, profiling, program, ranks, report};
use shadegrad::Device;
use shadegrad::gpu::block_on;
use shadegrad::nn::{Gpt, GptConfig};
use shadegrad::optim::Optimizer;

use cli::{RunArgs, Settings};
use data::Data;

const PROGRAM: &str = "train_names";

/// Names that `sample` prints if nobody says how many.
const COUNT: usize = 20;

/// Trains a small GPT on names, on the GPU, and prints new ones.
///
/// Without arguments it trains on the names that come with the project. Flags may be written with `-` or `_`.
#[derive(Debug, Parser)]
#[command(
    name = "train_names",
    version,
    args_override_self = true,
    args_conflicts_with_subcommands = true
)]
struct Cli {
    #[command(subcommand)]
    command: Option<saved::Command>,
    #[command(flatten)]
    run: RunArgs,
    #[command(flatten)]
    files: FileArgs,
    #[command(flatten)]
    program: ProgramArgs,
}

impl Cli {
    /// Reads the command line; prints help or a usage error and exits where that is all there is to do.
    fn read() -> Result<Cli> {
        let (cli, given) = program::read::<Cli>(&[]);
        let run = cli.run.complete(given)?;
        Ok(Cli { run, ..cli })
    }
}

fn main() -> ExitCode {
    program::run(|| {
        let cli = Cli::read()?;
        match &cli.command {
            Some(command) => {
                ranks::require_one("sample")?;
                command.run(Some('\n'), sample)
            }
            None if cli.program.device.list_adapters => {
                ranks::require_one("--list-adapters")?;
                program::list_adapters()
            }
            None => ranks::run(|ranks| run(cli, ranks)),
        }
    })
}

/// What a training begins with.
struct Prepared {
    start: u64,
    data: Data,
    metrics: Metrics,
    device: Device,
    config: GptConfig,
    model: Gpt,
    optimizer: Box<dyn Trainer>,
}

/// Finds everything that can be wrong, before anything is begun.
fn prepare(
    run: &mut RunArgs,
    files: &FileArgs,
    args: &DeviceArgs,
    ranks: Option<&dyn Ranks>,
    [save, sample]: [u64; 2],
) -> Result<Prepared> {
    run.validate()?;
    let resume = files.resume.as_deref();
    let checkpoint = resume.map(|path| Checkpoint::<Settings>::open(path, PROGRAM));
    let checkpoint = checkpoint.transpose()?;
    if let Some(checkpoint) = &checkpoint {
        run.settings
            .adopt(checkpoint.settings(), &run.given, checkpoint.path())?;
        run.validate()?;
    }
    let settings = &run.settings;
    ranks::require_rows(ranks, settings.batch.batch_size)?;
    let start = checkpoint.as_ref().map_or(0, Checkpoint::step);
    let vocabulary = checkpoint.as_ref().map(Checkpoint::tokenizer).transpose()?;
    let stored = Stored::new(resume, &run.given);
    let data = Data::load(
        settings,
        run.evaluation.eval_batch_size,
        vocabulary,
        &stored,
    )?;
    settings.training.check_start(start)?;
    let read = [("--filename", settings.filename.as_deref())];
    files.check(settings, &read)?;
    settings.sync.check(
        &settings.training,
        &run.evaluation,
        &run.given,
        ranks.is_some(),
        &[
            ("--checkpoint-interval", save),
            ("--sample-interval", sample),
        ],
    )?;
    let metrics = Metrics::start(files.metrics.as_deref(), start)?;

    let device = program::open_device_of(args, ranks)?;
    let config = settings
        .model
        .config(data.tokenizer().vocab_size(), settings.batch.context);
    let (model, inner) = settings.model.build(&config, &settings.training, &device)?;
    let optimizer = local_steps::trainer(inner, &settings.sync, ranks, checkpoint.as_ref())?;
    if let Some(checkpoint) = &checkpoint {
        checkpoint.note_other_text(data.digest(), data.source());
    }
    samples::check(&model, settings.batching, run.samples)
        .map_err(|error| lower(error, "a batch of samples", "--samples or --context"))?;
    Ok(Prepared {
        start,
        data,
        metrics,
        device,
        config,
        model,
        optimizer,
    })
}

fn run(cli: Cli, ranks: Option<Rc<dyn Ranks>>) -> Result<ExitCode> {
    let began = Instant::now();
    let Cli {
        mut run,
        mut files,
        program: program_args,
        ..
    } = cli;
    let others = ranks.as_deref();
    let is_first = others.is_none_or(|ranks| ranks.rank() == 0);
    let saved = files.checkpoint.as_ref();
    let times = [saved.map_or(0, |_| files.checkpoint_interval), 0];
    if !is_first {
        files.write_nothing();
    }
    let prepared = prepare(&mut run, &files, &program_args.device, others, times);
    let Prepared {
        start,
        data,
        mut metrics,
        device,
        config,
        model,
        mut optimizer,
    } = ranks::settle(others, prepared)?;
    let settings = &run.settings;
    let intervals = [("--checkpoint-interval", files.checkpoint_interval)];
    ranks::agree(
        others,
        settings,
        (&run.evaluation, &intervals),
        &device,
        start,
        data.digest(),
    )?;
    ranks::agree_on_model(others, &config, [optimizer.parameters()])?;
    local_steps::describe(&settings.sync, others);
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
    let checkpoint = files.checkpoint.as_deref();
    let mut save =
        checkpoint.map(|path| |optimizer: &dyn Optimizer| contents.save(path, optimizer));
    let training = Training {
        recorder: Recorder {
            device: &device,
            model: &NextToken {
                gpt: &model,
                criterion: data.criterion(),
            },
            data: &data,
            options: Options {
                sync_every: settings.sync.sync_every,
                ranks: ranks.clone(),
                reduce_dtype: settings.sync.reduce_dtype.dtype(),
                ..Options::new(&settings.training, &run.evaluation, &files, &program_args)
            },
        },
        optimizer: &mut *optimizer,
        metrics: &mut metrics,
        save: save.as_mut().map(|save| save as _),
        sample: &mut || Ok(String::new()),
    };
    let summary = training.run()?;
    if let Some(path) = &files.plot {
        let parameters = HumanCount(config.parameter_count() as u64);
        let title = format!("{PROGRAM}: {parameters} parameters, {}", data.source());
        plot::write(path, &title, metrics.records())?;
    }

    if !is_first {
        return Ok(program::exit_code(&summary));
    }
    let wanted = interrupt::still_wanted(run.samples);
    let names = block_on(samples::draw(
        &model,
        &data,
        settings.batching,
        run.sampling.config(),
        settings.training.seed,
        wanted,
    ))?;
    report::interruption(&summary, settings.training.steps);
    print(&names, &data);
    let profile = files.profile.as_deref();
    profiling::report(profile, &summary, &device, &*optimizer, began)?;
    report::finish(&summary, false, &files, start, began);
    Ok(program::exit_code(&summary))
}

/// `sample CHECKPOINT`: names that begin as the prompt does, one a line.
fn sample(args: &SampleArgs) -> Result<()> {
    let checkpoint = args.open()?;
    let tokenizer = checkpoint.tokenizer()?;
    let beginning = args.prompt.as_deref().unwrap_or("");
    let prompt = samples::prompt(&tokenizer, beginning)?;
    let window = checkpoint.metadata.config["context"].as_u64().unwrap_or(64);
    let size = (COUNT, samples::most_after(&prompt, window as usize));
    for tokens in args.draw(&checkpoint, &prompt, size, tokenizer.token('\n'))? {
        say!("{beginning}{}", tokenizer.decode(&tokens)?);
    }
    Ok(())
}

/// Prints samples, how many of them are new, and how many different.
fn print(names: &[String], data: &Data) {
    if names.is_empty() {
        return;
    }
    say!("samples:");
    for name in names {
        say!("  {name}");
    }
    let new = names.iter().filter(|name| !data.is_known(name)).count();
    let distinct = names.iter().collect::<HashSet<_>>().len();
    say!(
        "{} samples: {new} new (not among the training names), {distinct} distinct",
        names.len()
    );
}
