//! Reverse-mode differentiation: walk the list backwards, let every operation append its own gradient.

use std::rc::Rc;

use smallvec::SmallVec;

use super::checkpoint::Recomputed;
use super::graph::{NodeId, ValueId};
use super::record::{Backward, Graph, Operation, Tape, Var};

/// The gradients of one scalar with respect to everything it depends on. See [`Tape::backward`].
pub struct Gradients<'t> {
    tape: &'t Tape,
    of_value: Vec<Option<ValueId>>,
}

impl<'t> Gradients<'t> {
    /// The gradient with respect to `var`, or `None` if the differentiated value does not depend on it.
    ///
    /// # Panics
    ///
    /// If another tape recorded the value.
    #[track_caller]
    pub fn of(&self, var: Var<'t>) -> Option<Var<'t>> {
        self.tape.require_own("Gradients::of", var);
        let id = self.of_value.get(var.id.index()).copied().flatten()?;
        Some(self.tape.var(id))
    }
}

impl Tape {
    /// Differentiates a scalar with respect to every variable and parameter it depends on, by appending gradient
    /// nodes to this tape. The gradients are values like any other: they can be fetched, computed with, and
    /// differentiated again where every rule on the way is made of differentiable operations.
    ///
    /// # Panics
    ///
    /// If `of` is not a scalar (one element), the tape is an [inference](Tape::inference) tape, or an operation on the
    /// way has no gradient.
    #[track_caller]
    pub fn backward<'t>(&'t self, of: Var<'t>) -> Gradients<'t> {
        assert!(
            self.is_training(),
            "backward: an inference tape records no gradients; use Tape::training"
        );
        self.require_own("backward", of);
        assert!(
            of.shape().elements() == 1 && of.dtype().is_float(),
            "backward: only scalars are differentiated, this is {}; sum it first",
            of.tensor_type()
        );
        self.graph.borrow_mut().push_boundary();
        let seed = self.full(of.shape(), 1.0).cast(of.dtype());
        self.backward_from(of, seed)
    }

    /// Like [`Tape::backward`], for a value of any shape with a given gradient at it (a vector–Jacobian product).
    ///
    /// # Panics
    ///
    /// If `seed` has another shape than `of`; otherwise as [`Tape::backward`].
    #[track_caller]
    pub fn backward_from<'t>(&'t self, of: Var<'t>, seed: Var<'t>) -> Gradients<'t> {
        self.require_own("backward", of);
        self.require_own("backward", seed);
        let [value, given] = [of, seed].map(Var::tensor_type);
        assert!(
            value == given && value.dtype.is_float(),
            "backward: value and seed differ in shape or type, or are no floats: {value} and {given}"
        );
        let mut of_value: Vec<Option<ValueId>> = vec![None; of.id.index() + 1];
        if of.needs_gradient() {
            of_value[of.id.index()] = Some(seed.id);
        }
        let last = self.value(of.id, |value| value.node);
        let outside = self.precision();
        let mut recomputed = Recomputed::new(&self.graph.borrow());
        for node in (0..=last.0).rev().map(NodeId) {
            if !self.has_arrived(node, &of_value) {
                continue;
            }
            recomputed.reach(&mut self.graph.borrow_mut(), node);
            let (operation, backward) = self.rule(node, &of_value, &recomputed);
            // Gradients belong to what was recorded first, also where the rule reads what was recorded again.
            let inputs: SmallVec<[ValueId; 8]> = self.graph.borrow().inputs(node).into();
            let recorded = self.len() as u32;
            let precision = self.graph.borrow().nodes[node.index()].precision;
            self.set_precision(precision);
            let gradients = operation.backward(&backward);
            assert_unchanged(&self.graph.borrow(), node, recorded, &gradients);
            assert!(
                gradients.len() == backward.inputs.len(),
                "{}: the gradient rule answers for {} inputs of {}",
                operation.name(),
                gradients.len(),
                backward.inputs.len()
            );
            for (index, gradient) in gradients.into_iter().enumerate() {
                let (input, Some(gradient)) = (backward.inputs[index], gradient) else {
                    continue;
                };
                if !backward.wanted[index] {
                    continue;
                }
                self.require_own(operation.name(), gradient);
                let [given, expected] = [gradient, input].map(Var::tensor_type);
                assert!(
                    given.shape == expected.shape && given.dtype.is_float(),
                    "{}: the gradient of input {index} is {given}, expected {expected}",
                    operation.name()
                );
                // What the operation was given in another type than it had: nothing is rounded on the way there.
                let target = self.graph.borrow().cast_from.get(&inputs[index]).copied();
                let target = target.unwrap_or(inputs[index]);
                let gradient = gradient.cast(self.var(target).dtype());
                let slot = &mut of_value[target.index()];
                let sum = match *slot {
                    Some(earlier) => self.var(earlier) + gradient,
                    None => gradient,
                };
                *slot = Some(sum.id);
            }
        }
        self.set_precision(outside);
        Gradients {
            tape: self,
            of_value,
        }
    }

    /// Whether a gradient has arrived at one of an operation's outputs.
    fn has_arrived(&self, node: NodeId, of_value: &[Option<ValueId>]) -> bool {
        let graph = self.graph.borrow();
        let is_there = |id: ValueId| of_value.get(id.index()).copied().flatten().is_some();
        graph.operation(node).is_some() && graph.outputs(node).any(is_there)
    }

    /// The operation of a node that gradients have arrived at, and its rule's arguments.
    fn rule<'t>(
        &'t self,
        node: NodeId,
        of_value: &[Option<ValueId>],
        recomputed: &Recomputed,
    ) -> (Rc<dyn Operation>, Backward<'t>) {
        let graph = self.graph.borrow();
        let operation = graph.operation(node).expect("leaves have no rule").clone();
        let var = |id: ValueId| self.var(recomputed.value(id));
        let gradient = |id: ValueId| of_value.get(id.index()).copied().flatten();
        let backward = Backward {
            tape: self,
            name: operation.name(),
            inputs: graph.inputs(node).iter().map(|&id| var(id)).collect(),
            wanted: graph
                .inputs(node)
                .iter()
                .map(|id| graph.values[id.index()].needs_gradient)
                .collect(),
            outputs: graph.outputs(node).map(var).collect(),
            gradients: graph
                .outputs(node)
                .map(|id| gradient(id).map(|id| self.var(id)))
                .collect(),
        };
        (operation, backward)
    }
}

/// Refuses a gradient rule, recorded from node `first` on, that reads a tensor which was overwritten after `forward`, the
/// operation that it belongs to: it would be given the new values with the old results.
#[track_caller]
fn assert_unchanged(graph: &Graph, forward: NodeId, first: u32, gradients: &[Option<Var<'_>>]) {
    let since = forward.0 + 1..first;
    if graph.overwritten(since.clone()).next().is_none() {
        return;
    }
    let recorded = first..graph.nodes.len() as u32;
    let inputs = recorded.flat_map(|node| graph.inputs(NodeId(node)).iter().copied());
    // A gradient may be an input as it is.
    let given = gradients.iter().flatten().map(|gradient| gradient.id);
    for read in inputs.chain(given) {
        assert!(
            !graph.is_overwritten(read, since.clone()),
            "backward: the gradient of `{}` reads a tensor of shape {} that was overwritten on this tape since: \
             differentiate first, and overwrite (`assign`, an optimizer's step) afterwards. For parameters that are to \
             be treated differently, one optimizer has groups",
            graph
                .operation(forward)
                .map_or("", |operation| operation.name()),
            graph.ty(graph.source_of(read)).shape
        );
    }
}
