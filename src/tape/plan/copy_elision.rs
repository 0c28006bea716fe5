//! Values that are only assigned to a persistent tensor, computed in place there.

use super::dispatch::Slot;
use super::groups::FusionGroup;
use super::lowerer::Lowerer;
use crate::gpu::Tensor;
use crate::tape::assign::ASSIGN;
use crate::tape::graph::{NodeId, Source, ValueId};

impl Lowerer<'_> {
    /// Lets values that only exist to be assigned to a persistent tensor be computed in place there.
    pub fn elide_copies(&mut self, groups: &[FusionGroup]) {
        let (graph, analysis) = (self.graph, self.analysis);
        for group in groups {
            let Some(node) = group.root else { continue };
            let is_assign = graph
                .operation(node)
                .is_some_and(|operation| operation.name() == ASSIGN);
            if !is_assign {
                continue;
            }
            let &[destination, value] = graph.inputs(node) else {
                unreachable!("assign has two inputs");
            };
            let tensor = graph.tensor(destination).expect("destinations are tensors");
            let view = analysis.views[value.index()];
            let is_whole = view.layout.is_contiguous()
                && view.layout.offset == 0
                && view.layout.shape.elements() == graph.ty(view.base).shape.elements();
            let producer = groups.iter().find(|group| {
                group
                    .members()
                    .any(|member| member == graph.producer(view.base))
            });
            let (Some(producer), true) = (producer, is_whole) else {
                continue;
            };
            if self.places.contains_key(&view.base)
                || !self.is_only_assigned(view.base, node, producer)
                || self.touches(producer, tensor)
                || self.is_used(tensor, |reader| reader < node)
                || (self.is_fetched(view.base) && self.is_used(tensor, |reader| reader > node))
            {
                continue;
            }
            let place = self.place_tensor(tensor);
            self.places.insert(view.base, place);
        }
    }

    /// Whether nobody reads a value but its own group and one assignment. Another reader might write to the tensor's
    /// buffer, and no dispatch may bind it both ways.
    fn is_only_assigned(&self, base: ValueId, assign: NodeId, producer: &FusionGroup) -> bool {
        let is_view = |node: NodeId| {
            self.graph.outputs(node).len() > 0 && self.analysis.is_free_view(self.graph, node)
        };
        self.deep_readers(base).all(|reader| {
            reader == assign || is_view(reader) || producer.members().any(|node| node == reader)
        })
    }

    /// Whether a group reads or overwrites the tensor's buffer: no dispatch may bind it both ways.
    fn touches(&self, group: &FusionGroup, tensor: &Tensor) -> bool {
        group.inputs(self.graph).iter().any(|&input| {
            let base = self.analysis.views[input.index()].base;
            let forwarded = self.places.get(&base).is_some_and(|&(slot, _)| {
                matches!(&self.program.slots[slot], Slot::External { buffer, .. } if buffer.id() == tensor.buffer.id())
            });
            let bound = self.graph.tensor(base)
                .is_some_and(|source| source.buffer.id() == tensor.buffer.id());
            forwarded || bound
        })
    }

    /// Whether a value is copied to the host, whole or in part. That happens last, when the tensor that it was computed
    /// in may hold something else.
    fn is_fetched(&self, base: ValueId) -> bool {
        let mut fetches = self.graph.fetches.iter();
        fetches.any(|(value, _)| self.analysis.views[value.index()].base == base)
    }

    /// Whether one of the `nodes` reads or overwrites the tensor's elements.
    fn is_used(&self, tensor: &Tensor, nodes: impl Fn(NodeId) -> bool) -> bool {
        let (start, end) = (tensor.layout.offset, tensor.layout.end());
        self.graph.values.iter().enumerate().any(|(index, value)| {
            let Source::Tensor { index: other } = self.graph.nodes[value.node.index()].source
            else {
                return false;
            };
            let other = &self.graph.tensors[other];
            other.buffer.id() == tensor.buffer.id()
                && other.layout.offset < end
                && start < other.layout.end()
                && self.deep_readers(ValueId(index as u32)).any(&nodes)
        })
    }

    /// Nodes that read a value, directly or through a view.
    fn deep_readers(&self, base: ValueId) -> impl Iterator<Item = NodeId> + '_ {
        (0..self.graph.values.len())
            .filter(move |&index| self.analysis.views[index].base == base)
            .flat_map(|index| self.analysis.readers[index].iter().copied())
    }
}
