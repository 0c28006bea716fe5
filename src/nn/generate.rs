//! Text from a trained model.

use super::Gpt;
use crate::data::check_tokens;
use crate::error::{Error, Result};
use crate::sampling::Sampler;
use crate::tape::Tape;

/// Windows are padded to a power of two, at least this: so few lengths occur, and one plan serves many of them.
const SHORTEST_WINDOW: usize = 16;

impl Gpt {
    /// Continues `prompt` by up to `most` tokens, each drawn by `sampler` from the model's logits. `stop` ends the text
    /// when it is drawn. The answer is what was drawn, without the prompt and without `stop`.
    ///
    /// The model sees the last [`context`](super::GptConfig::context) tokens at most.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] if the prompt is empty, [`Error::TokenOutOfRange`] if it does not fit the vocabulary,
    /// and what the device reports.
    ///
    /// # Panics
    ///
    /// If the parameters have not been built yet.
    pub fn generate(
        &self,
        prompt: &[u32],
        most: usize,
        sampler: &mut Sampler,
        stop: Option<u32>,
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
        stop: Option<u32>,
    ) -> Result<Vec<Vec<u32>>> {
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
        let mut open = vec![true; texts.len()];
        for _ in 0..most {
            if !open.contains(&true) {
                break;
            }
            let logits = self.next_logits(&texts)?;
            for (row, logits) in logits.chunks(self.config().vocab_size).enumerate() {
                if !open[row] {
                    continue;
                }
                let token = samplers[row].next_token(logits);
                if Some(token) == stop {
                    open[row] = false;
                } else {
                    texts[row].push(token);
                }
            }
        }
        let prompts = prompts.iter().map(|prompt| prompt.as_ref().len());
        Ok(texts
            .iter()
            .zip(prompts)
            .map(|(text, prompt)| text[prompt..].to_vec())
            .collect())
    }

    /// The logits for the token after each text, `[texts, vocab_size]` in row-major order.
    fn next_logits(&self, texts: &[Vec<u32>]) -> Result<Vec<f32>> {
        let context = self.config().context;
        let windows: Vec<&[u32]> = texts
            .iter()
            .map(|text| &text[text.len().saturating_sub(context)..])
            .collect();
        let longest = windows.iter().map(|window| window.len()).max().unwrap_or(1);
        let length = longest
            .next_power_of_two()
            .max(SHORTEST_WINDOW)
            .min(context);
        // Attention is causal: what pads a window behind its last token does not reach that token.
        let mut tokens = vec![0; windows.len() * length];
        let mut last = Vec::with_capacity(windows.len());
        for (row, window) in windows.iter().enumerate() {
            let start = row * length;
            tokens[start..start + window.len()].copy_from_slice(window);
            last.push((start + window.len() - 1) as u32);
        }
        let tape = Tape::inference(self.device());
        let hidden = self.hidden(tape.input([windows.len(), length], &tokens));
        let rows = hidden.reshape([windows.len() * length, self.config().d_model]);
        let logits = self.head(rows.embedding(tape.input([windows.len()], &last)));
        let logits = tape.fetch::<f32>(logits);
        tape.run()?;
        logits.get()
    }
}
