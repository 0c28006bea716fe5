//! The generator of fused pointwise kernels: a group's nodes become one WGSL function over elements.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::dispatch::{Dispatch, Operand};
use super::endings::Ending;
use super::groups::FusionGroup;
use super::lowerer::Lowerer;
use crate::gpu::{AdapterClass, DType, Kernel};
use crate::shape::{Shape, collapse};
use crate::tape::graph::ValueId;
use crate::tape::role::{PointwiseFunction, Role};

/// Told by the bits: compilers may assume that floats are numbers, and make `min` and `max` of what is written as
/// comparisons and choices.
const KEEP_NAN: &str = "\
fn keep_nan(value: T, x: T) -> T {
    return select(value, x, (bitcast<Bits>(x) & Bits(0x7fffffffu)) > Bits(0x7f800000u));
}
";

/// A group's computation on one element, as a straight line of steps.
pub(super) struct Expression {
    /// The shape every step computes.
    pub shape: Shape,
    /// What is read from memory, each broadcast to the shape; then what `end` reads, if it does.
    pub leaves: Vec<Operand>,
    pub steps: Vec<Step>,
    /// Which steps are stored, and where.
    pub outputs: Vec<(usize, Operand)>,
    /// What follows the steps.
    pub end: Option<Ending>,
}

pub(super) enum Step {
    /// Loads a leaf.
    Leaf(usize),
    /// The value that the root kernel hands to its epilogue.
    Root,
    Apply {
        function: PointwiseFunction,
        attributes: Vec<f32>,
        iterations: usize,
        /// The steps that it is given.
        arguments: Vec<usize>,
    },
}

/// Declares functions and what they call, over the type `T`.
pub(crate) fn declare_functions<'a>(
    functions: impl IntoIterator<Item = &'a PointwiseFunction>,
    out: &mut String,
) {
    let functions: BTreeMap<&str, &PointwiseFunction> = functions
        .into_iter()
        .map(|function| (function.name, function))
        .collect();
    let mut helpers = Vec::new();
    for function in functions.values() {
        if !function.helpers.is_empty() && !helpers.contains(&function.helpers) {
            helpers.push(function.helpers);
        }
    }
    for helper in helpers {
        out.push_str(helper);
        out.push('\n');
    }
    if functions
        .values()
        .any(|function| function.wgsl.contains("keep_nan("))
    {
        out.push_str(KEEP_NAN);
    }
    for function in functions.values() {
        let parameters: Vec<String> = function
            .inputs
            .iter()
            .chain(function.attributes)
            .map(|name| format!("{name}: T"))
            .collect();
        let (name, parameters, body) = (function.name, parameters.join(", "), function.wgsl);
        writeln!(out, "fn pw_{name}({parameters}) -> T {{ return {body}; }}").unwrap();
    }
}

impl Expression {
    pub fn of(lowerer: &mut Lowerer<'_>, group: &FusionGroup) -> Expression {
        let graph = lowerer.graph;
        let first = group.members().next().expect("groups have members");
        let shape = graph
            .ty(graph.outputs(first).next().expect("an output"))
            .shape;
        let mut expression = Expression {
            shape,
            leaves: Vec::new(),
            steps: Vec::new(),
            outputs: Vec::new(),
            end: None,
        };
        let mut step_of: BTreeMap<ValueId, usize> = BTreeMap::new();
        if let Some(root) = group.root {
            step_of.insert(graph.outputs(root).next().expect("an output"), 0);
            expression.steps.push(Step::Root);
        }
        for &node in &group.pointwise {
            let mut arguments = Vec::new();
            for &input in graph.inputs(node) {
                let step = match step_of.get(&input) {
                    Some(&step) => step,
                    None => {
                        let operand = lowerer.operand(input);
                        let layout = operand
                            .layout
                            .broadcast_to(shape)
                            .expect("checked when recorded");
                        expression.leaves.push(Operand { layout, ..operand });
                        expression
                            .steps
                            .push(Step::Leaf(expression.leaves.len() - 1));
                        step_of.insert(input, expression.steps.len() - 1);
                        expression.steps.len() - 1
                    }
                };
                arguments.push(step);
            }
            let output = graph.outputs(node).next().expect("an output");
            let operation = graph.operation(node).expect("an operation");
            let Role::Pointwise {
                function,
                attributes,
                iterations,
            } = operation.role(graph.ty(output))
            else {
                unreachable!("members are pointwise");
            };
            expression.steps.push(Step::Apply {
                function,
                attributes: attributes.to_vec(),
                iterations,
                arguments,
            });
            step_of.insert(output, expression.steps.len() - 1);
        }
        for value in group.outputs(graph, lowerer.analysis) {
            if let Some(&step) = step_of.get(&value) {
                let operand = lowerer.operand(value);
                expression.outputs.push((step, operand));
            }
        }
        if let Some(end) = group.end {
            let step = step_of[&end.inputs(graph).0];
            let ending = Ending::new(lowerer, end, step, shape, &mut expression.leaves);
            expression.end = Some(ending);
        }
        expression
    }

