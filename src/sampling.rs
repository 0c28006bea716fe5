//! From logits to the next token: greedy, temperature, top-k and top-p, alone or together.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use rand::Rng;

use crate::error::{Error, Result, require};
use crate::gpu::Fetch;
use crate::ops::sample::{Draw, NO_FAULT};
use crate::rng;
use crate::tape::Var;

/// How the next token is chosen. The restrictions apply in the order of the fields, each to what the one before left.
///
/// 1. *Temperature*: the logits are divided by it. Zero is greedy: the token with the greatest logit, always.
/// 2. *Top-k*: the `k` most likely tokens remain, all of them if `k` exceeds the vocabulary.
/// 3. *Top-p* (nucleus sampling, Holtzman et al. 2020): the probabilities of what remains, made to sum to 1, are
///    added up from the greatest; the shortest run whose sum reaches `p` remains, always at least one token.
///
/// Between equal logits the lower token comes first, so the choice is always definite.
///
/// ```
/// use shadegrad::sampling::{Sampler, SamplingConfig};
///
/// let config = SamplingConfig { temperature: 0.8, top_k: Some(2), top_p: None };
/// let mut sampler = Sampler::new(config, 42)?;
/// let token = sampler.next_token(&[0.1, 2.0, -1.0, 1.5])?;
/// assert!(token == 1 || token == 3);
/// # Ok::<(), shadegrad::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingConfig {
    /// Below 1 sharpens the distribution, above 1 flattens it, 0 is greedy.
    pub temperature: f32,
    /// Sample among this many of the most likely tokens.
    pub top_k: Option<usize>,
    /// Sample among the most likely tokens that together have this probability.
    pub top_p: Option<f32>,
}

impl Default for SamplingConfig {
    /// The model's own distribution: temperature 1, no restriction.
    fn default() -> Self {
        Self {
            temperature: 1.0,
            ..Self::GREEDY
        }
    }
}

