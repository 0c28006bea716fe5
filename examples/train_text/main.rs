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
use std::time::Instant;

use common::checkpoint::{Checkpoint, Contents, Stored};
use common::course::{NextToken, Options};
use common::metrics::Metrics;
use common::saved::SampleArgs;
use common::settings::{Settings as _, lower};
use common::training::Training;
use common::{Result, interrupt, plot, profiling, program, report};
use indicatif::HumanCount;
use shadegrad::data::IGNORE_INDEX;
use shadegrad::nn::{Gpt, ParameterBuilder};
use shadegrad::ops::CrossEntropy;
use shadegrad::optim::AdamW;
use shadegrad::sampling::Sampler;

use cli::{Cli, Settings};
use data::Data;
use tokens::Tokens;

const PROGRAM: &str = "train_text";

fn main() -> ExitCode {
    program::run(|| {
        let cli = Cli::read();
        match &cli.command {
            Some(command) => command.run(None, sample),
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
        cli.settings.fit_tokens_of(checkpoint)?;
        cli.settings
            .adopt(checkpoint.settings(), &cli.given, checkpoint.path())?;
        cli.validate()?;
    }
    let start = checkpoint.as_ref().map_or(0, Checkpoint::step);
    let of_characters = checkpoint
        .as_ref()
        .filter(|_| cli.settings.tokenizer.is_none());
    let vocabulary = of_characters.map(Checkpoint::tokenizer).transpose()?;
    let eval_batch_size = cli.evaluation.eval_batch_size;
    let stored = Stored::new(resume, &cli.given);
    let data = Data::load(&mut cli.settings, eval_batch_size, vocabulary, &stored)?;
    let settings = &cli.settings;
    settings.training.check_start(start)?;
    let prompt = data.tokens().prompt(cli.prompt.as_deref())?;
    let read = [
        ("--filename", settings.filename.as_deref()),
        ("--tokenizer", settings.tokenizer.as_deref()),
    ];
    cli.files.check(settings, &read)?;
    let mut metrics = Metrics::start(cli.files.metrics.as_deref(), start)?;

    let device = program::open_device(&cli.program.device)?;
    let config = settings
        .model
        .config(data.tokens().vocab_size(), settings.batch.context);
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
        let mut sampler = Sampler::new(cli.sampling.config(), seed)?;
        let tokens = model.generate(&prompt, cli.sample_length, &mut sampler, None)?;
        data.tokens().decode(&[prompt.clone(), tokens].concat())
    };
    let options = Options {
        sample_interval: cli.sample_interval,
        perplexity: true,
        ..Options::new(
            &settings.training,
            &cli.evaluation,
            &cli.files,
            &cli.program,
        )
    };
    let checkpoint = cli.files.checkpoint.as_deref();
    let mut save = checkpoint.map(|path| |optimizer: &AdamW| contents.save(path, optimizer));
    let training = Training {
        device: &device,
        model: &NextToken {
            gpt: &model,
            criterion: CrossEntropy::ignoring(IGNORE_INDEX),
        },
        optimizer: &mut optimizer,
        data: data.stream(),
        options,
        metrics: &mut metrics,
        save: save.as_mut().map(|save| save as _),
        sample: &mut || Ok(indented("sample:", &sample(0)?)),
    };
    let summary = training.run()?;
    if let Some(path) = &cli.files.plot {
        let parameters = HumanCount(config.parameter_count() as u64);
        let title = format!("{PROGRAM}: {parameters} parameters, {}", data.source());
        plot::write(path, &title, metrics.records())?;
    }

    report::interruption(&summary, settings.training.steps);
    let wanted = interrupt::still_wanted(cli.samples);
    for number in 0..wanted {
        let title = format!("sample {} of {}:", number + 1, cli.samples);
        say!("{}", indented(&title, &sample(number as u64)?));
    }
    let profile = cli.files.profile.as_deref();
    profiling::report(profile, &summary, &device, &optimizer, began)?;
    report::finish(&summary, true, &cli.files, start, began);
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
