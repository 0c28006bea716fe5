//! What is live, who reads what, and which values are only views of others.

use crate::shape::Layout;
use crate::tape::graph::{NodeId, ValueId};
use crate::tape::record::Graph;
use crate::tape::role::Role;

/// Facts about a graph that all later passes use.
pub(super) struct Analysis {
    /// By node: whether anything asked for depends on it.
    pub live: Vec<bool>,
    /// By value: live nodes that read it, once per reading.
    pub readers: Vec<Vec<NodeId>>,
    /// By value: whether it is copied to the host.
    pub fetched: Vec<bool>,
    /// By value: where its elements lie within the value that owns them.
    pub views: Vec<View>,
    /// By node: groups never span regions. A new one begins after every node that overwrites a tensor and between
    /// forward and backward.
    pub region: Vec<u32>,
}

/// A value as a part of the value whose kernel produces the elements (often itself).
#[derive(Clone, Copy)]
pub(super) struct View {
    pub base: ValueId,
    /// Relative to the base's first element.
    pub layout: Layout,
}

impl Analysis {
    pub fn of(graph: &Graph) -> Analysis {
        let live = live_nodes(graph);
        let mut readers = vec![Vec::new(); graph.values.len()];
        for node in nodes(graph).filter(|node| live[node.index()]) {
            for input in graph.inputs(node) {
                readers[input.index()].push(node);
            }
        }
        let mut fetched = vec![false; graph.values.len()];
        for (value, _) in &graph.fetches {
            fetched[value.index()] = true;
        }
        Analysis {
            views: views(graph, &live),
            region: regions(graph),
            live,
            readers,
            fetched,
        }
    }

    /// Whether a node is a view that needs no kernel.
    pub fn is_free_view(&self, graph: &Graph, node: NodeId) -> bool {
        let output = graph
            .output(node)
            .expect("nodes have outputs or are effects");
        self.views[output.index()].base != output
    }

    /// Itself and its views, by position.
    fn views_of(&self, base: ValueId) -> impl Iterator<Item = usize> + '_ {
        (0..self.views.len()).filter(move |&value| self.views[value].base == base)
    }

    /// Nodes that read a value, directly or through a view.
    pub fn deep_readers(&self, base: ValueId) -> impl Iterator<Item = NodeId> + '_ {
        let values = self.views_of(base);
        values.flat_map(|value| self.readers[value].iter().copied())
    }

    /// Whether only such nodes read the elements of `base`, themselves or through views.
    pub fn is_only_read_by(
        &self,
        graph: &Graph,
        base: ValueId,
        nodes: impl Fn(NodeId) -> bool,
    ) -> bool {
        let is_view = |node| graph.outputs(node).len() == 1 && self.is_free_view(graph, node);
        let mut readers = self.deep_readers(base);
        readers.all(|reader| nodes(reader) || is_view(reader))
    }

    /// Whether a value is copied to the host, whole or in part.
    pub fn is_fetched(&self, base: ValueId) -> bool {
        self.views_of(base).any(|value| self.fetched[value])
    }

    /// Whether the value's elements are produced under its own id, dense.
    pub fn is_own_base(&self, value: ValueId) -> bool {
        self.views[value.index()].base == value
    }
}

pub(super) fn nodes(graph: &Graph) -> impl DoubleEndedIterator<Item = NodeId> + use<> {
    (0..graph.nodes.len() as u32).map(NodeId)
}

pub(super) fn is_effect(graph: &Graph, node: NodeId) -> bool {
    graph
        .operation(node)
        .is_some_and(|operation| !operation.mutates().is_empty())
}

fn live_nodes(graph: &Graph) -> Vec<bool> {
    let mut live = vec![false; graph.nodes.len()];
    for node in nodes(graph) {
        live[node.index()] = is_effect(graph, node);
    }
    for &(value, _) in &graph.fetches {
        live[graph.producer(value).index()] = true;
    }
    for node in nodes(graph).rev() {
        if live[node.index()] {
            for &input in graph.inputs(node) {
                live[graph.producer(input).index()] = true;
            }
        }
    }
    live
}

fn views(graph: &Graph, live: &[bool]) -> Vec<View> {
    let mut views: Vec<View> = Vec::with_capacity(graph.values.len());
    for index in 0..graph.values.len() {
        let id = ValueId(index as u32);
        let own = View {
            base: id,
            layout: Layout::contiguous(graph.ty(id).shape, 0),
        };
        let node = graph.producer(id);
        let is_view = live[node.index()] && matches!(graph.role(node), Some(Role::View));
        let view = graph
            .operation(node)
            .filter(|_| is_view)
            .and_then(|operation| {
                let View { base, layout } = views[graph.inputs(node)[0].index()];
                let layout = operation.view(&layout)?;
                Some(View { base, layout })
            });
        views.push(view.unwrap_or(own));
    }
    views
}

fn regions(graph: &Graph) -> Vec<u32> {
    let mut region = 0;
    nodes(graph)
        .map(|node| {
            if graph.boundaries.contains(&node) {
                region += 1;
            }
            if is_effect(graph, node) {
                region += 2;
                return region - 1;
            }
            region
        })
        .collect()
}
