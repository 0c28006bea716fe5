//! Generates epilogues: the pointwise members of a group, and its end, as the functions through which its root kernel stores.

use super::dispatch::Operand;
use super::epilogue::Epilogue;
use super::groups::FusionGroup;
use super::lowerer::Lowerer;
use super::pointwise::{Expression, Pack, aliases, touched_bytes};
use crate::shape::{Layout, Shape};
use crate::tape::role::Role;

pub(super) fn generate(
    lowerer: &mut Lowerer<'_>,
    group: &FusionGroup,
    first_binding: usize,
) -> Epilogue {
    let graph = lowerer.graph;
    let root = group.root.expect("epilogues follow a root");
    let Some(Role::Epilogue { grid, .. }) = graph.role(root) else {
        let operation = graph.operation(root).expect("an operation");
        let name = operation.name();
        panic!("{name}: only Role::Epilogue operations have epilogues");
    };
    let mut expression = Expression::of(lowerer, group);
    if expression.outputs.is_empty() && expression.end.is_none() {
        // Nobody reads output 0; the kernel still needs somewhere to store.
        let output = graph.output(root).expect("an output");
        expression.outputs.push((0, lowerer.operand(output)));
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
        if end.is_gate {
            columns /= 2;
        }
        let grid = Shape::new(&[batch, rows, columns]);
        let layout = end.output.layout.reshape(grid);
        layouts.push(layout.expect("outputs are dense"));
    }
    let places = layouts
        .iter()
        .map(|layout| (layout.offset, layout.strides()));
    let (packs, vector) = Pack::all(columns, places.clone());
    let mut params = Vec::new();
    for (pack, (offset, strides)) in packs.iter().zip(places) {
        params.extend(pack.words(offset, strides));
    }
    // What is the same for all rows is loaded once, if a step loads it.
    let is_same = |layout: &Layout, leaf: usize| layout.strides()[1] == 0 && expression.loads(leaf);
    let is_fixed = layouts.iter().take(expression.leaves.len()).zip(0..);
    let is_fixed = is_fixed
        .map(|(layout, leaf)| vector && is_same(layout, leaf))
        .collect();
    let stores = Stores {
        expression: &expression,
        packs,
        vector,
        is_fixed,
    };
    let declarations = stores.declarations(first_binding);
    let end = expression.end.as_ref();
    let outputs = expression.outputs.iter().map(|(_, output)| *output);
    let outputs: Vec<Operand> = outputs.chain(end.map(|end| end.output)).collect();
    let operands = expression.leaves.iter().chain(&outputs);
    let mut bytes: u64 = operands.map(touched_bytes).sum();
    let gate = stores.gate_step().map(|step| stores.gate(step));
    if let (Some(end), None) = (end, &gate) {
        // The right halves of the rows and of their gradient.
        bytes += 2 * touched_bytes(&end.output);
    }
    Epilogue {
        wgsl: declarations.clone() + &stores.store(),
        wgsl_by_rows: declarations + &stores.cursor(),
        gate,
        iterations: 4 * expression.iterations(),
        bytes,
        leaves: expression.leaves,
        outputs,
        params,
    }
}

/// What an epilogue is written from.
struct Stores<'a> {
    expression: &'a Expression,
    /// Of all operands; that of the end comes last.
    packs: Vec<Pack>,
    /// Whether steps compute four columns at a time.
    vector: bool,
    /// By leaf: whether it is the same in all rows.
    is_fixed: Vec<bool>,
}

