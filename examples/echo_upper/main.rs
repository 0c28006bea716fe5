//! An attention-only transformer learns to repeat a word (`minecraft echo`) and to repeat it in capitals
//! (`minecraft upper`), and is asked about words that it never saw.
//!
//! ```sh
//! cargo run --release --example echo_upper
//! cargo run --release --example echo_upper -- "banana upper" "shader echo"
//! ```
//!
//! The model is the one of the GPT-2 notebook: blocks of attention alone, `x + norm(attention(x))`, sinusoidal positions
//! of base 100, a layer norm and an output head. Where the notebook slips, this follows what it says: scores are scaled,
//! and positions are added along the positions.

#[macro_use]
#[path = "../common/mod.rs"]
mod common;

mod task;

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use common::args::{DeviceArgs, TrainingArgs};
use common::course::{Data, NextToken, Options};
use common::metrics::Metrics;
use common::settings::require;
use common::steps::Recorder;
use common::training::Training;
use common::{Result, interrupt, program, progress, ranks, report};
use shadegrad::data::{Batch, CharTokenizer, IGNORE_INDEX, Split};
use shadegrad::nn::{
    FeedForwardKind, Gpt, GptConfig, NormKind, NormPlacement, ParameterBuilder, PositionKind,
};
use shadegrad::ops::CrossEntropy;
use shadegrad::optim::AdamW;
use shadegrad::sampling::{Sampler, SamplingConfig};

use task::{Command, Exercise};

/// Trains an attention-only transformer to `echo` and to `upper` words, and tests it with words that it never saw.
#[derive(Debug, Parser)]
#[command(name = "echo_upper", version, args_override_self = true)]
struct Cli {
    /// What to ask in the end: a word of 3 to 10 small letters and `echo` or `upper`
    #[arg(value_name = "PROMPT", default_values = ["minecraft echo", "minecraft upper"])]
    prompts: Vec<String>,
    /// Rows in a training batch
    #[arg(short, long, default_value_t = 64, help_heading = "Training")]
    batch_size: usize,
    #[command(flatten)]
    training: TrainingArgs,
    /// Unseen words to test with
    #[arg(
        long,
        default_value_t = 1000,
        value_name = "WORDS",
        help_heading = "Test"
    )]
    test_words: usize,
    #[command(flatten)]
    device: DeviceArgs,
}

/// What this program does otherwise than the shared flags say.
const DEFAULTS: [(&str, &str); 4] = [
    ("steps", "2000"),
    ("lr", "0.003"),
    ("beta2", "0.98"),
    ("weight_decay", "0.01"),
];

/// Rows that are asked at once.
const ROWS: usize = 250;

/// Apart from the numbers of the steps.
const TEST_STREAM: u64 = u64::MAX;

fn main() -> ExitCode {
    program::run(|| {
        let (cli, _) = program::read::<Cli>(&DEFAULTS);
        ranks::require_one("echo_upper")?;
        match cli.device.list_adapters {
            true => program::list_adapters(),
            false => run(&cli),
        }
    })
}

