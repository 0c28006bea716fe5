//! Reads, continues, measures and learns text with a language model from a directory of Hugging Face's `transformers`
//! library: `config.json`, weights in safetensors files, and `tokenizer.json` or `vocab.json` with `merges.txt`.
//!
//! ```sh
//! cargo run --release --example lm --features tokenizers,download -- download gpt2 models/gpt2
//! cargo run --release --example lm --features tokenizers -- info models/gpt2
//! cargo run --release --example lm --features tokenizers -- tokenize models/gpt2 " Ralph"
//! cargo run --release --example lm --features tokenizers -- generate models/gpt2 "I am an amazing" --temperature 0
//! cargo run --release --example lm --features tokenizers -- chat models/SmolLM2-135M-Instruct --system "Be brief."
//! cargo run --release --example lm --features tokenizers -- top models/gpt2 "take over the world"
//! cargo run --release --example lm --features tokenizers -- attention models/gpt2 "A cat sat." --layer 5 --out maps
//! cargo run --release --example lm --features tokenizers -- perplexity models/gpt2 book.txt
//! cargo run --release --example lm --features tokenizers -- tune models/gpt2 book.txt --out models/tuned
//! cargo run --release --example lm --features tokenizers -- tune models/gpt2 book.txt --lora 8 --out adapters/book
//! cargo run --release --example lm --features tokenizers -- merge models/gpt2 adapters/book --out models/merged
//! ```

#[macro_use]
#[path = "../common/mod.rs"]
mod common;

mod attention;
mod chat;
#[cfg(feature = "download")]
mod download;
mod generate;
mod info;
mod measure;
mod merge;
mod saving;
mod step;
mod tune;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use common::args::{self, DeviceArgs};
use common::settings::require;
use common::words::HumanCount;
use common::{Result, program, ranks};
use indicatif::{ProgressBar, ProgressStyle};
use shadegrad::data::read_text;
use shadegrad::hugging_face::{ModelFiles, Tokenizer};
use shadegrad::nn::{Gpt, PositionKind};
use shadegrad::tape::Precision;

use chat::Chat;
use generate::GenerationArgs;
use merge::Merge;
use tune::Tune;

#[cfg(not(feature = "download"))]
mod download {
    use crate::common::Result;

    /// Says how to build a program that can do this.
    pub fn fetch(_: &str, _: &str, _: &std::path::Path) -> Result<()> {
        Err("this program was built without downloads; build it with --features tokenizers,download".into())
    }
}

/// Reads, continues, measures and learns text with a language model from a directory of the transformers library.
#[derive(Debug, Parser)]
#[command(name = "lm", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print what a model is, what it needs of the device, and whether that fits
    Info {
        /// The model's directory
        model: PathBuf,
        #[command(flatten)]
        context: ContextArgs,
        /// Rows in a batch that it might be trained on
        #[arg(short, long, default_value_t = 4)]
        batch_size: usize,
        /// Reckon with blocks that are computed again in the backward pass
        #[arg(long)]
        checkpoint_blocks: bool,
        #[command(flatten)]
        device: DeviceArgs,
    },
    /// Print the tokens of a text and their ids
    Tokenize {
        #[command(flatten)]
        input: Input,
    },
    /// Continue a text
    Generate {
        #[command(flatten)]
        input: Input,
        #[command(flatten)]
        generation: GenerationArgs,
    },
    /// Talk with a model that was trained on chats: lines of standard input are answered, until /exit or their end
    Chat(Box<Chat>),
    /// Print the most likely next tokens at every position of a text, with their probabilities
    Top {
        #[command(flatten)]
        input: Input,
        /// How many tokens at each position
        #[arg(long, default_value_t = 5)]
        count: usize,
        #[command(flatten)]
        load: LoadArgs,
        #[command(flatten)]
        device: DeviceArgs,
    },
    /// Fetch a model's directory (needs `--features tokenizers,download`)
    Download {
        /// The model's name on the site: `gpt2`, `gpt2-medium`, `gpt2-large`, `gpt2-xl`, or `owner/name`
        name: String,
        /// Directory for its files
        directory: PathBuf,
        /// The site
        #[arg(long, value_name = "URL", default_value = "https://huggingface.co")]
        from: String,
    },
    /// Draw what all heads of a layer look at, as a picture and as a page to hover over
    Attention {
        #[command(flatten)]
        input: Input,
        /// The layer, counted from 0
        #[arg(long, default_value_t = 0)]
        layer: usize,
        /// Folder for the two files
        #[arg(long, value_name = "FOLDER")]
        out: PathBuf,
        #[command(flatten)]
        load: LoadArgs,
        #[command(flatten)]
        device: DeviceArgs,
    },
    /// Measure how well the model predicts a text file, in windows that overlap
    Perplexity {
        /// The model's directory
        model: PathBuf,
        /// The text, in UTF-8
        file: PathBuf,
        /// Tokens between the starts of two windows [default: half of the model's context]
        #[arg(long)]
        stride: Option<usize>,
        /// What the model computes with: f32, or mixed (weights and products in f16)
        #[arg(long, default_value_t = Precision::F32)]
        precision: Precision,
        #[command(flatten)]
        load: LoadArgs,
        #[command(flatten)]
        device: DeviceArgs,
    },
    /// Train it further on a text file, whole or by adapters, and save it in the same layout
    ///
    /// Built with the feature `mpi`, also on several GPUs: `mpirun -n 4 lm tune …`, with the same flags. Each batch is shared by
    /// the ranks; rank 0 prints and writes. docs/parallel.md says more.
    Tune(Box<Tune>),
    /// Add adapters to a model's weights
    Merge(Merge),
}

