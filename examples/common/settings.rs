//! What follows from the flags: whether they make sense, the library's own configurations, and what a checkpoint's
//! settings leave to choose.

use std::fmt::Display;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use shadegrad::nn::{Gpt, GptConfig, ParameterBuilder};
use shadegrad::optim::{AdamW, AdamWConfig, Schedule};
use shadegrad::sampling::SamplingConfig;
use shadegrad::tape::Precision;
use shadegrad::{Device, Error};

use super::Result;
use super::args::{
    self, BatchArgs, EvaluationArgs, ModelArgs, ReduceDtype, SamplingArgs, ScheduleKind, SyncArgs,
    TrainingArgs,
};
use super::words::HumanCount;

/// More tokens in a batch than this are a slip of the keyboard.
const MOST_TOKENS: usize = 1 << 22;

/// More parameters than this are one too: with gradients and moments they take 16 GiB.
const MOST_PARAMETERS: usize = 1 << 30;

/// More batches in an evaluation than this as well.
const MOST_EVALUATIONS: usize = 1_000_000;

/// Names that the library has for what a flag of another name sets.
const RENAMED: [(&str, &str); 3] = [
    ("min_ratio", "min_lr_ratio"),
    ("end_ratio", "min_lr_ratio"),
    ("clip_norm", "grad_clip"),
];

/// An error of the library about a setting, in the words of the program's flags.
pub fn by_flags(error: Error) -> Error {
    let flag = |word: &str| {
        let renamed = RENAMED.iter().find(|(name, _)| *name == word);
        let word = renamed.map_or(word, |(_, flag)| flag);
        args::is_flag(word).then(|| format!("--{}", word.replace('_', "-")))
    };
    match error {
        Error::InvalidArgument {
            name,
            value,
            expected,
        } => {
            // In a sentence, only what is no English word.
            let word = |word: &str| match word.contains('_') {
                true => flag(word).unwrap_or_else(|| word.to_owned()),
                false => word.to_owned(),
            };
            let words = expected.split(' ').map(word);
            Error::InvalidArgument {
                name: flag(&name).unwrap_or(name),
                value,
                expected: words.collect::<Vec<_>>().join(" "),
            }
        }
        other => other,
    }
}

/// An error of the device, which says with which flags to make `what` smaller if that is what is wrong.
pub fn lower(error: Error, what: &str, flags: &str) -> Box<dyn std::error::Error> {
    match error {
        Error::Limit { .. } | Error::OutOfMemory { .. } => {
            format!("{what} is too large: {error} (lower {flags})").into()
        }
        other => other.into(),
    }
}

/// Checks a flag's value.
///
/// # Errors
///
/// [`Error::InvalidArgument`] with the flag, its value and what is possible, unless it is `sound`.
pub fn require(sound: bool, name: &str, value: &dyn Display, expected: &str) -> Result<()> {
    if sound {
        return Ok(());
    }
    let (name, value, expected) = (format!("--{name}"), value.to_string(), expected.to_owned());
    Err(Error::InvalidArgument {
        name,
        value,
        expected,
    }
    .into())
}

impl BatchArgs {
    /// Checks the sizes of the batches for training and for evaluations.
    ///
    /// # Errors
    ///
    /// One line that names the flag, its value and what is possible.
    pub fn validate(&self, evaluation: &EvaluationArgs) -> Result<()> {
        for (name, value) in [
            ("batch-size", self.batch_size),
            ("context", self.context),
            ("eval-iters", evaluation.eval_iters),
            ("final-eval-iters", evaluation.final_eval_iters),
            ("eval-batch-size", evaluation.eval_batch_size),
        ] {
            require(value >= 1, name, &value, "at least 1")?;
        }
        for (name, value, most) in [
            ("context", self.context, MOST_TOKENS),
            ("eval-iters", evaluation.eval_iters, MOST_EVALUATIONS),
            (
                "final-eval-iters",
                evaluation.final_eval_iters,
                MOST_EVALUATIONS,
            ),
        ] {
            require(value <= most, name, &value, &format!("at most {most}"))?;
        }
        for (name, rows) in [
            ("batch-size", self.batch_size),
            ("eval-batch-size", evaluation.eval_batch_size),
        ] {
            let most = MOST_TOKENS / self.context;
            let expected = format!(
                "at most {MOST_TOKENS} tokens in a batch, that is {most} rows of {}",
                self.context
            );
            require(rows <= most, name, &rows, &expected)?;
        }
        Ok(())
    }
}

