//! The generator of fused pointwise kernels: a group's nodes become one WGSL function over elements.

use std::collections::BTreeMap;

use super::dispatch::{Dispatch, Operand};
use super::ends::{End, halves};
use super::groups::FusionGroup;
use super::lowerer::Lowerer;
use crate::gpu::{AdapterClass, Kernel};
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
    /// The functions that steps call, and the end.
    called: Vec<PointwiseFunction>,
}

/// An [`End`] behind the steps of an epilogue. A gate's gradient reads the rows as the last leaf, of which no step loads
/// anything; they and the output are given as their left half.
pub(super) struct Ending {
    pub is_gate: bool,
    /// The step that it reads.
    pub step: usize,
    pub output: Operand,
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
fn declare_functions<'a>(
    functions: impl IntoIterator<Item = &'a PointwiseFunction>,
    out: &mut String,
) {
    let functions: BTreeMap<&str, &PointwiseFunction> = functions
        .into_iter()
        .map(|function| (function.name, function))
        .collect();
    let mut helpers = vec![""];
    for function in functions.values() {
        if !helpers.contains(&function.helpers) {
            helpers.push(function.helpers);
            *out += &format!("{}\n", function.helpers);
        }
    }
    if functions
        .values()
        .any(|function| function.wgsl.contains("keep_nan("))
    {
        out.push_str(KEEP_NAN);
    }
    for PointwiseFunction {
        name,
        inputs,
        attributes,
        wgsl,
        ..
    } in functions.values()
    {
        let parameters = inputs.iter().chain(*attributes);
        let parameters: Vec<String> = parameters.map(|name| format!("{name}: T")).collect();
        let parameters = parameters.join(", ");
        *out += &format!("fn pw_{name}({parameters}) -> T {{ return {wgsl}; }}\n");
    }
}

