//! Fine-tuning on a text file, by the loop of the other training programs.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Instant;

use clap::Args;
use clap::builder::ArgPredicate;
use indicatif::BinaryBytes;
use serde::{Deserialize, Serialize};
use shadegrad::Device;
use shadegrad::data::{IGNORE_INDEX, read_text};
use shadegrad::hugging_face::{Adapter, ModelFiles, SaveDType};
use shadegrad::nn::{Gpt, LoraConfig, ParameterBuilder, Parameters};
use shadegrad::ops::CrossEntropy;
use shadegrad::optim::{AdamW, Optimizer};

use super::saving::{ADAPTER, keep, note_rounding, prepare, prepare_files};
use super::step::Step;
use super::{files_of, for_rows, open};
use crate::common::args::{
    BatchArgs, EvaluationArgs, FileArgs, ProgramArgs, SyncArgs, TrainingArgs, kinds,
};
use crate::common::checkpoint::{Checkpoint, Contents, digest};
use crate::common::course::{NextToken, Options, Ranks, Trainer};
use crate::common::metrics::Metrics;
use crate::common::settings::{self, Settings as _, require};
use crate::common::steps::Recorder;
use crate::common::stream::Stream;
use crate::common::training::Training;
use crate::common::words::HumanCount;
use crate::common::{Result, interrupt, local_steps, plot, program, ranks, report};

const PROGRAM: &str = "lm tune";

/// More batches in a step than this are a slip of the keyboard.
const MOST_BATCHES: u64 = 1 << 20;

/// The command line of `lm tune`. A model that knows much already wants small steps.
#[derive(Debug, Args)]
#[command(
    mut_arg("context", |arg| arg.default_value("128")),
    mut_arg("batch_size", |arg| arg.default_value("4")),
    mut_arg("steps", |arg| arg.default_value("200")),
    mut_arg("lr", |arg| {
        let arg = arg.default_value("3e-5");
        arg.default_value_if("lora", ArgPredicate::IsPresent, "2e-4")
    }),
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
    /// Directory for the tuned model, in the same layout, which may be the model's own; or for the adapters
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
    /// Type of the saved weights: f32, f16, bf16, or as-stored in the model's files
    #[arg(long, value_parser = kinds(SaveDType::ALL, SaveDType::name), default_value_t = SaveDType::AsStored, value_name = "TYPE", conflicts_with = "lora", help_heading = "Files")]
    save_dtype: SaveDType,
    /// With it, write what a run goes on from: what is trained, the optimizer and the settings
    #[arg(long, value_name = "PATH", help_heading = "Files")]
    checkpoint: Option<PathBuf>,
    /// Go on from such a checkpoint, with its settings where no flag says otherwise
    #[arg(long, value_name = "PATH", help_heading = "Files")]
    resume: Option<PathBuf>,
    /// Write one JSON object per step to this file
    #[arg(long, value_name = "FILE", help_heading = "Files")]
    metrics: Option<PathBuf>,
    /// Draw the loss curves into this file, .svg or .png
    #[arg(long, value_name = "FILE", help_heading = "Files")]
    plot: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    evaluation: EvaluationArgs,
    #[command(flatten)]
    program: ProgramArgs,

    /// The names of the settings that were given on the command line.
    #[arg(skip)]
    pub given: Vec<String>,
}

/// What decides the course of a run, to the last bit; kept in checkpoints.
#[derive(Clone, Debug, Args, Serialize, Deserialize)]
struct Settings {
    /// Train low-rank adapters of this rank, and leave the model's weights as they are (Hu et al. 2021)
    #[arg(long, value_name = "RANK", help_heading = "Adapters")]
    lora: Option<usize>,
    /// What adapters add is scaled by this, divided by the rank [default: twice the rank]
    #[arg(
        long,
        requires = "lora",
        value_name = "ALPHA",
        help_heading = "Adapters"
    )]
    lora_alpha: Option<f32>,
    /// Probability of dropping an input of an adapter in training [default: 0]
    #[arg(
        long,
        requires = "lora",
        value_name = "SHARE",
        help_heading = "Adapters"
    )]
    lora_dropout: Option<f32>,
    /// Modules that get adapters, or all-linear [default: those of peft for the model's type]
    #[arg(
        long,
        requires = "lora",
        value_delimiter = ',',
        value_name = "NAMES",
        help_heading = "Adapters"
    )]
    lora_targets: Option<Vec<String>>,
    /// The fingerprint of the model that adapters are trained on, which checkpoints don't hold.
    #[arg(skip)]
    #[serde(default)]
    base_model: Option<u64>,
    /// Probability of dropping an activation in training [default: the model's]
    #[arg(long, help_heading = "Training")]
    dropout: Option<f32>,
    /// Batches whose gradients make a step
    #[arg(
        long,
        default_value_t = 1,
        value_name = "BATCHES",
        help_heading = "Training"
    )]
    accumulate: u64,
    /// Compute blocks again in the backward pass rather than keeping what they computed: less memory, more time
    #[arg(long, help_heading = "Training")]
    checkpoint_blocks: bool,
    #[command(flatten)]
    #[serde(flatten)]
    batch: BatchArgs,
    #[command(flatten)]
    #[serde(flatten)]
    training: TrainingArgs,
    #[command(flatten)]
    #[serde(flatten)]
    sync: SyncArgs,
}