    /// Leaves, then outputs: the order in which kernels bind them. What `end` writes is bound last.
    pub fn operands(&self) -> impl Iterator<Item = &Operand> {
        self.leaves
            .iter()
            .chain(self.outputs.iter().map(|(_, output)| output))
    }

    /// The operand by whose binding another is read and written: a leaf whose place an output has been given is bound with
    /// that.
    fn bound_as(&self, operand: usize) -> usize {
        let leaves = self.leaves.len();
        let is_over = |(_, output): &(usize, Operand)| {
            operand < leaves && output.is_same_place(&self.leaves[operand])
        };
        let output = self.outputs.iter().position(is_over);
        output.map_or(operand, |output| leaves + output)
    }

    /// Whether a step loads a leaf.
    pub fn loads(&self, leaf: usize) -> bool {
        let is_load = |step: &Step| matches!(step, Step::Leaf(index) if *index == leaf);
        self.steps.iter().any(is_load)
    }

    fn applications(&self) -> u64 {
        let is_apply = |step: &&Step| matches!(step, Step::Apply { .. });
        self.steps.iter().filter(is_apply).count() as u64
    }

    /// How often the loops of all steps go round at most, for one element or one vec4.
    pub fn iterations(&self) -> usize {
        let of_step = |step: &Step| match step {
            Step::Apply { iterations, .. } => *iterations,
            _ => 0,
        };
        self.steps.iter().map(of_step).sum()
    }

    /// Declarations of every function used, over the type `T`.
    pub fn functions(&self, out: &mut String) {
        let steps = self.steps.iter().filter_map(|step| match step {
            Step::Apply { function, .. } => Some(function),
            _ => None,
        });
        let called = self.end.iter().flat_map(|end| end.called);
        declare_functions(steps.chain(called), out);
    }

    /// `let` statements that compute every step; `load` gives the expression that loads a leaf.
    pub fn statements(&self, out: &mut String, root: &str, load: impl Fn(usize) -> String) {
        for (index, step) in self.steps.iter().enumerate() {
            let value = match step {
                Step::Leaf(leaf) => load(*leaf),
                Step::Root => root.to_owned(),
                Step::Apply {
                    function,
                    attributes,
                    arguments,
                    ..
                } => {
                    let arguments: Vec<String> = arguments
                        .iter()
                        .map(|step| format!("v{step}"))
                        .chain(attributes.iter().map(|value| format!("T({value:?}f)")))
                        .collect();
                    format!("pw_{}({})", function.name, arguments.join(", "))
                }
            };
            writeln!(out, "    let v{index} = {value};").unwrap();
        }
    }
}

/// Lowers a group that is pointwise throughout.
pub(super) fn lower(lowerer: &mut Lowerer<'_>, group: &FusionGroup) {
    lowerer.reuse_leaf(group);
    let expression = Expression::of(lowerer, group);
    emit(lowerer, &expression, "pointwise");
}

/// Copies `from` to `to`, whatever their strides. They share a shape and an element type.
pub(super) fn copy(lowerer: &mut Lowerer<'_>, from: &Operand, to: &Operand) {
    let expression = Expression {
        shape: from.shape(),
        leaves: vec![*from],
        steps: vec![Step::Leaf(0)],
        outputs: vec![(0, *to)],
        end: None,
    };
    emit(lowerer, &expression, "copy");
}

/// A dense copy.
pub(super) fn copied(lowerer: &mut Lowerer<'_>, operand: &Operand) -> Operand {
    let copy = lowerer.temp(operand.shape(), operand.dtype);
    self::copy(lowerer, operand, &copy);
    copy
}

fn emit(lowerer: &mut Lowerer<'_>, expression: &Expression, name: &'static str) {
    let layouts: Vec<_> = expression
        .operands()
        .map(|operand| operand.layout)
        .collect();
    let (extents, strides) = collapse(&layouts);
    let rank = extents.len();
    let inner = extents[rank - 1];
    let dtype = expression.outputs[0].1.dtype;
    // Four elements a thread where every operand can be read that way.
    let packs: Vec<Pack> = layouts
        .iter()
        .zip(&strides)
        .map(|(layout, strides)| Pack::of(layout.offset, strides))
        .collect();
    let vector = inner.is_multiple_of(4) && packs.iter().all(|&pack| pack != Pack::Single);
    let width = if vector { 4 } else { 1 };
    let threads = match lowerer.device.class() {
        AdapterClass::Software => 64,
        AdapterClass::Gpu => 256,
    };
    let mut words = vec![(expression.shape.elements() / width) as u32];
    words.extend(extents.iter().map(|&extent| extent as u32));
    words[rank] /= width as u32;
    for ((layout, strides), pack) in layouts.iter().zip(&strides).zip(&packs) {
        let width = if vector && *pack == Pack::Quad { 4 } else { 1 };
        words.push((layout.offset / width) as u32);
        let (last, outer) = strides.split_last().expect("rank is at least one");
        words.extend(outer.iter().map(|stride| (stride / width) as u32));
        words.push(*last as u32);
    }
    let source = source(
        expression,
        rank,
        vector,
        &packs,
        dtype,
        threads,
        words.len(),
    );
    let mut dispatch = Dispatch::new(Kernel::generated(name, &source, "main"))
        .params(&words)
        .iterations(width * expression.iterations())
        .groups((words[0] as usize).div_ceil(threads));
    for (index, leaf) in expression.leaves.iter().enumerate() {
        if expression.bound_as(index) == index {
            dispatch = dispatch.read(leaf);
        }
    }
    for (_, output) in &expression.outputs {
        dispatch = dispatch.write(output);
    }
    let elements = expression.shape.elements() as u64;
    let bytes = expression.operands().map(touched_bytes).sum();
    lowerer.push(dispatch.cost(elements * expression.applications(), bytes));
}

