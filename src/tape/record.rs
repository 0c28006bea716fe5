//! Recording: the tape, handles to its values, and what an operation is. The four are defined by one another: a tape holds
//! operations, and an operation's gradient rule records on a tape.

use std::cell::RefCell;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::rc::Rc;
use std::time::Instant;

use smallvec::SmallVec;

use super::fusion::Fusion;
use super::graph::{List, NodeId, Source, Value, ValueId};
use super::names::Names;
use super::plan::Lowering;
use super::precision::Takes;
use super::role::{Role, TensorType};
use super::signature::Signature;
use crate::error::Error;
use crate::gpu::readback::Landing;
use crate::gpu::{DType, Device};
use crate::shape::{Layout, Shape};

/// A list of operations being recorded. See the [module documentation](super).
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
    pub(super) device: Device,
    pub(super) training: bool,
    pub(super) graph: RefCell<Graph>,
    pub(super) landing: Rc<Landing>,
    /// The names that a trace is collecting, if one is being taken.
    pub(super) names: RefCell<Option<Names>>,
    /// When it was made, while the device is being profiled.
    pub(super) began: Option<Instant>,
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
        let spare = SPARE.try_with(|spare| spare.borrow_mut().pop());
        Tape {
            device: device.clone(),
            training,
            graph: RefCell::new(spare.ok().flatten().unwrap_or_else(Graph::new)),
            landing: Rc::default(),
            began: device.shared.wait_times.now(),
            names: RefCell::default(),
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
    pub(super) fn push(
        &self,
        operation: impl Operation,
        inputs: &[Var<'_>],
    ) -> std::ops::Range<u32> {
        for &input in inputs {
            self.require_own(operation.name(), input);
        }
        let inputs = inputs.iter().enumerate();
        let ids = inputs.map(|(index, &input)| self.taken(&operation, index, input));
        let ids: SmallVec<[ValueId; 8]> = ids.collect();
        self.graph.borrow_mut().push_operation(operation, &ids)
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

    /// How a value lies in what it looks at; `None` where strides can't express that.
    pub(crate) fn layout_of(&self, var: Var<'_>) -> Option<Layout> {
        self.graph.borrow().layout_of(var.id)
    }

    /// The value that a node holds if it is a constant made by [`Tape::full`].
    pub(crate) fn constant_of(&self, var: Var<'_>) -> Option<f32> {
        let graph = self.graph.borrow();
        graph.operation(graph.producer(var.id))?.constant()
    }
}

impl Drop for Tape {
    fn drop(&mut self) {
        let graph = self.graph.replace(Graph::new()).emptied();
        // A thread that is ending has no place for it.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < MOST_SPARE {
                spare.push(graph);
            }
        });
    }
}

impl std::fmt::Debug for Tape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tape({} nodes)", self.len())
    }
}

/// A handle to one recorded value. `Copy`, so that model code reads like the formula it implements:
/// `x + attention.forward(norm.forward(x))`.
///
/// The operations are methods, defined next to their gradients in [`ops`](crate::ops).
#[derive(Clone, Copy)]
pub struct Var<'t> {
    pub(crate) tape: &'t Tape,
    pub(crate) id: ValueId,
}

impl<'t> Var<'t> {
    /// The tape that this value was recorded on.
    pub fn tape(self) -> &'t Tape {
        self.tape
    }

    /// Shape and element type.
    pub fn tensor_type(self) -> TensorType {
        self.tape.value(self.id, |value| value.ty)
    }

    /// The shape.
    pub fn shape(self) -> Shape {
        self.tensor_type().shape
    }

    /// The element type.
    pub fn dtype(self) -> DType {
        self.tensor_type().dtype
    }

    /// Whether a gradient can flow through this value: it depends on a variable or a parameter.
    pub fn needs_gradient(self) -> bool {
        self.tape.value(self.id, |value| value.needs_gradient)
    }
}

impl std::fmt::Debug for Var<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Var(%{} {})", self.id.index(), self.tensor_type())
    }
}

/// What tells two operations of one name apart. Every type has it that is [`Hash`].
pub trait Identity {
    /// Adds to `signature` what the type's hash is made of.
    fn identity(&self, signature: &mut Signature);
}

impl<T: Hash> Identity for T {
    fn identity(&self, signature: &mut Signature) {
        self.hash(signature);
    }
}

/// An operation: shape rule, gradient rule, kernels. The same trait serves the built-in operations and those of other
/// crates; `docs/adding-an-op.md` walks through one.
///
/// Its `Hash`, usually derived, covers everything about it that is not a tensor and that its kernels or shapes depend on.
/// What varies from step to step must be an input tensor instead.
pub trait Operation: fmt::Debug + Identity + 'static {
    /// The name used in panics, profiles and plan identities. Must be unique.
    fn name(&self) -> &'static str;

    /// Checks the inputs and gives the outputs' shapes and types.
    ///
    /// # Panics
    ///
    /// If the inputs do not fit, naming the operation and the shapes. Panics point at the caller of the method on
    /// [`Var`] if that method carries `#[track_caller]` too (and this one does not panic from within a closure).
    #[track_caller]
    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType>;

    /// Records the gradient: one entry per input, `None` where there is none to give.
    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>>;

    /// Whether gradients flow through this operation at all. Where not, its outputs count as constants.
    fn passes_gradients(&self) -> bool {
        true
    }

    /// Emits the dispatches that compute the outputs from the inputs.
    fn lower(&self, cx: &mut Lowering<'_>);

    /// Which floating-point elements it takes for input number `index`. What it takes may be `F16` then, and outputs may be
    /// declared as such.
    fn takes(&self, _index: usize) -> Takes {
        Takes::F32
    }

    /// Inputs (by position) that the kernels overwrite; each must be a persistent tensor. An operation that overwrites
    /// something is always run, and in the order of recording.
    fn mutates(&self) -> &[usize] {
        &[]
    }

    /// How the planner treats this operation, given the type of its output 0.
    fn role(&self, _output: TensorType) -> Role<'_> {
        Role::Kernel
    }

    /// For [`Role::Epilogue`]: how many storage bindings the kernel has beside those of its epilogue. One for each of the
    /// `inputs`, if not said otherwise.
    fn bindings(&self, inputs: usize) -> usize {
        inputs
    }

    /// For [`Role::View`]: where the output's elements lie, given where the input's do; `None` if only a copy will do.
    fn view(&self, _input: &Layout) -> Option<Layout> {
        None
    }

    /// The value, for operations that fill their output with one constant.
    fn constant(&self) -> Option<f32> {
        None
    }
}

