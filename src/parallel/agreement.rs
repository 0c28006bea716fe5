//! What all ranks must have in common, and numbers that they add up.

use super::world::World;
use crate::error::{Error, Result};
use crate::nn::{Parameters, checksum};

impl World {
    /// Checks that all ranks give the same value of something, such as a setting.
    ///
    /// # Errors
    ///
    /// [`Error::Ranks`] on all ranks, which names the first that differs from rank 0, and both values.
    pub fn agree(&self, what: &str, value: &str) -> Result<()> {
        let values = self.texts(what, value);
        let differs = |rank: &usize| values[*rank] != values[0];
        let Some(rank) = (1..self.size()).find(differs) else {
            return Ok(());
        };
        Err(Error::Ranks {
            reason: format!(
                "{what} is {} on rank {rank}, but {} on rank 0: start all ranks with the same build, settings and data",
                crate::data::excerpt(&values[rank], 200),
                crate::data::excerpt(&values[0], 200),
            ),
        })
    }

    /// Hears whether something went well on all ranks: so all of them stop where one has to.
    ///
    /// # Errors
    ///
    /// [`Error::Ranks`] on all ranks if one brings an error: the first one's, with its rank unless it is the same
    /// everywhere.
    pub fn settle<T, E: std::fmt::Display>(&self, outcome: std::result::Result<T, E>) -> Result<T> {
        // No error is shown by nothing.
        let own = match &outcome {
            Ok(_) => String::new(),
            Err(error) => format!("!{error}"),
        };
        let errors = self.texts("what the ranks begin with", &own);
        let reason = match errors.iter().position(|error| !error.is_empty()) {
            None => None,
            Some(0) if errors.iter().all(|error| *error == errors[0]) => {
                Some(errors[0][1..].to_owned())
            }
            Some(rank) => Some(format!("rank {rank}: {}", &errors[rank][1..])),
        };
        match (outcome, reason) {
            (Ok(value), None) => Ok(value),
            (_, reason) => Err(Error::Ranks {
                reason: reason.unwrap_or_default(),
            }),
        }
    }

    /// A text from each rank.
    fn texts(&self, what: &str, own: &str) -> Vec<String> {
        let lengths = self.gathered(what, &[own.len() as u64]);
        let longest = lengths.iter().copied().max().unwrap_or(0) as usize;
        let mut padded = own.as_bytes().to_vec();
        padded.resize(longest, 0);
        let all = self.gathered(what, &padded);
        let texts = lengths.iter().enumerate().map(|(rank, &length)| {
            let text = &all[rank * longest..][..length as usize];
            String::from_utf8_lossy(text).into_owned()
        });
        texts.collect()
    }

    /// Adds up each of the values over all ranks, in their order: all get the same bits.
    pub fn sum_f64(&self, values: &mut [f64]) {
        let all = self.gathered("sums of numbers", values);
        let count = values.len();
        for (index, value) in values.iter_mut().enumerate() {
            let of_ranks = all[index..].iter().step_by(count.max(1));
            *value = of_ranks.copied().reduce(|a, b| a + b).unwrap_or(0.0);
        }
    }

    /// Checks that the parameters are the same on all ranks, to the bit, after so many steps. It reads them all back.
    ///
    /// # Errors
    ///
    /// [`Error::Ranks`] on all ranks, which names the first rank that differs from most, and the parameter;
    /// [`Error::DeviceLost`].
    pub fn check_identical(&self, parameters: &Parameters, step: u64) -> Result<()> {
        let own = parameters.iter().map(|parameter| {
            let values = parameter.tensor().to_floats()?;
            Ok(checksum(&values))
        });
        let own = own.collect::<Result<Vec<u64>>>()?;
        let all = self.gathered("the parameters' checksums", &own);
        let of = |rank: usize| &all[rank * own.len()..][..own.len()];
        let alike = |rank: usize| {
            (0..self.size())
                .filter(|&other| of(other) == of(rank))
                .count()
        };
        // The first of those that most ranks are like.
        let usual = (0..self.size())
            .rev()
            .max_by_key(|&rank| alike(rank))
            .unwrap_or(0);
        let differs = |rank: &usize| of(*rank) != of(usual);
        let Some(rank) = (0..self.size()).find(differs) else {
            return Ok(());
        };
        let pairs = of(rank).iter().zip(of(usual));
        let (parameter, _) = parameters
            .iter()
            .zip(pairs)
            .find(|(_, (a, b))| a != b)
            .expect("one of the checksums differs");
        Err(Error::Ranks {
            reason: format!(
                "parameter `{}` of rank {rank} has other bits than that of rank {usual} after step {step}: its memory, driver or \
                 network is at fault; go on from an older checkpoint, without it",
                parameter.name()
            ),
        })
    }
}