impl Expression {
    pub fn of(lowerer: &mut Lowerer<'_>, group: &FusionGroup) -> Expression {
        let graph = lowerer.graph;
        let first = group.members().next().expect("groups have members");
        let shape = graph.ty(graph.output(first).expect("an output")).shape;
        let mut expression = Expression {
            shape,
            leaves: Vec::new(),
            steps: Vec::new(),
            outputs: Vec::new(),
            end: None,
            called: Vec::new(),
        };
        let mut step_of: BTreeMap<ValueId, usize> = BTreeMap::new();
        if let Some(root) = group.root {
            step_of.insert(graph.output(root).expect("an output"), 0);
            expression.steps.push(Step::Root);
        }
        for &node in &group.pointwise {
            let mut arguments = Vec::new();
            for &input in graph.inputs(node) {
                arguments.push(*step_of.entry(input).or_insert_with(|| {
                    let operand = lowerer.operand(input);
                    let layout = operand.layout.broadcast_to(shape);
                    let layout = layout.expect("checked when recorded");
                    expression.steps.push(Step::Leaf(expression.leaves.len()));
                    expression.leaves.push(Operand { layout, ..operand });
                    expression.steps.len() - 1
                }));
            }
            let Some(Role::Pointwise {
                function,
                attributes,
                iterations,
            }) = graph.role(node)
            else {
                unreachable!("members are pointwise");
            };
            expression.steps.push(Step::Apply {
                function,
                attributes: attributes.to_vec(),
                iterations,
                arguments,
            });
            let output = graph.output(node).expect("an output");
            step_of.insert(output, expression.steps.len() - 1);
        }
        for value in group.outputs(graph, lowerer.analysis) {
            if let Some(&step) = step_of.get(&value) {
                let operand = lowerer.operand(value);
                expression.outputs.push((step, operand));
            }
        }
        if let Some(end) = group.end {
            let (value, packed) = end.inputs(graph);
            let mut output = lowerer.operand(graph.output(end.node).expect("an output"));
            if let Some(packed) = packed {
                let packed = lowerer.operand(packed);
                expression.leaves.push(halves(&packed)[0]);
                output = halves(&output)[0];
            }
            expression.called = [end.called, &end.functions()].concat();
            expression.end = Some(Ending {
                is_gate: end.is_gate(),
                step: step_of[&value],
                output,
            });
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
    /// that, and outputs in one buffer with the first of them.
    fn bound_as(&self, operand: usize) -> usize {
        let leaves = self.leaves.len();
        let is_with = |(_, output): &(usize, Operand)| match operand.checked_sub(leaves) {
            None => output.is_same_place(&self.leaves[operand]),
            Some(other) => output.slot == self.outputs[other].1.slot,
        };
        let output = self.outputs.iter().position(is_with);
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
        declare_functions(steps.chain(&self.called), out);
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
            *out += &format!("    let v{index} = {value};\n");
        }
    }
}

/// Lowers a group that is pointwise throughout.
pub(super) fn lower(lowerer: &mut Lowerer<'_>, group: &FusionGroup) {
    lowerer.reuse_leaf(group);
    let expression = Expression::of(lowerer, group);
    emit(lowerer, &expression, "pointwise");
}

/// Lowers what could end an epilogue, and doesn't.
pub(super) fn lower_end(lowerer: &mut Lowerer<'_>, end: End) {
    let (graph, node) = (lowerer.graph, end.node);
    let output = lowerer.operand(graph.output(node).expect("an output"));
    let outputs = match end.is_gate() {
        true => vec![output],
        false => halves(&output).to_vec(),
    };
    let inputs = graph.inputs(node);
    let mut leaves = halves(&lowerer.operand(inputs[0])).to_vec();
    leaves.extend(inputs[1..].iter().map(|&input| lowerer.operand(input)));
    let count = leaves.len();
    let applied = end.functions().into_iter().map(|function| Step::Apply {
        function,
        attributes: Vec::new(),
        iterations: 0,
        arguments: (0..count).collect(),
    });
    let expression = Expression {
        shape: outputs[0].shape(),
        steps: (0..count).map(Step::Leaf).chain(applied).collect(),
        outputs: (count..).zip(outputs).collect(),
        leaves,
        end: None,
        called: end.called.to_vec(),
    };
    let operation = graph.operation(node).expect("ends are operations");
    emit(lowerer, &expression, operation.name());
}

/// Copies `from` to `to`, whatever their strides. They share a shape and an element type.
pub(super) fn copy(lowerer: &mut Lowerer<'_>, from: &Operand, to: &Operand) {
    let expression = Expression {
        shape: from.shape(),
        leaves: vec![*from],
        steps: vec![Step::Leaf(0)],
        outputs: vec![(0, *to)],
        end: None,
        called: Vec::new(),
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
    let places = layouts.iter().zip(&strides);
    let places = places.map(|(layout, strides)| (layout.offset, &strides[..]));
    // Four elements a thread where every operand can be read that way.
    let (packs, vector) = Pack::all(inner, places.clone());
    let width = if vector { 4 } else { 1 };
    let threads = match lowerer.device.class() {
        AdapterClass::Software => 64,
        AdapterClass::Gpu => 256,
    };
    let mut words = vec![(expression.shape.elements() / width) as u32];
    words.extend(extents.iter().map(|&extent| extent as u32));
    words[rank] /= width as u32;
    for (pack, (offset, strides)) in packs.iter().zip(places) {
        words.extend(pack.words(offset, strides));
    }
    let text =
        aliases(dtype.wgsl(), vector) + &source(expression, rank, &packs, threads, words.len());
    let mut dispatch = Dispatch::new(Kernel::generated(name, &text, "main"))
        .params(&words)
        .iterations(width * expression.iterations())
        .groups((words[0] as usize).div_ceil(threads));
    for (index, operand) in expression.operands().enumerate() {
        if expression.bound_as(index) == index {
            dispatch = match index < expression.leaves.len() {
                true => dispatch.read(operand),
                false => dispatch.write(operand),
            };
        }
    }
    let elements = expression.shape.elements() as u64;
    let bytes = expression.operands().map(touched_bytes).sum();
    lowerer.push(dispatch.cost(elements * expression.applications(), bytes));
}

/// Bytes of the distinct elements that an operand touches: a broadcast operand is read once.
pub(super) fn touched_bytes(operand: &Operand) -> u64 {
    let axes = operand
        .layout
        .shape
        .dims()
        .iter()
        .zip(operand.layout.strides());
    let extents = axes
        .filter(|(_, stride)| **stride != 0)
        .map(|(extent, _)| *extent as u64);
    operand.dtype.bytes() as u64 * extents.product::<u64>()
}

/// How an operand is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pack {
    /// Four elements at a time, as one aligned vec4.
    Quad,
    /// One element, repeated four times.
    Splat,
    /// One by one.
    Single,
}

impl Pack {
    /// Four at a time, which the second answer says, if operands of these offsets and strides and rows of so many elements let
    /// them; else all one by one.
    pub fn all<'a>(
        row: usize,
        operands: impl Iterator<Item = (usize, &'a [usize])>,
    ) -> (Vec<Pack>, bool) {
        let packs: Vec<Pack> = operands
            .map(|(offset, strides)| Pack::of(offset, strides))
            .collect();
        match row.is_multiple_of(4) && !packs.contains(&Pack::Single) {
            true => (packs, true),
            false => (vec![Pack::Single; packs.len()], false),
        }
    }