impl settings::Settings for Settings {
    const FIXED: &'static [&'static str] = &["lora", "lora_alpha", "lora_targets"];
}

impl Settings {
    fn validate(&self, evaluation: &EvaluationArgs) -> Result<()> {
        self.batch.validate(evaluation)?;
        self.training.validate()?;
        self.sync.validate()?;
        let shares = [
            ("dropout", self.dropout),
            ("lora-dropout", self.lora_dropout),
        ];
        for (name, share) in shares {
            let share = share.unwrap_or(0.0);
            let sound = (0.0..1.0).contains(&share);
            require(sound, name, &share, "0 or more, below 1")?;
        }
        let alpha = self.lora_alpha.unwrap_or(1.0);
        require(alpha.is_finite(), "lora-alpha", &alpha, "a finite number")?;
        require(self.lora != Some(0), "lora", &0, "at least 1")?;
        let batches = self.accumulate;
        let sound = (1..=MOST_BATCHES).contains(&batches);
        let expected = format!("1 to {MOST_BATCHES}");
        require(sound, "accumulate", &batches, &expected)
    }

    /// The adapters, if there are to be some.
    fn lora(&self) -> Option<LoraConfig> {
        let config = LoraConfig::new(self.lora?);
        Some(LoraConfig {
            alpha: self.lora_alpha.unwrap_or(config.alpha),
            dropout: self.lora_dropout.unwrap_or(config.dropout),
            ..config
        })
    }
}

/// What is trained.
struct Trained {
    gpt: Gpt,
    /// Of these, an optimizer's.
    parameters: Parameters,
    adapter: Option<Adapter>,
    /// The weights that stay.
    frozen: Option<Parameters>,
}

impl Trained {
    fn load(model: &ModelFiles, settings: &Settings, device: &Device) -> Result<Trained> {
        let Some(config) = settings.lora() else {
            let (mut gpt, parameters) = match settings.dropout {
                Some(dropout) => model.load_with_dropout(dropout, device)?,
                None => model.load(device)?,
            };
            gpt.set_checkpoint_blocks(settings.checkpoint_blocks);
            return Ok(Trained {
                gpt,
                parameters,
                adapter: None,
                frozen: None,
            });
        };
        // Nothing but products reads them.
        let dtype = settings.training.precision.dtype();
        let (mut gpt, frozen) = model.load_frozen(dtype, settings.dropout, device)?;
        gpt.set_checkpoint_blocks(settings.checkpoint_blocks);
        let targets = settings.lora_targets.clone();
        let targets = targets.unwrap_or_else(|| model.lora_targets());
        let mut builder = ParameterBuilder::new(settings.training.seed);
        let adapter = model.add_lora(&mut gpt, &mut builder, &config, &targets)?;
        if !device.is_meta() {
            say!("adapters: rank {} on {}", config.rank, targets.join(", "));
        }
        Ok(Trained {
            gpt,
            parameters: builder.build(device)?,
            adapter: Some(adapter),
            frozen: Some(frozen),
        })
    }

    /// Prints what the run takes from step to step, and in each.
    fn describe(&self, optimizer: &dyn Optimizer, activations: u64) {
        let trained = BinaryBytes(optimizer.memory());
        let count = HumanCount(self.parameters.element_count() as u64);
        let stays = self.frozen.as_ref().map_or_else(String::new, |frozen| {
            format!("{} of weights that stay, ", BinaryBytes(frozen.bytes()))
        });
        say!(
            "memory: {stays}{trained} of {count} trained parameters, their gradient and moments, {} of activations",
            BinaryBytes(activations)
        );
    }
}

