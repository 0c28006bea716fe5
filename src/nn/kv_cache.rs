//! Keys and values of tokens that a model has seen already.

use crate::error::Result;
use crate::gpu::{DType, Device, Tensor};
use crate::tape::{Tape, Var};

/// Lengths are rounded up to a power of two, at least this: so few of them occur, and one plan serves many.
const SHORTEST: usize = 16;

/// `length` rounded up to one of few lengths, `most` being the longest.
pub(super) fn rounded_length(length: usize, most: usize) -> usize {
    length.next_power_of_two().max(SHORTEST).min(most)
}

/// Keys and values of the tokens that a [`Gpt`](super::Gpt) has seen, for several texts side by side. With them, the
/// next token costs one position of every layer and a look at what went before, instead of the whole text again.
///
/// The tensors are filled in place, and made anew only to [`grow`](KvCache::grow). Which tokens each text has is data: one plan
/// serves all lengths up to a power of two. [`Gpt::cached_logits`](super::Gpt::cached_logits) shows the use;
/// [`Gpt::generate`](super::Gpt::generate) does it all.
#[derive(Debug)]
pub struct KvCache {
    /// By layer, `[batch, capacity, 2·width]`: the keys of all heads, then the values.
    pub(super) layers: Vec<Tensor>,
    capacity: usize,
    lengths: Vec<usize>,
}

impl KvCache {
    /// An empty cache for `batch` texts of up to `capacity` tokens, `n_layers` layers and keys of extent `width` in all
    /// heads together. They are stored as `dtype`: rounded to [`DType::F16`], they take half the memory.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`](crate::Error::Limit) or [`Error::OutOfMemory`](crate::Error::OutOfMemory) where it does not fit
    /// the device.
    pub fn new(
        device: &Device,
        n_layers: usize,
        batch: usize,
        capacity: usize,
        width: usize,
        dtype: DType,
    ) -> Result<KvCache> {
        let layer = |_| Tensor::zeros(device, [batch, capacity, 2 * width], dtype);
        Ok(KvCache {
            layers: (0..n_layers).map(layer).collect::<Result<_>>()?,
            capacity,
            lengths: vec![0; batch],
        })
    }

    /// How many texts there are.
    pub fn batch(&self) -> usize {
        self.lengths.len()
    }

    /// How many tokens each may have.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// How many tokens each text has now.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Forgets all tokens of a text but the first `length`.
    ///
    /// # Panics
    ///
    /// If it has fewer, or there is no such text.
    #[track_caller]
    pub fn truncate(&mut self, text: usize, length: usize) {
        let had = self.lengths[text];
        assert!(
            length <= had,
            "kv_cache: text {text} has {had} tokens, it cannot be cut to {length}"
        );
        self.lengths[text] = length;
    }

    /// Forgets all tokens.
    pub fn clear(&mut self) {
        self.lengths.fill(0);
    }

    /// The type that keys and values are stored in.
    pub fn dtype(&self) -> DType {
        self.layers.first().map_or(DType::F32, Tensor::dtype)
    }

    /// The device memory that it takes.
    pub fn bytes(&self) -> u64 {
        self.layers.iter().map(Tensor::bytes).sum()
    }

    /// The first `batch` texts of this cache, sharing its tensors, as an empty cache.
    pub(super) fn first(&self, batch: usize) -> KvCache {
        let first = |layer: &Tensor| layer.part(0, layer.shape().with_dim(0, batch));
        KvCache {
            layers: self.layers.iter().map(first).collect(),
            capacity: self.capacity,
            lengths: vec![0; batch],
        }
    }

    /// Makes room for texts of up to `capacity` tokens, if there is not. What is in the cache is copied on the device.
    ///
    /// # Errors
    ///
    /// As [`KvCache::new`]; the cache is then what it was.
    pub fn grow(&mut self, capacity: usize) -> Result<()> {
        if capacity <= self.capacity || self.layers.is_empty() {
            return Ok(());
        }
        let device = self.layers[0].device();
        let tape = Tape::inference(device);
        let has_tokens = self.lengths.iter().any(|&length| length > 0);
        let starts = tape.input([self.batch()], &vec![0u32; self.batch()]);
        let larger = |layer: &Tensor| {
            let shape = layer.shape().with_dim(1, capacity);
            let larger = Tensor::zeros(device, shape, layer.dtype())?;
            if has_tokens {
                tape.write_rows(&larger, tape.tensor(layer), starts);
            }
            Ok(larger)
        };
        let layers = self.layers.iter().map(larger).collect::<Result<_>>()?;
        if has_tokens {
            tape.run()?;
        }
        (self.layers, self.capacity) = (layers, capacity);
        Ok(())
    }

    /// Makes room for `tokens` more in every text and puts on the tape where they stand. Layers whose queries see a
    /// window only have this `window`.
    ///
    /// # Panics
    ///
    /// If a text has no room for so many.
    #[track_caller]
    pub(super) fn extend<'t>(
        &mut self,
        tape: &'t Tape,
        tokens: usize,
        window: Option<usize>,
    ) -> Places<'t> {
        let (batch, starts) = (self.batch(), self.lengths.clone());
        let longest = starts.iter().max().map_or(0, |longest| longest + tokens);
        assert!(
            longest <= self.capacity,
            "kv_cache: {tokens} more tokens make a text of {longest}, there is room for {}",
            self.capacity
        );
        self.lengths.iter_mut().for_each(|length| *length += tokens);
        let words: Vec<u32> = starts.iter().map(|&start| start as u32).collect();
        let ids: Vec<u32> = words
            .iter()
            .flat_map(|&start| start..start + tokens as u32)
            .collect();
        // Several tokens of new texts see each other only, which needs no mask. A single one goes the way of all others.
        let keys = rounded_length(longest, self.capacity);
        let seen = |window: usize| {
            let rows = ids.iter().map(|&id| id as usize);
            let seen = rows.flat_map(|id| (0..keys).map(move |key| key <= id && id - key < window));
            let seen: Vec<u32> = seen.map(u32::from).collect();
            let mask = tape.input([batch, 1, tokens, keys], &seen);
            Seen { keys, mask }
        };
        let goes_before = tokens == 1 || longest > tokens;
        Places {
            starts: tape.input([batch], &words),
            ids: tape.input([batch * tokens], &ids),
            all: goes_before.then(|| seen(usize::MAX)),
            local: window.filter(|_| goes_before).map(seen),
        }
    }
}

/// Where the tokens of a forward pass stand in their texts.
pub(super) struct Places<'t> {
    /// Of the first token of each text, `U32 [B]`.
    pub starts: Var<'t>,
    /// Of all tokens, `U32 [B·T]`.
    pub ids: Var<'t>,
    all: Option<Seen<'t>>,
    local: Option<Seen<'t>>,
}

impl<'t> Places<'t> {
    /// What a layer with such a window sees; `None` if nothing went before.
    pub fn seen(&self, window: Option<usize>) -> Option<&Seen<'t>> {
        match window {
            None => self.all.as_ref(),
            Some(_) => self.local.as_ref(),
        }
    }
}

/// What tokens see of the cache.
pub(super) struct Seen<'t> {
    /// The first so many places, which hold all that is to be seen.
    pub keys: usize,
    /// Of these, `[B, 1, T, keys]`.
    pub mask: Var<'t>,
}