/// Bytes of the distinct elements that an operand touches: a broadcast operand is read once.
pub(super) fn touched_bytes(operand: &Operand) -> u64 {
    let extents = operand
        .layout
        .shape
        .dims()
        .iter()
        .zip(operand.layout.strides());
    operand.dtype.bytes() as u64
        * extents
            .filter(|(_, stride)| **stride != 0)
            .map(|(extent, _)| *extent as u64)
            .product::<u64>()
}

/// How an operand can be read four elements at a time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pack {
    /// As one aligned vec4.
    Quad,
    /// One element repeated.
    Splat,
    /// Not at all.
    Single,
}

impl Pack {
    pub fn of(offset: usize, strides: &[usize]) -> Pack {
        let (last, outer) = strides.split_last().expect("rank is at least one");
        match last {
            0 => Pack::Splat,
            1 if offset.is_multiple_of(4)
                && outer.iter().all(|stride| stride.is_multiple_of(4)) =>
            {
                Pack::Quad
            }
            _ => Pack::Single,
        }
    }
}

/// The kernel's text. Parameter words: count, extents, then offset and strides of every operand.
fn source(
    expression: &Expression,
    rank: usize,
    vector: bool,
    packs: &[Pack],
    dtype: DType,
    threads: usize,
    words: usize,
) -> String {
    let word = |index: usize| format!("p[{}].{}", index / 4, ["x", "y", "z", "w"][index % 4]);
    let mut text = String::new();
    let element = dtype.wgsl();
    let t = if vector {
        format!("vec4<{element}>")
    } else {
        element.to_owned()
    };
    writeln!(text, "alias T = {t};").unwrap();
    writeln!(
        text,
        "alias Bits = {};",
        if vector { "vec4<u32>" } else { "u32" }
    )
    .unwrap();
    let quads = words.div_ceil(4);
    writeln!(
        text,
        "@group(0) @binding(0) var<uniform> p: array<vec4<u32>, {quads}>;"
    )
    .unwrap();
    let leaves = expression.leaves.len();
    let bound = |index: usize| expression.bound_as(index);
    let operands = expression.operands().enumerate();
    let operands = operands.filter(|&(index, _)| bound(index) == index);
    for (binding, (index, operand)) in (1..).zip(operands) {
        let element = operand.dtype.wgsl();
        let stored = if vector && packs[index] == Pack::Quad {
            format!("vec4<{element}>")
        } else {
            element.to_owned()
        };
        let access = if index < leaves { "read" } else { "read_write" };
        writeln!(
            text,
            "@group(0) @binding({binding}) var<storage, {access}> b{index}: array<{stored}>;"
        )
        .unwrap();
    }
    expression.functions(&mut text);
    writeln!(
        text,
        "@compute @workgroup_size({threads})\nfn main(@builtin(workgroup_id) group: vec3<u32>, \
         @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {{"
    )
    .unwrap();
    writeln!(
        text,
        "    let i = (group.x + group.y * groups.x) * {threads}u + lane;"
    )
    .unwrap();
    writeln!(text, "    if (i >= {}) {{ return; }}", word(0)).unwrap();
    // Coordinates, innermost first.
    if rank == 1 {
        writeln!(text, "    let i0 = i;").unwrap();
    } else {
        writeln!(text, "    var rest = i;").unwrap();
        for axis in (1..rank).rev() {
            let extent = word(1 + axis);
            writeln!(
                text,
                "    let i{axis} = rest % {extent};\n    rest = rest / {extent};"
            )
            .unwrap();
        }
        writeln!(text, "    let i0 = rest;").unwrap();
    }
    let place = |operand: usize| {
        let first = 1 + rank + operand * (1 + rank);
        let mut place = word(first);
        for axis in 0..rank {
            let is_last = axis + 1 == rank;
            match (is_last && vector, packs[operand]) {
                (true, Pack::Quad) => write!(place, " + i{axis}").unwrap(),
                (true, _) => {}
                (false, _) => write!(place, " + i{axis} * {}", word(first + 1 + axis)).unwrap(),
            }
        }
        place
    };
    expression.statements(&mut text, "", |leaf| {
        format!("T(b{}[{}])", bound(leaf), place(leaf))
    });
    for (index, (step, _)) in expression.outputs.iter().enumerate() {
        let operand = leaves + index;
        writeln!(text, "    b{operand}[{}] = v{step};", place(operand)).unwrap();
    }
    text.push_str("}\n");
    text
}