/// Refuses a run that the device has no memory for, and gives the bytes of its steps' activations. Nothing is loaded for it.
fn plan(
    model: &ModelFiles,
    settings: &Settings,
    evaluation: &EvaluationArgs,
    ranks: Option<&dyn Ranks>,
    device: &Device,
) -> Result<u64> {
    let rows = settings.batch.batch_size;
    let step = Step {
        rows: ranks.map_or(rows, |ranks| ranks.share(rows).len()),
        eval_rows: evaluation.eval_batch_size,
        context: settings.batch.context,
        accumulates: settings.accumulate > 1,
        precision: settings.training.precision,
    };
    let trained = Trained::load(model, settings, &device.meta())?;
    let mut optimizer = AdamW::new(&trained.parameters, settings.training.optimizer())?;
    let memory = step.memory(&trained.gpt, &mut optimizer);
    let memory = memory.and_then(|memory| memory.check(device.memory()).map(|()| memory));
    let remedies = match settings.checkpoint_blocks {
        true => "--batch-size, --eval-batch-size or --context",
        false => "--batch-size, --eval-batch-size or --context, or give --checkpoint-blocks",
    };
    match memory {
        Ok(memory) => Ok(memory.intermediate),
        Err(error) => Err(settings::lower(error, "a training step", remedies)),
    }
}

/// What a run begins with.
struct Prepared {
    start: u64,
    model: ModelFiles,
    stream: Stream,
    text_digest: String,
    token_fingerprint: String,
    metrics: Metrics,
    device: Device,
    trained: Trained,
    optimizer: Box<dyn Trainer>,
    activations: u64,
}

impl Tune {
    /// Trains and saves.
    ///
    /// # Errors
    ///
    /// One line about a flag or a file before anything is begun; those of the training.
    pub fn run(mut self, ranks: Option<Rc<dyn Ranks>>) -> Result<ExitCode> {
        let began = Instant::now();
        let mut files = FileArgs {
            checkpoint: self.checkpoint.clone(),
            checkpoint_interval: self.save_interval,
            resume: self.resume.clone(),
            metrics: self.metrics.clone(),
            plot: self.plot.clone(),
            profile: None,
        };
        let others = ranks.as_deref();
        let is_first = others.is_none_or(|ranks| ranks.rank() == 0);
        if !is_first {
            files.write_nothing();
        }
        let prepared = self.prepare(&files, others);
        let Prepared {
            start,
            model,
            stream,
            text_digest,
            token_fingerprint,
            mut metrics,
            device,
            trained,
            mut optimizer,
            activations,
        } = ranks::settle(others, prepared)?;
        let settings = &self.settings;
        ranks::agree(
            others,
            settings,
            (&self.evaluation, &[("--save-interval", self.save_interval)]),
            &device,
            start,
            &text_digest,
        )?;
        if let Some(others) = others {
            others.agree("the fingerprint of the text's tokens", &token_fingerprint)?;
        }
        let weights = trained.frozen.iter().chain([&trained.parameters]);
        ranks::agree_on_model(others, trained.gpt.config(), weights)?;
        let count = |n: usize| HumanCount(n as u64);
        let source = self.file.display();
        let [train, test] = stream.sizes();
        say!(
            "data: {source}, {} tokens ({} to train on, {} for the test)",
            count(train + test),
            count(train),
            count(test)
        );
        let rows = settings.batch.batch_size * settings.accumulate as usize;
        let shape = [rows, settings.batch.context];
        report::describe(trained.gpt.config(), &settings.training, shape, start);
        trained.describe(&*optimizer, activations);
        local_steps::describe(&settings.sync, others);

        if trained.adapter.is_none() {
            note_rounding(&model, self.save_dtype);
        }
        interrupt::install()?;
        let contents = Contents {
            program: PROGRAM,
            settings,
            seed: settings.training.seed,
            config: trained.gpt.config(),
            vocabulary: &[],
            tokenizer: None,
            text_digest: &text_digest,
        };
        let mut save = |optimizer: &dyn Optimizer| {
            if let Some(path) = &files.checkpoint {
                contents.save(path, optimizer)?;
            }
            match &trained.adapter {
                Some(adapter) => Ok(adapter.save(&self.out, self.model.to_str())?),
                None => {
                    model.save_as(&self.out, optimizer.parameters(), self.save_dtype)?;
                    keep(&self.model, &self.out)
                }
            }
        };
        let training = Training {
            recorder: Recorder {
                device: &device,
                model: &NextToken {
                    gpt: &trained.gpt,
                    criterion: CrossEntropy::ignoring(IGNORE_INDEX),
                },
                data: &stream,
                options: Options {
                    accumulate: settings.accumulate,
                    perplexity: true,
                    sync_every: settings.sync.sync_every,
                    ranks: ranks.clone(),
                    reduce_dtype: settings.sync.reduce_dtype.dtype(),
                    ..Options::new(&settings.training, &self.evaluation, &files, &self.program)
                },
            },
            optimizer: &mut *optimizer,
            metrics: &mut metrics,
            save: is_first.then_some(&mut save),
            sample: &mut || Ok(String::new()),
        };
        let summary = training.run()?;
        if let Some(path) = &files.plot {
            let parameters = count(trained.parameters.element_count());
            let title = format!("{PROGRAM}: {parameters} parameters, {source}");
            plot::write(path, &title, metrics.records())?;
        }
        if !is_first {
            return Ok(program::exit_code(&summary));
        }
        report::interruption(&summary, settings.training.steps);
        report::finish(&summary, true, &files, start, began);
        let what = match trained.adapter {
            Some(_) => "adapters",
            None => "tuned model",
        };
        say!("the {what}: {}", self.out.display());
        Ok(program::exit_code(&summary))
    }

