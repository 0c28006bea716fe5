//! Activation checkpointing: parts of a tape that reverse mode records again rather than keeping what they computed.

use std::collections::HashMap;
use std::ops::Range;

use smallvec::SmallVec;

use super::graph::{NodeId, ValueId};
use super::record::{Graph, Tape};

impl Tape {
    /// Runs `record`, and lets [`Tape::backward`] compute again what it records instead of keeping it: of this part of
    /// the tape, only what it reads from outside and what is read outside stay in memory until the backward pass gets
    /// there. Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost".
    ///
    /// The second computation is made of the same operations on the same inputs, random ones drawing the same numbers,
    /// so results do not change. (Gradients of gradients may, in their last bits: there, contributions are added in another
    /// order.) It costs the forward pass of the part once more. A checkpoint within another one adds
    /// nothing: the outer one computes all of it again. On [inference](Tape::inference) tapes, which keep nothing
    /// anyway, this only runs `record`.
    ///
    /// ```
    /// # fn main() -> shadegrad::Result<()> {
    /// use shadegrad::{Device, Tape};
    ///
    /// let device = Device::new()?;
    /// let memory = |checkpointed: bool| {
    ///     let tape = Tape::training(&device);
    ///     let x = tape.variable([64, 64], &[0.01; 64 * 64]);
    ///     let layer = |x| (0..4).fold(x, |x: shadegrad::Var, _| x.matmul(x).tanh());
    ///     let y = (0..4).fold(x, |x, _| match checkpointed {
    ///         true => tape.checkpoint(|_| layer(x)),
    ///         false => layer(x),
    ///     });
    ///     let gradient = tape.backward(y.sum_all()).of(x).expect("y depends on x");
    ///     let _gradient = tape.fetch::<f32>(gradient);
    ///     tape.memory()
    /// };
    /// assert!(memory(true)?.lower_bound < memory(false)?.lower_bound);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// If `record` [assigns](Tape::assign) to a tensor, or otherwise overwrites one. [`Tape::backward`] panics if a tensor
    /// that the part reads was overwritten after it.
    #[track_caller]
    pub fn checkpoint<'t, R>(&'t self, record: impl FnOnce(&'t Tape) -> R) -> R {
        if !self.training || self.graph.borrow().is_checkpointing {
            return record(self);
        }
        let start = self.len() as u32;
        self.graph.borrow_mut().is_checkpointing = true;
        let result = record(self);
        let mut graph = self.graph.borrow_mut();
        graph.is_checkpointing = false;
        let part = start..graph.nodes.len() as u32;
        assert!(
            graph.overwritten(part.clone()).next().is_none(),
            "checkpoint: the part overwrites a tensor, which it would do again in the backward pass"
        );
        graph.checkpoints.push(part);
        result
    }
}

/// What a backward pass has recorded again so far.
pub(super) struct Recomputed {
    /// The checkpointed parts that it has not come to yet.
    ahead: Vec<Range<u32>>,
    /// By the value that was recorded first.
    again: HashMap<ValueId, ValueId>,
}

impl Recomputed {
    pub fn new(graph: &Graph) -> Recomputed {
        Recomputed {
            ahead: graph.checkpoints.clone(),
            again: HashMap::new(),
        }
    }

    /// The value that a gradient rule shall read.
    pub fn value(&self, value: ValueId) -> ValueId {
        self.again.get(&value).copied().unwrap_or(value)
    }

    /// Records the part that the node belongs to, if it belongs to one and this has not been done. The walk goes from the
    /// last node to the first.
    #[track_caller]
    pub fn reach(&mut self, graph: &mut Graph, node: NodeId) {
        while let Some(part) = self.ahead.pop_if(|part| node.0 < part.end) {
            if part.contains(&node.0) {
                self.record(graph, part);
            }
        }
    }

    /// In a phase of its own: groups and their order respect those, so that this is planned like the forward pass was, and
    /// runs after everything that was recorded before.
    #[track_caller]
    fn record(&mut self, graph: &mut Graph, part: Range<u32>) {
        assert_unchanged(graph, part.clone());
        graph.push_boundary();
        for node in part.map(NodeId) {
            let inputs = graph.inputs(node).iter();
            let inputs: SmallVec<[ValueId; 8]> = inputs.map(|&input| self.value(input)).collect();
            // Leaves stay what they are.
            if let Some(outputs) = graph.push_again(node, &inputs) {
                self.again
                    .extend(graph.outputs(node).zip(outputs.map(ValueId)));
            }
        }
        graph.push_boundary();
    }
}

#[track_caller]
fn assert_unchanged(graph: &Graph, part: Range<u32>) {
    let since = part.start..graph.nodes.len() as u32;
    let mut read = part.flat_map(|node| graph.inputs(NodeId(node)));
    assert!(
        !read.any(|&read| graph.is_overwritten(read, since.clone())),
        "backward: a tensor that a checkpointed part reads was overwritten since: its values cannot be computed again"
    );
}
