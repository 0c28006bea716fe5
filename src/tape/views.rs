//! What a value looks at: through views to the value that owns the elements, to a tensor, or to data on the host.

use std::ops::Range;

use super::graph::{NodeId, Source, ValueId};
use super::record::Graph;
use super::role::Role;
use crate::shape::Layout;

impl Graph {
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

    /// How the planner treats a node; `None` for leaves, and for what only overwrites tensors.
    pub fn role(&self, node: NodeId) -> Option<Role<'_>> {
        let output = self.ty(self.output(node)?);
        self.operation(node).map(|operation| operation.role(output))
    }

    /// What a view, or a view of one, looks at.
    pub fn source_of(&self, mut value: ValueId) -> ValueId {
        while let Some(Role::View) = self.role(self.producer(value)) {
            value = self.inputs(self.producer(value))[0];
        }
        value
    }

    /// Looks at the words of a value that is an input of the tape, or is a view of one; `None` if they are not on the
    /// host.
    pub fn host_words<T>(
        &self,
        value: ValueId,
        look: impl FnOnce(&mut dyn Iterator<Item = u32>) -> T,
    ) -> Option<T> {
        let source = self.source_of(value);
        let Source::Input { offset } = &self.nodes[self.producer(source).index()].source else {
            return None;
        };
        let (layout, bytes) = (self.layout_of(value)?, &self.input_bytes[*offset..]);
        assert!(self.ty(value).dtype.bytes() == 4, "halves are no words");
        let word = |index: usize| {
            let word = bytes[4 * index..]
                .first_chunk()
                .expect("layouts stay within");
            u32::from_ne_bytes(*word)
        };
        Some(look(&mut layout.indices().map(word)))
    }

    /// How a value lies in what it looks at; `None` where strides can't express that.
    pub fn layout_of(&self, value: ValueId) -> Option<Layout> {
        let node = self.producer(value);
        match self.operation(node) {
            Some(operation) if matches!(self.role(node), Some(Role::View)) => {
                operation.view(&self.layout_of(self.inputs(node)[0])?)
            }
            _ => Some(Layout::contiguous(self.ty(value).shape, 0)),
        }
    }

    /// Whether a value has elements in common with a tensor that some of the nodes overwrite.
    pub fn is_overwritten(&self, value: ValueId, nodes: Range<u32>) -> bool {
        let mut written = self.overwritten(nodes);
        written.any(|other| self.share_elements(value, other))
    }

    /// Whether both are persistent tensors, or views of such, that have elements in common.
    fn share_elements(&self, a: ValueId, b: ValueId) -> bool {
        let [a, b] = [a, b].map(|value| self.tensor(self.source_of(value)));
        let (Some(a), Some(b)) = (a, b) else {
            return false;
        };
        a.buffer.id() == b.buffer.id()
            && a.layout.offset < b.layout.end()
            && b.layout.offset < a.layout.end()
    }
}