#[derive(Debug, Args)]
struct Input {
    /// The model's directory
    model: PathBuf,
    /// The text; behind `--`, also one that is a flag's name
    #[arg(allow_hyphen_values = true)]
    text: String,
}

/// How a model is loaded.
#[derive(Debug, Args)]
struct LoadArgs {
    /// Directory of adapters to add to it, of `lm tune --lora` or of the peft library
    #[arg(long, value_name = "DIR")]
    lora: Option<PathBuf>,
    #[command(flatten)]
    context: ContextArgs,
}

/// How far it is to see.
#[derive(Clone, Copy, Debug, Args)]
struct ContextArgs {
    /// Tokens that the model sees at most, to take less memory [default: what it was trained for]
    #[arg(long)]
    context: Option<usize>,
}

fn main() -> ExitCode {
    program::run(|| {
        let matches = command_line()
            .try_get_matches()
            .unwrap_or_else(|error| program::exit(&error));
        let lists = |(_, matches): (&str, &ArgMatches)| {
            // Not every command runs on a device.
            matches.try_get_one(LIST_ADAPTERS).ok().flatten() == Some(&true)
        };
        if matches.subcommand().is_some_and(lists) {
            ranks::require_one("--list-adapters")?;
            return program::list_adapters();
        }
        let name = matches.subcommand_name().unwrap_or_default();
        if name != "tune" {
            ranks::require_one(&format!("lm {name}"))?;
        }
        let mut command = Cli::from_arg_matches(&matches)?.command;
        if let (Command::Tune(tune), Some((_, matches))) = (&mut command, matches.subcommand()) {
            tune.given = args::given(matches);
        }
        run(command)
    })
}

/// The flag, by clap's name of it.
const LIST_ADAPTERS: &str = "list_adapters";

