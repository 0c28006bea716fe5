//! What operations see of the lowering.

use super::dispatch::{Dispatch, Operand};
use super::epilogue::Epilogue;
use crate::gpu::readback::Fault;
use crate::gpu::{AdapterClass, DType, Device};
use crate::shape::{Layout, Shape};

/// What an operation lowers itself with: its operands, temporaries, and a place to emit dispatches.
pub struct Lowering<'a> {
    pub(super) emit: &'a mut dyn Emit,
    pub(super) inputs: Vec<Operand>,
    /// Without output 0 where an epilogue stores it.
    pub(super) outputs: Vec<Option<Operand>>,
    /// Of the outputs, which somebody reads.
    pub(super) needed: Vec<bool>,
    pub(super) has_gate: bool,
}

/// What the planner does for an operation.
pub(super) trait Emit {
    fn device(&self) -> &Device;
    fn temp(&mut self, shape: Shape, dtype: DType) -> Operand;
    fn copy(&mut self, from: &Operand, to: &Operand);
    fn push(&mut self, dispatch: Dispatch);
    fn epilogue(&mut self, first_binding: usize) -> Epilogue;
    fn reuse(&mut self, output: usize, input: usize) -> Option<Operand>;
    fn fault_counter(&mut self, fault: Fault) -> Operand;
}

impl Lowering<'_> {
    /// The device that the dispatches will run on: its class and limits choose kernel variants.
    pub fn device(&self) -> &Device {
        self.emit.device()
    }

    /// Shorthand for the device's [`AdapterClass`].
    pub fn class(&self) -> AdapterClass {
        self.device().class()
    }

    /// How often an invocation may go round loops on this device: [`Dispatch::iterations`].
    pub fn most_iterations(&self) -> usize {
        self.device().most_iterations()
    }

    /// Input number `index`, with any strides.
    pub fn input(&self, index: usize) -> Operand {
        self.inputs[index]
    }

    /// How many inputs there are.
    pub fn input_count(&self) -> usize {
        self.inputs.len()
    }

    /// Output number `index`, dense.
    ///
    /// # Panics
    ///
    /// For output 0 of an operation that stores through an epilogue.
    #[track_caller]
    pub fn output(&self, index: usize) -> Operand {
        self.outputs[index].expect("output 0 is stored by the epilogue")
    }

    /// Has output number `output` computed where input number `input` is, if both are dense and as large and nothing else
    /// reads that input; says whether that is so. The kernel then binds the output only, for writing, and reads an element
    /// before it overwrites it.
    pub fn reuse_input(&mut self, output: usize, input: usize) -> bool {
        let place = self.emit.reuse(output, input);
        if place.is_some() {
            self.outputs[output] = place;
        }
        place.is_some()
    }

    /// Whether anything reads output number `index`. It has a buffer either way.
    pub fn is_needed(&self, index: usize) -> bool {
        self.needed[index]
    }

    /// A dense buffer for intermediate results of this operation. Its contents are undefined at first.
    pub fn temp(&mut self, shape: impl Into<Shape>, dtype: DType) -> Operand {
        self.emit.temp(shape.into(), dtype)
    }

    /// The operand itself if it is dense, else a dense copy (one more dispatch).
    pub fn contiguous(&mut self, operand: &Operand) -> Operand {
        match operand.layout.is_contiguous() {
            true => *operand,
            false => self.contiguous_copy(operand),
        }
    }

    /// The operand itself if the elements of its last axis lie in sequence, else a dense copy.
    pub(crate) fn with_dense_rows(&mut self, operand: &Operand) -> Operand {
        let is_dense = operand.shape().last() == 1 || operand.layout.strides().last() == Some(&1);
        match is_dense {
            true => *operand,
            false => self.contiguous_copy(operand),
        }
    }

    /// The operand under another shape, or a dense copy where strides do not allow that.
    pub(crate) fn reshaped(&mut self, operand: &Operand, shape: Shape) -> Operand {
        let layout = operand.layout.reshape(shape);
        layout.map_or_else(
            || {
                let copy = self.contiguous_copy(operand);
                copy.with_layout(Layout::contiguous(shape, copy.layout.offset))
            },
            |layout| operand.with_layout(layout),
        )
    }

    /// A dense copy of the operand, made even if it is dense already.
    pub fn contiguous_copy(&mut self, operand: &Operand) -> Operand {
        let copy = self.emit.temp(operand.shape(), operand.dtype);
        self.emit.copy(operand, &copy);
        copy
    }

    /// Copies between operands of one shape.
    pub fn copy(&mut self, from: &Operand, to: &Operand) {
        self.emit.copy(from, to);
    }

    /// Emits a dispatch. Dispatches run in the order in which they are emitted, each seeing the writes of those before.
    ///
    /// # Panics
    ///
    /// If the grid passes 65,535 workgroups in one dimension, or the kernel has loops and the dispatch does not state how
    /// often they go round: [`Dispatch::iterations`].
    #[track_caller]
    pub fn dispatch(&mut self, dispatch: Dispatch) {
        self.emit.push(dispatch);
    }

    /// Two words in which a kernel counts indices that are not below `extent`, and keeps the largest, atomically. They are
    /// zero when the tape begins to run, and whoever fetches something from it gets an error if there are any.
    pub(crate) fn fault_counter(&mut self, operation: &'static str, extent: usize) -> Operand {
        self.emit.fault_counter(Fault { operation, extent })
    }

    /// Whether the epilogue will end in a [`Role::Gate`].
    pub(crate) fn has_gate(&self) -> bool {
        self.has_gate
    }

    /// The WGSL through which a [`Role::Epilogue`] kernel stores output 0; its bindings start at `first_binding`.
    pub(crate) fn epilogue(&mut self, first_binding: usize) -> Epilogue {
        self.emit.epilogue(first_binding)
    }
}