impl ModelArgs {
    /// With everything spelled out that follows from other settings.
    pub fn spelled_out(mut self) -> ModelArgs {
        self.norm_eps.get_or_insert(1e-6);
        self.attention_bias.get_or_insert(self.bias);
        self.n_kv_heads.get_or_insert(self.n_heads);
        self.d_ff.get_or_insert(match self.ffn {
            // Three matrices instead of two: two thirds of the width for the same number of weights. Kernels read rows
            // of a multiple of four elements four at a time.
            ffn if ffn.is_gated() => (self.d_model.saturating_mul(8) / 3).next_multiple_of(4),
            _ => self.d_model.saturating_mul(4),
        });
        self
    }

    /// The model for a vocabulary and a window.
    pub fn config(&self, vocab_size: usize, context: usize) -> GptConfig {
        let model = self.clone().spelled_out();
        GptConfig {
            context,
            d_model: model.d_model,
            n_heads: model.n_heads,
            n_kv_heads: model.n_kv_heads,
            n_layers: model.n_layers,
            d_ff: model.d_ff.expect("it is spelled out"),
            norm: model.norm,
            norm_eps: model.norm_eps.expect("it is spelled out"),
            final_norm: model.final_norm,
            ffn: model.ffn,
            positions: model.positions,
            bias: model.bias,
            attention_bias: model.attention_bias,
            head_bias: model.head_bias,
            tie_weights: model.tie,
            dropout: model.dropout,
            scale_residual_init: model.scale_residual,
            ..GptConfig::new(vocab_size)
        }
    }

    /// The model of a configuration as it begins, and what trains it.
    ///
    /// # Errors
    ///
    /// Those of the configuration, the optimizer and the device.
    pub fn build(
        &self,
        config: &GptConfig,
        training: &TrainingArgs,
        device: &Device,
    ) -> Result<(Gpt, AdamW)> {
        let mut builder = ParameterBuilder::new(training.seed).with_init(self.init);
        let mut gpt = Gpt::new(config, &mut builder)?;
        gpt.set_precision(training.precision);
        let parameters = builder
            .build(device)
            .map_err(|error| lower(error, "the model", "--d-model, --d-ff or --context"))?;
        let optimizer = AdamW::new(&parameters, training.optimizer())?;
        Ok((gpt, optimizer))
    }
}

/// Checks that such a model can exist here.
///
/// # Errors
///
/// Those of [`GptConfig::validate`], in the words of the flags; one line if it is absurdly large.
pub fn validate_model(config: &GptConfig) -> Result<()> {
    let valid = config.validate().map_err(by_flags);
    // That one is about no single setting, and the next one's limit is lower.
    let is_size =
        matches!(&valid, Err(Error::InvalidArgument { name, .. }) if name == "the model's size");
    if !is_size {
        valid?;
    }
    let parameters = config.parameter_count();
    if is_size || parameters > MOST_PARAMETERS {
        let flags = ["d_model", "d_ff", "n_layers", "context"];
        let flags = flags.into_iter().filter(|flag| args::is_flag(flag));
        let flags = flags.map(|flag| format!("--{}", flag.replace('_', "-")));
        return Err(format!(
            "the model would have {} parameters, at most {} are possible here: lower {}",
            HumanCount(parameters as u64),
            HumanCount(MOST_PARAMETERS as u64),
            flags.collect::<Vec<_>>().join(", ")
        )
        .into());
    }
    Ok(())
}

impl TrainingArgs {
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

