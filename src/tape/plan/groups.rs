//! Which nodes share a kernel, and in which order the kernels run.
//!
//! Every live node that needs a kernel starts as a group of its own. Pointwise groups then merge with the groups that
//! feed them, as long as they compute the same shape in the same region, the merged kernel stays within the binding
//! limit, and no path leaves the merged group and comes back. At last, gates and their gradients join the groups that compute
//! what they read.

use std::collections::{BinaryHeap, HashSet};

use super::analysis::{Analysis, nodes};
use super::ends::End;
use crate::shape::Shape;
use crate::tape::graph::{NodeId, Source, ValueId};
use crate::tape::record::Graph;
use crate::tape::role::Role;

/// WebGPU guarantees eight storage buffers in a stage; one is left for what a kernel may need beside its operands.
pub(super) const MOST_BINDINGS: usize = 7;

/// Larger generated kernels cost more to compile than they save.
const MOST_POINTWISE: usize = 48;

/// Nodes that run as one kernel (or, for a single node, as whatever its lowering emits).
#[derive(Clone, Debug, Default)]
pub(super) struct FusionGroup {
    /// The node with a kernel of its own that the pointwise members follow, if there is one.
    pub root: Option<NodeId>,
    /// Pointwise members in order of recording.
    pub pointwise: Vec<NodeId>,
    /// What ends the root's epilogue, if there is anything.
    pub end: Option<End>,
}

impl FusionGroup {
    pub fn members(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.elementwise().chain(self.end.map(|end| end.node))
    }

    /// Members that compute the same shape.
    fn elementwise(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.root.iter().chain(&self.pointwise).copied()
    }

    fn last(&self) -> NodeId {
        self.members().max().expect("groups have members")
    }

    /// Values that members compute and somebody outside needs.
    pub fn outputs(&self, graph: &Graph, analysis: &Analysis) -> Vec<ValueId> {
        let inside: HashSet<NodeId> = self.members().collect();
        self.members()
            .flat_map(|node| graph.outputs(node))
            .filter(|value| {
                analysis.fetched[value.index()]
                    || analysis.readers[value.index()]
                        .iter()
                        .any(|reader| !inside.contains(reader))
            })
            .collect()
    }

    /// Values that members read and that come from outside, each once.
    pub fn inputs(&self, graph: &Graph) -> Vec<ValueId> {
        let inside: HashSet<NodeId> = self.members().collect();
        let mut inputs = Vec::new();
        for node in self.members() {
            for &input in graph.inputs(node) {
                if !inside.contains(&graph.producer(input)) && !inputs.contains(&input) {
                    inputs.push(input);
                }
            }
        }
        inputs
    }
}

/// Forms the groups and orders them for execution.
pub(super) fn form(graph: &Graph, analysis: &Analysis) -> Vec<FusionGroup> {
    let mut grouping = Grouping::new(graph, analysis);
    if graph.fusion.pointwise {
        grouping.absorb_into_only_reader();
        grouping.merge_with_producers(false);
    }
    if graph.fusion.epilogue {
        grouping.merge_with_producers(true);
    }
    if graph.fusion.gate {
        grouping.merge_ends();
    }
    grouping.schedule()
}

struct Grouping<'a> {
    graph: &'a Graph,
    analysis: &'a Analysis,
    /// By node: its group, for live nodes that need a kernel.
    group_of: Vec<Option<usize>>,
    /// Merged groups leave an empty one behind.
    groups: Vec<FusionGroup>,
}

