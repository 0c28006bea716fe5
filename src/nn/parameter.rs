//! A named tensor that training changes.

use std::fmt;
use std::sync::{Arc, OnceLock};

use super::Init;
use crate::gpu::Tensor;
use crate::shape::Shape;
use crate::tape::{Tape, Var};

/// A named tensor that training changes. Cheap to clone; clones are the same parameter, which is how weights are tied.
///
/// It can be used once the [`ParameterBuilder`](super::ParameterBuilder) that made it has been
/// [built](super::ParameterBuilder::build).
#[derive(Clone)]
pub struct Parameter {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub name: String,
    pub shape: Shape,
    pub init: Init,
    pub is_frozen: bool,
    pub tensor: OnceLock<Tensor>,
}

impl Parameter {
    /// The full name: scopes and own name, joined by dots.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The shape.
    pub fn shape(&self) -> Shape {
        self.inner.shape
    }

    /// Whether it is a constant on tapes: see [`ParameterBuilder::frozen`](super::ParameterBuilder::frozen).
    pub fn is_frozen(&self) -> bool {
        self.inner.is_frozen
    }

    /// Puts the parameter on a tape, as a leaf that gradients flow to unless it is
    /// [frozen](super::ParameterBuilder::frozen). Doing so again gives the same leaf.
    ///
    /// # Panics
    ///
    /// If the parameters have not been built yet.
    #[track_caller]
    pub fn on<'t>(&self, tape: &'t Tape) -> Var<'t> {
        match self.inner.is_frozen {
            true => tape.tensor(self.tensor()),
            false => tape.tensor_variable(self.tensor()),
        }
    }

    /// The values on the device, a part of the flat storage.
    ///
    /// # Panics
    ///
    /// If the parameters have not been built yet.
    #[track_caller]
    pub fn tensor(&self) -> &Tensor {
        match self.inner.tensor.get() {
            Some(tensor) => tensor,
            None => panic!(
                "parameter `{}` has no storage yet: call ParameterBuilder::build first",
                self.name()
            ),
        }
    }
}

impl fmt::Debug for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Parameter({} {})", self.name(), self.shape())
    }
}