    /// Checks the settings of the training.
    ///
    /// # Errors
    ///
    /// One line that names the flag, its value and what is possible.
    pub fn validate(&self) -> Result<()> {
        require(self.steps >= 1, "steps", &self.steps, "at least 1")?;
        let lr = self.lr;
        require(lr.is_finite() && lr > 0.0, "lr", &lr, "a positive number")?;
        let clip = self.grad_clip;
        require(
            clip.is_finite() && clip >= 0.0,
            "grad-clip",
            &clip,
            "a positive number, or 0 for no limit",
        )?;
        let decay = self.weight_decay;
        require(
            decay.is_finite() && decay >= 0.0,
            "weight-decay",
            &decay,
            "a number that is not negative",
        )?;
        for (name, beta) in [("beta1", self.beta1), ("beta2", self.beta2)] {
            require(
                (0.0..1.0).contains(&beta),
                name,
                &beta,
                "0 or more, below 1",
            )?;
        }
        let ratio = self.min_lr_ratio;
        require(
            (0.0..=1.0).contains(&ratio),
            "min-lr-ratio",
            &ratio,
            "a fraction of --lr, 0 to 1",
        )?;
        self.schedule().validate().map_err(by_flags)?;
        Ok(())
    }

    /// Checks that a run which begins after `start` steps has not been beyond its end.
    ///
    /// # Errors
    ///
    /// One line with the numbers.
    pub fn check_start(&self, start: u64) -> Result<()> {
        let steps = self.steps;
        match start > steps {
            true => Err(format!(
                "--steps {steps} is less than the {start} steps that the checkpoint has behind it"
            )
            .into()),
            false => Ok(()),
        }
    }
}

impl SyncArgs {
    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// One line that names the flag, its value and what is possible.
    pub fn validate(&self) -> Result<()> {
        let (lr, momentum) = (self.outer_lr, self.outer_momentum);
        let sound = lr.is_finite() && lr > 0.0;
        require(sound, "outer-lr", &lr, "a positive number")?;
        let sound = (0.0..1.0).contains(&momentum);
        require(sound, "outer-momentum", &momentum, "0 or more, below 1")
    }

    /// Checks, once a checkpoint's settings are taken over, that these have an effect where some were `given`; that there are
    /// several ranks to synchronise; and that whatever they have to be together for comes after steps when they are: the end,
    /// evaluations, and what has the program's other `intervals`.
    ///
    /// # Errors
    ///
    /// One line that names the flags and the remedy.
    pub fn check(
        &self,
        training: &TrainingArgs,
        evaluation: &EvaluationArgs,
        given: &[String],
        is_several: bool,
        intervals: &[(&str, u64)],
    ) -> Result<()> {
        // Where the loss is scaled, a gradient too large for halves is noticed, and lowers the scale; small ones don't vanish.
        let (dtype, every) = (self.reduce_dtype, self.sync_every);
        let sound = dtype == ReduceDtype::F32 || training.precision == Precision::Mixed;
        let expected = "f32 unless --precision is mixed, whose loss scale keeps gradients within what halves hold";
        require(sound, "reduce-dtype", &"f16", expected)?;
        let sound = dtype == ReduceDtype::F32 || every == 0;
        let expected = "f32 with --sync-every: no gradients travel, and models do as they are";
        require(sound, "reduce-dtype", &"f16", expected)?;
        let is_given = given.iter().any(|name| name == "reduce_dtype");
        if dtype == ReduceDtype::F16 && is_given && !is_several {
            let reason = "--reduce-dtype f16 is for several ranks, and this is one process: leave it out, or start it by mpirun";
            return Err(reason.into());
        }
        let mut outer = given.iter().filter(|name| name.starts_with("outer_"));
        let common = [
            ("--steps", training.steps),
            ("--eval-interval", evaluation.eval_interval),
        ];
        let mut apart = common
            .iter()
            .chain(intervals)
            .filter(|(_, interval)| every > 0 && !interval.is_multiple_of(every));
        let reason = match (every, outer.next(), apart.next()) {
            (0, Some(name), _) => format!(
                "--{} is of the outer step, of which there is none without --sync-every STEPS: give both or neither",
                name.replace('_', "-")
            ),
            (1.., ..) if !is_several => format!(
                "--sync-every {every} is for several ranks, and this is one process: start it by mpirun -n N, built with \
                 --features mpi, or say --sync-every 0"
            ),
            (_, _, Some((flag, interval))) => format!(
                "{flag} is {interval}, no multiple of --sync-every {every}: in between, each rank has a model of its own"
            ),
            _ => return Ok(()),
        };
        Err(reason.into())
    }
}

