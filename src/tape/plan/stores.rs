//! Generates epilogues: the pointwise members of a group, and its end, as the functions through which its root kernel stores.

use std::fmt::Write;

use super::dispatch::Operand;
use super::epilogue::Epilogue;
use super::groups::FusionGroup;
use super::lowerer::Lowerer;
use super::pointwise::{Expression, Pack, touched_bytes};
use crate::shape::Shape;
use crate::tape::role::Role;

pub(super) fn generate(
    lowerer: &mut Lowerer<'_>,
    group: &FusionGroup,
    first_binding: usize,
) -> Epilogue {
    let graph = lowerer.graph;
    let root = group.root.expect("epilogues follow a root");
    let output = graph.outputs(root).next().expect("an output");
    let operation = graph.operation(root).expect("an operation");
    let Role::Epilogue { grid, .. } = operation.role(graph.ty(output)) else {
        panic!(
            "{}: only Role::Epilogue operations have epilogues",
            operation.name()
        );
    };
    let mut expression = Expression::of(lowerer, group);
    if expression.outputs.is_empty() && expression.end.is_none() {
        // Nobody reads output 0; the kernel still needs somewhere to store.
        let operand = lowerer.operand(output);
        expression.outputs.push((0, operand));
    }
    let shape = Shape::new(&grid);
    let mut layouts: Vec<_> = expression
        .operands()
        .map(|operand| {
            let broadcast = operand.layout.broadcast_to(expression.shape);
            let layout = broadcast.and_then(|layout| layout.reshape(shape));
            layout.expect("checked when the group was formed")
        })
        .collect();
    let [batch, rows, mut columns] = grid;
    if let Some(end) = &expression.end {
        if end.is_gate() {
            columns /= 2;
        }
        let grid = Shape::new(&[batch, rows, columns]);
        let layout = end.output.layout.reshape(grid);
        layouts.push(layout.expect("outputs are dense"));
    }
    let packs: Vec<Pack> = layouts
        .iter()
        .map(|layout| Pack::of(layout.offset, layout.strides()))
        .collect();
    let vector = columns.is_multiple_of(4) && packs.iter().all(|&pack| pack != Pack::Single);
    // What is the same for all rows is loaded once, if a step loads it.
    let is_fixed: Vec<bool> = layouts[..expression.leaves.len()]
        .iter()
        .enumerate()
        .map(|(leaf, layout)| vector && layout.strides()[1] == 0 && expression.loads(leaf))
        .collect();
    let mut params = Vec::new();
    for (layout, pack) in layouts.iter().zip(&packs) {
        let width = if vector && *pack == Pack::Quad { 4 } else { 1 };
        params.push((layout.offset / width) as u32);
        params.extend(
            layout.strides()[..2]
                .iter()
                .map(|stride| (stride / width) as u32),
        );
        params.push(layout.strides()[2] as u32);
    }
    let declarations = declarations(&expression, &packs, vector, first_binding);
    let end = expression.end.as_ref();
    let outputs = expression.outputs.iter().map(|(_, output)| *output);
    let outputs: Vec<Operand> = outputs.chain(end.map(|end| end.output)).collect();
    let mut bytes: u64 = expression
        .leaves
        .iter()
        .chain(&outputs)
        .map(touched_bytes)
        .sum();
    let gate = gate_step(&expression).map(|step| gate_text(&expression, step, &packs, vector));
    if let (Some(end), None) = (end, &gate) {
        // The right halves of the rows and of their gradient.
        bytes += 2 * touched_bytes(&end.output);
    }
    Epilogue {
        wgsl: declarations.clone() + &store_text(&expression, &packs, vector),
        wgsl_by_rows: declarations + &cursor_text(&expression, &packs, vector, &is_fixed),
        gate,
        iterations: 4 * expression.iterations(),
        bytes,
        leaves: expression.leaves,
        outputs,
        params,
    }
}

/// What both forms need: bindings, and the functions that are applied.
fn declarations(
    expression: &Expression,
    packs: &[Pack],
    vector: bool,
    first_binding: usize,
) -> String {
    let mut text = String::new();
    let leaves = expression.leaves.len();
    text.push_str(match vector {
        true => "alias T = vec4<f32>;\nalias Bits = vec4<u32>;\n",
        false => "alias T = f32;\nalias Bits = u32;\n",
    });
    let end = expression.end.iter().map(|end| &end.output);
    for (index, operand) in expression.operands().chain(end).enumerate() {
        let (access, name) = if index < leaves {
            ("read", "in")
        } else {
            ("read_write", "out")
        };
        let element = operand.dtype.wgsl();
        let stored = if vector && packs[index] == Pack::Quad {
            format!("vec4<{element}>")
        } else {
            element.to_owned()
        };
        let binding = first_binding + index;
        writeln!(
            text,
            "@group(0) @binding({binding}) var<storage, {access}> {name}{index}: array<{stored}>;"
        )
        .unwrap();
    }
    expression.functions(&mut text);
    if let Some(end) = &expression.end {
        end.functions(&mut text);
    }
    text
}

