//! The list itself: nodes, the values they produce, and the signature that grows with it.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::rc::Rc;

use super::fusion::Fusion;
use super::precision::Precision;
use super::role::TensorType;
use super::signature::Signature;
use crate::error::Error;
use crate::gpu::{DType, Tensor};
use crate::shape::Shape;

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

pub(crate) enum Source<O: ?Sized> {
    /// Data of this step, at this byte offset of the inputs.
    Input {
        offset: usize,
    },
    /// A persistent tensor, by its position in [`List::tensors`].
    Tensor {
        index: usize,
    },
    Operation(Rc<O>),
}

pub(crate) struct Node<O: ?Sized> {
    /// What it was recorded in.
    pub precision: Precision,
    pub source: Source<O>,
    inputs: Range<u32>,
    outputs: Range<u32>,
}

pub(crate) struct Value {
    pub ty: TensorType,
    pub node: NodeId,
    pub needs_gradient: bool,
}

/// Storage is kept for the next tape, unless its inputs were larger than this.
const MOST_SPARE_BYTES: usize = 1 << 20;

/// Inputs start at multiples of this many bytes, so that kernels may read them as vec4.
const INPUT_ALIGNMENT: usize = 16;

/// The list of a tape whose operations are `O`.
pub(crate) struct List<O: ?Sized> {
    pub nodes: Vec<Node<O>>,
    pub values: Vec<Value>,
    edges: Vec<ValueId>,
    pub tensors: Vec<Tensor>,
    bound: HashMap<(u64, usize, Shape, bool), ValueId>,
    /// Data of this step.
    pub input_bytes: Vec<u8>,
    /// Values asked for, and where they land in the readback, in bytes.
    pub fetches: Vec<(ValueId, Range<usize>)>,
    pub signature: Signature,
    pub fusion: Fusion,
    /// What is being recorded in.
    pub precision: Precision,
    /// Values in the element types that operations took them in, for the next that takes them so.
    pub casts: HashMap<(ValueId, DType), ValueId>,
    /// What all of those were cast from.
    pub cast_from: HashMap<ValueId, ValueId>,
    /// Tensors whose copies in halves are read or kept.
    pub copied: Vec<Tensor>,
    pub random_streams: u32,
    pub random_key: Option<ValueId>,
    /// The first row of the batch in a larger one, and how many rows it has.
    pub rows: Option<(u32, usize)>,
    /// Nodes that overwrite tensors, in order.
    pub writers: Vec<NodeId>,
    /// Nodes that begin a new phase, such as the first one of a backward pass: kernels do not span phases.
    pub boundaries: Vec<NodeId>,
    /// Nodes of the checkpointed parts, in order, none within another.
    pub checkpoints: Vec<Range<u32>>,
    /// Whether a checkpointed part is being recorded.
    pub is_checkpointing: bool,
    /// Why the tape must not run.
    pub refused: Option<Error>,
}

impl<O: ?Sized> List<O> {
    pub fn new() -> List<O> {
        List {
            nodes: Default::default(),
            values: Default::default(),
            edges: Default::default(),
            tensors: Default::default(),
            bound: Default::default(),
            input_bytes: Default::default(),
            fetches: Default::default(),
            signature: Default::default(),
            fusion: Default::default(),
            precision: Default::default(),
            casts: Default::default(),
            copied: Default::default(),
            cast_from: Default::default(),
            random_streams: Default::default(),
            random_key: Default::default(),
            rows: Default::default(),
            writers: Default::default(),
            boundaries: Default::default(),
            checkpoints: Default::default(),
            is_checkpointing: Default::default(),
            refused: Default::default(),
        }
    }

    /// An empty list with this one's room: recording a step allocates an eighth of the bytes then.
    pub fn emptied(mut self) -> List<O> {
        self.input_bytes.clear();
        self.input_bytes.shrink_to(MOST_SPARE_BYTES);
        self.signature.clear();
        self.casts.clear();
        self.bound.clear();
        self.cast_from.clear();
        List {
            nodes: emptied(self.nodes),
            values: emptied(self.values),
            edges: emptied(self.edges),
            tensors: emptied(self.tensors),
            fetches: emptied(self.fetches),
            copied: emptied(self.copied),
            writers: emptied(self.writers),
            boundaries: emptied(self.boundaries),
            checkpoints: emptied(self.checkpoints),
            input_bytes: self.input_bytes,
            signature: self.signature,
            bound: self.bound,
            casts: self.casts,
            cast_from: self.cast_from,
            ..List::new()
        }
    }

    pub fn inputs(&self, node: NodeId) -> &[ValueId] {
        let range = &self.nodes[node.index()].inputs;
        &self.edges[range.start as usize..range.end as usize]
    }

    pub fn outputs(
        &self,
        node: NodeId,
    ) -> impl ExactSizeIterator<Item = ValueId> + DoubleEndedIterator + use<O> {
        self.nodes[node.index()].outputs.clone().map(ValueId)
    }

    /// The first of a node's outputs.
    pub fn output(&self, node: NodeId) -> Option<ValueId> {
        self.outputs(node).next()
    }

    pub fn operation(&self, node: NodeId) -> Option<&Rc<O>> {
        match &self.nodes[node.index()].source {
            Source::Operation(operation) => Some(operation),
            _ => None,
        }
    }

    /// The persistent tensor that a value is, if it is one.
    pub fn tensor(&self, value: ValueId) -> Option<&Tensor> {
        match self.nodes[self.producer(value).index()].source {
            Source::Tensor { index } => Some(&self.tensors[index]),
            _ => None,
        }
    }

    pub fn ty(&self, value: ValueId) -> TensorType {
        self.values[value.index()].ty
    }

    pub fn producer(&self, value: ValueId) -> NodeId {
        self.values[value.index()].node
    }

    pub(super) fn push_node(
        &mut self,
        source: Source<O>,
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
                needs_gradient: needs_gradient && ty.dtype.is_float(),
            });
        }
        let end = self.values.len() as u32;
        self.nodes.push(Node {
            precision: self.precision,
            source,
            inputs: first_edge..self.edges.len() as u32,
            outputs: first..end,
        });
        first..end
    }

    pub fn push_input(
        &mut self,
        shape: Shape,
        dtype: DType,
        bytes: &[u8],
        variable: bool,
    ) -> ValueId {
        let offset = self.input_bytes.len().next_multiple_of(INPUT_ALIGNMENT);
        self.input_bytes.resize(offset, 0);
        self.input_bytes.extend_from_slice(bytes);
        let words = self.input_bytes.len().next_multiple_of(4);
        self.input_bytes.resize(words, 0);
        (0u8, shape, dtype).hash(&mut self.signature);
        let ty = TensorType { shape, dtype };
        ValueId(
            self.push_node(Source::Input { offset }, &[], &[ty], variable)
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

    /// Begins a new phase.
    pub fn push_boundary(&mut self) {
        self.boundaries.push(NodeId(self.nodes.len() as u32));
        self.signature.write_u8(4);
    }

    pub fn push_fetch(&mut self, value: ValueId, bytes: usize) -> Range<usize> {
        let end = self.fetches.last().map_or(0, |(_, range)| range.end);
        let start = end.next_multiple_of(4);
        self.fetches.push((value, start..start + bytes));
        (3u8, value.0).hash(&mut self.signature);
        start..start + bytes
    }
}

fn emptied<T>(mut list: Vec<T>) -> Vec<T> {
    list.clear();
    list
}
