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
            // Another reader might write to the tensor's buffer, and no dispatch may bind it both ways.
            let is_reader = |reader| reader == node || producer.members().any(|it| it == reader);
            // What is fetched is so at last, when the tensor may hold something else.
            let is_fetched = analysis.is_fetched(view.base);
            if self.places.contains_key(&view.base)
                || !analysis.is_only_read_by(graph, view.base, is_reader)
                || self.touches(producer, tensor)
                || self.is_used(tensor, |reader| reader < node)
                || (is_fetched && self.is_used(tensor, |reader| reader > node))
            {
                continue;
            }
            let place = self.place_tensor(tensor);
            self.places.insert(view.base, place);
        }
    }

    /// Whether a group reads or overwrites the tensor's buffer: no dispatch may bind it both ways.
    fn touches(&self, group: &FusionGroup, tensor: &Tensor) -> bool {
        group.inputs(self.graph).iter().any(|&input| {
            let base = self.analysis.views[input.index()].base;
            let slot = self
                .places
                .get(&base)
                .map(|&(slot, _)| &self.program.slots[slot]);
            let bound = self.graph.tensor(base).map(|source| &source.buffer);
            let mut buffers = slot.and_then(Slot::persistent).into_iter().chain(bound);
            buffers.any(|buffer| buffer.id() == tensor.buffer.id())
        })
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
                && self
                    .analysis
                    .deep_readers(ValueId(index as u32))
                    .any(&nodes)
        })
    }
}
