//! Text from a trained model.

use super::kv_cache::rounded_length;
use super::{Gpt, KvCache};
use crate::error::{Error, Result};
use crate::gpu::DType;
use crate::sampling::{Sampler, check_logits, check_tokens};
use crate::tape::Tape;

impl Gpt {
    /// Continues `prompt` by up to `most` tokens, each drawn by `sampler` from the model's logits. A token of `stop`
    /// ends the text when it is drawn. The answer is what was drawn, without the prompt and without that token.
    ///
    /// The model sees the last [`context`](super::GptConfig::context) tokens at most. Within them a token costs one
    /// position, by a [`KvCache`] that the model keeps for the next call; beyond them, where every position changes with
    /// each token, the whole window. [`Gpt::set_precision`] chooses the precision of both.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] if the prompt is empty, [`Error::TokenOutOfRange`] if it does not fit the vocabulary,
    /// [`Error::NonFiniteLogit`] if the model answers with NaN or infinity, and what the device reports.
    ///
    /// # Panics
    ///
    /// If the parameters have not been built yet.
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
    #[track_caller]
    pub fn generate_batch(
        &self,
        prompts: &[impl AsRef<[u32]>],
        most: usize,
        samplers: &mut [Sampler],
        stop: impl IntoIterator<Item = u32>,
    ) -> Result<Vec<Vec<u32>>> {
        let stop: Vec<u32> = stop.into_iter().collect();
        assert_eq!(
            prompts.len(),
            samplers.len(),
            "generate: every prompt needs a sampler"
        );
        let mut texts = Vec::with_capacity(prompts.len());
        for prompt in prompts.iter().map(AsRef::as_ref) {
            if prompt.is_empty() {
                return Err(Error::InvalidArgument {
                    name: "prompt".to_owned(),
                    value: "empty".to_owned(),
                    expected: "at least one token to continue".to_owned(),
                });
            }
            check_tokens(prompt, self.config().vocab_size)?;
            texts.push(prompt.to_vec());
        }
        if texts.is_empty() || most == 0 {
            return Ok(vec![Vec::new(); texts.len()]);
        }
        let context = self.config().context;
        let longest = texts.iter().map(Vec::len).max().unwrap_or(1);
        let capacity = rounded_length(longest.saturating_add(most).min(context), context);
        let kept = self.generation_cache(texts.len(), capacity)?;
        let mut cache = kept.first(texts.len());
        self.continue_texts(&mut texts, most, samplers, &stop, &mut cache)?;
        if let Ok(mut cache) = self.cache.lock() {
            *cache = Some(kept);
        }
        let prompts = prompts.iter().map(|prompt| prompt.as_ref().len());
        Ok(texts
            .iter()
            .zip(prompts)
            .map(|(text, prompt)| text[prompt..].to_vec())
            .collect())
    }

    /// Adds up to `most` tokens to each text. `cache` is an empty one with a place for each.
    fn continue_texts(
        &self,
        texts: &mut [Vec<u32>],
        most: usize,
        samplers: &mut [Sampler],
        stop: &[u32],
        cache: &mut KvCache,
    ) -> Result<()> {
        let context = self.config().context;
        let mut open = vec![true; texts.len()];
        for _ in 0..most {
            if !open.contains(&true) {
                break;
            }
            let mut windows: Vec<&[u32]> = Vec::with_capacity(texts.len());
            for (text, &open) in texts.iter().zip(&open) {
                // What follows a text that has ended is of no interest: its last token is enough.
                let length = if open { context } else { 1 };
                windows.push(&text[text.len().saturating_sub(length)..]);
                if open && text.len() > context {
                    // The window moves, all positions in it change, and what is cached is of no use.
                    cache.clear();
                }
            }
            let logits = self.next_logits(&windows, cache)?;
            for (row, logits) in logits.chunks(self.config().vocab_size).enumerate() {
                if !open[row] {
                    continue;
                }
                check_logits(logits)?;
                let token = samplers[row].next_token(logits)?;
                if stop.contains(&token) {
                    open[row] = false;
                } else {
                    texts[row].push(token);
                }
            }
        }
        Ok(())
    }

    /// A cache with room for so much: the last generation's, if it will do.
    fn generation_cache(&self, batch: usize, capacity: usize) -> Result<KvCache> {
        // While it is out, another generation makes its own.
        let kept = self.cache.lock().ok().and_then(|mut kept| kept.take());
        match kept {
            Some(cache)
                if cache.batch() >= batch
                    && cache.capacity() >= capacity
                    && cache.dtype() == self.precision().dtype() =>
            {
                Ok(cache)
            }
            _ => self.kv_cache(batch, capacity),
        }
    }

    /// The logits for the token after each window, `[windows, vocab_size]` in row-major order. Tokens that `cache` does
    /// not hold are added to it.
    fn next_logits(&self, windows: &[&[u32]], cache: &mut KvCache) -> Result<Vec<f32>> {
        let longest = windows.iter().map(|window| window.len()).max().unwrap_or(1);
        let mut rows = windows.iter().zip(cache.lengths());
        let is_next = rows.all(|(window, &cached)| window.len() <= cached + 1);
        let length = if is_next {
            for (row, window) in windows.iter().enumerate() {
                cache.truncate(row, window.len() - 1);
            }
            1
        } else {
            cache.clear();
            rounded_length(longest, self.config().context)
        };
        // What pads a window behind its last token does not reach that token.
        let mut tokens = vec![0; windows.len() * length];
        let mut last = Vec::with_capacity(windows.len());
        for (row, window) in windows.iter().enumerate() {
            let new = &window[cache.lengths()[row]..];
            let start = row * length;
            tokens[start..start + new.len()].copy_from_slice(new);
            last.push((start + new.len() - 1) as u32);
        }
        let tape = Tape::inference(self.device());
        tape.set_precision(self.precision());
        let hidden = self.cached_hidden(tape.input([windows.len(), length], &tokens), cache);
        for (row, window) in windows.iter().enumerate() {
            cache.truncate(row, window.len());
        }
        let rows = hidden.reshape([windows.len() * length, self.config().d_model]);
        let logits = self.head(rows.embedding(tape.input([windows.len()], &last)));
        let logits = tape.fetch::<f32>(logits.cast(DType::F32));
        tape.run()?;
        logits.get()
    }
}
