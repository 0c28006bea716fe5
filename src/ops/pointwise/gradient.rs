//! What the table's gradient rules are given.

use smallvec::SmallVec;

use crate::ops::reduce::sum_to;
use crate::tape::{Backward, Var};

/// Most attributes that a row has.
pub(super) const MOST_ATTRIBUTES: usize = 2;

/// The arguments of a row's gradient rule. A rule gives gradients of the broadcast shape; summing over broadcast axes
/// is done for it.
pub struct Rule<'t> {
    inputs: SmallVec<[Var<'t>; 4]>,
    attributes: [f32; MOST_ATTRIBUTES],
    /// The operation's result.
    pub out: Var<'t>,
    /// The gradient that arrived at the result.
    pub grad: Var<'t>,
}

impl<'t> Rule<'t> {
    /// The first input.
    pub fn x(&self) -> Var<'t> {
        self.inputs[0]
    }

    /// The second input.
    pub fn y(&self) -> Var<'t> {
        self.inputs[1]
    }

    /// The third input.
    pub fn z(&self) -> Var<'t> {
        self.inputs[2]
    }

    /// Attribute number `index`.
    pub fn attribute(&self, index: usize) -> f32 {
        self.attributes[index]
    }
}

pub(super) fn backward<'t>(
    rule_of_row: for<'r> fn(&Rule<'r>) -> Vec<Option<Var<'r>>>,
    attributes: [f32; MOST_ATTRIBUTES],
    node: &Backward<'t>,
) -> Vec<Option<Var<'t>>> {
    let rule = Rule {
        inputs: SmallVec::from_slice(node.inputs()),
        attributes,
        out: node.output(0),
        grad: node.gradient(0),
    };
    let gradients = rule_of_row(&rule);
    gradients
        .into_iter()
        .enumerate()
        .map(|(index, gradient)| {
            let gradient = gradient.filter(|_| node.wants(index))?;
            Some(sum_to(gradient, node.input(index).shape()))
        })
        .collect()
}
