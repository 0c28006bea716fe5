//! Fine-tuning on a text file, by the loop of the other training programs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use indicatif::HumanCount;
use shadegrad::Error;
use shadegrad::data::{IGNORE_INDEX, read_text};
use shadegrad::ops::CrossEntropy;
use shadegrad::optim::{AdamW, Optimizer};

use super::{FILES, files_of, open};
use crate::common::args::{BatchArgs, EvaluationArgs, FileArgs, ProgramArgs, TrainingArgs};
use crate::common::course::{NextToken, Options};
use crate::common::metrics::Metrics;
use crate::common::outputs::{self, Mode, Output};
use crate::common::settings::require;
use crate::common::stream::Stream;
use crate::common::training::Training;
use crate::common::{Result, interrupt, plot, program, report};

/// Those of [`FILES`] that the model itself is; a tuned one keeps the others.
const MODEL: [&str; 2] = ["config.json", "model.safetensors"];

/// The command line of `lm tune`. A model that knows much already wants small steps.
#[derive(Debug, Args)]
#[command(
    mut_arg("context", |arg| arg.default_value("128")),
    mut_arg("batch_size", |arg| arg.default_value("4")),
    mut_arg("steps", |arg| arg.default_value("200")),
    mut_arg("lr", |arg| arg.default_value("3e-5")),
    mut_arg("weight_decay", |arg| arg.default_value("0.01")),
    mut_arg("eval_interval", |arg| arg.default_value("50")),
    mut_arg("eval_iters", |arg| arg.default_value("10")),
    mut_arg("final_eval_iters", |arg| arg.default_value("50")),
    mut_arg("eval_batch_size", |arg| arg.default_value("4"))
)]
pub struct Tune {
    /// The model's directory
    model: PathBuf,
    /// Text to train on, in UTF-8: the first 90 % of it, the rest is for the test
    file: PathBuf,
    /// Directory for the tuned model, in the same layout; may be the model's own
    #[arg(long, value_name = "DIR", help_heading = "Files")]
    out: PathBuf,
    /// Steps between two times that it is saved; 0 saves at the end and on Ctrl-C only
    #[arg(
        long,
        default_value_t = 0,
        value_name = "STEPS",
        help_heading = "Files"
    )]
    save_interval: u64,
    /// Write one JSON object per step to this file
    #[arg(long, value_name = "FILE", help_heading = "Files")]
    metrics: Option<PathBuf>,
    /// Draw the loss curves into this file, .svg or .png
    #[arg(long, value_name = "FILE", help_heading = "Files")]
    plot: Option<PathBuf>,
    /// Probability of dropping an activation in training [default: the model's]
    #[arg(long, help_heading = "Training")]
    dropout: Option<f32>,
    #[command(flatten)]
    batch: BatchArgs,
    #[command(flatten)]
    training: TrainingArgs,
    #[command(flatten)]
    evaluation: EvaluationArgs,
    #[command(flatten)]
    program: ProgramArgs,
}

