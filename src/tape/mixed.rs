//! Setting a tape's precision, and handing operations what they take in it.

use super::graph::ValueId;
use super::precision::{Precision, Takes};
use super::record::{Operation, Tape, Var};
use crate::gpu::DType;

impl Tape {
    /// Sets the precision of what is recorded from here on. It is [`Precision::F32`] at first.
    ///
    /// ```
    /// # fn main() -> shadegrad::Result<()> {
    /// use shadegrad::tape::Precision;
    /// use shadegrad::{DType, Device, Tape};
    ///
    /// let device = Device::new()?;
    /// let tape = Tape::training(&device);
    /// tape.set_precision(Precision::Mixed);
    /// let x = tape.variable([2, 2], &[1.0, 2.0, 3.0, 4.0]);
    /// let y = x.matmul(x);
    /// assert_eq!(y.dtype(), DType::F16);
    /// let gradient = tape.backward(y.sum_all()).of(x).expect("the sum depends on x");
    /// assert_eq!(gradient.dtype(), DType::F32);
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_precision(&self, precision: Precision) {
        self.graph.borrow_mut().precision = precision;
    }

    /// The precision that operations are being recorded in.
    pub fn precision(&self) -> Precision {
        self.graph.borrow().precision
    }

    /// Records a part in another precision. Its gradients are computed in that, too. What the part reads from outside has the
    /// type that it has; [`Var::cast`] changes it.
    pub fn with_precision<R>(&self, precision: Precision, record: impl FnOnce() -> R) -> R {
        let outside = self.precision();
        self.set_precision(precision);
        let result = record();
        self.set_precision(outside);
        result
    }

    /// The value as an operation takes it for an input.
    pub(super) fn taken(&self, operation: &impl Operation, index: usize, var: Var<'_>) -> ValueId {
        if operation.mutates().contains(&index) {
            return var.id;
        }
        let dtype = match (operation.takes(index), var.dtype(), self.precision()) {
            (Takes::F32, DType::F16, _) => DType::F32,
            (Takes::Half, DType::F32, Precision::Mixed) => DType::F16,
            _ => return var.id,
        };
        let known = self.graph.borrow().casts.get(&(var.id, dtype)).copied();
        known.unwrap_or_else(|| {
            let cast = var.cast(dtype).id;
            let mut graph = self.graph.borrow_mut();
            graph.casts.insert((var.id, dtype), cast);
            graph.cast_from.insert(cast, var.id);
            cast
        })
    }
}
