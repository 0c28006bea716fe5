//! Texts being written: one token of each a step, the device ahead of the host.

use std::collections::VecDeque;

use super::kv_cache::rounded_length;
use super::{CachedTexts, Gpt};
use crate::error::Result;
use crate::gpu::DType;
use crate::ops::sample::Draw;
use crate::sampling::{Drawn, DrawnTokens, Sampler};
use crate::tape::{Tape, Var};

/// Prompts are fed in pieces of up to so many tokens, whatever their length: so what a piece needs is bounded.
const CHUNK: usize = 256;

/// Steps under way at most: the host looks at a token while the device is at the next.
const AHEAD: usize = 2;

/// A token of one of several texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextToken {
    /// Which text, by its place in the batch.
    pub text: usize,
    /// The token.
    pub token: u32,
}

/// Texts being written, made by [`Gpt::generation`]: an iterator over their tokens as they come. A step brings one token of
/// each text that has not ended, in the order of the texts.
///
/// A drawn token stays on the device, which begins the next step with it, while the host fetches it: each step is one
/// submission, and the host waits for no step but the one before the latest. So it learns of a stop token one step late;
/// what the device has done by then is of no consequence, for the samplers neither. To end early, drop it.
pub struct Generation<'a> {
    gpt: &'a Gpt,
    samplers: &'a mut [Sampler],
    stop: Vec<u32>,
    /// Steps that are still to be submitted.
    left: usize,
    texts: Vec<Text>,
    kept: Kept<'a>,
    /// Whether the device has each text's last token.
    has_next: bool,
    under_way: VecDeque<DrawnTokens>,
    arrived: VecDeque<NextToken>,
    outcome: Outcome,
}

/// A text as far as the host knows it.
struct Text {
    tokens: Vec<u32>,
    is_open: bool,
}

/// Where a generation's cache comes from, and goes back to.
pub(super) enum Kept<'a> {
    /// The model, `None` when it has gone back.
    Model(Option<Box<CachedTexts>>),
    Caller(&'a mut CachedTexts),
}

