//! Trains a small GPT on a text file of yours, on the GPU, and continues a prompt.
//!
//! ```sh
//! cargo run --release --example train_text -- --filename book.txt
//! cargo run --release --example train_text -- --filename book.txt --checkpoint book.safetensors --plot book.svg
//! cargo run --release --example train_text --features tokenizers -- --filename book.txt --tokenizer tokenizer.json
//! cargo run --release --example train_text -- sample book.safetensors --prompt "Once upon a time"
//! cargo run --release --example train_text -- --help
//! ```
//!
//! The loop, its files and its flags are those of `train_names`: everything that can be wrong is found before the
//! training starts, the same seed on the same adapter gives the same run, bit by bit, also across `--resume`.

#[macro_use]
#[path = "../common/mod.rs"]
mod common;

mod cli;
mod data;
mod tokens;

use std::process::ExitCode;
use std::rc::Rc;
use std::time::Instant;

use clap::Parser;
use common::args::{DeviceArgs, FileArgs, ProgramArgs};
use common::checkpoint::{Checkpoint, Contents, Stored};
use common::course::{NextToken, Options, Ranks, Trainer};
use common::metrics::Metrics;
use common::saved::{self, SampleArgs};
use common::settings::Settings as _;
use common::steps::Recorder;
use common::training::Training;
use common::words::HumanCount;
use common::{Result, interrupt, local_steps, plot, profiling, program, ranks, report};
use shadegrad::Device;
use shadegrad::data::IGNORE_INDEX;
use shadegrad::nn::{Gpt, GptConfig};
use shadegrad::ops::CrossEntropy;
use shadegrad::optim::Optimizer;
use shadegrad::sampling::Sampler;

use cli::{RunArgs, Settings};
use data::Data;
use tokens::Tokens;

const PROGRAM: &str = "train_text";

/// Trains a small GPT on a text file of yours, on the GPU, and continues a prompt.
///
/// Tokens are the text's characters, or the byte pairs of a tokenizer.json. The first 90 % of the text are for training,
/// the rest for the test. Flags may be written with `-` or `_`.
#[derive(Debug, Parser)]
#[command(
    name = "train_text",
    version,
    args_override_self = true,
    args_conflicts_with_subcommands = true
)]
struct Cli {
    #[command(subcommand)]
    command: Option<saved::Command>,
    #[command(flatten)]
    run: RunArgs,
    /// Steps between two samples during training; 0 for none
    #[arg(
        long,
        default_value_t = 500,
        value_name = "STEPS",
        help_heading = "Sampling"
    )]
    sample_interval: u64,
    #[command(flatten)]
    files: FileArgs,
    #[command(flatten)]
    program: ProgramArgs,
}

impl Cli {
    /// Reads the command line; prints help or a usage error and exits where that is all there is to do.
    fn read() -> Cli {
        let (cli, given) = program::read::<Cli>(&cli::DEFAULTS);
        let run = cli.run.complete(given);
        Cli { run, ..cli }
    }
}