/// The step that a gate reads, if there is one.
fn gate_step(expression: &Expression) -> Option<usize> {
    let end = expression.end.as_ref().filter(|end| end.is_gate());
    end.map(|end| end.step)
}

/// The end of the columns that a quad at `column` may have.
fn end_of_columns(expression: &Expression) -> &'static str {
    match gate_step(expression) {
        Some(_) => "select(p.n / 2u, p.n, column >= p.n / 2u)",
        None => "p.n",
    }
}

/// The statements of the end that is a gate's gradient, if it is; see [`Ending`](super::endings::Ending).
fn gate_gradient(
    text: &mut String,
    expression: &Expression,
    at: impl Fn(usize) -> String,
    apart: &str,
) {
    let end = expression.end.as_ref().filter(|end| !end.is_gate());
    if let Some(end) = end {
        let operands = [expression.leaves.len() - 1, expression.operands().count()];
        end.gradient_statements(text, operands, at, apart);
    }
}

/// `store4`, see [`Epilogue`].
fn store_text(expression: &Expression, packs: &[Pack], vector: bool) -> String {
    let mut text = String::new();
    let leaves = expression.leaves.len();
    let place = |index: usize| place(packs, vector, index);
    let name = if vector { "store4" } else { "store1" };
    writeln!(
        text,
        "fn {name}(batch: u32, row: u32, column: u32, value: T) {{"
    )
    .unwrap();
    expression.statements(&mut text, "value", |leaf| {
        format!("T(in{leaf}[{}])", place(leaf))
    });
    for (index, (step, _)) in expression.outputs.iter().enumerate() {
        let index = leaves + index;
        writeln!(text, "    out{index}[{}] = v{step};", place(index)).unwrap();
    }
    gate_gradient(&mut text, expression, place, apart(vector));
    text.push_str("}\n");
    if !vector {
        let end = end_of_columns(expression);
        writeln!(
            text,
            "fn store4(batch: u32, row: u32, column: u32, value: vec4<f32>) {{\n    \
             let end = {end};\n    \
             store1(batch, row, column, value.x);\n    \
             if (column + 1u < end) {{ store1(batch, row, column + 1u, value.y); }}\n    \
             if (column + 2u < end) {{ store1(batch, row, column + 2u, value.z); }}\n    \
             if (column + 3u < end) {{ store1(batch, row, column + 3u, value.w); }}\n}}"
        )
        .unwrap();
    }
    text
}

/// How far apart the halves of a gate's rows lie, where a kernel's columns are those of one half.
fn apart(vector: bool) -> &'static str {
    if vector { "p.n / 4u" } else { "p.n" }
}

/// `store_gate`, see [`Epilogue::gate`].
fn gate_text(expression: &Expression, step: usize, packs: &[Pack], vector: bool) -> String {
    let mut text = String::new();
    writeln!(
        text,
        "fn row_value(batch: u32, row: u32, column: u32, value: T) -> T {{"
    )
    .unwrap();
    expression.statements(&mut text, "value", |leaf| {
        format!("T(in{leaf}[{}])", place(packs, vector, leaf))
    });
    let output = expression.operands().count();
    let place = place(packs, vector, output);
    let name = if vector { "store_gate" } else { "store_gate1" };
    writeln!(
        text,
        "    return v{step};\n}}\n\
         fn {name}(batch: u32, row: u32, column: u32, gate: T, up: T) {{\n    \
         let left = row_value(batch, row, column, gate);\n    \
         let right = row_value(batch, row, column + p.n / 2u, up);\n    \
         out{output}[{place}] = gated(left, right);\n}}"
    )
    .unwrap();
    if !vector {
        text.push_str(
            "fn store_gate(batch: u32, row: u32, column: u32, gate: vec4<f32>, up: vec4<f32>) {\n    \
             let end = p.n / 2u;\n    \
             store_gate1(batch, row, column, gate.x, up.x);\n    \
             if (column + 1u < end) { store_gate1(batch, row, column + 1u, gate.y, up.y); }\n    \
             if (column + 2u < end) { store_gate1(batch, row, column + 2u, gate.z, up.z); }\n    \
             if (column + 3u < end) { store_gate1(batch, row, column + 3u, gate.w, up.w); }\n}\n",
        );
    }
    text
}

