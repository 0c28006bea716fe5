//! What a tape is after each pass, in print.
//!
//! `%4` is a value by its number on the tape, `s2` a slot, `b1` a buffer.

use std::fmt::Write;

use super::analysis::{Analysis, nodes};
use super::dispatch::{Cost, Program, Slot};
use super::groups::FusionGroup;
use super::memory::Assignment;
use crate::gpu::kernel::Access;
use crate::tape::graph::{NodeId, Source, ValueId};
use crate::tape::record::Graph;

/// The printed form, pass after pass.
#[derive(Default)]
pub(super) struct Listing {
    pub text: String,
}

impl Listing {
    fn pass(&mut self, name: &str, what: impl std::fmt::Display) {
        writeln!(self.text, "== {name}: {what}").unwrap();
    }

    fn line(&mut self, line: impl AsRef<str>) {
        self.text.push_str(line.as_ref().trim_end());
        self.text.push('\n');
    }

    /// The list as it was recorded.
    pub fn recorded(&mut self, graph: &Graph) {
        self.pass("recorded", format!("{} nodes", graph.nodes.len()));
        for node in nodes(graph) {
            let outputs = joined(", ", graph.outputs(node).map(value));
            let types = graph.outputs(node).map(|output| graph.ty(output));
            let types = joined(", ", types.map(|ty| ty.to_string()));
            if graph.boundaries.contains(&node) {
                self.line("-- boundary");
            }
            let equals = if outputs.is_empty() { "" } else { " = " };
            self.line(format!("{outputs}{equals}{}  {types}", call(graph, node)));
        }
        let fetched = joined(", ", graph.fetches.iter().map(|&(id, _)| value(id)));
        self.line(format!("fetched: {fetched}"));
    }

    /// What is needed, and which values are views.
    pub fn live(&mut self, graph: &Graph, analysis: &Analysis) {
        let live = analysis.live.iter().filter(|live| **live).count();
        self.pass("live", format!("{live} of {} nodes", graph.nodes.len()));
        let dead = nodes(graph).filter(|node| !analysis.live[node.index()]);
        let dead = joined(", ", dead.flat_map(|node| graph.outputs(node)).map(value));
        if !dead.is_empty() {
            self.line(format!("pruned: {dead}"));
        }
        for (index, view) in analysis.views.iter().enumerate() {
            let id = ValueId(index as u32);
            if view.base != id && analysis.live[graph.producer(id).index()] {
                let (layout, id, base) = (view.layout, value(id), value(view.base));
                let (offset, strides) = (layout.offset, layout.strides());
                self.line(format!(
                    "{id} is {base} from {offset} with strides {strides:?}"
                ));
            }
        }
    }

    /// Which nodes share a kernel, in the order in which they run.
    pub fn groups(&mut self, graph: &Graph, analysis: &Analysis, groups: &[FusionGroup]) {
        self.pass("fusion groups", groups.len());
        for group in groups {
            let name = |node: NodeId| {
                let operation = graph.operation(node).expect("members are operations");
                let outputs = graph.outputs(node).map(value);
                joined(
                    " ",
                    std::iter::once(operation.name().to_owned()).chain(outputs),
                )
            };
            let root = group.root.map(|root| match group.pointwise.is_empty() {
                true => name(root),
                false => format!("{} then ", name(root)),
            });
            let end = group
                .end
                .map(|end| format!(", ended by {}", name(end.node)));
            self.line(format!(
                "{}{}{}: reads {}, stores {}",
                root.unwrap_or_default(),
                joined(", ", group.pointwise.iter().copied().map(name)),
                end.unwrap_or_default(),
                joined(" ", group.inputs(graph).into_iter().map(value)),
                joined(" ", group.outputs(graph, analysis).into_iter().map(value))
            ));
        }
    }

    /// The dispatches after a pass.
    pub fn dispatches(&mut self, pass: &str, program: &Program) {
        self.pass(pass, format!("{} dispatches", program.dispatches.len()));
        for (index, dispatch) in program.dispatches.iter().enumerate() {
            let bindings = dispatch.bindings.iter().map(|&(slot, access)| {
                let how = match access {
                    Access::Read => "",
                    Access::Write => "=",
                    Access::Uniform { .. } | Access::Window { .. } => "u:",
                };
                format!("{how}{}", place(program, slot))
            });
            let (name, [x, y, z]) = (dispatch.kernel.name, dispatch.grid);
            let (bindings, Cost { flops, bytes }) = (joined(" ", bindings), dispatch.cost);
            self.line(format!(
                "{index}: {name} {x}x{y}x{z} ({bindings})  {flops} FLOP, {bytes} B"
            ));
        }
        let fetched = program.fetches.iter();
        let fetched = joined(
            " ",
            fetched.map(|(operand, _)| place(program, operand.slot)),
        );
        self.line(format!("fetched: {fetched}"));
    }

    /// Which slots share a buffer.
    pub fn memory(&mut self, program: &Program, assignment: &Assignment) {
        let bytes: u64 = assignment.sizes.iter().sum();
        let (count, least) = (assignment.sizes.len(), assignment.lower_bound);
        self.pass(
            "memory",
            format!("{count} buffers of {bytes} B, {least} B are alive at once"),
        );
        for (buffer, size) in assignment.sizes.iter().enumerate() {
            let slots = 0..program.slots.len();
            let slots = slots.filter(|&slot| assignment.buffer_of[slot] == Some(buffer));
            let slots = joined(" ", slots.map(|slot| place(program, slot)));
            self.line(format!("b{buffer} of {size} B: {slots}"));
        }
    }
}

fn joined(separator: &str, items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<String>>().join(separator)
}

fn value(id: ValueId) -> String {
    format!("%{}", id.index())
}

/// What a node does with its inputs.
fn call(graph: &Graph, node: NodeId) -> String {
    match &graph.nodes[node.index()].source {
        Source::Input { .. } => "input".to_owned(),
        Source::Tensor { index } => format!("tensor#{}", graph.tensors[*index].buffer.id()),
        Source::Operation(operation) => {
            let inputs = joined(", ", graph.inputs(node).iter().copied().map(value));
            format!("{}({inputs})", operation.name())
        }
    }
}

fn place(program: &Program, slot: usize) -> String {
    match &program.slots[slot] {
        Slot::Transient { .. } => format!("s{slot}"),
        Slot::External { buffer, .. } => format!("tensor#{}", buffer.id()),
        Slot::Inputs => "inputs".to_owned(),
        Slot::Faults => "faults".to_owned(),
        Slot::Window { of, .. } => format!("{}+", place(program, *of)),
    }
}