impl Kept<'_> {
    fn texts(&mut self) -> &mut CachedTexts {
        match self {
            Kept::Model(texts) => texts.as_mut().expect("it goes back at the end"),
            Kept::Caller(texts) => texts,
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Outcome {
    UnderWay,
    Ended,
    Failed,
}

impl<'a> Generation<'a> {
    /// Continues `prompts`, which are not empty. `kept` has as many texts, and of each the beginning of its prompt or less.
    pub(super) fn new(
        gpt: &'a Gpt,
        mut kept: Kept<'a>,
        prompts: Vec<Vec<u32>>,
        most: usize,
        samplers: &'a mut [Sampler],
        stop: Vec<u32>,
    ) -> Result<Generation<'a>> {
        let context = gpt.config().context;
        let texts = kept.texts();
        for (text, prompt) in prompts.iter().enumerate() {
            // Not kept if this is never finished. The last token is computed again: its logits are needed.
            let tokens = std::mem::take(&mut texts.tokens[text]);
            let both = tokens.iter().zip(&prompt[..prompt.len() - 1]);
            let same = both.take_while(|(a, b)| a == b).count();
            let cached = texts.cache.lengths()[text].min(same);
            texts.cache.truncate(text, cached);
        }
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(1);
        texts.reserve(CachedTexts::first_capacity(longest, most, context), context)?;
        texts.suppress(Sampler::suppressed_bits(samplers, gpt.config().vocab_size))?;
        let text = |tokens| Text {
            tokens,
            is_open: true,
        };
        Ok(Generation {
            gpt,
            samplers,
            stop,
            left: most,
            texts: prompts.into_iter().map(text).collect(),
            kept,
            has_next: false,
            under_way: VecDeque::new(),
            arrived: VecDeque::new(),
            outcome: Outcome::UnderWay,
        })
    }

    /// Submits what may be submitted, and takes what the oldest step has brought.
    async fn advance(&mut self) -> Result<()> {
        while self.left > 0 && self.under_way.len() < AHEAD && self.may_submit() {
            self.submit()?;
            self.left -= 1;
        }
        let Some(drawn) = self.under_way.pop_front() else {
            self.outcome = Outcome::Ended;
            return Ok(());
        };
        for (row, drawn) in drawn.ready().await?.into_iter().enumerate() {
            let text = &mut self.texts[row];
            if !text.is_open {
                continue;
            }
            let token = drawn?;
            self.samplers[row].advance();
            text.is_open = !self.stop.contains(&token);
            if text.is_open {
                text.tokens.push(token);
                self.arrived.push_back(NextToken { text: row, token });
            }
        }
        if !self.texts.iter().any(|text| text.is_open) {
            self.outcome = Outcome::Ended;
            self.under_way.clear();
        }
        Ok(())
    }

    /// Whether a text has outgrown the model's context, so that the window moves and all positions in it change.
    fn is_beyond_context(&self) -> bool {
        let lengths = self.texts.iter().filter(|text| text.is_open);
        let mut lengths = lengths.map(|text| text.tokens.len() + self.under_way.len());
        lengths.any(|length| length > self.gpt.config().context)
    }

    /// A window that moves is computed from tokens, which the host has to know.
    fn may_submit(&self) -> bool {
        self.under_way.is_empty() || !self.is_beyond_context()
    }

    /// Submits the next step.
    fn submit(&mut self) -> Result<()> {
        let context = self.gpt.config().context;
        let is_beyond = self.is_beyond_context();
        let cache = &mut self.kept.texts().cache;
        if is_beyond {
            cache.clear();
        }
        // A text that has ended keeps its row, and goes on at the same place always.
        for (row, text) in self.texts.iter().enumerate() {
            if !text.is_open {
                let most = text.tokens.len().min(context - 1);
                cache.truncate(row, cache.lengths()[row].min(most));
            }
        }
        let ahead = self.under_way.len();
        let mut rows = self.texts.iter().zip(cache.lengths());
        let lacks_one =
            rows.all(|(text, &cached)| !text.is_open || text.tokens.len() + ahead == cached + 1);
        if lacks_one && !is_beyond {
            return self.submit_one();
        }
        let window = |text: &Text| match text.is_open {
            true => text.tokens[text.tokens.len().saturating_sub(context)..].to_vec(),
            // What follows is of no interest.
            false => text.tokens[..1].to_vec(),
        };
        let windows: Vec<Vec<u32>> = self.texts.iter().map(window).collect();
        let rows = windows.iter().zip(cache.lengths());
        let most_new = rows.map(|(window, &cached)| window.len().saturating_sub(cached));
        let chunks = most_new.max().unwrap_or(1).div_ceil(CHUNK);
        // The windows end with the last piece, so that the first one is the one that may be shorter.
        for behind in (0..chunks).rev() {
            self.feed(&windows, behind * CHUNK)?;
        }
        Ok(())
    }

    /// Submits what windows have that the cache lacks, but for so many tokens at their ends. If there are none, what comes
    /// next is drawn.
    fn feed(&mut self, windows: &[Vec<u32>], behind: usize) -> Result<()> {
        let context = self.gpt.config().context;
        let texts = self.kept.texts();
        let rows = windows.iter().zip(texts.cache.lengths());
        let rows = rows.map(|(window, &cached)| {
            let end = window.len().saturating_sub(behind);
            (cached, end.max(cached.min(window.len())))
        });
        let rows: Vec<(usize, usize)> = rows.collect();
        let new = rows.iter().map(|(cached, end)| end.saturating_sub(*cached));
        let length = rounded_length(new.max().unwrap_or(1), context);
        // What pads a window behind its last token does not reach that token.
        let mut tokens = vec![0; windows.len() * length];
        let mut last = Vec::with_capacity(windows.len());
        let mut longest = 0;
        for (row, (window, &(cached, end))) in windows.iter().zip(&rows).enumerate() {
            // Nor beyond the context: there, tokens that are known already are computed again instead.
            let from = cached.min(context - length);
            texts.cache.truncate(row, from);
            longest = longest.max(from);
            let (start, new) = (row * length, &window[from.min(end)..end]);
            tokens[start..start + new.len()].copy_from_slice(new);
            last.push((start + new.len().max(1) - 1) as u32);
        }
        texts.reserve(longest + length, context)?;
        let tape = new_tape(self.gpt);
        let tokens = tape.input([windows.len(), length], &tokens);
        let hidden = self.gpt.cached_hidden(tokens, &mut texts.cache);
        for (row, &(_, end)) in rows.iter().enumerate() {
            texts.cache.truncate(row, end);
        }
        if behind > 0 {
            return tape.run();
        }
        let rows = hidden.reshape([windows.len() * length, hidden.shape().last()]);
        let rows = rows.embedding(tape.input([windows.len()], &last));
        self.draw(&tape, rows);
        tape.run()
    }

    /// Submits the step from the latest token of each text, of which the cache has all others.
    fn submit_one(&mut self) -> Result<()> {
        let texts = self.kept.texts();
        let batch = texts.batch();
        if !self.has_next {
            let last = self
                .texts
                .iter()
                .map(|text| text.tokens[text.tokens.len() - 1]);
            texts.next().write(&last.collect::<Vec<_>>())?;
        }
        let longest = texts
            .cache
            .lengths()
            .iter()
            .max()
            .map_or(0, |length| length + 1);
        texts.reserve(longest, self.gpt.config().context)?;
        let tape = new_tape(self.gpt);
        let tokens = tape.tensor(&texts.next()).reshape([batch, 1]);
        let hidden = self.gpt.cached_hidden(tokens, &mut texts.cache);
        self.draw(&tape, hidden.reshape([batch, hidden.shape().last()]));
        tape.run()
    }

    /// Draws what comes behind these vectors, one for each text, and keeps it for the next step.
    fn draw<'t>(&mut self, tape: &'t Tape, rows: Var<'t>) {
        let texts = self.kept.texts();
        let ahead = self.under_way.len() as u64;
        let draws = (self.texts.iter().zip(self.samplers.iter())).map(|(text, sampler)| match text
            .is_open
        {
            true => sampler.ahead(ahead),
            false => Draw::default(),
        });
        let draws: Vec<Draw> = draws.collect();
        let logits = self.gpt.head(rows).cast(DType::F32);
        let drawn = Drawn::from(logits, &draws, tape.tensor(&texts.suppressed()));
        tape.assign(&texts.next(), drawn.tokens);
        self.has_next = true;
        self.under_way.push_back(drawn.fetch());
    }
}