/// Where an operand's element for `batch`, `row` and `column` lies.
fn place(packs: &[Pack], vector: bool, index: usize) -> String {
    let column = match (vector, packs[index]) {
        (true, Pack::Quad) => " + column / 4u".to_owned(),
        (true, _) => String::new(),
        (false, _) => format!(" + column * p.operands[{index}].w"),
    };
    format!(
        "p.operands[{index}].x + batch * p.operands[{index}].y + row * p.operands[{index}].z{column}"
    )
}

/// `cursor` and `store_next`, see [`Epilogue::wgsl_by_rows`]. `is_fixed` says of leaves whether they are the same in all rows.
fn cursor_text(expression: &Expression, packs: &[Pack], vector: bool, is_fixed: &[bool]) -> String {
    let leaves = expression.leaves.len();
    let fixed = |index: usize| index < leaves && is_fixed[index];
    let count = packs.len();
    let (mut fields, mut values, mut steps) = (Vec::new(), Vec::new(), String::new());
    for index in 0..count {
        let place = place(packs, vector, index);
        if fixed(index) {
            // Only vectors are kept, see the caller.
            let ty = format!("vec4<{}>", expression.leaves[index].dtype.wgsl());
            fields.push(format!("fixed{index}: {ty}"));
            values.push(format!("{ty}(in{index}[{place}])"));
            continue;
        }
        fields.extend([format!("place{index}: u32"), format!("row{index}: u32")]);
        values.extend([place, format!("p.operands[{index}].z")]);
        if !vector {
            fields.push(format!("column{index}: u32"));
            values.push(format!("p.operands[{index}].w"));
        }
        writeln!(steps, "    (*c).place{index} += (*c).row{index};").unwrap();
    }
    fields.push("end: u32".to_owned());
    values.push(end_of_columns(expression).to_owned());
    let gate = gate_step(expression);
    if expression.end.is_some() {
        // Where right halves begin, as a column or as a distance.
        fields.push("half: u32".to_owned());
        let half = if gate.is_some() {
            "p.n / 2u"
        } else {
            apart(vector)
        };
        values.push(half.to_owned());
    }
    let (fields, values) = (fields.join(", "), values.join(",\n        "));
    let mut text = String::new();
    writeln!(text, "struct Cursor {{ {fields} }}").unwrap();
    writeln!(
        text,
        "fn cursor(batch: u32, row: u32, column: u32) -> Cursor {{\n    return Cursor({values});\n}}"
    )
    .unwrap();
    let at = |index: usize| match vector {
        true => format!("c.place{index}"),
        false => format!("c.place{index} + e * c.column{index}"),
    };
    writeln!(
        text,
        "fn store_at(c: Cursor, e: u32, column: u32, value: T) {{"
    )
    .unwrap();
    expression.statements(&mut text, "value", |leaf| match fixed(leaf) {
        true => format!("T(c.fixed{leaf})"),
        false => format!("T(in{leaf}[{}])", at(leaf)),
    });
    for (index, (step, _)) in expression.outputs.iter().enumerate() {
        let index = leaves + index;
        writeln!(text, "    out{index}[{}] = v{step};", at(index)).unwrap();
    }
    if let Some(step) = gate {
        // The other half of the row is four lanes further.
        let output = expression.operands().count();
        writeln!(
            text,
            "    let other = subgroupShuffleXor(v{step}, 4u);\n    \
             if (column < c.half) {{ out{output}[{}] = gated(v{step}, other); }}",
            at(output)
        )
        .unwrap();
    }
    gate_gradient(&mut text, expression, at, "c.half");
    let calls = match vector {
        true => "    store_at(*c, 0u, column, value);\n",
        false => {
            "    store_at(*c, 0u, column, value.x);\n    \
             if (column + 1u < (*c).end) { store_at(*c, 1u, column, value.y); }\n    \
             if (column + 2u < (*c).end) { store_at(*c, 2u, column, value.z); }\n    \
             if (column + 3u < (*c).end) { store_at(*c, 3u, column, value.w); }\n"
        }
    };
    writeln!(
        text,
        "}}\nfn store_next(c: ptr<function, Cursor>, column: u32, value: vec4<f32>) {{\n{calls}{steps}}}"
    )
    .unwrap();
    text
}
