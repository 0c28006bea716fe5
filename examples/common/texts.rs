//! Texts from a model.

use shadegrad::nn::Gpt;
use shadegrad::sampling::{Sampler, SamplingConfig};

use super::Result;

/// Texts that are generated side by side.
const ROWS: usize = 64;

/// What follows `prompt` in `count` texts of up to `most` tokens, each up to the token `stop`.
///
/// # Errors
///
/// What the device reports.
pub async fn texts(
    gpt: &Gpt,
    prompt: &[u32],
    (count, most): (usize, usize),
    config: SamplingConfig,
    seed: u64,
    stop: Option<u32>,
) -> Result<Vec<Vec<u32>>> {
    let mut texts = Vec::new();
    while texts.len() < count {
        let rows = ROWS.min(count - texts.len());
        let samplers = (texts.len()..texts.len() + rows).map(|number| {
            // Apart, so that neighbouring seeds share no texts.
            let apart = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(number as u64);
            Sampler::new(config, seed.wrapping_add(apart))
        });
        let mut samplers = samplers.collect::<shadegrad::Result<Vec<_>>>()?;
        texts.extend(continued(gpt, vec![prompt; rows], most, &mut samplers, stop).await?);
    }
    Ok(texts)
}

/// What follows each of some prompts, drawn by its sampler: up to `most` tokens, or up to the token `stop`.
///
/// # Errors
///
/// What the device reports.
pub async fn continued(
    gpt: &Gpt,
    prompts: Vec<&[u32]>,
    most: usize,
    samplers: &mut [Sampler],
    stop: Option<u32>,
) -> Result<Vec<Vec<u32>>> {
    let mut texts = vec![Vec::new(); prompts.len()];
    let mut generation = gpt.generation(&prompts, most, samplers, stop)?;
    while let Some(next) = generation.next_async().await {
        let next = next?;
        texts[next.text].push(next.token);
    }
    Ok(texts)
}

/// Memory for what [`texts`] will need is there, or this says so before a training rather than after it.
///
/// # Errors
///
/// What the device reports.
pub fn check(gpt: &Gpt, count: usize) -> shadegrad::Result<()> {
    match ROWS.min(count) {
        0 => Ok(()),
        rows => gpt.kv_cache(rows, gpt.config().context).map(drop),
    }
}