impl SamplingConfig {
    /// Always the most likely token.
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        top_k: None,
        top_p: None,
    };

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] unless the temperature is finite and not negative, `top_k` at least 1, and `top_p`
    /// above 0 and at most 1.
    pub fn validate(&self) -> Result<()> {
        let temperature = self.temperature;
        let sound = temperature.is_finite() && temperature >= 0.0;
        let expected = "a finite number that is not negative; 0 is greedy";
        require(sound, "temperature", temperature, expected)?;
        let expected = "at least 1; leave it out for no limit";
        require(self.top_k != Some(0), "top_k", 0, expected)?;
        let p = self.top_p.unwrap_or(1.0);
        let expected = "above 0 and at most 1; leave it out for no limit";
        require(p > 0.0 && p <= 1.0, "top_p", p, expected)
    }

    /// The tokens that may come next with their probabilities, the most likely first; the probabilities sum to 1.
    ///
    /// NaN and −∞ make a token impossible. Where there are logits of +∞, these tokens alone are possible, and equally
    /// so. If no token is possible the result is empty.
    ///
    /// The settings should have passed [`validate`](Self::validate).
    ///
    /// # Panics
    ///
    /// If there are more logits than tokens fit in a `u32`.
    #[track_caller]
    pub fn distribution(&self, logits: &[f32]) -> Vec<(u32, f64)> {
        let mut ranked: Vec<(u32, f64)> = (0..)
            .zip(logits)
            .filter(|(_, logit)| **logit > f32::NEG_INFINITY)
            .map(|(token, &logit)| (token, f64::from(logit)))
            .collect();
        let keep = match self.top_k {
            _ if self.temperature == 0.0 => 1,
            Some(k) => k.max(1),
            None => usize::MAX,
        };
        if keep < ranked.len() {
            // Part before sorting: k is small and vocabularies are large.
            ranked.select_nth_unstable_by(keep - 1, by_rank);
            ranked.truncate(keep);
        }
        ranked.sort_unstable_by(by_rank);

        // Softmax in f64, shifted by the maximum, which is subtracted before the division: neither step overflows.
        let Some(&(_, maximum)) = ranked.first() else {
            return ranked;
        };
        let temperature = match self.temperature {
            0.0 => 1.0,
            temperature => f64::from(temperature),
        };
        for (_, value) in &mut ranked {
            *value = if *value == maximum {
                // Not left to the formula, which has no answer to ∞ − ∞.
                1.0
            } else {
                ((*value - maximum) / temperature).exp()
            };
        }
        normalise(&mut ranked);

        if let Some(p) = self.top_p.map(f64::from)
            && p < 1.0
        {
            let mut cumulative = 0.0;
            let reaches = ranked.iter().position(|(_, probability)| {
                cumulative += probability;
                cumulative >= p
            });
            // Rounding may leave the whole sum short of p: then everything remains.
            ranked.truncate(reaches.map_or(ranked.len(), |last| last + 1));
            normalise(&mut ranked);
        }
        ranked
    }

    /// Draws the next token.
    ///
    /// Takes one word from the generator, and none if the temperature is 0.
    ///
    /// # Errors
    ///
    /// [`Error::NonFiniteLogit`] if a logit is NaN, or all are −∞ so that no token is possible.
    ///
    /// # Panics
    ///
    /// If there are no logits.
    #[track_caller]
    pub fn sample<R: Rng + ?Sized>(&self, logits: &[f32], rng: &mut R) -> Result<u32> {
        assert!(!logits.is_empty(), "cannot sample from no logits");
        let refuse = |token: usize| Error::NonFiniteLogit {
            token,
            value: logits[token],
        };
        if let Some(token) = logits.iter().position(|logit| logit.is_nan()) {
            return Err(refuse(token));
        }
        let candidates = self.distribution(logits);
        let &(most_likely, _) = candidates.first().ok_or_else(|| refuse(0))?;
        if self.temperature == 0.0 {
            return Ok(most_likely);
        }
        let threshold = rng::unit(rng);
        let mut cumulative = 0.0;
        for (token, probability) in candidates {
            cumulative += probability;
            if threshold < cumulative {
                return Ok(token);
            }
        }
        // The threshold fell into the gap that rounding left between the sum and 1.
        Ok(most_likely)
    }
}

/// Greater first, then the lower token. No NaN gets here.
fn by_rank(a: &(u32, f64), b: &(u32, f64)) -> Ordering {
    let by_value = b.1.partial_cmp(&a.1).expect("NaN was filtered out");
    by_value.then(a.0.cmp(&b.0))
}

/// Scales weights, of which the first is the greatest and not 0, to a sum of 1.
fn normalise(weights: &mut [(u32, f64)]) {
    // From the smallest up: many small ones may add up to something beside a large one.
    let sum: f64 = weights.iter().rev().map(|(_, weight)| weight).sum();
    for (_, weight) in weights {
        *weight /= sum;
    }
}

/// Checks that every token is one of the vocabulary, before a model is given them.
///
/// # Errors
///
/// [`Error::TokenOutOfRange`] with the first token that is not.
pub fn check_tokens(tokens: &[u32], vocab_size: usize) -> Result<()> {
    match tokens.iter().find(|&&token| token as usize >= vocab_size) {
        Some(&token) => Err(Error::TokenOutOfRange { token, vocab_size }),
        None => Ok(()),
    }
}

/// Checks that a model's logits are numbers, before a choice is made from what is left of them.
///
/// # Errors
///
/// [`Error::NonFiniteLogit`] with the first that is NaN or infinite.
pub fn check_logits(logits: &[f32]) -> Result<()> {
    match logits.iter().position(|logit| !logit.is_finite()) {
        None => Ok(()),
        Some(token) => Err(Error::NonFiniteLogit {
            token,
            value: logits[token],
        }),
    }
}

