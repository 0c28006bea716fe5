//! What programs say about numbers, models and trainings.

use std::fmt;

use shadegrad::nn::{FeedForwardKind, GptConfig};

use super::args::TrainingArgs;

/// A number with its digits in groups of three: `12,345`.
#[derive(Clone, Copy, Debug)]
pub struct HumanCount(pub u64);

impl fmt::Display for HumanCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        for (at, digit) in digits.chars().enumerate() {
            if at > 0 && (digits.len() - at).is_multiple_of(3) {
                f.write_str(",")?;
            }
            write!(f, "{digit}")?;
        }
        Ok(())
    }
}

/// A model: its size and what it is made of.
pub fn model(config: &GptConfig) -> String {
    let GptConfig {
        context,
        d_model,
        n_heads,
        n_layers,
        norm,
        positions,
        ..
    } = config;
    let ffn = match config.ffn {
        FeedForwardKind::None => "attention only".to_owned(),
        ffn => format!("{ffn} {}", config.d_ff),
    };
    let shared = match config.n_kv_heads() {
        all if all == *n_heads => String::new(),
        kv_heads => format!(" on {kv_heads} of keys and values"),
    };
    let head = match (config.tie_weights, config.head_bias) {
        (true, false) => "tied head",
        (true, true) => "tied head with a bias",
        (false, false) => "own head",
        (false, true) => "own head with a bias",
    };
    let biases = match (config.bias, config.has_attention_bias()) {
        (true, true) => ", biases",
        (true, false) => ", biases but in attention",
        (false, true) => ", biases in attention",
        (false, false) => "",
    };
    format!(
        "{} parameters · layers {n_layers}, width {d_model}, heads {n_heads}{shared}, {ffn}, {norm}, {positions} \
         positions, context {context}, {head}{biases}{}",
        HumanCount(config.parameter_count() as u64),
        if config.final_norm {
            ""
        } else {
            ", no final norm"
        },
    )
}

/// How a model is going to be trained, on batches of so many rows and tokens in a row.
pub fn training(training: &TrainingArgs, [rows, length]: [usize; 2], start: u64) -> String {
    let from = match start {
        0 => String::new(),
        start => format!(", resumed after step {}", HumanCount(start)),
    };
    format!(
        "{} steps of {rows} × {length} tokens{from} · AdamW, precision {}, learning rate {} ({}), warm-up {}, seed {}",
        HumanCount(training.steps),
        training.precision,
        training.lr,
        format!("{:?}", training.schedule).to_lowercase(),
        training.warmup(),
        training.seed,
    )
}
