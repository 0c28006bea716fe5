//! The tape: a list of recorded operations, differentiated by walking it backwards, planned once and replayed.
//!
//! Reading order: this file (recording), `backward` (reverse mode), `checkpoint` (what
//! reverse mode computes again), then `plan` (how a list becomes dispatches).

mod backward;
mod checkpoint;
mod graph;
mod plan;
mod signature;
mod trace;
mod var;

use std::cell::RefCell;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

pub(crate) use backward::sum_to;
pub use backward::{Backward, Gradients};
pub(crate) use graph::{Graph, NodeId, Source, Value, ValueId};
pub use plan::{Cost, Dispatch, Fusion, KernelTime, Lowering, MemoryUse, Operand};
pub(crate) use plan::{DeviceTimes, Epilogue, Plan, PlanCache, Stretches};
pub(crate) use plan::{kernel_times, length};
pub use signature::Signature;
pub use trace::Trace;
pub use var::Var;

use smallvec::SmallVec;

use crate::error::{Error, Result};
use crate::gpu::readback::Landing;
use crate::gpu::{DType, Device, Element, Fetch, Tensor};
use crate::ops::{Operation, TensorType};
use crate::shape::Shape;

/// A list of operations being recorded. See the [module documentation](self).
///
/// Recording is cheap and runs nothing. [`Tape::run`] plans the list, unless a tape of the same structure has run
/// before on this device, and submits it once. What may differ between two tapes of the same structure is data: the
/// contents of [inputs](Tape::input) and [scalars](Tape::scalar).
///
/// ```
/// # fn main() -> shadegrad::Result<()> {
/// use shadegrad::{Device, Tape};
///
/// let device = Device::new()?;
/// let tape = Tape::training(&device);
/// let x = tape.variable([3], &[1.0, 2.0, 3.0]);
/// let loss = (x * x).sum_all();
/// let gradient = tape.backward(loss).of(x).expect("the loss depends on x");
/// let gradient = tape.fetch::<f32>(gradient);
/// tape.run()?;
/// assert_eq!(gradient.get()?, [2.0, 4.0, 6.0]);
/// # Ok(())
/// # }
/// ```
pub struct Tape {
    device: Device,
    training: bool,
    graph: RefCell<Graph>,
    landing: Rc<Landing>,
    tracer: trace::Tracer,
    /// When it was made, while the device is being profiled.
    began: Option<Instant>,
}

impl Tape {
    /// A tape that can be differentiated; operations that behave differently in training, such as dropout, are active.
    pub fn training(device: &Device) -> Tape {
        Tape::new(device, true)
    }

    /// A tape without gradients, dropout inactive.
    pub fn inference(device: &Device) -> Tape {
        Tape::new(device, false)
    }

    fn new(device: &Device, training: bool) -> Tape {
        Tape {
            device: device.clone(),
            training,
            graph: RefCell::new(Graph::take()),
            landing: Landing::new(),
            began: device.shared.recorder.now(),
            tracer: trace::Tracer::default(),
        }
    }

    /// The device that this tape will run on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether this tape was made by [`Tape::training`].
    pub fn is_training(&self) -> bool {
        self.training
    }

    /// How many nodes have been recorded.
    pub fn len(&self) -> usize {
        self.graph.borrow().nodes.len()
    }

    /// Whether nothing has been recorded.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Turns fusions off (or on again) for this tape. Results agree up to rounding either way.
    pub fn set_fusion(&self, fusion: Fusion) {
        self.graph.borrow_mut().fusion = fusion;
    }

