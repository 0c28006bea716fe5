//! Parameter groups: which parameters an optimizer changes, and how fast.

use std::fmt;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::error::{Result, require};
use crate::nn::{Parameter, Parameters, Summary};
use crate::shape::Shape;

/// What an optimizer multiplies its settings with for one parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Factors {
    /// On the learning rate. At zero, the parameter is frozen.
    pub learning_rate: f32,
    /// On the weight decay, beside the learning rate's.
    pub weight_decay: f32,
}

impl Factors {
    /// The parameter stays what it is: it has no gradient and no moments, and takes no part in the gradient's norm.
    pub const FROZEN: Factors = Factors {
        learning_rate: 0.0,
        weight_decay: 0.0,
    };

    /// Whether the parameter stays what it is.
    pub fn is_frozen(self) -> bool {
        self.learning_rate == 0.0
    }

    /// What a parameter gets that no rule says anything else about: the learning rate as it is, and
    /// [`default_decay`].
    pub fn default_of(name: &str, shape: Shape) -> Factors {
        Factors {
            learning_rate: 1.0,
            weight_decay: default_decay(name, shape),
        }
    }
}

/// The rule for weight decay that optimizers start with: 1 for matrices (rank 2 and up), 0 for norms, biases and
/// embeddings, told by their names.
pub fn default_decay(name: &str, shape: Shape) -> f32 {
    let spared = name.contains("norm") || name.contains("embedding") || name.ends_with("bias");
    if shape.rank() >= 2 && !spared {
        1.0
    } else {
        0.0
    }
}

/// A rule that gives each parameter, by full name and shape, its [`Factors`]. The default is [`Factors::default_of`].
///
/// A frozen parameter costs its own bytes and nothing else: its gradient is not computed, nothing mirrors it in the
/// optimizer or in checkpoints, and no dispatch touches it.
///
/// ```
/// use shadegrad::optim::{AdamWConfig, Factors, ParameterGroups};
///
/// let config = AdamWConfig {
///     groups: ParameterGroups::new(|name, shape| match name {
///         _ if name.contains("embedding") => Factors::FROZEN,
///         _ if name.starts_with("head.") => Factors { learning_rate: 10.0, weight_decay: 0.0 },
///         _ => Factors::default_of(name, shape),
///     }),
///     ..AdamWConfig::default()
/// };
/// # let _ = config;
/// ```
#[derive(Clone, Default)]
pub struct ParameterGroups(Option<Arc<Rule>>);

type Rule = dyn Fn(&str, Shape) -> Factors + Send + Sync;

impl ParameterGroups {
    /// [`Factors::default_of`] for every parameter.
    pub const DEFAULT: ParameterGroups = ParameterGroups(None);

    /// Groups by a rule.
    pub fn new(rule: impl Fn(&str, Shape) -> Factors + Send + Sync + 'static) -> ParameterGroups {
        ParameterGroups(Some(Arc::new(rule)))
    }

    /// The factors of one parameter.
    pub fn factors(&self, name: &str, shape: Shape) -> Factors {
        match &self.0 {
            Some(rule) => rule(name, shape),
            None => Factors::default_of(name, shape),
        }
    }

    /// [`Parameters::summary`], which says of each parameter whether it is frozen.
    pub fn summary(&self, parameters: &Parameters) -> Summary {
        let mut summary = parameters.summary();
        for line in &mut summary.lines {
            line.is_frozen |= self.factors(&line.name, line.shape).is_frozen();
        }
        summary
    }

    /// The factors of all parameters, in order.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for a factor that is negative or not finite, and if
    /// every parameter is frozen.
    pub(super) fn of(&self, parameters: &Parameters) -> Result<Vec<Factors>> {
        let factors = parameters.iter().map(|parameter| self.checked(parameter));
        let factors = factors.collect::<Result<Vec<Factors>>>()?;
        let count = parameters.len();
        require(
            factors.iter().any(|factors| !factors.is_frozen()),
            "parameters",
            match count {
                0 => "none".to_owned(),
                _ => format!("{count}, all of them frozen"),
            },
            "at least one parameter to train",
        )?;
        Ok(factors)
    }

    fn checked(&self, parameter: &Parameter) -> Result<Factors> {
        let name = parameter.name();
        let factors = self.factors(name, parameter.shape());
        for (what, factor) in [
            ("learning rate", factors.learning_rate),
            ("weight decay", factors.weight_decay),
        ] {
            require(
                factor.is_finite() && factor >= 0.0,
                format!("factor of `{name}` on the {what}"),
                factor,
                "a finite number, at least 0",
            )?;
        }
        Ok(factors)
    }
}

/// For checkpoints: the parameters that have other factors than by default, as `{name: [learning rate, weight decay]}`.
pub(super) fn settings(parameters: &Parameters, factors: &[Factors]) -> Value {
    let mut special = json!({});
    for (parameter, factors) in parameters.iter().zip(factors) {
        let name = parameter.name();
        if Factors::default_of(name, parameter.shape()) != *factors {
            special[name] = json!([factors.learning_rate, factors.weight_decay]);
        }
    }
    special
}

impl fmt::Debug for ParameterGroups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Some(_) => "ParameterGroups(by a rule)",
            None => "ParameterGroups(default)",
        })
    }
}