impl Stores<'_> {
    /// What both forms need: bindings, and the functions that are applied.
    fn declarations(&self, first_binding: usize) -> String {
        let leaves = self.expression.leaves.len();
        let mut text = aliases("f32", self.vector);
        let end = self.expression.end.as_ref();
        let operands = self.expression.operands().chain(end.map(|end| &end.output));
        for (index, operand) in operands.enumerate() {
            let name = match index < leaves {
                true => format!("in{index}"),
                false => format!("out{index}"),
            };
            let binding = first_binding + index;
            text += &self.packs[index].declare(operand, binding, &name, index < leaves);
        }
        self.expression.functions(&mut text);
        text
    }

    /// The step that a gate reads, if there is one.
    fn gate_step(&self) -> Option<usize> {
        let end = self.expression.end.as_ref().filter(|end| end.is_gate);
        end.map(|end| end.step)
    }

    /// The end of the columns that a quad at `column` may have.
    fn end_of_columns(&self) -> &'static str {
        match self.gate_step() {
            Some(_) => "select(p.n / 2u, p.n, column >= p.n / 2u)",
            None => "p.n",
        }
    }

    /// How far apart the halves of a gate's rows lie, where a kernel's columns are those of one half.
    fn apart(&self) -> &'static str {
        if self.vector { "p.n / 4u" } else { "p.n" }
    }

    /// Where an operand's element for `batch`, `row` and `column` lies.
    fn place(&self, index: usize) -> String {
        let column = match self.packs[index] {
            Pack::Quad => " + column / 4u".to_owned(),
            Pack::Splat => String::new(),
            Pack::Single => format!(" + column * p.operands[{index}].w"),
        };
        format!(
            "p.operands[{index}].x + batch * p.operands[{index}].y + row * p.operands[{index}].z{column}"
        )
    }

    /// The statements that store the expression's outputs, and the end that is a gate's gradient if it is (see
    /// [`Ending`](super::pointwise::Ending)): `at` says where, `apart` how far apart halves are.
    fn outputs(&self, text: &mut String, at: impl Fn(usize) -> String, apart: &str) {
        let leaves = self.expression.leaves.len();
        for (index, (step, _)) in (leaves..).zip(&self.expression.outputs) {
            *text += &format!("    out{index}[{}] = v{step};\n", at(index));
        }
        let end = self.expression.end.as_ref().filter(|end| !end.is_gate);
        if let Some(end) = end {
            let (rows, output) = (leaves - 1, self.packs.len() - 1);
            let (step, from, to) = (end.step, at(rows), at(output));
            *text += &format!(
                "    let gate = in{rows}[{from}];\n    \
                 let up = in{rows}[{from} + {apart}];\n    \
                 out{output}[{to}] = pw_gate_gradient(gate, up, v{step});\n    \
                 out{output}[{to} + {apart}] = pw_up_gradient(gate, up, v{step});\n"
            );
        }
    }

    /// `store4`, see [`Epilogue`].
    fn store(&self) -> String {
        let place = |index: usize| self.place(index);
        let name = if self.vector { "store4" } else { "store1" };
        let mut text = format!("fn {name}(batch: u32, row: u32, column: u32, value: T) {{\n");
        self.expression.statements(&mut text, "value", |leaf| {
            format!("T(in{leaf}[{}])", place(leaf))
        });
        self.outputs(&mut text, place, self.apart());
        text += "}\n";
        if !self.vector {
            let end = self.end_of_columns();
            text += &format!(
                "fn store4(batch: u32, row: u32, column: u32, value: vec4<f32>) {{\n    \
                 let end = {end};\n    \
                 store1(batch, row, column, value.x);\n    \
                 if (column + 1u < end) {{ store1(batch, row, column + 1u, value.y); }}\n    \
                 if (column + 2u < end) {{ store1(batch, row, column + 2u, value.z); }}\n    \
                 if (column + 3u < end) {{ store1(batch, row, column + 3u, value.w); }}\n}}\n"
            );
        }
        text
    }

    /// `store_gate`, see [`Epilogue::gate`].
    fn gate(&self, step: usize) -> String {
        let mut text =
            "fn row_value(batch: u32, row: u32, column: u32, value: T) -> T {\n".to_owned();
        self.expression.statements(&mut text, "value", |leaf| {
            format!("T(in{leaf}[{}])", self.place(leaf))
        });
        let output = self.packs.len() - 1;
        let place = self.place(output);
        let name = if self.vector {
            "store_gate"
        } else {
            "store_gate1"
        };
        text += &format!(
            "    return v{step};\n}}\n\
             fn {name}(batch: u32, row: u32, column: u32, gate: T, up: T) {{\n    \
             let left = row_value(batch, row, column, gate);\n    \
             let right = row_value(batch, row, column + p.n / 2u, up);\n    \
             out{output}[{place}] = pw_gated(left, right);\n}}\n"
        );
        if !self.vector {
            text += "fn store_gate(batch: u32, row: u32, column: u32, gate: vec4<f32>, up: vec4<f32>) {\n    \
                 let end = p.n / 2u;\n    \
                 store_gate1(batch, row, column, gate.x, up.x);\n    \
                 if (column + 1u < end) { store_gate1(batch, row, column + 1u, gate.y, up.y); }\n    \
                 if (column + 2u < end) { store_gate1(batch, row, column + 2u, gate.z, up.z); }\n    \
                 if (column + 3u < end) { store_gate1(batch, row, column + 3u, gate.w, up.w); }\n}\n";
        }
        text
    }

    /// `cursor` and `store_next`, see [`Epilogue::wgsl_by_rows`].
    fn cursor(&self) -> String {
        let fixed = |index: usize| self.is_fixed.get(index) == Some(&true);
        let (mut fields, mut values, mut steps) = (Vec::new(), Vec::new(), String::new());
        for index in 0..self.packs.len() {
            let place = self.place(index);
            if fixed(index) {
                // Only vectors are kept, see the caller.
                let ty = format!("vec4<{}>", self.expression.leaves[index].dtype.wgsl());
                fields.push(format!("fixed{index}: {ty}"));
                values.push(format!("{ty}(in{index}[{place}])"));
                continue;
            }
            fields.extend([format!("place{index}: u32"), format!("row{index}: u32")]);
            values.extend([place, format!("p.operands[{index}].z")]);
            if !self.vector {
                fields.push(format!("column{index}: u32"));
                values.push(format!("p.operands[{index}].w"));
            }
            steps += &format!("    (*c).place{index} += (*c).row{index};\n");
        }
        fields.push("end: u32".to_owned());
        values.push(self.end_of_columns().to_owned());
        let gate = self.gate_step();
        if self.expression.end.is_some() {
            // Where right halves begin, as a column or as a distance.
            fields.push("half: u32".to_owned());
            values.push(gate.map_or(self.apart(), |_| "p.n / 2u").to_owned());
        }
        let (fields, values) = (fields.join(", "), values.join(",\n        "));
        let mut text = format!(
            "struct Cursor {{ {fields} }}\n\
             fn cursor(batch: u32, row: u32, column: u32) -> Cursor {{\n    return Cursor({values});\n}}\n\
             fn store_at(c: Cursor, e: u32, column: u32, value: T) {{\n"
        );
        let at = |index: usize| match self.vector {
            true => format!("c.place{index}"),
            false => format!("c.place{index} + e * c.column{index}"),
        };
        self.expression
            .statements(&mut text, "value", |leaf| match fixed(leaf) {
                true => format!("T(c.fixed{leaf})"),
                false => format!("T(in{leaf}[{}])", at(leaf)),
            });
        self.outputs(&mut text, at, "c.half");
        if let Some(step) = gate {
            // The other half of the row is four lanes further.
            let output = self.packs.len() - 1;
            text += &format!(
                "    let other = subgroupShuffleXor(v{step}, 4u);\n    \
                 if (column < c.half) {{ out{output}[{}] = pw_gated(v{step}, other); }}\n",
                at(output)
            );
        }
        let calls = match self.vector {
            true => "    store_at(*c, 0u, column, value);\n",
            false => {
                "    store_at(*c, 0u, column, value.x);\n    \
                 if (column + 1u < (*c).end) { store_at(*c, 1u, column, value.y); }\n    \
                 if (column + 2u < (*c).end) { store_at(*c, 2u, column, value.z); }\n    \
                 if (column + 3u < (*c).end) { store_at(*c, 3u, column, value.w); }\n"
            }
        };
        text + &format!(
            "}}\nfn store_next(c: ptr<function, Cursor>, column: u32, value: vec4<f32>) {{\n{calls}{steps}}}\n"
        )
    }
}