impl Tune {
    /// Trains and saves.
    ///
    /// # Errors
    ///
    /// One line about a flag or a file before anything is begun; those of the training.
    pub fn run(self) -> Result<ExitCode> {
        let began = Instant::now();
        self.batch.validate(&self.evaluation)?;
        self.training.validate()?;
        if let Some(dropout) = self.dropout {
            let sound = (0.0..1.0).contains(&dropout);
            require(sound, "dropout", &dropout, "0 or more, below 1")?;
        }
        let text = read_text(&self.file)?;
        let (model, tokenizer) = open(&self.model)?;
        let most = model.config().context;
        let context = self.batch.context;
        let expected = format!("at most {most}, what the model sees");
        require(context <= most, "context", &context, &expected)?;
        let tokens = tokenizer.encode(&text)?;
        let rows = (self.batch.batch_size, self.evaluation.eval_batch_size);
        let source = self.file.display();
        let stream = Stream::new(tokens, context, rows, self.training.seed)
            .map_err(|error| format!("{source}: {error}"))?;
        let files = FileArgs {
            checkpoint: None,
            checkpoint_interval: self.save_interval,
            resume: None,
            metrics: self.metrics.clone(),
            plot: self.plot.clone(),
            profile: None,
        };
        let of_model: Vec<_> = files_of(&self.model).collect();
        let text = ("the text", &*self.file);
        let of_model = of_model.iter().map(|(what, path)| (*what, &**path));
        let read: Vec<(&str, &Path)> = of_model.chain([text]).collect();
        let given: Vec<_> = read
            .iter()
            .map(|&(what, path)| (what, Some(path)))
            .collect();
        files.check(&self.training, &given)?;
        let written = [("--metrics", &self.metrics), ("--plot", &self.plot)];
        let written = written
            .into_iter()
            .filter_map(|(flag, path)| Some((flag, path.as_deref()?)));
        prepare(
            &self.out,
            &read.into_iter().chain(written).collect::<Vec<_>>(),
        )?;
        let mut metrics = Metrics::start(files.metrics.as_deref(), 0)?;

        let device = program::open_device(&self.program.device)?;
        let (gpt, parameters) = match self.dropout {
            Some(dropout) => model.load_with_dropout(dropout, &device)?,
            None => model.load(&device)?,
        };
        let mut optimizer = AdamW::new(&parameters, self.training.optimizer())?;
        let count = |n: usize| HumanCount(n as u64);
        let [train, test] = stream.sizes();
        say!(
            "data: {source}, {} tokens ({} to train on, {} for the test)",
            count(train + test),
            count(train),
            count(test)
        );
        let shape = [self.batch.batch_size, context];
        report::describe(gpt.config(), &self.training, shape, 0);

        interrupt::install()?;
        let training = Training {
            device: &device,
            model: &NextToken {
                gpt: &gpt,
                criterion: CrossEntropy::ignoring(IGNORE_INDEX),
            },
            optimizer: &mut optimizer,
            data: &stream,
            options: Options {
                perplexity: true,
                ..Options::new(&self.training, &self.evaluation, &files, &self.program)
            },
            metrics: &mut metrics,
            save: Some(&mut |optimizer| {
                model.save(&self.out, optimizer.parameters())?;
                keep(&self.model, &self.out)
            }),
            sample: &mut || Ok(String::new()),
        };
        let summary = training.run()?;
        if let Some(path) = &files.plot {
            let parameters = count(gpt.config().parameter_count());
            let title = format!("lm tune: {parameters} parameters, {source}");
            plot::write(path, &title, metrics.records())?;
        }
        report::interruption(&summary, self.training.steps);
        report::finish(&summary, true, &files, 0, began);
        say!("the tuned model: {}", self.out.display());
        Ok(program::exit_code(&summary))
    }
}

/// Makes the directory, and finds out whether the model's files can be written there: each where the same file of the
/// model may be, but no `other` one.
fn prepare(out: &Path, others: &[(&str, &Path)]) -> Result<()> {
    fs::create_dir_all(out).map_err(|source| Error::File {
        path: out.to_owned(),
        source,
    })?;
    let paths: Vec<_> = files_of(out).collect();
    let written = paths.iter().map(|(what, path)| Output {
        flag: "--out",
        path,
        mode: Mode::Replace,
        replaces: Some(what),
    });
    outputs::check(&written.collect::<Vec<_>>(), others)
}

/// Copies what belongs to a model and does not change with its weights.
fn keep(from: &Path, to: &Path) -> Result<()> {
    let fail = |path: PathBuf| move |source| Error::File { path, source };
    let [here, there] = [from, to].map(|path| path.canonicalize().map_err(fail(path.to_owned())));
    if here? == there? {
        return Ok(());
    }
    let kept = FILES.iter().filter(|(_, name)| !MODEL.contains(name));
    let kept = kept.map(|(_, name)| (from.join(name), to.join(name)));
    for (from, to) in kept.filter(|(from, _)| from.exists()) {
        outputs::replace(&to, |temporary| {
            fs::copy(&from, temporary).map_err(fail(from.clone()))?;
            Ok(())
        })?;
    }
    Ok(())
}