/// A [`SamplingConfig`] with its own random numbers: the same seed and logits give the same tokens.
#[derive(Clone, Debug)]
pub struct Sampler {
    config: SamplingConfig,
    seed: u64,
    /// The number of tokens drawn, which numbers the next draw.
    drawn: u64,
    suppressed: Vec<u32>,
}

impl Sampler {
    /// A sampler whose draws are a function of `seed`.
    ///
    /// # Errors
    ///
    /// Those of [`SamplingConfig::validate`].
    pub fn new(config: SamplingConfig, seed: u64) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            config,
            seed,
            drawn: 0,
            suppressed: Vec::new(),
        })
    }

    /// The same sampler, which never draws these tokens: ids that a model has room for and its tokenizer no text, say.
    #[must_use]
    pub fn with_suppressed(mut self, tokens: impl IntoIterator<Item = u32>) -> Self {
        self.suppressed.extend(tokens);
        self
    }

    /// The settings.
    pub fn config(&self) -> &SamplingConfig {
        &self.config
    }

    /// [`Sampler::next_token`] on the device, when the tape runs: from each row of `logits` `[B, V]` a token for one of the
    /// samplers. The generators' numbers are the same; weights are computed in `f32`, so that another token than on the host
    /// comes out where a sum is so near to a threshold that rounding decides.
    ///
    /// Logits that are not finite are an error, as with [`check_logits`].
    ///
    /// ```
    /// # fn main() -> shadegrad::Result<()> {
    /// use shadegrad::sampling::{Sampler, SamplingConfig};
    /// use shadegrad::{Device, Tape};
    ///
    /// let device = Device::new()?;
    /// let mut samplers = [Sampler::new(SamplingConfig::GREEDY, 42)?];
    /// let tape = Tape::inference(&device);
    /// let logits = tape.input([1, 4], &[0.1, 2.0, -1.0, 1.5]);
    /// let drawn = Sampler::draw(&mut samplers, logits).fetch();
    /// tape.run()?;
    /// assert_eq!(drawn.get()?.remove(0)?, 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// If the logits are no matrix with a row for each sampler.
    #[track_caller]
    pub fn draw<'t>(samplers: &mut [Sampler], logits: Var<'t>) -> Drawn<'t> {
        let (shape, tape) = (logits.shape(), logits.tape());
        assert!(
            shape.rank() == 2 && shape.dim(0) == samplers.len(),
            "sample: logits {shape} are not [{}, V], a row for each sampler",
            samplers.len()
        );
        let words = Sampler::suppressed_bits(samplers, shape.dim(1));
        let suppressed = tape.input([samplers.len(), shape.dim(1).div_ceil(32)], &words);
        let draws = samplers.iter_mut().map(|sampler| {
            let draw = sampler.ahead(0);
            sampler.advance();
            draw
        });
        Drawn::from(logits, &draws.collect::<Vec<_>>(), suppressed)
    }

    /// What the device needs for the draw that comes after so many others.
    pub(crate) fn ahead(&self, draws: u64) -> Draw {
        let mut rng = rng::keyed(self.seed, "sampler", self.drawn.wrapping_add(draws));
        Draw {
            temperature: self.config.temperature,
            top_k: self.config.top_k,
            top_p: self.config.top_p,
            suppresses: !self.suppressed.is_empty(),
            // The bits of `rng::unit`.
            chance: rng.next_u64() >> 11 << 11,
        }
    }

    /// Counts a draw.
    pub(crate) fn advance(&mut self) {
        self.drawn = self.drawn.wrapping_add(1);
    }

    /// Whether it never draws any of so many tokens.
    pub(crate) fn suppresses_all(&self, vocab_size: usize) -> bool {
        let is_of_them = |token: &&u32| (**token as usize) < vocab_size;
        let suppressed = self.suppressed.iter().filter(is_of_them);
        self.suppressed.len() >= vocab_size
            && suppressed.collect::<BTreeSet<_>>().len() == vocab_size
    }

    /// A row of bits for each sampler: the tokens that it never draws.
    pub(crate) fn suppressed_bits(samplers: &[Sampler], vocab_size: usize) -> Vec<u32> {
        let row = vocab_size.div_ceil(32);
        let mut words = vec![0; samplers.len() * row];
        for (sampler, words) in samplers.iter().zip(words.chunks_mut(row.max(1))) {
            for &token in &sampler.suppressed {
                if let Some(word) = words.get_mut(token as usize / 32) {
                    *word |= 1 << (token % 32);
                }
            }
        }
        words
    }

    /// Draws the next token from the logits of the last position, as [`SamplingConfig::sample`] does.
    ///
    /// # Errors
    ///
    /// Those of [`SamplingConfig::sample`].
    ///
    /// # Panics
    ///
    /// If there are no logits.
    #[track_caller]
    pub fn next_token(&mut self, logits: &[f32]) -> Result<u32> {
        let mut rng = rng::keyed(self.seed, "sampler", self.drawn);
        self.advance();
        if self.suppressed.is_empty() {
            return self.config.sample(logits, &mut rng);
        }
        let mut allowed = logits.to_vec();
        for &token in &self.suppressed {
            if let Some(logit) = allowed.get_mut(token as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
        self.config.sample(&allowed, &mut rng)
    }
}

/// Tokens that are drawn on the device: see [`Sampler::draw`].
#[derive(Clone, Copy, Debug)]
pub struct Drawn<'t> {
    /// `U32 [B]`; 0 where no token can be drawn.
    pub tokens: Var<'t>,
    faults: Var<'t>,
}

