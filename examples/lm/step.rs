//! What a step of training takes of the device's memory, planned before anything is loaded.

use shadegrad::data::IGNORE_INDEX;
use shadegrad::nn::Gpt;
use shadegrad::ops::CrossEntropy;
use shadegrad::optim::Optimizer;
use shadegrad::tape::{MemoryUse, Precision};
use shadegrad::{Result, Tape, Var};

/// A step of training.
pub struct Step {
    /// Rows of a batch.
    pub rows: usize,
    /// Rows of a batch that is evaluated.
    pub eval_rows: usize,
    /// Tokens of a row.
    pub context: usize,
    /// Whether gradients are accumulated.
    pub accumulates: bool,
    /// What it is recorded in.
    pub precision: Precision,
}

impl Step {
    /// What it takes, of a model and its optimizer on a [meta device](shadegrad::Device::meta). Evaluations use the same
    /// buffers for intermediate values.
    ///
    /// # Errors
    ///
    /// Those of [`Tape::memory`].
    pub fn memory(&self, gpt: &Gpt, optimizer: &mut dyn Optimizer) -> Result<MemoryUse> {
        let device = gpt.device();
        let tape = Tape::inference(device);
        let _loss = tape.fetch::<f32>(self.loss(gpt, &tape, self.eval_rows));
        let evaluation = tape.memory()?;
        if self.accumulates {
            let tape = Tape::training(device);
            optimizer.accumulate(&tape, self.loss(gpt, &tape, self.rows))?;
        }
        let tape = Tape::training(device);
        let loss = self.loss(gpt, &tape, self.rows);
        let _report = optimizer.step(&tape, loss, 0.0).fetch();
        let mut memory = tape.memory()?;
        memory.intermediate = memory.intermediate.max(evaluation.intermediate);
        Ok(memory)
    }

    fn loss<'t>(&self, gpt: &Gpt, tape: &'t Tape, rows: usize) -> Var<'t> {
        tape.set_precision(self.precision);
        let tokens = tape.input([rows, self.context], &vec![0u32; rows * self.context]);
        gpt.loss(tokens, tokens, CrossEntropy::ignoring(IGNORE_INDEX))
    }
}
