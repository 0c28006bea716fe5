//! What a training step is fed with.

use crate::tape::{Tape, Var};

/// The target of a position that has none, such as padding: the loss and its gradient leave it out.
pub const IGNORE_INDEX: u32 = u32::MAX;

/// `batch_size` rows of `context` tokens, row after row, and the token to predict at each position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Input tokens, `[batch_size, context]`.
    pub inputs: Vec<u32>,
    /// The token that follows each input token, or [`IGNORE_INDEX`], `[batch_size, context]`.
    pub targets: Vec<u32>,
    /// The number of rows.
    pub batch_size: usize,
    /// The number of tokens in a row.
    pub context: usize,
}

impl Batch {
    /// A batch with room for its rows, which [`push`](Self::push) then adds.
    pub(super) fn with_capacity(batch_size: usize, context: usize) -> Self {
        Self {
            inputs: Vec::with_capacity(batch_size * context),
            targets: Vec::with_capacity(batch_size * context),
            batch_size: 0,
            context,
        }
    }

    /// Adds a row.
    pub(super) fn push(
        &mut self,
        inputs: impl IntoIterator<Item = u32>,
        targets: impl IntoIterator<Item = u32>,
    ) {
        self.inputs.extend(inputs);
        self.targets.extend(targets);
        self.batch_size += 1;
        debug_assert_eq!(self.inputs.len(), self.batch_size * self.context);
        debug_assert_eq!(self.targets.len(), self.batch_size * self.context);
    }

    /// Puts inputs and targets on a tape, both `U32 [batch_size, context]`.
    pub fn on<'t>(&self, tape: &'t Tape) -> (Var<'t>, Var<'t>) {
        let shape = [self.batch_size, self.context];
        (
            tape.input(shape, &self.inputs),
            tape.input(shape, &self.targets),
        )
    }

    /// The number of positions that count in the loss.
    ///
    /// The loss of a batch is a mean over these, so the loss of several batches is the mean of theirs weighted by
    /// this count.
    pub fn target_count(&self) -> usize {
        self.targets
            .iter()
            .filter(|&&target| target != IGNORE_INDEX)
            .count()
    }
}