/// With `--list-adapters`, a command needs nothing else.
fn command_line() -> clap::Command {
    Cli::command().mut_subcommands(|command| {
        let is_one = |argument: &clap::Arg| argument.get_id() == LIST_ADAPTERS;
        if !command.get_arguments().any(is_one) {
            return command;
        }
        command.mut_args(|argument| match argument.is_required_set() {
            true => argument
                .required(false)
                .required_unless_present(LIST_ADAPTERS),
            false => argument,
        })
    })
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Info {
            model,
            context,
            batch_size,
            checkpoint_blocks,
            device,
        } => {
            require(batch_size >= 1, "batch-size", &batch_size, "at least 1")?;
            let batch = (batch_size, checkpoint_blocks);
            info::run(&model, context.context, batch, &device)?;
        }
        Command::Tokenize { input } => {
            let tokenizer = Tokenizer::open(&input.model)?;
            let ids = tokenizer.encode_with_special_tokens(&input.text)?;
            say!("{:?}", tokenizer.strings(&ids)?);
            say!("{ids:?}");
        }
        Command::Generate { input, generation } => generate::run(&input, &generation)?,
        Command::Chat(chat) => chat.run()?,
        Command::Top {
            input,
            count,
            load,
            device,
        } => {
            require(count >= 1, "count", &count, "at least 1")?;
            let model = Model::open(&input.model, &load, Precision::F32, &device)?;
            let tokens = model.prompt(&input.text)?;
            measure::top(&model, &tokens, count)?;
        }
        Command::Download {
            name,
            directory,
            from,
        } => {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
            let sound = !name.is_empty() && name.chars().all(is_plain) && !name.contains("..");
            if !sound {
                return Err(format!("`{name}` is no name of a model").into());
            }
            download::fetch(&name, from.trim_end_matches('/'), &directory)?;
            let (files, tokenizer) = open(&directory)?;
            say!(
                "{} parameters, {} tokens: {}",
                HumanCount(files.config().parameter_count() as u64),
                HumanCount(tokenizer.vocab_size() as u64),
                directory.display()
            );
        }
        Command::Attention {
            input,
            layer,
            out,
            load,
            device,
        } => {
            let model = Model::open(&input.model, &load, Precision::F32, &device)?;
            let last = model.gpt.config().n_layers - 1;
            require(layer <= last, "layer", &layer, &format!("0 to {last}"))?;
            let tokens = model.prompt(&input.text)?;
            attention::draw(&model, &input.model, &tokens, layer, &out)?;
        }
        Command::Perplexity {
            model,
            file,
            stride,
            precision,
            load,
            device,
        } => {
            let text = read_text(&file)?;
            let model = Model::open(&model, &load, precision, &device)?;
            let context = model.gpt.config().context;
            let many = "at least 2, to predict one token from another";
            require(context >= 2, "context", &context, many)?;
            let stride = stride.unwrap_or(context.div_ceil(2));
            let expected = format!("1 to {}, one less than the model's context", context - 1);
            require((1..context).contains(&stride), "stride", &stride, &expected)?;
            let tokens = model.tokenizer.encode_with_special_tokens(&text)?;
            if tokens.len() < 2 {
                return Err(format!("{}: two tokens at least are needed", file.display()).into());
            }
            let loss = measure::mean_loss(&model, &tokens, stride)?;
            if !loss.is_finite() {
                return Err(format!("the loss is {loss}: {}", measure::DAMAGED).into());
            }
            say!(
                "{} tokens · windows of {context}, {stride} apart · loss {loss:.4} nats per token · perplexity {:.3}",
                tokens.len(),
                loss.exp()
            );
        }
        Command::Tune(tune) => return ranks::run(|ranks| tune.run(ranks)),
        Command::Merge(merge) => merge.run()?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Weights of fewer bytes are loaded without a bar.
const LARGE: u64 = 200_000_000;

/// A model's files with its tokenizer. Loading them shows a bar if they are large and standard error is a terminal.
fn open(directory: &Path) -> Result<(ModelFiles, Tokenizer)> {
    let mut files = ModelFiles::open(directory)?;
    if files.bytes() >= LARGE && !ranks::is_silent() {
        let style = "loading {wide_bar} {bytes}/{total_bytes} · {bytes_per_sec} · {eta}";
        let bar = ProgressBar::new(files.bytes()).with_style(ProgressStyle::with_template(style)?);
        files = files.with_progress(move |done, all| {
            bar.set_length(all);
            bar.set_position(done);
            if done == all {
                bar.finish_and_clear();
            }
        });
    }
    let tokenizer = Tokenizer::open(directory)?;
    let has = files.config().vocab_size;
    match tokenizer.last() {
        Some((last, text)) if last as usize >= has => Err(format!(
            "{}: the tokenizer's last token {last}, {text:?}, is not among the model's {has}: they are not of one model",
            directory.display()
        )
        .into()),
        _ => Ok((files, tokenizer)),
    }
}

/// The files for a model that is trained on rows of so many tokens: without the tables for more, if it is not learned vectors
/// that say where tokens are.
fn for_rows(files: ModelFiles, context: usize) -> shadegrad::Result<ModelFiles> {
    match files.config().positions {
        PositionKind::Learned => Ok(files),
        _ => files.with_context(context),
    }
}

/// Every file of a model's directory that is read beside its weights.
const FILES: [&str; 9] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
    "chat_template.jinja",
];

/// The files of a model's directory that are read, with what they are called in messages.
fn files_of(directory: &Path, model: &ModelFiles) -> Vec<(String, PathBuf)> {
    let names = FILES.into_iter().chain(model.weight_files());
    let named = names.map(|name| (format!("the model's {name}"), directory.join(name)));
    named.collect()
}

/// A loaded model with its tokenizer.
struct Model {
    files: ModelFiles,
    tokenizer: Tokenizer,
    gpt: Gpt,
}

impl Model {
    fn open(
        directory: &Path,
        args: &LoadArgs,
        precision: Precision,
        device: &DeviceArgs,
    ) -> Result<Model> {
        let (mut files, tokenizer) = open(directory)?;
        if let Some(context) = args.context.context {
            files = files.with_context(context)?;
        }
        let device = program::open_device_aside(device)?;
        let (mut gpt, _) = files.load_as(precision.dtype(), &device)?;
        if let Some(adapter) = &args.lora {
            merge::into(&mut gpt, &files, adapter, &device)?;
        }
        Ok(Model {
            files,
            tokenizer,
            gpt,
        })
    }

    fn prompt(&self, text: &str) -> Result<Vec<u32>> {
        let tokens = self.tokenizer.encode_with_special_tokens(text)?;
        match tokens.is_empty() {
            true => Err("the text is empty, at least one token is needed".into()),
            false => Ok(tokens),
        }
    }
}
