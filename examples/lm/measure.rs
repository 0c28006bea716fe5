//! What the model expects of a text.

use shadegrad::Tape;
use shadegrad::ops::CrossEntropy;
use shadegrad::sampling::{SamplingConfig, check_logits};

use super::Model;
use crate::common::Result;

/// Positions whose logits are computed at a time: some adapters bind 128 MiB at most, which GPT-2's vocabulary fills with
/// 667 of them.
const ROWS: usize = 256;

/// What a model is that answers with NaN.
pub const DAMAGED: &str =
    "the model's weights are damaged or its training has diverged; use an older copy";

/// Prints, for every position, the most likely tokens behind it.
///
/// # Errors
///
/// If the text is longer than the model's context; what the device reports.
pub fn top(model: &Model, tokens: &[u32], count: usize) -> Result<()> {
    let config = model.gpt.config();
    let (length, context) = (tokens.len(), config.context);
    if length > context {
        return Err(format!("the text has {length} tokens, the model sees {context}").into());
    }
    let tape = Tape::inference(model.gpt.device());
    let hidden = model.gpt.hidden(tape.input([1, length], tokens));
    let logits = (0..length).step_by(ROWS).map(|first| {
        let rows = hidden.slice(1, first..length.min(first + ROWS));
        tape.fetch::<f32>(model.gpt.head(rows))
    });
    let logits: Vec<_> = logits.collect();
    tape.run()?;
    let without_text = model.tokenizer.without_text(config.vocab_size);
    let mut strings = model.tokenizer.strings(tokens)?.into_iter();
    for part in logits {
        for row in part.get()?.chunks(config.vocab_size) {
            check_logits(row)?;
            let ranked = SamplingConfig::default().distribution(row);
            let likely = ranked.iter().take(count).map(|&(token, probability)| {
                // A model may have room for more tokens than its tokenizer has.
                let text = match without_text.binary_search(&token) {
                    Ok(_) => token.to_string(),
                    Err(_) => format!("{:?}", model.tokenizer.decode(&[token])?),
                };
                Ok(format!("{text} {:.2} %", 100.0 * probability))
            });
            let likely = likely.collect::<Result<Vec<String>>>()?;
            let token = strings.next().unwrap_or_default();
            say!("{token:?} → {}", likely.join(", "));
        }
    }
    Ok(())
}

/// The mean of −ln p over all tokens but the first, in windows of the model's context that begin `stride` tokens apart.
/// Every token counts once, in the first window that holds it.
///
/// # Errors
///
/// What the device reports.
pub fn mean_loss(model: &Model, tokens: &[u32], stride: usize) -> Result<f64> {
    let context = model.gpt.config().context;
    let (mut sum, mut counted) = (0.0, 1);
    for start in (0..tokens.len()).step_by(stride) {
        let window = &tokens[start..tokens.len().min(start + context)];
        let inputs = &window[..window.len() - 1];
        let tape = Tape::inference(model.gpt.device());
        tape.set_precision(model.gpt.precision());
        let hidden = model.gpt.hidden(tape.input([1, inputs.len()], inputs));
        let losses = (counted - start - 1..inputs.len())
            .step_by(ROWS)
            .map(|first| {
                let end = inputs.len().min(first + ROWS);
                let targets = tape.input([1, end - first], &window[first + 1..end + 1]);
                let logits = model.gpt.head(hidden.slice(1, first..end));
                tape.fetch::<f32>(logits.cross_entropy_rows(targets, CrossEntropy::default()))
            });
        let losses: Vec<_> = losses.collect();
        tape.run()?;
        for part in losses {
            sum += part.get()?.iter().map(|&loss| f64::from(loss)).sum::<f64>();
        }
        counted = start + window.len();
        if counted == tokens.len() {
            break;
        }
    }
    Ok(sum / (counted - 1) as f64)
}
