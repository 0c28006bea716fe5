//! New names from the trained model.

use std::collections::HashSet;

use shadegrad::nn::Gpt;
use shadegrad::sampling::{Sampler, SamplingConfig};

use super::cli::Batching;
use super::data::Data;
use crate::common::Result;

/// Names that are generated side by side.
const ROWS: usize = 64;

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
        Batching::Names => one_by_one(model, data, config, seed, count),
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
        Batching::Names => ROWS.min(count),
        Batching::Stream => count.min(1),
    };
    if rows > 0 {
        model.kv_cache(rows, model.config().context)?;
    }
    Ok(())
}

/// Each name by itself, from `'\n'` to `'\n'` or to the end of the window, beyond which the model has seen nothing.
fn one_by_one(
    model: &Gpt,
    data: &Data,
    config: SamplingConfig,
    seed: u64,
    count: usize,
) -> Result<Vec<String>> {
    let newline = start(data);
    let mut names = Vec::new();
    while names.len() < count {
        let rows = ROWS.min(count - names.len());
        let samplers = (names.len()..names.len() + rows).map(|number| {
            // Apart, so that neighbouring seeds share no names.
            Sampler::new(
                config,
                seed.wrapping_add(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(number as u64)),
            )
        });
        let mut samplers = samplers.collect::<shadegrad::Result<Vec<_>>>()?;
        let prompts = vec![[newline]; rows];
        let most = model.config().context;
        for tokens in model.generate_batch(&prompts, most, &mut samplers, Some(newline))? {
            names.push(data.tokenizer().decode(&tokens)?);
        }
    }
    Ok(names)
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
