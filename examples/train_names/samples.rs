//! New names from the trained model.

use std::collections::HashSet;

use shadegrad::nn::Gpt;
use shadegrad::sampling::{Sampler, SamplingConfig};

use super::cli::Batching;
use super::data::Data;
use crate::common::Result;
use crate::common::saved::{self, SampleArgs};

/// Names to print if nobody says how many.
const COUNT: usize = 20;

/// In a stream: tokens to generate for each name that is missing. About the length of a name.
const TOKENS_PER_NAME: usize = 8;

/// In a stream: no more tokens than this per name asked for. A model that has not learnt to end a line is let off.
const MOST_TOKENS_PER_NAME: usize = 64;

/// Draws `count` names from the model, in the manner in which it was trained.
///
/// # Errors
///
/// What the device reports.
pub fn draw(
    model: &Gpt,
    data: &Data,
    batching: Batching,
    config: SamplingConfig,
    seed: u64,
    count: usize,
) -> Result<Vec<String>> {
    match batching {
        // Each name by itself, to the end of the window at most, beyond which the model has seen nothing.
        Batching::Names => {
            let (newline, size) = (start(data), (count, model.config().context));
            let names = saved::texts(model, &[newline], size, config, seed, Some(newline))?;
            let names = names.iter().map(|tokens| data.tokenizer().decode(tokens));
            Ok(names.collect::<shadegrad::Result<_>>()?)
        }
        Batching::Stream => from_one_text(model, data, config, seed, count),
    }
}

/// Checks that there is memory for what `draw` will need, before a training rather than after it.
///
/// # Errors
///
/// What the device reports.
pub fn check(model: &Gpt, batching: Batching, count: usize) -> shadegrad::Result<()> {
    let rows = match batching {
        Batching::Names => count,
        Batching::Stream => count.min(1),
    };
    saved::check(model, rows)
}

/// `sample CHECKPOINT`: names that begin as the prompt does, one a line.
///
/// # Errors
///
/// Those of the checkpoint and of the device.
pub fn from_checkpoint(args: &SampleArgs) -> Result<()> {
    let checkpoint = args.open()?;
    let tokenizer = checkpoint.tokenizer()?;
    let newline = tokenizer.token('\n');
    let beginning = args.prompt.as_deref().unwrap_or("");
    let prompt = tokenizer
        .encode(beginning)
        .map_err(|error| format!("--prompt: {error}"))?;
    let prompt: Vec<u32> = newline.into_iter().chain(prompt).collect();
    // A text without line ends has another first token, and any will do.
    let prompt = if prompt.is_empty() { vec![0] } else { prompt };
    let window = checkpoint.metadata.config["context"].as_u64().unwrap_or(64);
    let size = (
        COUNT,
        (window as usize)
            .saturating_add(1)
            .saturating_sub(prompt.len()),
    );
    for tokens in args.draw(&checkpoint, &prompt, size, newline)? {
        say!("{beginning}{}", tokenizer.decode(&tokens)?);
    }
    Ok(())
}

/// One text that begins with `'\n'`, cut into its lines.
fn from_one_text(
    model: &Gpt,
    data: &Data,
    config: SamplingConfig,
    seed: u64,
    count: usize,
) -> Result<Vec<String>> {
    let mut sampler = Sampler::new(config, seed)?;
    let mut tokens = vec![start(data)];
    loop {
        let text = data.tokenizer().decode(&tokens)?;
        let exhausted = tokens.len() > count.saturating_mul(MOST_TOKENS_PER_NAME);
        // What stands behind the last '\n' may not be finished.
        let finished = if exhausted {
            text.as_str()
        } else {
            text.rsplit_once('\n').map_or("", |(lines, _)| lines)
        };
        let lines = finished.lines().filter(|line| !line.is_empty());
        let lines: Vec<String> = lines.take(count).map(str::to_owned).collect();
        if exhausted || lines.len() == count {
            return Ok(lines);
        }
        let most = TOKENS_PER_NAME * (count - lines.len());
        let next = model.generate(&tokens, most, &mut sampler, None)?;
        tokens.extend(next);
    }
}

/// The token of `'\n'`, or the first one if the text has no line ends.
fn start(data: &Data) -> u32 {
    data.tokenizer().token('\n').unwrap_or(0)
}

/// Prints samples, how many of them are new, and how many different.
pub fn print(names: &[String], data: &Data) {
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
