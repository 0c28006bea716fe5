//! The list itself: nodes, the values they produce, and the signature that grows with it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::rc::Rc;

use smallvec::SmallVec;

use super::plan::Fusion;
use super::signature::Signature;
use crate::error::Error;
use crate::gpu::{DType, Tensor};
use crate::ops::{Operation, Role, TensorType};
use crate::shape::{Layout, Shape};

/// Position of a value on its tape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ValueId(pub u32);

/// Position of a node on its tape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NodeId(pub u32);

impl ValueId {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl NodeId {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

#[derive(Clone)]
pub(crate) enum Source {
    /// Data uploaded with the step, at this byte offset of the upload.
    Upload {
        offset: usize,
    },
    /// A persistent tensor, by its position in [`Graph::tensors`].
    Tensor {
        index: usize,
    },
    Operation(Rc<dyn Operation>),
}

pub(crate) struct Node {
    pub source: Source,
    inputs: Range<u32>,
    outputs: Range<u32>,
}

pub(crate) struct Value {
    pub ty: TensorType,
    pub node: NodeId,
    pub needs_gradient: bool,
}

#[derive(Default)]
pub(crate) struct Graph {
    pub nodes: Vec<Node>,
    pub values: Vec<Value>,
    edges: Vec<ValueId>,
    pub tensors: Vec<Tensor>,
    bound: HashMap<(u64, usize, Shape, bool), ValueId>,
    pub upload: Vec<u8>,
    /// Values asked for, and where they land in the readback, in bytes.
    pub fetches: Vec<(ValueId, Range<usize>)>,
    pub signature: Signature,
    pub fusion: Fusion,
    pub random_streams: u32,
    pub random_key: Option<ValueId>,
    /// Nodes that overwrite tensors, in order.
    writers: Vec<NodeId>,
    /// Nodes that begin a new phase, such as the first one of a backward pass: kernels do not span phases.
    pub boundaries: Vec<NodeId>,
    /// Nodes of the checkpointed parts, in order, none within another.
    pub checkpoints: Vec<Range<u32>>,
    /// Whether a checkpointed part is being recorded.
    pub is_checkpointing: bool,
    /// Why the tape must not run.
    pub refused: Option<Error>,
}

/// A tape's storage is taken over by the next tape of the same thread, unless its uploads were larger than this.
const MOST_SPARE_BYTES: usize = 1 << 20;

/// Training keeps one tape at a time, evaluation one more.
const MOST_SPARE: usize = 4;

thread_local! {
    /// Empty, but with room.
    static SPARE: RefCell<Vec<Graph>> = const { RefCell::new(Vec::new()) };
}

/// Inputs start at multiples of this many bytes, so that kernels may read them as vec4.
const UPLOAD_ALIGNMENT: usize = 16;

impl Graph {
    /// An empty graph, with the room that an earlier one left.
    pub fn take() -> Graph {
        let spare = SPARE.try_with(|spare| spare.borrow_mut().pop());
        spare.ok().flatten().unwrap_or_default()
    }