/// In the precision that the model generates in.
fn new_tape(gpt: &Gpt) -> Tape {
    let tape = Tape::inference(gpt.device());
    tape.set_precision(gpt.precision());
    tape
}

impl Generation<'_> {
    /// [`Iterator::next`] where nothing can block.
    ///
    /// # Errors
    ///
    /// What the device reports, and [`Error::NonFiniteLogit`](crate::Error::NonFiniteLogit); there is no further token then.
    pub async fn next_async(&mut self) -> Option<Result<NextToken>> {
        while self.arrived.is_empty() && self.outcome == Outcome::UnderWay {
            if let Err(error) = self.advance().await {
                self.outcome = Outcome::Failed;
                return Some(Err(error));
            }
        }
        self.arrived.pop_front().map(Ok)
    }
}

#[cfg(not(target_family = "wasm"))]
impl Iterator for Generation<'_> {
    type Item = Result<NextToken>;

    fn next(&mut self) -> Option<Result<NextToken>> {
        crate::gpu::block_on(self.next_async())
    }
}

impl Drop for Generation<'_> {
    /// What is known of the texts stays, for the next generation.
    fn drop(&mut self) {
        let (gpt, context) = (self.gpt, self.gpt.config().context);
        let texts = self.kept.texts();
        for (row, text) in self.texts.iter().enumerate() {
            let length = texts.cache.lengths()[row].min(text.tokens.len());
            let is_whole = text.tokens.len() <= context && self.outcome != Outcome::Failed;
            texts.cache.truncate(row, if is_whole { length } else { 0 });
            texts.tokens[row] = text.tokens[..texts.cache.lengths()[row]].to_vec();
        }
        if let Kept::Model(texts) = &mut self.kept
            && let Ok(mut kept) = gpt.cache.lock()
        {
            *kept = texts.take().map(|texts| *texts);
        }
    }
}