impl<'a> Grouping<'a> {
    fn new(graph: &'a Graph, analysis: &'a Analysis) -> Grouping<'a> {
        let mut group_of = vec![None; graph.nodes.len()];
        let mut groups = Vec::new();
        for node in nodes(graph) {
            let needs_kernel = analysis.live[node.index()]
                && matches!(graph.nodes[node.index()].source, Source::Operation(_))
                && !(graph.outputs(node).len() > 0 && analysis.is_free_view(graph, node));
            if !needs_kernel {
                continue;
            }
            group_of[node.index()] = Some(groups.len());
            let is_root = !is_pointwise(graph, node);
            groups.push(FusionGroup {
                root: is_root.then_some(node),
                pointwise: if is_root { Vec::new() } else { vec![node] },
                end: None,
            });
        }
        Grouping {
            graph,
            analysis,
            group_of,
            groups,
        }
    }

    /// A pointwise value that only one pointwise group reads is computed there and never stored.
    fn absorb_into_only_reader(&mut self) {
        for node in nodes(self.graph).rev() {
            let Some(group) =
                self.group_of[node.index()].filter(|_| is_pointwise(self.graph, node))
            else {
                continue;
            };
            let value = self.graph.output(node).expect("one output");
            let mut readers = self.analysis.readers[value.index()]
                .iter()
                .map(|reader| self.group_of[reader.index()]);
            let Some(Some(only)) = readers.next() else {
                continue;
            };
            if readers.all(|reader| reader == Some(only)) && !self.analysis.fetched[value.index()] {
                self.try_merge(only, group);
            }
        }
    }

    /// Merges pointwise groups with the groups that produce what they read: with other pointwise groups, or, if
    /// `epilogues`, with kernels that end in a generated epilogue.
    fn merge_with_producers(&mut self, epilogues: bool) {
        for node in nodes(self.graph) {
            let Some(group) = self.group_of[node.index()] else {
                continue;
            };
            if self.groups[group].root.is_some() {
                continue;
            }
            let mut producers: Vec<usize> = self
                .graph
                .inputs(node)
                .iter()
                .filter(|value| self.analysis.is_own_base(**value))
                .filter_map(|value| self.group_of[self.graph.producer(*value).index()])
                .filter(|&producer| producer != group)
                .filter(|&producer| self.groups[producer].root.is_some() == epilogues)
                .collect();
            // The latest producer first: it is the one whose result is still warm.
            producers.sort_by_key(|&producer| std::cmp::Reverse(self.groups[producer].last()));
            producers.dedup();
            for producer in producers {
                let group = self.group_of[node.index()].expect("still in a group");
                if producer != group {
                    self.try_merge(group, producer);
                }
            }
        }
    }

    /// Ends join the groups that compute what they read, if those store it through an epilogue.
    fn merge_ends(&mut self) {
        for node in nodes(self.graph) {
            let end = self.group_of[node.index()].zip(End::of(self.graph, node));
            let Some((group, end)) = end else { continue };
            let (value, _) = end.inputs(self.graph);
            let producer = self.group_of[self.graph.producer(value).index()];
            let Some(producer) = producer.filter(|_| self.analysis.is_own_base(value)) else {
                continue;
            };
            let merged = FusionGroup {
                end: Some(end),
                ..self.groups[producer].clone()
            };
            if self.groups[producer].end.is_none() && self.can_end(&merged, end) {
                self.merge(producer, group, merged);
            }
        }
    }

    /// Whether the epilogue computes what `end` reads, and has at hand what it takes.
    fn can_end(&self, group: &FusionGroup, end: End) -> bool {
        let Some((output, grid, gates)) = group.root.and_then(|root| self.epilogue(root)) else {
            return false;
        };
        let (value, beside) = end.inputs(self.graph);
        let is_computed = value == output || group.pointwise.contains(&self.graph.producer(value));
        let is_dense = |value: ValueId| self.analysis.views[value.index()].layout.is_contiguous();
        is_computed
            && self.graph.ty(value).shape.last() == grid[2]
            && (gates || !end.is_gate())
            && beside.is_none_or(is_dense)
    }

    /// The output that a node stores through an epilogue, if it does, as what grid, and whether its kernel gates.
    fn epilogue(&self, root: NodeId) -> Option<(ValueId, [usize; 3], bool)> {
        match self.graph.role(root)? {
            Role::Epilogue { grid, gates } => Some((self.graph.output(root)?, grid, gates)),
            _ => None,
        }
    }

    /// Merges two groups if that is sound.
    fn try_merge(&mut self, one: usize, other: usize) {
        let (a, b) = (&self.groups[one], &self.groups[other]);
        if a.root.is_some() && b.root.is_some() {
            return;
        }
        let mut pointwise = [&a.pointwise[..], &b.pointwise].concat();
        pointwise.sort();
        let merged = FusionGroup {
            root: a.root.or(b.root),
            pointwise,
            end: None,
        };
        self.merge(one, other, merged);
    }

    /// Makes `one` and `other` what is `merged` of them, if that is sound.
    fn merge(&mut self, one: usize, other: usize, merged: FusionGroup) {
        if !self.fits(&merged) || self.comes_back(&merged) {
            return;
        }
        for node in merged.members() {
            self.group_of[node.index()] = Some(one);
        }
        self.groups[one] = merged;
        self.groups[other] = FusionGroup::default();
    }

    /// Whether the members may share a kernel as far as shapes, regions and limits go.
    fn fits(&self, group: &FusionGroup) -> bool {
        let mut members = group.members();
        let first = members.next().expect("groups have members");
        let region = self.analysis.region[first.index()];
        let shape = shape_of(self.graph, first);
        if group.pointwise.len() > MOST_POINTWISE
            || !members.all(|node| self.analysis.region[node.index()] == region)
            || !group
                .elementwise()
                .all(|node| shape_of(self.graph, node) == shape)
        {
            return false;
        }
        let inputs = group.inputs(self.graph);
        let outputs = group.outputs(self.graph, self.analysis);
        let Some(root) = group.root else {
            return inputs.len() + outputs.len() <= MOST_BINDINGS;
        };
        // An epilogue follows its root; what the root reads has to be there before.
        let own_inputs = self.graph.inputs(root);
        let feeds_root = |input: &ValueId| group.pointwise.contains(&self.graph.producer(*input));
        if own_inputs.iter().any(feeds_root) {
            return false;
        }
        let Some((_, grid, _)) = self.epilogue(root) else {
            return false;
        };
        let used: HashSet<ValueId> = group
            .pointwise
            .iter()
            .flat_map(|&node| self.graph.inputs(node).iter().copied())
            .collect();
        // Only output 0 goes through the epilogue; the others are there when the kernel has run.
        let further: Vec<ValueId> = self.graph.outputs(root).skip(1).collect();
        if further.iter().any(|value| used.contains(value)) {
            return false;
        }
        // What the epilogue reads is bound once more where the root reads it too.
        let read: Vec<ValueId> = used
            .into_iter()
            .filter(|value| inputs.contains(value))
            .collect();
        let stored = outputs
            .iter()
            .filter(|value| !further.contains(value))
            .count()
            .max(1);
        let beside = group.end.and_then(|end| end.inputs(self.graph).1);
        let operation = self.graph.operation(root).expect("roots are operations");
        let bound = operation.bindings(own_inputs.len()) + read.len() + stored;
        // Roots say what they need, all of it.
        if bound + usize::from(beside.is_some()) > MOST_BINDINGS + 1 {
            return false;
        }
        // It must be addressable by batch, row and column.
        read.iter().all(|input| {
            self.analysis.views[input.index()]
                .layout
                .broadcast_to(shape.expect("roots have outputs"))
                .is_some_and(|layout| layout.reshape(Shape::new(&grid)).is_some())
        })
    }

    /// Whether some path leaves the members and returns to one: then no single kernel can run them.
    fn comes_back(&self, group: &FusionGroup) -> bool {
        let inside: HashSet<NodeId> = group.members().collect();
        let mut seen = vec![false; self.graph.nodes.len()];
        let producer = |&value: &ValueId| self.graph.producer(value);
        let mut pending: Vec<NodeId> = group.inputs(self.graph).iter().map(producer).collect();
        while let Some(node) = pending.pop() {
            if inside.contains(&node) {
                return true;
            }
            if std::mem::replace(&mut seen[node.index()], true) {
                continue;
            }
            // All that run together with it.
            let group = self.group_of[node.index()].map(|group| &self.groups[group]);
            let members = group.into_iter().flat_map(FusionGroup::members);
            for member in members.chain([node]) {
                if inside.contains(&member) {
                    return true;
                }
                seen[member.index()] = true;
                pending.extend(self.graph.inputs(member).iter().map(producer));
            }
        }
        false
    }

    /// Topological order, earliest recorded first among what is ready.
    fn schedule(mut self) -> Vec<FusionGroup> {
        let count = self.groups.len();
        let mut waits_for = vec![0usize; count];
        let mut feeds: Vec<Vec<usize>> = vec![Vec::new(); count];
        for (index, group) in self.groups.iter().enumerate() {
            let mut needs: Vec<usize> = group
                .inputs(self.graph)
                .iter()
                .filter_map(|&value| {
                    let base = self.analysis.views[value.index()].base;
                    self.group_of[self.graph.producer(base).index()]
                })
                .filter(|&producer| producer != index)
                .collect();
            needs.sort_unstable();
            needs.dedup();
            waits_for[index] = needs.len();
            for producer in needs {
                feeds[producer].push(index);
            }
        }
        let priority = |group: &FusionGroup| {
            let last = group.last();
            std::cmp::Reverse((self.analysis.region[last.index()], last))
        };
        let mut ready: BinaryHeap<_> = (0..count)
            .filter(|&index| waits_for[index] == 0 && self.groups[index].members().next().is_some())
            .map(|index| (priority(&self.groups[index]), index))
            .collect();
        let mut order = Vec::new();
        while let Some((_, index)) = ready.pop() {
            order.push(index);
            for &next in &feeds[index] {
                waits_for[next] -= 1;
                if waits_for[next] == 0 {
                    ready.push((priority(&self.groups[next]), next));
                }
            }
        }
        order
            .into_iter()
            .map(|index| std::mem::take(&mut self.groups[index]))
            .collect()
    }
}

fn is_pointwise(graph: &Graph, node: NodeId) -> bool {
    matches!(graph.role(node), Some(Role::Pointwise { .. }))
}

fn shape_of(graph: &Graph, node: NodeId) -> Option<Shape> {
    graph.output(node).map(|value| graph.ty(value).shape)
}