    /// Puts data on the tape that may differ every time a tape of this structure is run.
    ///
    /// # Panics
    ///
    /// If `data` has not as many elements as the shape.
    #[track_caller]
    pub fn input<E: Element>(&self, shape: impl Into<Shape>, data: &[E]) -> Var<'_> {
        self.upload(shape.into(), data, false)
    }

    /// Like [`Tape::input`], but with a gradient: a leaf that [`Tape::backward`] reports on.
    #[track_caller]
    pub fn variable(&self, shape: impl Into<Shape>, data: &[f32]) -> Var<'_> {
        self.upload(shape.into(), data, true)
    }

    /// A scalar that is data, not part of the tape's structure: learning rates, loss weights, seeds.
    pub fn scalar<E: Element>(&self, value: E) -> Var<'_> {
        self.input(Shape::SCALAR, &[value])
    }

    #[track_caller]
    fn upload<E: Element>(&self, shape: Shape, data: &[E], variable: bool) -> Var<'_> {
        assert!(
            data.len() == shape.elements(),
            "input: shape {shape} is not filled by {} values",
            data.len()
        );
        let id = self.graph.borrow_mut().push_upload(
            shape,
            E::DTYPE,
            bytemuck::cast_slice(data),
            variable,
        );
        self.var(id)
    }

    /// Puts a persistent tensor on the tape. The plan binds its buffer directly; nothing is copied. Operations read it as
    /// it is where they are recorded, before or after an [assignment](Tape::assign).
    ///
    /// # Panics
    ///
    /// If another device holds the tensor.
    #[track_caller]
    pub fn tensor(&self, tensor: &Tensor) -> Var<'_> {
        self.bind(tensor, false)
    }

    /// Like [`Tape::tensor`], but with a gradient. Asking for the same tensor again gives the same leaf.
    ///
    /// # Panics
    ///
    /// As [`Tape::tensor`].
    #[track_caller]
    pub fn tensor_variable(&self, tensor: &Tensor) -> Var<'_> {
        self.bind(tensor, true)
    }

    #[track_caller]
    fn bind(&self, tensor: &Tensor, variable: bool) -> Var<'_> {
        assert!(
            tensor.device().is(&self.device),
            "tensor: it is held by another device than the tape's"
        );
        let id = self.graph.borrow_mut().push_tensor(tensor, variable);
        self.var(id)
    }

    /// Records an operation with exactly one output.
    ///
    /// # Panics
    ///
    /// If the operation refuses its inputs' shapes, or has several outputs.
    #[track_caller]
    pub fn record<'t>(&'t self, operation: impl Operation, inputs: &[Var<'t>]) -> Var<'t> {
        let outputs = self.push(operation, inputs);
        assert!(
            outputs.len() == 1,
            "record: the operation has {} outputs; use Tape::record_all",
            outputs.len()
        );
        self.var(ValueId(outputs.start))
    }

    /// Records an operation with any number of outputs.
    ///
    /// # Panics
    ///
    /// If the operation refuses its inputs' shapes.
    #[track_caller]
    pub fn record_all<'t>(&'t self, operation: impl Operation, inputs: &[Var<'t>]) -> Vec<Var<'t>> {
        self.push(operation, inputs)
            .map(|id| self.var(ValueId(id)))
            .collect()
    }

    /// # Panics
    ///
    /// If another tape recorded the value.
    #[track_caller]
    pub(crate) fn require_own(&self, what: &str, var: Var<'_>) {
        assert!(
            std::ptr::eq(var.tape, self),
            "{what}: an input was recorded on another tape"
        );
    }

    #[track_caller]
    fn push(&self, operation: impl Operation, inputs: &[Var<'_>]) -> std::ops::Range<u32> {
        for &input in inputs {
            self.require_own(operation.name(), input);
        }
        let ids: SmallVec<[ValueId; 8]> = inputs.iter().map(|var| var.id).collect();
        self.graph.borrow_mut().push_operation(operation, &ids)
    }

    /// Asks for a value: it is on its way to the host once the tape has run. A persistent tensor arrives as it is at the
    /// end of the tape, also where an assignment was recorded after this call.
    ///
    /// # Panics
    ///
    /// If the value has another element type, or was recorded on another tape.
    #[track_caller]
    pub fn fetch<E: Element>(&self, var: Var<'_>) -> Fetch<E> {
        self.require_own("fetch", var);
        let TensorType { shape, dtype } = var.tensor_type();
        assert!(
            dtype == E::DTYPE,
            "fetch: the value has another element type: {dtype:?}, not {:?}",
            E::DTYPE
        );
        let range = self
            .graph
            .borrow_mut()
            .push_fetch(var.id, 4 * shape.elements());
        Fetch {
            landing: self.landing.clone(),
            range,
            shape,
            element: PhantomData,
        }
    }

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
            "assign: value and destination differ: {:?} {} and {:?} {}",
            given.dtype,
            given.shape,
            expected.dtype,
            expected.shape
        );
        let destination = self.tensor(destination);
        self.push(crate::ops::Assign, &[destination, value]);
    }

    /// Plans the tape, or finds its plan, and submits it once. Does not wait for the device.
    ///
    /// # Errors
    ///
    /// [`Error::IndexOutOfRange`] if an operation was given such indices as host data; then nothing runs. Anything the
    /// device reports: [`Error::DeviceLost`], [`Error::OutOfMemory`], [`Error::Limit`], or [`Error::Kernel`] for a kernel
    /// that does not compile.
    pub fn run(self) -> Result<()> {
        plan::run(
            &self.device,
            &mut self.graph.borrow_mut(),
            self.training,
            &self.landing,
            self.began,
        )
    }

    /// Runs the tape once like [`Tape::run`], with every dispatch timed by itself, and waits for it. Values asked for
    /// with [`Tape::fetch`] do not arrive.
    ///
    /// # Errors
    ///
    /// As [`Tape::run`].
    pub fn profile(self) -> Result<Vec<KernelTime>> {
        plan::profile(&self.device, &mut self.graph.borrow_mut(), self.training)
    }

    /// Plans the tape like [`Tape::run`], without running it, and says how much device memory it works with.
    ///
    /// # Errors
    ///
    /// As [`Tape::run`].
    pub fn memory(self) -> Result<MemoryUse> {
        plan::memory(&self.device, &mut self.graph.borrow_mut(), self.training)
    }

    /// Makes [`Tape::run`] fail. The first reason counts.
    pub(crate) fn refuse(&self, error: Error) {
        self.graph.borrow_mut().refused.get_or_insert(error);
    }

    /// Whether [`Tape::run`] will fail, as far as is known.
    pub(crate) fn is_refused(&self) -> bool {
        self.graph.borrow().refused.is_some()
    }

    /// [`Graph::host_words`].
    pub(crate) fn host_words<T>(
        &self,
        var: Var<'_>,
        look: impl FnOnce(&mut dyn Iterator<Item = u32>) -> T,
    ) -> Option<T> {
        self.graph.borrow().host_words(var.id, look)
    }

    pub(crate) fn var(&self, id: ValueId) -> Var<'_> {
        Var { tape: self, id }
    }

    pub(crate) fn value<T>(&self, id: ValueId, look: impl FnOnce(&Value) -> T) -> T {
        look(&self.graph.borrow().values[id.index()])
    }

    /// The value that a node holds if it is a constant made by [`Tape::full`].
    pub(crate) fn constant_of(&self, var: Var<'_>) -> Option<f32> {
        let graph = self.graph.borrow();
        let node = graph.values[var.id.index()].node;
        match &graph.nodes[node.index()].source {
            Source::Operation(operation) => operation.constant(),
            _ => None,
        }
    }

    /// A stream number for a random operation: the n-th one on a tape always gets the same.
    pub(crate) fn next_random_stream(&self) -> u32 {
        let mut graph = self.graph.borrow_mut();
        graph.random_streams += 1;
        graph.random_streams
    }

    /// The tape's random key, set by [`Tape::set_seed`].
    pub(crate) fn random_key(&self) -> Var<'_> {
        let key = self.graph.borrow().random_key;
        key.map(|id| self.var(id)).unwrap_or_else(|| {
            let drawing = &self.device.shared.tapes_drawing;
            self.set_seed(0, drawing.fetch_add(1, Relaxed))
        })
    }

    /// Sets what random operations on this tape draw from: a seed and a step number. Both are data.
    ///
    /// Without this call, the seed is zero and the step is how many tapes of the device have drawn without it before: so
    /// successive tapes draw different numbers, and a program that records the same tapes in the same order draws the same
    /// each time it runs. A training loop that is to continue from a checkpoint to the same bits sets both.
    ///
    /// Call it before the first random operation is recorded; later ones only affect what follows.
    pub fn set_seed(&self, seed: u64, step: u64) -> Var<'_> {
        let words = [
            seed as u32,
            (seed >> 32) as u32,
            step as u32,
            (step >> 32) as u32,
        ];
        let key = self.input([4], &words);
        self.graph.borrow_mut().random_key = Some(key.id);
        key
    }

    /// A tensor filled with a constant that is part of the tape's structure. Costs nothing where it is fused.
    ///
    /// # Panics
    ///
    /// If the value is not finite.
    #[track_caller]
    pub fn full(&self, shape: impl Into<Shape>, value: f32) -> Var<'_> {
        crate::ops::pointwise::constant(self, shape.into(), value)
    }

    /// The element type `F32` with a shape; shorthand for operations.
    pub(crate) fn f32(shape: Shape) -> TensorType {
        TensorType {
            shape,
            dtype: DType::F32,
        }
    }
}

impl Drop for Tape {
    fn drop(&mut self) {
        self.graph.take().give_back();
    }
}

impl std::fmt::Debug for Tape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tape({} nodes)", self.len())
    }
}