    /// Empties the graph and keeps its room for the next one: recording a step allocates an eighth of the bytes then.
    pub fn give_back(self) {
        let Graph {
            mut nodes,
            mut values,
            mut edges,
            mut tensors,
            mut bound,
            mut upload,
            mut fetches,
            mut writers,
            mut signature,
            mut boundaries,
            mut checkpoints,
            is_checkpointing: _,
            refused: _,
            fusion: _,
            random_streams: _,
            random_key: _,
        } = self;
        nodes.clear();
        values.clear();
        edges.clear();
        tensors.clear();
        bound.clear();
        upload.clear();
        upload.shrink_to(MOST_SPARE_BYTES);
        fetches.clear();
        writers.clear();
        signature.clear();
        boundaries.clear();
        checkpoints.clear();
        let empty = Graph {
            nodes,
            values,
            edges,
            tensors,
            bound,
            upload,
            fetches,
            writers,
            signature,
            boundaries,
            checkpoints,
            ..Graph::default()
        };
        // A thread that is ending has no place for it.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < MOST_SPARE {
                spare.push(empty);
            }
        });
    }

    pub fn inputs(&self, node: NodeId) -> &[ValueId] {
        let range = &self.nodes[node.index()].inputs;
        &self.edges[range.start as usize..range.end as usize]
    }

    pub fn outputs(
        &self,
        node: NodeId,
    ) -> impl ExactSizeIterator<Item = ValueId> + DoubleEndedIterator + use<> {
        self.nodes[node.index()].outputs.clone().map(ValueId)
    }

    pub fn operation(&self, node: NodeId) -> Option<&Rc<dyn Operation>> {
        match &self.nodes[node.index()].source {
            Source::Operation(operation) => Some(operation),
            _ => None,
        }
    }

    /// The tensors, as values, that some of the nodes overwrite.
    pub fn overwritten(&self, nodes: Range<u32>) -> impl Iterator<Item = ValueId> + '_ {
        let first = self
            .writers
            .partition_point(|writer| writer.0 < nodes.start);
        let writers = self.writers[first..].iter();
        let writers = writers.take_while(move |writer| writer.0 < nodes.end);
        writers.flat_map(|&writer| {
            let operation = self.operation(writer).expect("only operations write");
            let inputs = self.inputs(writer);
            operation.mutates().iter().map(|&input| inputs[input])
        })
    }

    /// The persistent tensor that a value is, if it is one.
    pub fn tensor(&self, value: ValueId) -> Option<&Tensor> {
        match self.nodes[self.producer(value).index()].source {
            Source::Tensor { index } => Some(&self.tensors[index]),
            _ => None,
        }
    }

    /// What a view, or a view of one, looks at.
    pub fn source_of(&self, mut value: ValueId) -> ValueId {
        while let Some(operation) = self.operation(self.producer(value))
            && let Role::View = operation.role(self.ty(value))
        {
            value = self.inputs(self.producer(value))[0];
        }
        value
    }

    /// Looks at the words of a value that was uploaded with the tape, or is a view of one; `None` if they are not on the
    /// host.
    pub fn host_words<T>(
        &self,
        value: ValueId,
        look: impl FnOnce(&mut dyn Iterator<Item = u32>) -> T,
    ) -> Option<T> {
        let (layout, bytes) = self.host_layout(value)?;
        let word = |index: usize| {
            let word = bytes[4 * index..]
                .first_chunk()
                .expect("layouts stay within");
            u32::from_ne_bytes(*word)
        };
        Some(look(&mut layout.indices().map(word)))
    }

    fn host_layout(&self, value: ValueId) -> Option<(Layout, &[u8])> {
        let node = self.producer(value);
        let TensorType { shape, .. } = self.ty(value);
        match &self.nodes[node.index()].source {
            Source::Upload { offset } => {
                let bytes = &self.upload[*offset..offset + 4 * shape.elements()];
                Some((Layout::contiguous(shape, 0), bytes))
            }
            Source::Tensor { .. } => None,
            Source::Operation(operation) => {
                let Role::View = operation.role(self.ty(value)) else {
                    return None;
                };
                let (layout, bytes) = self.host_layout(self.inputs(node)[0])?;
                Some((operation.view(&layout)?, bytes))
            }
        }
    }

    /// Whether both are persistent tensors, or views of such, that have elements in common.
    pub fn share_elements(&self, a: ValueId, b: ValueId) -> bool {
        let [a, b] = [a, b].map(|value| self.tensor(self.source_of(value)));
        let (Some(a), Some(b)) = (a, b) else {
            return false;
        };
        a.buffer.id() == b.buffer.id()
            && a.layout.offset < b.layout.end()
            && b.layout.offset < a.layout.end()
    }

    pub fn ty(&self, value: ValueId) -> TensorType {
        self.values[value.index()].ty
    }

    pub fn producer(&self, value: ValueId) -> NodeId {
        self.values[value.index()].node
    }

    fn push_node(
        &mut self,
        source: Source,
        inputs: &[ValueId],
        outputs: &[TensorType],
        needs_gradient: bool,
    ) -> Range<u32> {
        let node = NodeId(self.nodes.len() as u32);
        let first_edge = self.edges.len() as u32;
        self.edges.extend_from_slice(inputs);
        let first = self.values.len() as u32;
        for &ty in outputs {
            self.values.push(Value {
                ty,
                node,
                needs_gradient: needs_gradient && ty.dtype == DType::F32,
            });
        }
        let end = self.values.len() as u32;
        self.nodes.push(Node {
            source,
            inputs: first_edge..self.edges.len() as u32,
            outputs: first..end,
        });
        first..end
    }

    pub fn push_upload(
        &mut self,
        shape: Shape,
        dtype: DType,
        bytes: &[u8],
        variable: bool,
    ) -> ValueId {
        let offset = self.upload.len().next_multiple_of(UPLOAD_ALIGNMENT);
        self.upload.resize(offset, 0);
        self.upload.extend_from_slice(bytes);
        (0u8, shape, dtype).hash(&mut self.signature);
        let ty = TensorType { shape, dtype };
        ValueId(
            self.push_node(Source::Upload { offset }, &[], &[ty], variable)
                .start,
        )
    }

    pub fn push_tensor(&mut self, tensor: &Tensor, variable: bool) -> ValueId {
        let place = (
            tensor.buffer.id(),
            tensor.layout.offset,
            tensor.shape(),
            variable,
        );
        if let Some(&id) = self.bound.get(&place) {
            return id;
        }
        (1u8, place, tensor.dtype).hash(&mut self.signature);
        let index = self.tensors.len();
        self.tensors.push(tensor.clone());
        let ty = TensorType {
            shape: tensor.shape(),
            dtype: tensor.dtype,
        };
        let outputs = self.push_node(Source::Tensor { index }, &[], &[ty], variable);
        let id = ValueId(outputs.start);
        self.bound.insert(place, id);
        id
    }

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
        Some(self.push_typed(operation, inputs, &outputs))
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

    /// Begins a new phase.
    pub fn push_boundary(&mut self) {
        self.boundaries.push(NodeId(self.nodes.len() as u32));
        self.signature.write_u8(4);
    }

    pub fn push_fetch(&mut self, value: ValueId, bytes: usize) -> Range<usize> {
        let start = self.fetches.last().map_or(0, |(_, range)| range.end);
        self.fetches.push((value, start..start + bytes));
        (3u8, value.0).hash(&mut self.signature);
        start..start + bytes
    }
}
