//! Assignment to persistent tensors.

use super::plan::Lowering;
use super::precision::Takes;
use super::record::{Backward, Operation, Tape, Var};
use super::role::TensorType;
use crate::gpu::Tensor;

impl Tape {
    /// Copies a value into a persistent tensor when the tape runs, after everything recorded so far that reads it. The value
    /// may be a view of the same tensor, or computed from it. Assignments take effect one after the other, as they are
    /// recorded.
    ///
    /// # Panics
    ///
    /// If shape or element type differ.
    #[track_caller]
    pub fn assign(&self, destination: &Tensor, value: Var<'_>) {
        let expected = TensorType {
            shape: destination.shape(),
            dtype: destination.dtype(),
        };
        let given = value.tensor_type();
        assert!(
            given == expected,
            "assign: value and destination differ: {given} and {expected}"
        );
        let destination = self.tensor(destination);
        self.push(Assign, &[destination, value]);
    }
}

/// [`Assign`]'s name, by which the planner recognises it.
pub(crate) const ASSIGN: &str = "assign";

/// Copies its second input over its first, a persistent tensor. See [`Tape::assign`].
#[derive(Debug, Hash)]
struct Assign;

impl Operation for Assign {
    fn name(&self) -> &'static str {
        ASSIGN
    }

    fn outputs(&self, _inputs: &[TensorType]) -> Vec<TensorType> {
        Vec::new()
    }

    fn backward<'t>(&self, _node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        vec![None, None]
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        let (to, from) = (cx.input(0), cx.input(1));
        // The value may already have been computed in place; one that reads the destination is a copy by now.
        if !to.is_same_place(&from) {
            cx.copy(&from, &to);
        }
    }

    fn takes(&self, _index: usize) -> Takes {
        Takes::Either
    }

    fn mutates(&self) -> &[usize] {
        &[0]
    }
}
