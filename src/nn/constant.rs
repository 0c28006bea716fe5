//! Fixed tensors that belong to a model but are not trained: tables of sines and the like.

use std::fmt;
use std::sync::{Arc, OnceLock};

use crate::error::Result;
use crate::gpu::{DType, Device, Tensor};
use crate::shape::Shape;
use crate::tape::{Tape, Var};

/// A fixed tensor of a model, made by [`ParameterBuilder::constant`](super::ParameterBuilder::constant). It is neither
/// trained nor part of checkpoints. Cheap to clone.
///
/// It can be used once the builder has been [built](super::ParameterBuilder::build).
#[derive(Clone)]
pub struct Constant {
    inner: Arc<Inner>,
}

/// What makes the values when they are needed: tables may be large.
type Values = Box<dyn Fn() -> Vec<f32> + Send + Sync>;

struct Inner {
    shape: Shape,
    values: Values,
    tensor: OnceLock<Tensor>,
}

impl Constant {
    pub(super) fn new(shape: Shape, values: Values) -> Constant {
        Constant {
            inner: Arc::new(Inner {
                shape,
                values,
                tensor: OnceLock::new(),
            }),
        }
    }

    /// Puts the values on the device.
    pub(super) fn build(&self, device: &Device) -> Result<()> {
        let tensor = match device.is_meta() {
            true => Tensor::zeros(device, self.inner.shape, DType::F32)?,
            false => Tensor::new(device, self.inner.shape, &(self.inner.values)())?,
        };
        let fresh = self.inner.tensor.set(tensor).is_ok();
        assert!(fresh, "only a builder fills its constants");
        Ok(())
    }

    /// The shape.
    pub fn shape(&self) -> Shape {
        self.inner.shape
    }

    /// Puts the constant on a tape. No gradient flows to it.
    ///
    /// # Panics
    ///
    /// If the builder has not been built yet.
    #[track_caller]
    pub fn on<'t>(&self, tape: &'t Tape) -> Var<'t> {
        match self.inner.tensor.get() {
            Some(tensor) => tape.tensor(tensor),
            None => panic!("a constant has no storage yet: call ParameterBuilder::build first"),
        }
    }
}

impl fmt::Debug for Constant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Constant({})", self.shape())
    }
}