impl<'t> Drawn<'t> {
    /// From rows of logits, a draw each, and the bits of suppressed tokens.
    #[track_caller]
    pub(crate) fn from(logits: Var<'t>, draws: &[Draw], suppressed: Var<'t>) -> Drawn<'t> {
        let words: Vec<u32> = draws.iter().flat_map(Draw::words).collect();
        let draws = logits.tape().input([draws.len(), Draw::WORDS], &words);
        let [tokens, faults] = logits.sample(draws, suppressed);
        Drawn { tokens, faults }
    }

    /// Asks for the tokens.
    pub fn fetch(self) -> DrawnTokens {
        let tape = self.tokens.tape();
        DrawnTokens {
            tokens: tape.fetch(self.tokens),
            faults: tape.fetch(self.faults),
        }
    }
}

/// Tokens on their way to the host.
pub struct DrawnTokens {
    tokens: Fetch<u32>,
    faults: Fetch<u32>,
}

impl DrawnTokens {
    /// Whether they have arrived. Never blocks.
    ///
    /// # Errors
    ///
    /// As [`Fetch::is_ready`].
    pub fn is_ready(&self) -> Result<bool> {
        self.tokens.is_ready()
    }

    /// What [`DrawnTokens::ready`] gives, waiting for it if need be.
    ///
    /// # Errors
    ///
    /// As [`Fetch::ready`].
    #[cfg(not(target_family = "wasm"))]
    pub fn get(&self) -> Result<Vec<Result<u32>>> {
        crate::gpu::block_on(self.ready())
    }

    /// The token of each row, once they have arrived, or [`Error::NonFiniteLogit`] where a logit is not finite or all tokens
    /// are suppressed.
    ///
    /// # Errors
    ///
    /// As [`Fetch::ready`].
    pub async fn ready(&self) -> Result<Vec<Result<u32>>> {
        let (tokens, faults) = (self.tokens.ready().await?, self.faults.ready().await?);
        let rows = tokens.into_iter().zip(faults.chunks_exact(2));
        let row = |(token, fault): (u32, &[u32])| match fault[0] {
            NO_FAULT => Ok(token),
            fault_token => Err(Error::NonFiniteLogit {
                token: fault_token as usize,
                value: f32::from_bits(fault[1]),
            }),
        };
        Ok(rows.map(row).collect())
    }
}
