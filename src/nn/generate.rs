//! Text from a trained model.

use super::generation::Kept;
use super::{CachedTexts, Generation, Gpt};
use crate::error::{Error, Result};
use crate::sampling::{Sampler, check_tokens};

impl Gpt {
    /// Continues `prompt` by up to `most` tokens, each drawn by `sampler` from the model's logits. A token of `stop`
    /// ends the text when it is drawn. The answer is what was drawn, without the prompt and without that token.
    ///
    /// The model sees the last [`context`](super::GptConfig::context) tokens at most. Within them a token costs one
    /// position, by a cache whose memory the model keeps for the next call, and a long prompt is computed in pieces. Beyond
    /// them, where every position changes with each token, it costs the whole window: stay within `context` less the
    /// prompt's length where that matters. [`Gpt::set_precision`] chooses the precision of both.
    ///
    /// Tokens are drawn on the device, as [`Sampler::draw`] does.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] if the prompt is empty or the sampler draws no token of the model, [`Error::TokenOutOfRange`]
    /// if the prompt does not fit the vocabulary,
    /// [`Error::NonFiniteLogit`] if the model answers with NaN or infinity, and what the device reports.
    ///
    /// # Panics
    ///
    /// If the parameters have not been built yet.
    #[cfg(not(target_family = "wasm"))]
    pub fn generate(
        &self,
        prompt: &[u32],
        most: usize,
        sampler: &mut Sampler,
        stop: impl IntoIterator<Item = u32>,
    ) -> Result<Vec<u32>> {
        let samplers = std::slice::from_mut(sampler);
        let mut texts = self.generate_batch(&[prompt], most, samplers, stop)?;
        Ok(texts.remove(0))
    }

    /// [`Gpt::generate`] for several prompts at once, which takes little longer than for one. Each has a sampler of its
    /// own, so that a text does not depend on what else is in the batch.
    ///
    /// ```
    /// # fn main() -> shadegrad::Result<()> {
    /// use shadegrad::Device;
    /// use shadegrad::nn::{Gpt, GptConfig, ParameterBuilder};
    /// use shadegrad::sampling::{Sampler, SamplingConfig};
    ///
    /// let mut builder = ParameterBuilder::new(42);
    /// let gpt = Gpt::new(&GptConfig { n_layers: 1, ..GptConfig::new(27) }, &mut builder)?;
    /// builder.build(&Device::new()?)?;
    ///
    /// let samplers = (0..3).map(|seed| Sampler::new(SamplingConfig::default(), seed));
    /// let mut samplers = samplers.collect::<shadegrad::Result<Vec<_>>>()?;
    /// let names = gpt.generate_batch(&[[0]; 3], 10, &mut samplers, Some(0))?;
    /// assert!(names.iter().all(|name| name.len() <= 10 && !name.contains(&0)));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Gpt::generate`].
    ///
    /// # Panics
    ///
    /// If there are not as many samplers as prompts, or the parameters have not been built yet.
    #[cfg(not(target_family = "wasm"))]
    #[track_caller]
    pub fn generate_batch(
        &self,
        prompts: &[impl AsRef<[u32]>],
        most: usize,
        samplers: &mut [Sampler],
        stop: impl IntoIterator<Item = u32>,
    ) -> Result<Vec<Vec<u32>>> {
        let mut texts = vec![Vec::new(); prompts.len()];
        if texts.is_empty() || most == 0 {
            self.checked(prompts, samplers)?;
            return Ok(texts);
        }
        for next in self.generation(prompts, most, samplers, stop)? {
            let next = next?;
            texts[next.text].push(next.token);
        }
        Ok(texts)
    }