impl SamplingArgs {
    /// Checks how samples are drawn.
    ///
    /// # Errors
    ///
    /// Those of [`SamplingConfig::validate`], in the words of the flags.
    pub fn validate(&self) -> Result<()> {
        Ok(self.config().validate().map_err(by_flags)?)
    }

    /// How samples are drawn.
    pub fn config(&self) -> SamplingConfig {
        SamplingConfig {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
        }
    }
}

/// Names of the shared settings that a checkpoint fixes: they shape the model, its initial values or its batches, or say
/// what is computed.
const FIXED: [&str; 19] = [
    "context",
    "d_model",
    "n_heads",
    "n_kv_heads",
    "n_layers",
    "d_ff",
    "norm",
    "norm_eps",
    "final_norm",
    "ffn",
    "positions",
    "bias",
    "attention_bias",
    "head_bias",
    "tie",
    "init",
    "scale_residual",
    "precision",
    "seed",
];

/// What decides the course of a program's runs, to the last bit; kept in its checkpoints. As JSON, an object that has
/// the settings under the names of their flags, with `_` for `-`.
pub trait Settings: Clone + Serialize + DeserializeOwned {
    /// Names of further settings that a checkpoint fixes.
    const FIXED: &'static [&'static str] = &[];

    /// With everything spelled out that follows from other settings.
    fn spelled_out(&self) -> Self {
        self.clone()
    }

    /// These settings with some `names` taken over from other ones.
    ///
    /// # Errors
    ///
    /// If a setting is not what it should be.
    fn with(&self, values: &Map<String, Value>, names: &[String]) -> Result<Self> {
        let mut merged = fields(self)?;
        let given = names.iter().filter_map(|name| values.get_key_value(name));
        merged.extend(given.map(|(name, value)| (name.clone(), value.clone())));
        Ok(serde_json::from_value(Value::Object(merged))?)
    }

    /// Takes over the settings of a checkpoint, except those that were `given` and may be.
    ///
    /// # Errors
    ///
    /// One line if a setting contradicts what the checkpoint fixes.
    fn adopt(&mut self, stored: &Self, given: &[String], checkpoint: &Path) -> Result<()> {
        let values = fields(self)?;
        // A width that was left to its default then may be spelled out now.
        let had = fields(&stored.spelled_out())?;
        let is_fixed = |name: &str| FIXED.contains(&name) || Self::FIXED.contains(&name);
        let (fixed, free): (Vec<&String>, Vec<_>) = given
            .iter()
            .filter(|name| values.contains_key(*name))
            .partition(|name| is_fixed(name));
        for name in fixed {
            if had.get(name) != values.get(name) {
                return Err(format!(
                    "--{} {} contradicts the checkpoint {}, which has {}: leave the flag out",
                    name.replace('_', "-"),
                    plain(&values[name]),
                    checkpoint.display(),
                    had.get(name).map_or_else(|| "none".to_owned(), plain),
                )
                .into());
            }
        }
        let free: Vec<String> = free.into_iter().cloned().collect();
        *self = stored.with(&values, &free)?;
        Ok(())
    }
}

fn fields(settings: &impl Serialize) -> Result<Map<String, Value>> {
    match serde_json::to_value(settings)? {
        Value::Object(fields) => Ok(fields),
        other => Err(format!("settings are not an object: {other}").into()),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "none".to_owned(),
        other => other.to_string(),
    }
}
