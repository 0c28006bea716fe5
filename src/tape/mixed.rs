//! Setting a tape's precision, and handing operations what they take in it.

use super::graph::ValueId;
use super::precision::{Precision, Takes};
use super::record::{Operation, Tape, Var};
use super::role::{Role, TensorType};
use crate::gpu::{DType, Tensor};
use crate::shape::{Layout, Shape};

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

    /// Whether anything is recorded in mixed precision, or has been.
    pub(crate) fn is_mixed(&self) -> bool {
        let graph = self.graph.borrow();
        let mut nodes = graph.nodes.iter().map(|node| node.precision);
        graph.precision == Precision::Mixed || nodes.any(|node| node == Precision::Mixed)
    }

    /// The value as an operation takes it for an input.
    pub(super) fn taken(&self, operation: &impl Operation, index: usize, var: Var<'_>) -> ValueId {
        let dtype = match operation.takes(index) {
            Takes::F32 if var.dtype() == DType::F16 => DType::F32,
            Takes::Half if self.precision() == Precision::Mixed && var.dtype() == DType::F32 => {
                DType::F16
            }
            _ => return var.id,
        };
        if operation.mutates().contains(&index) {
            return var.id;
        }
        self.cast_once(var, dtype)
    }

    /// The value in another type, the same as for whoever asked before.
    fn cast_once(&self, var: Var<'_>, dtype: DType) -> ValueId {
        let known = self.graph.borrow().casts.get(&(var.id, dtype)).copied();
        known.unwrap_or_else(|| {
            let cast = self.cast_before_view(var, dtype);
            let cast = cast.or_else(|| self.cast_with_neighbours(var, dtype));
            let cast = cast.unwrap_or_else(|| var.cast(dtype).id);
            let mut graph = self.graph.borrow_mut();
            graph.casts.insert((var.id, dtype), cast);
            graph.cast_from.insert(cast, var.id);
            // Gradients go from the cast straight to the value, by whatever way it was cast.
            let needs_gradient = graph.values[var.id.index()].needs_gradient;
            graph.values[cast.index()].needs_gradient = needs_gradient;
            cast
        })
    }

    /// What only has another order is looked at in that order after the cast.
    fn cast_before_view(&self, var: Var<'_>, dtype: DType) -> Option<ValueId> {
        let (node, input) = {
            let graph = self.graph.borrow();
            let node = graph.producer(var.id);
            let operation = graph.operation(node)?;
            let input = *graph.inputs(node).first()?;
            let is_view = matches!(operation.role(var.tensor_type()), Role::View);
            (is_view.then_some(node)?, self.var(input))
        };
        if input.shape().elements() != var.shape().elements() {
            return None;
        }
        let cast = self.cast_once(input, dtype);
        let shape = var.shape();
        let ty = TensorType { shape, dtype };
        Some(self.graph.borrow_mut().push_view_again(node, cast, ty))
    }

    /// A parameter as a part of its whole segment in another type: one dispatch for all of them.
    fn cast_with_neighbours(&self, var: Var<'_>, dtype: DType) -> Option<ValueId> {
        let tensor = self.graph.borrow().tensor(var.id)?.clone();
        let elements = tensor.buffer.bytes() as usize / tensor.dtype.bytes();
        let (first, shape) = (tensor.layout.offset, tensor.shape());
        if elements == shape.elements() {
            return None;
        }
        let layout = Layout::contiguous(Shape::new(&[elements]), 0);
        let segment = self.tensor(&Tensor { layout, ..tensor });
        let cast = self.var(self.cast_once(segment, dtype));
        let part = cast.slice(0, first..first + shape.elements());
        Some(part.reshape(shape).id)
    }
}
