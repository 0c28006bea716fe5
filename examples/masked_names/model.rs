//! The model: an encoder, and a head that says which letter stands in each place.

use shadegrad::data::{Batch, IGNORE_INDEX};
use shadegrad::nn::{Encoder, EncoderConfig, Linear, ParameterBuilder};
use shadegrad::ops::CrossEntropy;
use shadegrad::tape::Precision;
use shadegrad::{Device, Tape, Var};

use super::task::{self, PADDING, Puzzle};

/// Fills hidden letters in.
pub struct Filler {
    /// What sees the whole name.
    pub encoder: Encoder,
    /// From its vectors to letters.
    pub head: Linear,
    /// What probabilities are computed in.
    pub precision: Precision,
}

impl Filler {
    /// Describes the parameters of both to `builder`.
    ///
    /// # Errors
    ///
    /// Those of [`EncoderConfig::validate`].
    pub fn new(
        config: &EncoderConfig,
        precision: Precision,
        builder: &mut ParameterBuilder,
    ) -> shadegrad::Result<Self> {
        let (d_model, vocab_size) = (config.d_model, config.vocab_size);
        Ok(Filler {
            encoder: builder.scope("encoder", |b| Encoder::new(config, b))?,
            head: builder.scope("head", |b| Linear::new(b, d_model, vocab_size, true)),
            precision,
        })
    }

    /// The logits `[B, T, vocab_size]` of a batch. Padding is hidden from attention.
    pub fn logits<'t>(&self, tape: &'t Tape, batch: &Batch) -> Var<'t> {
        let shape = [batch.batch_size, batch.context];
        let is_token: Vec<u32> = batch
            .inputs
            .iter()
            .map(|&token| u32::from(token != PADDING))
            .collect();
        let tokens = tape.input(shape, &batch.inputs);
        let is_token = tape.input(shape, &is_token);
        self.head
            .forward(self.encoder.forward(tokens, Some(is_token)))
    }

    /// The mean loss over the hidden letters.
    pub fn loss<'t>(&self, tape: &'t Tape, batch: &Batch) -> Var<'t> {
        let targets = tape.input([batch.batch_size, batch.context], &batch.targets);
        let criterion = CrossEntropy::ignoring(IGNORE_INDEX);
        self.logits(tape, batch).cross_entropy(targets, criterion)
    }

    /// For every hidden letter of every puzzle, in order, the probabilities of all tokens.
    ///
    /// # Errors
    ///
    /// Those of the device.
    pub fn probabilities(
        &self,
        device: &Device,
        puzzles: &[Puzzle],
        rows: usize,
    ) -> shadegrad::Result<Vec<Vec<f32>>> {
        let &EncoderConfig {
            context,
            vocab_size,
            ..
        } = self.encoder.config();
        let mut probabilities = Vec::new();
        for puzzles in puzzles.chunks(rows) {
            let tape = Tape::inference(device);
            tape.set_precision(self.precision);
            let batch = task::batch(puzzles, rows, context);
            let fetch = tape.fetch(self.logits(&tape, &batch).softmax());
            tape.run()?;
            let values = fetch.get()?;
            for (row, puzzle) in values.chunks(context * vocab_size).zip(puzzles) {
                let of_place = |&place: &usize| row[place * vocab_size..][..vocab_size].to_vec();
                probabilities.extend(puzzle.hidden.iter().map(of_place));
            }
        }
        Ok(probabilities)
    }
}

/// Tokens from the most likely on, with their probabilities.
pub fn ranked(probabilities: &[f32]) -> Vec<(u32, f32)> {
    let mut ranked: Vec<(u32, f32)> = (0..).zip(probabilities.iter().copied()).collect();
    ranked.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    ranked
}
