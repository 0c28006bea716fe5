//! What follows from the settings: whether they make sense, and the library's own configurations.

use std::fmt::Display;
use std::path::Path;

use indicatif::HumanCount;
use serde_json::{Map, Value};
use shadegrad::Error;
use shadegrad::nn::{FeedForwardKind, GptConfig};
use shadegrad::optim::{AdamWConfig, Schedule};
use shadegrad::sampling::SamplingConfig;

use super::cli::{Cli, ScheduleKind, Settings};
use crate::common::Result;

/// More tokens in a batch than this are a slip of the keyboard.
const MOST_TOKENS: usize = 1 << 22;

/// More parameters than this are one too: with gradients and moments they take 16 GiB.
const MOST_PARAMETERS: usize = 1 << 30;

/// More samples than this as well.
const MOST_SAMPLES: usize = 1_000_000;

/// Settings that a checkpoint fixes: they shape the model, its vocabulary, its initial values or the split of the data.
const FIXED: [&str; 13] = [
    "batching",
    "context",
    "d_model",
    "n_heads",
    "n_layers",
    "d_ff",
    "norm",
    "ffn",
    "positions",
    "bias",
    "tie",
    "scale_residual",
    "seed",
];

impl Settings {
    /// With the width of the feed-forward layers spelled out.
    fn with_d_ff(mut self) -> Settings {
        self.d_ff.get_or_insert(match self.ffn {
            // Three matrices instead of two: two thirds of the width for the same number of weights. Kernels read rows
            // of a multiple of four elements four at a time.
            FeedForwardKind::Swiglu => (self.d_model.saturating_mul(8) / 3).next_multiple_of(4),
            _ => self.d_model.saturating_mul(4),
        });
        self
    }

    /// The model for a vocabulary of `vocab_size`.
    pub fn model(&self, vocab_size: usize) -> GptConfig {
        let settings = self.clone().with_d_ff();
        GptConfig {
            context: settings.context,
            d_model: settings.d_model,
            n_heads: settings.n_heads,
            n_layers: settings.n_layers,
            d_ff: settings.d_ff.expect("it is spelled out"),
            norm: settings.norm,
            ffn: settings.ffn,
            positions: settings.positions,
            bias: settings.bias,
            tie_weights: settings.tie,
            dropout: settings.dropout,
            scale_residual_init: settings.scale_residual,
            ..GptConfig::new(vocab_size)
        }
    }

    /// The optimizer's settings.
    pub fn optimizer(&self) -> AdamWConfig {
        AdamWConfig {
            beta1: self.beta1,
            beta2: self.beta2,
            weight_decay: self.weight_decay,
            clip_norm: (self.grad_clip != 0.0).then_some(self.grad_clip),
            ..AdamWConfig::default()
        }
    }

    /// The number of steps over which the learning rate rises.
    pub fn warmup(&self) -> u64 {
        self.warmup.unwrap_or(100.min(self.steps / 10))
    }

    /// The course of the learning rate.
    pub fn schedule(&self) -> Schedule {
        let (warmup, total) = (self.warmup(), self.steps);
        match self.schedule {
            ScheduleKind::Constant => Schedule::Constant { warmup },
            ScheduleKind::Cosine => Schedule::WarmupCosine {
                warmup,
                total,
                min_ratio: self.min_lr_ratio,
            },
            ScheduleKind::Linear => Schedule::Linear {
                warmup,
                total,
                end_ratio: self.min_lr_ratio,
            },
        }
    }
}

impl Cli {
    /// How samples are drawn.
    pub fn sampling(&self) -> SamplingConfig {
        SamplingConfig {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
        }
    }

    /// Checks everything that can be checked without the data.
    ///
    /// # Errors
    ///
    /// One line that names the flag, its value and what is possible.
    pub fn validate(&self) -> Result<()> {
        let settings = &self.settings;
        let require = |sound: bool, name: &str, value: &dyn Display, expected: &str| {
            if sound {
                return Ok(());
            }
            Err(Error::InvalidArgument {
                name: format!("--{name}"),
                value: value.to_string(),
                expected: expected.to_owned(),
            })
        };
        for (name, value) in [
            ("batch-size", settings.batch_size),
            ("context", settings.context),
            ("eval-iters", self.eval_iters),
            ("final-eval-iters", self.final_eval_iters),
            ("eval-batch-size", self.eval_batch_size),
        ] {
            require(value >= 1, name, &value, "at least 1")?;
        }
        require(settings.steps >= 1, "steps", &settings.steps, "at least 1")?;
        let samples = self.samples;
        require(
            samples <= MOST_SAMPLES,
            "samples",
            &samples,
            "at most a million",
        )?;
        for (name, rows) in [
            ("batch-size", settings.batch_size),
            ("eval-batch-size", self.eval_batch_size),
        ] {
            let most = MOST_TOKENS / settings.context;
            let expected = format!(
                "at most {MOST_TOKENS} tokens in a batch, that is {most} rows of {}",
                settings.context
            );
            require(rows <= most, name, &rows, &expected)?;
        }
        let lr = settings.lr;
        require(lr.is_finite() && lr > 0.0, "lr", &lr, "a positive number")?;
        let clip = settings.grad_clip;
        require(
            clip.is_finite() && clip >= 0.0,
            "grad-clip",
            &clip,
            "a positive number, or 0 for no limit",
        )?;
        let decay = settings.weight_decay;
        require(
            decay.is_finite() && decay >= 0.0,
            "weight-decay",
            &decay,
            "a number that is not negative",
        )?;
        for (name, beta) in [("beta1", settings.beta1), ("beta2", settings.beta2)] {
            require(
                (0.0..1.0).contains(&beta),
                name,
                &beta,
                "0 or more, below 1",
            )?;
        }
        settings.schedule().validate()?;
        self.sampling().validate()?;
        // Whatever the vocabulary will be.
        let model = settings.model(1);
        model.validate()?;
        let count = model.parameter_count();
        if count > MOST_PARAMETERS {
            return Err(format!(
                "the model would have {} parameters, at most {} are possible here: make it narrower or shallower",
                HumanCount(count as u64), HumanCount(MOST_PARAMETERS as u64)
            ).into());
        }
        Ok(())
    }

    /// Takes over the settings of a checkpoint, except where the command line says otherwise and may.
    ///
    /// # Errors
    ///
    /// One line if a flag contradicts what the checkpoint fixes.
    pub fn adopt(&mut self, stored: &Settings, checkpoint: &Path) -> Result<()> {
        let (mut merged, given) = (fields(stored)?, fields(&self.settings)?);
        // A width that was left to its default then may be spelled out now.
        let had = fields(&stored.clone().with_d_ff())?;
        for name in &self.given {
            let Some(value) = given.get(name) else {
                continue; // Not a setting.
            };
            if !FIXED.contains(&name.as_str()) {
                merged.insert(name.clone(), value.clone());
            } else if had.get(name) != Some(value) {
                return Err(format!(
                    "--{} {} contradicts the checkpoint {}, which has {}: leave the flag out",
                    name.replace('_', "-"),
                    plain(value),
                    checkpoint.display(),
                    had.get(name).map_or_else(|| "none".to_owned(), plain),
                )
                .into());
            }
        }
        self.settings = serde_json::from_value(Value::Object(merged))?;
        Ok(())
    }
}

fn fields(settings: &Settings) -> Result<Map<String, Value>> {
    match serde_json::to_value(settings)? {
        Value::Object(fields) => Ok(fields),
        other => Err(format!("settings are not an object: {other}").into()),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