fn main() -> ExitCode {
    program::run(|| {
        let cli = Cli::read();
        match &cli.command {
            Some(command) => {
                ranks::require_one("sample")?;
                command.run(None, sample)
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
    prompt: Vec<u32>,
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
        run.settings.fit_tokens_of(checkpoint)?;
        run.settings
            .adopt(checkpoint.settings(), &run.given, checkpoint.path())?;
        run.validate()?;
    }
    ranks::require_rows(ranks, run.settings.batch.batch_size)?;
    let start = checkpoint.as_ref().map_or(0, Checkpoint::step);
    let of_characters = checkpoint
        .as_ref()
        .filter(|_| run.settings.tokenizer.is_none());
    let vocabulary = of_characters.map(Checkpoint::tokenizer).transpose()?;
    let eval_batch_size = run.evaluation.eval_batch_size;
    let stored = Stored::new(resume, &run.given);
    let data = Data::load(&mut run.settings, eval_batch_size, vocabulary, &stored)?;
    let settings = &run.settings;
    settings.training.check_start(start)?;
    let prompt = data.tokens().prompt(run.prompt.as_deref())?;
    let read = [
        ("--filename", settings.filename.as_deref()),
        ("--tokenizer", settings.tokenizer.as_deref()),
    ];
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
        .config(data.tokens().vocab_size(), settings.batch.context);
    let (model, inner) = settings.model.build(&config, &settings.training, &device)?;
    let optimizer = local_steps::trainer(inner, &settings.sync, ranks, checkpoint.as_ref())?;
    if let Some(checkpoint) = &checkpoint {
        checkpoint.note_other_text(data.digest(), data.source());
    }
    Ok(Prepared {
        start,
        data,
        prompt,
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
        sample_interval,
        mut files,
        program: program_args,
        ..
    } = cli;
    let others = ranks.as_deref();
    let is_first = others.is_none_or(|ranks| ranks.rank() == 0);
    let saved = files.checkpoint.as_ref();
    let times = [
        saved.map_or(0, |_| files.checkpoint_interval),
        sample_interval,
    ];
    if !is_first {
        files.write_nothing();
    }
    let prepared = prepare(&mut run, &files, &program_args.device, others, times);
    let Prepared {
        start,
        data,
        prompt,
        mut metrics,
        device,
        config,
        model,
        mut optimizer,
    } = ranks::settle(others, prepared)?;
    let settings = &run.settings;
    let intervals = [
        ("--checkpoint-interval", files.checkpoint_interval),
        ("--sample-interval", sample_interval),
    ];
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
        vocabulary: data.tokens().characters(),
        tokenizer: data.tokens().text(),
        text_digest: data.digest(),
    };
    let sample = |number: u64| -> Result<String> {
        let seed = settings.training.seed.wrapping_add(number);
        let mut sampler = Sampler::new(run.sampling.config(), seed)?;
        let tokens = model.generate(&prompt, run.sample_length, &mut sampler, None)?;
        data.tokens().decode(&[prompt.clone(), tokens].concat())
    };
    let options = Options {
        sample_interval,
        perplexity: true,
        sync_every: settings.sync.sync_every,
        ranks: ranks.clone(),
        reduce_dtype: settings.sync.reduce_dtype.dtype(),
        ..Options::new(&settings.training, &run.evaluation, &files, &program_args)
    };
    let checkpoint = files.checkpoint.as_deref();
    let mut save =
        checkpoint.map(|path| |optimizer: &dyn Optimizer| contents.save(path, optimizer));
    let training = Training {
        recorder: Recorder {
            device: &device,
            model: &NextToken {
                gpt: &model,
                criterion: CrossEntropy::ignoring(IGNORE_INDEX),
            },
            data: data.stream(),
            options,
        },
        optimizer: &mut *optimizer,
        metrics: &mut metrics,
        save: save.as_mut().map(|save| save as _),
        sample: &mut || Ok(indented("sample:", &sample(0)?)),
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
    report::interruption(&summary, settings.training.steps);
    let wanted = interrupt::still_wanted(run.samples);
    for number in 0..wanted {
        let title = format!("sample {} of {}:", number + 1, run.samples);
        say!("{}", indented(&title, &sample(number as u64)?));
    }
    let profile = files.profile.as_deref();
    profiling::report(profile, &summary, &device, &*optimizer, began)?;
    report::finish(&summary, true, &files, start, began);
    Ok(program::exit_code(&summary))
}

/// `sample CHECKPOINT`: texts that begin as the prompt does.
fn sample(args: &SampleArgs) -> Result<()> {
    let checkpoint = args.open()?;
    let tokens = Tokens::of(&checkpoint)?;
    let prompt = tokens.prompt(args.prompt.as_deref())?;
    let texts = args.draw(&checkpoint, &prompt, (1, 200), None)?;
    let count = texts.len();
    for (number, text) in (1..).zip(texts) {
        let text = tokens.decode(&[prompt.clone(), text].concat())?;
        match count {
            1 => say!("{}", text.trim_matches('\n')),
            _ => say!(
                "{}",
                indented(&format!("sample {number} of {count}:"), &text)
            ),
        }
    }
    Ok(())
}

/// A title and the lines of a text below it.
fn indented(title: &str, text: &str) -> String {
    let lines = text.trim_matches('\n').lines();
    let lines = lines.map(|line| format!("\n  {line}"));
    format!("{title}{}", lines.collect::<String>())
}