    fn of(offset: usize, strides: &[usize]) -> Pack {
        let (last, outer) = strides.split_last().expect("rank is at least one");
        let mut starts = outer.iter().chain([&offset]);
        match last {
            0 => Pack::Splat,
            1 if starts.all(|start| start.is_multiple_of(4)) => Pack::Quad,
            _ => Pack::Single,
        }
    }

    /// Offset and strides as kernels take them.
    pub fn words(self, offset: usize, strides: &[usize]) -> impl Iterator<Item = u32> {
        let width = if self == Pack::Quad { 4 } else { 1 };
        let (last, outer) = strides.split_last().expect("rank is at least one");
        let outer = std::iter::once(offset).chain(outer.iter().copied());
        let outer = outer.map(move |start| start / width);
        outer.chain([*last]).map(|word| word as u32)
    }

    /// Declares what is bound to an operand, for writing too unless it `is_leaf`.
    pub fn declare(self, operand: &Operand, binding: usize, name: &str, is_leaf: bool) -> String {
        let element = operand.dtype.wgsl();
        let stored = match self {
            Pack::Quad => format!("vec4<{element}>"),
            _ => element.to_owned(),
        };
        let access = if is_leaf { "read" } else { "read_write" };
        format!("@group(0) @binding({binding}) var<storage, {access}> {name}: array<{stored}>;\n")
    }
}

/// The types that steps compute.
pub(super) fn aliases(element: &str, vector: bool) -> String {
    match vector {
        true => format!("alias T = vec4<{element}>;\nalias Bits = vec4<u32>;\n"),
        false => format!("alias T = {element};\nalias Bits = u32;\n"),
    }
}

/// The kernel's text. Parameter words: count, extents, then offset and strides of every operand.
fn source(
    expression: &Expression,
    rank: usize,
    packs: &[Pack],
    threads: usize,
    words: usize,
) -> String {
    let word = |index: usize| format!("p[{}].{}", index / 4, ["x", "y", "z", "w"][index % 4]);
    let quads = words.div_ceil(4);
    let mut text = format!("@group(0) @binding(0) var<uniform> p: array<vec4<u32>, {quads}>;\n");
    let leaves = expression.leaves.len();
    let bound = |index: usize| expression.bound_as(index);
    let operands = expression.operands().enumerate();
    let operands = operands.filter(|&(index, _)| bound(index) == index);
    for (binding, (index, operand)) in (1..).zip(operands) {
        let name = format!("b{index}");
        text += &packs[index].declare(operand, binding, &name, index < leaves);
    }
    expression.functions(&mut text);
    text += &format!(
        "@compute @workgroup_size({threads})\nfn main(@builtin(workgroup_id) group: vec3<u32>, \
         @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {{\n    \
         let i = (group.x + group.y * groups.x) * {threads}u + lane;\n    \
         if (i >= {}) {{ return; }}\n",
        word(0)
    );
    // Coordinates, innermost first.
    if rank == 1 {
        text += "    let i0 = i;\n";
    } else {
        text += "    var rest = i;\n";
        for axis in (1..rank).rev() {
            let extent = word(1 + axis);
            text += &format!("    let i{axis} = rest % {extent};\n    rest = rest / {extent};\n");
        }
        text += "    let i0 = rest;\n";
    }
    let place = |operand: usize| {
        let first = 1 + rank + operand * (1 + rank);
        let mut place = word(first);
        for axis in 0..rank {
            place += &match packs[operand] {
                Pack::Quad if axis + 1 == rank => format!(" + i{axis}"),
                Pack::Splat if axis + 1 == rank => String::new(),
                _ => format!(" + i{axis} * {}", word(first + 1 + axis)),
            };
        }
        place
    };
    expression.statements(&mut text, "", |leaf| {
        format!("T(b{}[{}])", bound(leaf), place(leaf))
    });
    for (operand, (step, _)) in (leaves..).zip(&expression.outputs) {
        text += &format!("    b{}[{}] = v{step};\n", bound(operand), place(operand));
    }
    text + "}\n"
}
