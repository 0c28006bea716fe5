//! Setting a tape's precision, and handing operations what they take in it.

use super::graph::ValueId;
use super::precision::{Precision, Takes};
use super::record::{Operation, Tape, Var};
use super::role::{Role, TensorType};
use crate::error::Result;
use crate::gpu::{DType, Tensor};

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
            let cast = cast.or_else(|| self.kept_in_halves(var, dtype));
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
            let Some(Role::View) = graph.role(node) else {
                return None;
            };
            (node, self.var(*graph.inputs(node).first()?))
        };
        if input.shape().elements() != var.shape().elements() {
            return None;
        }
        let cast = self.cast_once(input, dtype);
        let shape = var.shape();
        let ty = TensorType { shape, dtype };
        Some(self.graph.borrow_mut().push_view_again(node, cast, ty))
    }

    /// A parameter as a part of its segment's copy in halves, where there is one: [`Tape::copy_outdated`] sees to it that the
    /// copy is right when the tape runs. Not behind what overwrites the segment on this tape.
    fn kept_in_halves(&self, var: Var<'_>, dtype: DType) -> Option<ValueId> {
        if dtype != DType::F16 {
            return None;
        }
        let mut graph = self.graph.borrow_mut();
        let tensor = graph.tensor(var.id)?.clone();
        let mut written = graph.overwritten(0..graph.nodes.len() as u32);
        let is_written = written.any(|other| {
            let other = graph.tensor(other).expect("only tensors are overwritten");
            other.buffer.id() == tensor.buffer.id()
        });
        drop(written);
        if is_written {
            return None;
        }
        match tensor.in_halves() {
            Ok(halves) => {
                let halves = halves?;
                let variable = graph.values[var.id.index()].needs_gradient;
                let id = graph.push_tensor(&halves, variable);
                graph.copied.push(tensor);
                Some(id)
            }
            Err(error) => {
                graph.refused.get_or_insert(error);
                None
            }
        }
    }

    /// Notes that the tape is to find a tensor's copy in halves as it should be.
    pub(crate) fn tensor_in_halves(&self, tensor: &Tensor) -> Option<Var<'_>> {
        let halves = Tensor {
            buffer: tensor.buffer.halves()?.clone(),
            dtype: DType::F16,
            ..tensor.clone()
        };
        self.graph.borrow_mut().copied.push(tensor.clone());
        Some(self.tensor(&halves))
    }

    /// Copies to halves what has been overwritten since, of the tensors whose copies this tape reads or keeps. Where only
    /// optimizers' updates change them, that is before the first tape alone.
    pub(super) fn copy_outdated(&self) -> Result<()> {
        for index in 0..self.graph.borrow().copied.len() {
            let tensor = self.graph.borrow().copied[index].clone();
            let (Some(writes), whole) = (tensor.buffer.outdated(), tensor.whole()) else {
                continue;
            };
            let tape = Tape::inference(&self.device);
            let halves = whole.in_halves()?.expect("the tape is bound to it");
            tape.assign(&halves, tape.tensor(&whole).cast(DType::F16));
            tape.run()?;
            tensor.buffer.has_been_copied(writes);
        }
        Ok(())
    }

    /// To be called when the tape has been submitted: what it has overwritten without the copy is no longer the copy's.
    pub(super) fn note_writes(&self) {
        let graph = self.graph.borrow();
        for &writer in &graph.writers {
            let writer = writer.0..writer.0 + 1;
            let buffer = |value| {
                &graph
                    .tensor(value)
                    .expect("only tensors are overwritten")
                    .buffer
            };
            for written in graph.overwritten(writer.clone()).map(buffer) {
                let mut all = graph.overwritten(writer.clone()).map(buffer);
                let copy = written.halves().map(|halves| halves.id());
                if !all.any(|other| Some(other.id()) == copy) {
                    written.has_been_written();
                }
            }
        }
    }

    /// A parameter as a part of its whole segment in another type: one dispatch for all of them.
    fn cast_with_neighbours(&self, var: Var<'_>, dtype: DType) -> Option<ValueId> {
        let tensor = self.graph.borrow().tensor(var.id)?.clone();
        let (first, shape, whole) = (tensor.layout.offset, tensor.shape(), tensor.whole());
        if whole.shape().elements() == shape.elements() {
            return None;
        }
        let segment = self.tensor(&whole);
        let cast = self.var(self.cast_once(segment, dtype));
        let part = cast.slice(0, first..first + shape.elements());
        Some(part.reshape(shape).id)
    }
}