    /// Finds everything that can be wrong, before anything is begun.
    fn prepare(&mut self, files: &FileArgs, ranks: Option<&dyn Ranks>) -> Result<Prepared> {
        self.settings.validate(&self.evaluation)?;
        let resume = self.resume.as_deref();
        let checkpoint = resume.map(|path| Checkpoint::<Settings>::open(path, PROGRAM));
        let checkpoint = checkpoint.transpose()?;
        if let Some(checkpoint) = &checkpoint {
            let stored = checkpoint.settings();
            self.settings
                .adopt(stored, &self.given, checkpoint.path())?;
            self.settings.validate(&self.evaluation)?;
        }
        let settings = &self.settings;
        ranks::require_rows(ranks, settings.batch.batch_size)?;
        if self.save_dtype != SaveDType::AsStored && settings.lora.is_some() {
            return Err("--save-dtype is for models: adapters are saved as f32".into());
        }
        let start = checkpoint.as_ref().map_or(0, Checkpoint::step);
        settings.training.check_start(start)?;
        settings.sync.check(
            &settings.training,
            &self.evaluation,
            &self.given,
            ranks.is_some(),
            &[("--save-interval", self.save_interval)],
        )?;
        let text = read_text(&self.file)?;
        let (model, tokenizer) = open(&self.model)?;
        if settings.lora.is_some() {
            let own = model.fingerprint()?;
            if let Some(checkpoint) = &checkpoint
                && settings.base_model.is_some_and(|base| base != own)
            {
                return Err(format!(
                    "{} holds other weights than the model that the adapters of the checkpoint {} were trained on: give that one",
                    self.model.display(),
                    checkpoint.path().display()
                )
                .into());
            }
            self.settings.base_model = Some(own);
        }
        let settings = &self.settings;
        let most = model.config().context;
        let context = settings.batch.context;
        let expected = format!("at most {most}, what the model sees");
        require(context <= most, "context", &context, &expected)?;
        let model = for_rows(model, context)?;
        let tokens = tokenizer.encode(&text)?;
        let token_fingerprint = ranks::fingerprint(tokens.iter().copied());
        let rows = (settings.batch.batch_size, self.evaluation.eval_batch_size);
        let source = self.file.display();
        let stream = Stream::new(tokens, context, rows, settings.training.seed)
            .map_err(|error| format!("{source}: {error}"))?;
        if ranks.is_none_or(|ranks| ranks.rank() == 0) {
            self.check_files(files, &model)?;
        }
        let metrics = Metrics::start(files.metrics.as_deref(), start)?;

        let device = program::open_device_of(&self.program.device, ranks)?;
        let activations = plan(&model, settings, &self.evaluation, ranks, &device)?;
        let trained = Trained::load(&model, settings, &device)?;
        let inner = AdamW::new(&trained.parameters, settings.training.optimizer())?;
        let optimizer = local_steps::trainer(inner, &settings.sync, ranks, checkpoint.as_ref())?;
        let text_digest = digest(&text);
        if let Some(checkpoint) = &checkpoint {
            checkpoint.note_other_text(&text_digest, &source.to_string());
        }
        Ok(Prepared {
            start,
            model,
            stream,
            text_digest,
            token_fingerprint,
            metrics,
            device,
            trained,
            optimizer,
            activations,
        })
    }

    /// Finds out whether all files can be written.
    fn check_files(&self, files: &FileArgs, model: &ModelFiles) -> Result<()> {
        let of_model = files_of(&self.model, model);
        let of_model = of_model.iter().map(|(what, path)| (&**what, &**path));
        let read: Vec<(&str, &Path)> = of_model.chain([("the text", &*self.file)]).collect();
        let given: Vec<_> = read
            .iter()
            .map(|&(what, path)| (what, Some(path)))
            .collect();
        files.check(&self.settings, &given)?;
        let written = [
            ("--checkpoint", &files.checkpoint),
            ("--metrics", &files.metrics),
            ("--plot", &files.plot),
        ];
        let written = written
            .into_iter()
            .filter_map(|(flag, path)| Some((flag, path.as_deref()?)));
        let others: Vec<_> = read.into_iter().chain(written).collect();
        match self.settings.lora {
            Some(_) => {
                Adapter::check_output(&self.out)?;
                prepare_files(&self.out, ADAPTER, &others)
            }
            None => {
                model.check_output(&self.out)?;
                prepare(&self.out, model, &others)
            }
        }
    }
}