fn run(cli: &Cli) -> Result<ExitCode> {
    let began = Instant::now();
    let most = 1 << 16;
    for (name, value) in [
        ("batch-size", cli.batch_size),
        ("test-words", cli.test_words),
    ] {
        let sound = (1..=most).contains(&value);
        require(sound, name, &value, &format!("1 to {most}"))?;
    }
    cli.training.validate()?;
    let prompts = cli.prompts.iter().map(|prompt| {
        task::read(prompt).ok_or_else(|| {
            format!("{prompt:?} is no prompt: expected a word of 3 to 10 small letters, then `echo` or `upper`")
        })
    });
    let prompts = prompts.collect::<std::result::Result<Vec<_>, _>>()?;

    let device = program::open_device(&cli.device)?;
    let words = Words {
        tokenizer: task::tokenizer(),
        seed: cli.training.seed,
        batch_size: cli.batch_size,
    };
    let config = GptConfig {
        context: task::CONTEXT,
        d_model: 64,
        n_heads: 4,
        n_layers: 3,
        norm: NormKind::LayerNorm,
        norm_eps: 1e-5,
        norm_placement: NormPlacement::After,
        ffn: FeedForwardKind::None,
        positions: PositionKind::Sinusoidal,
        sinusoidal_base: 100.0,
        bias: true,
        tie_weights: false,
        ..GptConfig::new(words.tokenizer.vocab_size())
    };
    let mut builder = ParameterBuilder::new(cli.training.seed);
    let mut model = Gpt::new(&config, &mut builder)?;
    model.set_precision(cli.training.precision);
    let parameters = builder.build(&device)?;
    let mut optimizer = AdamW::new(&parameters, cli.training.optimizer())?;
    let shape = [cli.batch_size, config.context];
    report::describe(&config, &cli.training, shape, 0);

    interrupt::install()?;
    let training = Training {
        recorder: Recorder {
            device: &device,
            model: &NextToken {
                gpt: &model,
                criterion: CrossEntropy::ignoring(IGNORE_INDEX),
            },
            data: &words,
            options: Options::plain(&cli.training),
        },
        optimizer: &mut optimizer,
        metrics: &mut Metrics::start(None, 0)?,
        save: None,
        sample: &mut || Ok(String::new()),
    };
    let summary = training.run()?;
    report::interruption(&summary, cli.training.steps);
    if interrupt::is_final() {
        return Ok(program::exit_code(&summary));
    }

    let mut rng = task::generator(cli.training.seed, TEST_STREAM);
    let unseen = task::exercises(&mut rng, true, cli.test_words);
    // Each word with both commands.
    let both = unseen.iter().flat_map(|Exercise { word, .. }| {
        let word = word.clone();
        Command::ALL.map(|command| Exercise {
            word: word.clone(),
            command,
        })
    });
    let both: Vec<Exercise> = both.collect();
    let answers = ask(&model, &words.tokenizer, &both)?;
    let right = |command: Command| {
        let pairs = both.iter().zip(&answers);
        let of_command = pairs.filter(|(exercise, _)| exercise.command == command);
        of_command
            .filter(|(exercise, answer)| exercise.answer() == **answer)
            .count()
    };
    let wrong = both
        .iter()
        .zip(&answers)
        .filter(|(e, answer)| e.answer() != **answer);
    for (exercise, answer) in wrong.take(5) {
        say!("wrong: {:?} → {answer:?}", exercise.prompt());
    }
    for command in Command::ALL {
        let (right, all) = (right(command), unseen.len());
        let percent = 100.0 * right as f64 / all as f64;
        say!(
            "{}: {right} of {all} unseen words exact ({percent:.1} %)",
            command.name()
        );
    }
    for (exercise, answer) in prompts.iter().zip(ask(&model, &words.tokenizer, &prompts)?) {
        let verdict = if answer == exercise.answer() {
            "right"
        } else {
            "wrong"
        };
        say!("{} →{answer}   ({verdict})", exercise.prompt());
    }
    let seconds = began.elapsed().as_secs_f64();
    say!(
        "{} steps{} · {} in all",
        summary.steps,
        report::pace(summary.pace),
        progress::duration(seconds)
    );
    Ok(program::exit_code(&summary))
}

/// The most likely continuations, up to the padding token.
fn ask(model: &Gpt, tokenizer: &CharTokenizer, exercises: &[Exercise]) -> Result<Vec<String>> {
    let mut answers = Vec::new();
    for exercises in exercises.chunks(ROWS) {
        let prompts = exercises
            .iter()
            .map(|exercise| tokenizer.encode(&exercise.prompt()));
        let prompts = prompts.collect::<shadegrad::Result<Vec<_>>>()?;
        let samplers = prompts
            .iter()
            .map(|_| Sampler::new(SamplingConfig::GREEDY, 0));
        let mut samplers = samplers.collect::<shadegrad::Result<Vec<_>>>()?;
        let stop = Some(task::PADDING);
        for tokens in model.generate_batch(&prompts, task::CONTEXT, &mut samplers, stop)? {
            answers.push(tokenizer.decode(&tokens)?);
        }
    }
    Ok(answers)
}

/// Words without end.
struct Words {
    tokenizer: CharTokenizer,
    seed: u64,
    batch_size: usize,
}

impl Data for Words {
    fn train_batch(&self, step: u64) -> Batch {
        let mut rng = task::generator(self.seed, step);
        let exercises = task::exercises(&mut rng, false, self.batch_size);
        task::batch(&self.tokenizer, &exercises)
    }

    fn evaluation(&self, split: Split, batches: usize) -> Box<dyn Iterator<Item = Batch> + '_> {
        let stream = |number: usize| TEST_STREAM - 1 - number as u64;
        Box::new((0..batches).map(move |number| {
            let mut rng = task::generator(self.seed, stream(number));
            let exercises = task::exercises(&mut rng, split == Split::Test, self.batch_size);
            task::batch(&self.tokenizer, &exercises)
        }))
    }
}
