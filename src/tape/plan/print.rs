//! What a tape is after each pass, in print.
//!
//! `%4` is a value by its number on the tape, `s2` a slot, `b1` a buffer.

use std::fmt::Write;

use super::analysis::{Analysis, nodes};
use super::dispatch::{Dispatch, Operand, Program, Slot};
use super::ends::End;
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
            let outputs: Vec<String> = graph.outputs(node).map(value).collect();
            let types: Vec<String> = graph
                .outputs(node)
                .map(|output| graph.ty(output))
                .map(|ty| format!("{:?} {}", ty.dtype, ty.shape))
                .collect();
            if graph.boundaries.contains(&node) {
                self.line("-- boundary");
            }
            let equals = if outputs.is_empty() { "" } else { " = " };
            let (outputs, types) = (outputs.join(", "), types.join(", "));
            self.line(format!(
                "{outputs}{equals}{}  {types}",
                call(graph, node, &|input| value(input))
            ));
        }
        let fetched: Vec<String> = graph.fetches.iter().map(|&(id, _)| value(id)).collect();
        self.line(format!("fetched: {}", fetched.join(", ")));
    }

    /// What is needed, and which values are views.
    pub fn live(&mut self, graph: &Graph, analysis: &Analysis) {
        let live = analysis.live.iter().filter(|live| **live).count();
        self.pass("live", format!("{live} of {} nodes", graph.nodes.len()));
        let dead = nodes(graph).filter(|node| !analysis.live[node.index()]);
        let dead: Vec<String> = dead
            .flat_map(|node| graph.outputs(node))
            .map(value)
            .collect();
        if !dead.is_empty() {
            self.line(format!("pruned: {}", dead.join(", ")));
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
                let outputs: Vec<String> = graph.outputs(node).map(value).collect();
                format!("{} {}", operation.name(), outputs.join(" "))
                    .trim_end()
                    .to_owned()
            };
            let root = group.root.map(|root| match group.pointwise.is_empty() {
                true => name(root),
                false => format!("{} then ", name(root)),
            });
            let pointwise: Vec<String> = group.pointwise.iter().copied().map(name).collect();
            let end = group
                .end
                .map(|end| format!(", ended by {}", name(End::node(end))));
            let read: Vec<String> = group.inputs(graph).into_iter().map(value).collect();
            let stored: Vec<String> = group
                .outputs(graph, analysis)
                .into_iter()
                .map(value)
                .collect();
            self.line(format!(
                "{}{}{}: reads {}, stores {}",
                root.unwrap_or_default(),
                pointwise.join(", "),
                end.unwrap_or_default(),
                read.join(" "),
                stored.join(" ")
            ));
        }
    }

    /// The dispatches after a pass.
    pub fn dispatches(&mut self, pass: &str, program: &Program) {
        self.pass(pass, format!("{} dispatches", program.dispatches.len()));
        for (index, dispatch) in program.dispatches.iter().enumerate() {
            let Dispatch {
                kernel,
                grid: [x, y, z],
                cost,
                ..
            } = dispatch;
            let bindings: Vec<String> = dispatch
                .bindings
                .iter()
                .map(|&(slot, access)| {
                    let how = match access {
                        Access::Read => "",
                        Access::Write => "=",
                        Access::Uniform { .. } | Access::Window { .. } => "u:",
                    };
                    format!("{how}{}", place(program, slot))
                })
                .collect();
            self.line(format!(
                "{index}: {} {x}x{y}x{z} ({})  {} FLOP, {} B",
                kernel.name,
                bindings.join(" "),
                cost.flops,
                cost.bytes
            ));
        }
        let fetched = program.fetches.iter();
        let fetched: Vec<String> = fetched
            .map(|(Operand { slot, .. }, _)| place(program, *slot))
            .collect();
        self.line(format!("fetched: {}", fetched.join(" ")));
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
            let slots: Vec<String> = slots.map(|slot| place(program, slot)).collect();
            self.line(format!("b{buffer} of {size} B: {}", slots.join(" ")));
        }
    }
}

fn value(id: ValueId) -> String {
    format!("%{}", id.index())
}

/// What a node does with its inputs.
fn call(graph: &Graph, node: NodeId, input: &dyn Fn(ValueId) -> String) -> String {
    match &graph.nodes[node.index()].source {
        Source::Input { .. } => "input".to_owned(),
        Source::Tensor { index } => format!("tensor#{}", graph.tensors[*index].buffer.id()),
        Source::Operation(operation) => {
            let inputs: Vec<String> = graph.inputs(node).iter().copied().map(input).collect();
            format!("{}({})", operation.name(), inputs.join(", "))
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