    /// What [`Gpt::generate_batch`] does, token by token: an iterator over the tokens of all texts as they come. It may be
    /// dropped at any time; the samplers have then drawn what has come, and nothing else.
    ///
    /// ```
    /// # fn main() -> shadegrad::Result<()> {
    /// use shadegrad::Device;
    /// use shadegrad::nn::{Gpt, GptConfig, ParameterBuilder};
    /// use shadegrad::sampling::{Sampler, SamplingConfig};
    ///
    /// let mut builder = ParameterBuilder::new(42);
    /// let gpt = Gpt::new(&GptConfig { n_layers: 1, ..GptConfig::new(27) }, &mut builder)?;
    /// builder.build(&Device::new()?)?;
    ///
    /// let mut samplers = [Sampler::new(SamplingConfig::default(), 42)?];
    /// for next in gpt.generation(&[[0]], 10, &mut samplers, None)? {
    ///     print!("{} ", next?.token);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Gpt::generate`] for prompts, of which there must be one at least; what else there is comes from the iterator,
    /// which ends with it.
    ///
    /// # Panics
    ///
    /// As [`Gpt::generate_batch`].
    #[track_caller]
    pub fn generation<'a>(
        &'a self,
        prompts: &[impl AsRef<[u32]>],
        most: usize,
        samplers: &'a mut [Sampler],
        stop: impl IntoIterator<Item = u32>,
    ) -> Result<Generation<'a>> {
        let prompts = self.checked(prompts, samplers)?;
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(1);
        let mut kept = self.texts_for(prompts.len(), longest, most)?;
        kept.restart(prompts.len());
        let kept = Kept::Model(Some(Box::new(kept)));
        let stop = stop.into_iter().collect();
        Generation::new(self, kept, prompts, most, samplers, stop)
    }

    /// [`Gpt::generation`] for texts that go on: of each prompt, the beginning that `texts` has already is not computed
    /// again, and what is computed stays there.
    ///
    /// ```
    /// # fn main() -> shadegrad::Result<()> {
    /// # use shadegrad::Device;
    /// # use shadegrad::nn::{Gpt, GptConfig, ParameterBuilder};
    /// # use shadegrad::sampling::{Sampler, SamplingConfig};
    /// # let mut builder = ParameterBuilder::new(42);
    /// # let gpt = Gpt::new(&GptConfig { n_layers: 1, ..GptConfig::new(27) }, &mut builder)?;
    /// # builder.build(&Device::new()?)?;
    /// let mut samplers = [Sampler::new(SamplingConfig::default(), 42)?];
    /// let mut texts = gpt.cached_texts(1)?;
    /// let mut conversation = Vec::new();
    /// for question in [[5, 13], [1, 7]] {
    ///     conversation.extend(question);
    ///     let prompt = [conversation.clone()];
    ///     for next in gpt.generation_with(&mut texts, &prompt, 3, &mut samplers, None)? {
    ///         conversation.push(next?.token);
    ///     }
    /// }
    /// // All but the last, which nothing followed.
    /// assert_eq!(texts.tokens(0), &conversation[..9]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Gpt::generation`].
    ///
    /// # Panics
    ///
    /// As [`Gpt::generate_batch`], and if there are not as many prompts as texts.
    #[track_caller]
    pub fn generation_with<'a>(
        &'a self,
        texts: &'a mut CachedTexts,
        prompts: &[impl AsRef<[u32]>],
        most: usize,
        samplers: &'a mut [Sampler],
        stop: impl IntoIterator<Item = u32>,
    ) -> Result<Generation<'a>> {
        assert_eq!(
            prompts.len(),
            texts.batch(),
            "generate: every text needs a prompt"
        );
        let prompts = self.checked(prompts, samplers)?;
        let kept = Kept::Caller(texts);
        let stop = stop.into_iter().collect();
        Generation::new(self, kept, prompts, most, samplers, stop)
    }

    /// So many empty texts for [`Gpt::generation_with`], which makes more room as they grow.
    ///
    /// # Errors
    ///
    /// As [`Gpt::kv_cache`].
    ///
    /// # Panics
    ///
    /// If the parameters have not been built yet.
    pub fn cached_texts(&self, batch: usize) -> Result<CachedTexts> {
        let capacity = CachedTexts::first_capacity(1, 0, self.config().context);
        let cache = self.kv_cache(batch, capacity)?;
        CachedTexts::new(self.device(), cache, self.config().vocab_size)
    }

    /// The prompts, if they make sense.
    #[track_caller]
    fn checked(
        &self,
        prompts: &[impl AsRef<[u32]>],
        samplers: &[Sampler],
    ) -> Result<Vec<Vec<u32>>> {
        assert_eq!(
            prompts.len(),
            samplers.len(),
            "generate: every prompt needs a sampler"
        );
        let vocab_size = self.config().vocab_size;
        if samplers
            .iter()
            .any(|sampler| sampler.suppresses_all(vocab_size))
        {
            let expected = format!("fewer than the {vocab_size} that there are");
            return Err(Error::invalid("suppressed tokens", "all", expected));
        }
        for prompt in prompts.iter().map(AsRef::as_ref) {
            if prompt.is_empty() {
                let expected = "at least one token to continue";
                return Err(Error::invalid("prompt", "empty", expected));
            }
            check_tokens(prompt, vocab_size)?;
        }
        Ok(prompts
            .iter()
            .map(|prompt| prompt.as_ref().to_vec())
            .collect())
    }

    /// Texts with room for so much: the last generation's, if they will do.
    fn texts_for(&self, batch: usize, longest: usize, most: usize) -> Result<CachedTexts> {
        // While they are out, another generation makes its own.
        let kept = self.cache.lock().ok().and_then(|mut kept| kept.take());
        let will_do = |texts: &CachedTexts| {
            texts.whole.batch() >= batch && texts.whole.dtype() == self.precision().dtype()
        };
        if let Some(texts) = kept.filter(will_do) {
            return Ok(texts);
        }
        let context = self.config().context;
        let capacity = CachedTexts::first_capacity(longest, most, context);
        let cache = self.kv_cache(batch, capacity)?;
        CachedTexts::new(self.device(), cache, self.config().vocab_size)
    }
}
