//! Texts with what a model has computed of them.

use super::KvCache;
use super::kv_cache::rounded_length;
use crate::error::Result;
use crate::gpu::{DType, Device, Tensor};

/// So many tokens a text get their places at once, where they may be needed. More are made room for as texts grow.
const AT_ONCE: usize = 256;

/// Texts side by side with a [`KvCache`] of them, for conversations: what a model has computed of a text is still there when
/// the text goes on. [`Gpt::cached_texts`](super::Gpt::cached_texts) makes them, empty;
/// [`Gpt::generation_with`](super::Gpt::generation_with) uses and fills them.
///
/// They know nothing of the model's parameters: after these have changed, [`CachedTexts::clear`] them.
#[derive(Debug)]
pub struct CachedTexts {
    /// Of as many texts as there ever were.
    pub(super) whole: KvCache,
    /// Of those that there are now.
    pub(super) cache: KvCache,
    /// The tokens that are in the cache. Of a text that is being written, none.
    pub(super) tokens: Vec<Vec<u32>>,
    /// The last token of each text, `U32`.
    next: Tensor,
    /// Bits of the tokens that are not to be drawn, a row for each text.
    suppressed: Tensor,
    /// The same, as far as they are known.
    suppressed_bits: Vec<u32>,
}

impl CachedTexts {
    /// `cache` is one without texts.
    pub(super) fn new(device: &Device, cache: KvCache, vocab_size: usize) -> Result<CachedTexts> {
        let (batch, words) = (cache.batch(), vocab_size.div_ceil(32));
        Ok(CachedTexts {
            cache: cache.first(batch),
            whole: cache,
            tokens: vec![Vec::new(); batch],
            next: Tensor::zeros(device, [batch], DType::U32)?,
            suppressed: Tensor::zeros(device, [batch, words], DType::U32)?,
            suppressed_bits: vec![0; batch * words],
        })
    }

    /// How many texts there are.
    pub fn batch(&self) -> usize {
        self.cache.batch()
    }

    /// The tokens of a text that the cache has, from its beginning on.
    pub fn tokens(&self, text: usize) -> &[u32] {
        &self.tokens[text]
    }

    /// The device memory that the cache takes.
    pub fn bytes(&self) -> u64 {
        self.whole.bytes()
    }

    /// Forgets all tokens.
    pub fn clear(&mut self) {
        self.cache.clear();
        self.tokens.iter_mut().for_each(Vec::clear);
    }

    /// The places that a cache of texts begins with that have so many tokens and may get so many more.
    pub(super) fn first_capacity(tokens: usize, most: usize, context: usize) -> usize {
        let all = tokens.saturating_add(most).min(context);
        rounded_length(all.min(AT_ONCE.max(tokens)), context)
    }

    /// Becomes so many empty texts.
    pub(super) fn restart(&mut self, batch: usize) {
        self.cache = self.whole.first(batch);
        self.tokens.resize(batch, Vec::new());
        self.clear();
    }

    /// Makes room for texts of so many tokens.
    pub(super) fn reserve(&mut self, tokens: usize, context: usize) -> Result<()> {
        if tokens > self.cache.capacity() {
            // Without those that there are not at present.
            self.cache.grow(rounded_length(tokens, context))?;
            self.whole = self.cache.first(self.batch());
        }
        Ok(())
    }

    /// The last token of each text, on the device.
    pub(super) fn next(&self) -> Tensor {
        self.next.part(0, [self.batch()])
    }

    /// Has the device suppress these tokens, a row of bits for each text.
    pub(super) fn suppress(&mut self, bits: Vec<u32>) -> Result<()> {
        let known = &mut self.suppressed_bits[..bits.len()];
        if *known != bits {
            known.copy_from_slice(&bits);
            self.suppressed().write(&bits)?;
        }
        Ok(())
    }

    /// Bits of the tokens that are not to be drawn, `U32 [batch, words]`.
    pub(super) fn suppressed(&self) -> Tensor {
        let shape = self.suppressed.shape().with_dim(0, self.batch());
        self.suppressed.part(0, shape)
    }
}