/// What an operation's gradient rule is given: the recorded node, and the gradients that have arrived at its outputs.
pub struct Backward<'t> {
    pub(super) tape: &'t Tape,
    pub(super) name: &'static str,
    pub(super) inputs: SmallVec<[Var<'t>; 8]>,
    pub(super) wanted: SmallVec<[bool; 8]>,
    pub(super) outputs: SmallVec<[Var<'t>; 4]>,
    pub(super) gradients: SmallVec<[Option<Var<'t>>; 4]>,
}

impl<'t> Backward<'t> {
    /// The tape to record on.
    pub fn tape(&self) -> &'t Tape {
        self.tape
    }

    /// Input number `index` of the operation.
    pub fn input(&self, index: usize) -> Var<'t> {
        self.inputs[index]
    }

    /// All inputs.
    pub fn inputs(&self) -> &[Var<'t>] {
        &self.inputs
    }

    /// Whether anybody wants the gradient of input `index`. Rules may skip what nobody wants.
    pub fn wants(&self, index: usize) -> bool {
        self.wanted[index]
    }

    /// Output number `index` of the operation, for rules that reuse results.
    pub fn output(&self, index: usize) -> Var<'t> {
        self.outputs[index]
    }

    /// The gradient that arrived at output `index`, or `None` if the loss does not depend on that output.
    pub fn gradient_if_any(&self, index: usize) -> Option<Var<'t>> {
        self.gradients[index]
    }

    /// The gradient that arrived at output `index`; zeros if the loss does not depend on that output.
    pub fn gradient(&self, index: usize) -> Var<'t> {
        self.gradients[index].unwrap_or_else(|| {
            let TensorType { shape, .. } = self.outputs[index].tensor_type();
            self.tape.full(shape, 0.0)
        })
    }

    /// For rules that are fused kernels without a rule of their own.
    ///
    /// # Panics
    ///
    /// Always: says that this operation cannot be differentiated (again).
    pub fn not_differentiable(&self, why: &str) -> ! {
        panic!("{}: no gradient: {why}", self.name)
    }
}

/// The list of a tape.
pub(crate) type Graph = List<dyn Operation>;

/// Training keeps one tape at a time, evaluation one more.
const MOST_SPARE: usize = 4;

thread_local! {
    /// Storage of earlier tapes of this thread: empty, but with room.
    static SPARE: RefCell<Vec<Graph>> = const { RefCell::new(Vec::new()) };
}

impl Graph {
    #[track_caller]
    pub fn push_operation(&mut self, operation: impl Operation, inputs: &[ValueId]) -> Range<u32> {
        let types: SmallVec<[TensorType; 8]> = inputs.iter().map(|&id| self.ty(id)).collect();
        // Called on the type itself: through `dyn` the caller's location would be lost.
        let outputs = operation.outputs(&types);
        for &input in operation.mutates() {
            let id = inputs.get(input);
            assert!(
                id.is_some_and(|&id| self.tensor(id).is_some()),
                "{}: input {input} is to be overwritten, but it is no persistent tensor; Tape::tensor puts one on the tape",
                operation.name()
            );
        }
        self.push_typed(Rc::new(operation), inputs, &outputs)
    }

    /// Records a node's operation once more, on other inputs of the same types.
    pub fn push_again(&mut self, node: NodeId, inputs: &[ValueId]) -> Option<Range<u32>> {
        let operation = self.operation(node)?.clone();
        let outputs: SmallVec<[TensorType; 4]> =
            self.outputs(node).map(|value| self.ty(value)).collect();
        let precision = self.nodes[node.index()].precision;
        let outside = std::mem::replace(&mut self.precision, precision);
        let again = self.push_typed(operation, inputs, &outputs);
        self.precision = outside;
        Some(again)
    }

    /// Records a view once more, of a value of another element type.
    pub fn push_view_again(&mut self, node: NodeId, of: ValueId, ty: TensorType) -> ValueId {
        let view = self.operation(node).expect("views are operations").clone();
        ValueId(self.push_typed(view, &[of], &[ty]).start)
    }

    fn push_typed(
        &mut self,
        operation: Rc<dyn Operation>,
        inputs: &[ValueId],
        outputs: &[TensorType],
    ) -> Range<u32> {
        let signature = &mut self.signature;
        if !operation.mutates().is_empty() {
            self.writers.push(NodeId(self.nodes.len() as u32));
            self.casts.clear();
        }
        signature.write_u8(2);
        signature.write(operation.name().as_bytes());
        signature.write_u8(0xff);
        operation.identity(signature);
        for input in inputs {
            signature.write_u32(input.0);
        }
        let needs_gradient = operation.passes_gradients()
            && inputs
                .iter()
                .any(|id| self.values[id.index()].needs_gradient);
        self.push_node(
            Source::Operation(operation),
            inputs,
            outputs,
            needs_gradient,
        )
    }
}
