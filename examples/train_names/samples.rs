//! New names from the trained model.

use shadegrad::data::CharTokenizer;
use shadegrad::nn::Gpt;
use shadegrad::sampling::{Sampler, SamplingConfig};

use super::cli::Batching;
use super::data::Data;
use crate::common::{Result, texts};

/// In a stream: tokens to generate for each name that is missing. About the length of a name.
const TOKENS_PER_NAME: usize = 8;

/// In a stream: no more tokens than this per name asked for. A model that has not learnt to end a line is let off.
const MOST_TOKENS_PER_NAME: usize = 64;

/// Draws `count` names from the model, in the manner in which it was trained.
///
/// # Errors
///
/// What the device reports.
pub async fn draw(
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
            let names = texts::texts(model, &[newline], size, config, seed, Some(newline)).await?;
            let names = names.iter().map(|tokens| data.tokenizer().decode(tokens));
            Ok(names.collect::<shadegrad::Result<_>>()?)
        }
        Batching::Stream => from_one_text(model, data, config, seed, count).await,
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
    texts::check(model, rows)
}

/// The tokens that names with this beginning begin with.
///
/// # Errors
///
/// If the vocabulary lacks one of its characters.
pub fn prompt(tokenizer: &CharTokenizer, beginning: &str) -> Result<Vec<u32>> {
    let prompt = tokenizer
        .encode(beginning)
        .map_err(|error| format!("--prompt: {error}"))?;
    let newline = tokenizer.token('\n');
    let prompt: Vec<u32> = newline.into_iter().chain(prompt).collect();
    // A text without line ends has another first token, and any will do.
    Ok(if prompt.is_empty() { vec![0] } else { prompt })
}

/// How many tokens may follow a prompt: as many as the model has seen in a name.
pub fn most_after(prompt: &[u32], context: usize) -> usize {
    context.saturating_add(1).saturating_sub(prompt.len())
}

/// One text that begins with `'\n'`, cut into its lines.
async fn from_one_text(
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
        let sampler = std::slice::from_mut(&mut sampler);
        let next = texts::continued(model, vec![&tokens], most, sampler, None).await?;
        tokens.extend(next.concat());
    }
}

/// The token of `'\n'`, or the first one if the text has no line ends.
fn start(data: &Data) -> u32 {
    data.tokenizer().token('\n').unwrap_or(0)
}
