//! Several kernels' texts as one: each becomes a function of its workgroup.
//!
//! Names declared at the outermost level get a part's name behind them, so that they don't meet. What no part uses is left
//! out. Parts that bind the same slot in the same way share the binding, and workgroup memory of the same name and element
//! type is shared too: a workgroup runs one of the parts.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;

use super::items::{
    Item, Kind, declared_type, declares_local, items, renamed, used, without_comments, words,
};
use crate::gpu::kernel::Access;
use crate::tape::plan::dispatch::Dispatch;

/// What the parts are called.
pub(super) const PARTS: [&str; 3] = ["first", "second", "third"];

/// The entry point.
pub(super) const ENTRY: &str = "side_by_side";

/// What several kernels make.
pub(super) struct Text {
    pub source: String,
    /// Slots in the order of the text's bindings.
    pub bindings: Vec<(usize, Access)>,
}

/// The text of all dispatches. `None` where their texts are not as `Dispatch::may_pair` says.
pub(super) fn merged(members: &[&Dispatch]) -> Option<Text> {
    let mut merger = Merger::default();
    for (member, part) in members.iter().zip(PARTS) {
        merger.add(member, part)?;
    }
    Some(merger.finish(members[0].pair?.1))
}

/// A binding of the whole.
struct Binding {
    slot: usize,
    access: Access,
    ty: String,
    name: String,
}

/// An array in workgroup memory, as large as the largest of the parts.
struct Shared {
    name: String,
    element: String,
    size: String,
}

#[derive(Default)]
struct Merger {
    text: String,
    bindings: Vec<Binding>,
    shared: Vec<Shared>,
    /// The members of the uniform struct.
    fields: String,
    /// Names and types of the built-in values that entry points take.
    builtins: Vec<(String, String)>,
    /// One call a part.
    calls: Vec<String>,
}

impl Merger {
    fn add(&mut self, dispatch: &Dispatch, part: &str) -> Option<()> {
        let source = without_comments(&dispatch.kernel.source);
        let items = used(items(&source)?, dispatch.kernel.entry)?;
        let parameters = items.iter().find(|item| item.kind == Kind::Uniform)?;
        let is_shadowed = |item: &Item<'_>| {
            item.kind != Kind::Struct && declares_local(item.text, parameters.name)
        };
        if items.iter().any(is_shadowed) {
            return None;
        }
        let mut names: HashMap<&str, String> = items
            .iter()
            .map(|item| (item.name, format!("{}_{part}", item.name)))
            .collect();
        names.insert(parameters.name, format!("all.{part}"));
        self.bind(dispatch, &items, &mut names)?;
        self.share(&items, &mut names);
        for item in &items {
            match item.kind {
                Kind::Uniform => {
                    let ty = renamed(declared_type(item.text)?, &names, false);
                    let bytes = (4 * dispatch.params.len()).next_multiple_of(16);
                    write!(self.fields, ", @align(16) @size({bytes}) {part}: {ty}").ok()?;
                }
                Kind::Storage(..) | Kind::Workgroup(_) => {}
                Kind::Entry => {
                    let (_, size) = item.text.split_once("@workgroup_size(")?;
                    let size = renamed(size.split_once(")\n")?.0, &names, false);
                    let invocations = dispatch.pair?.1;
                    // That the dispatch was right about it, and that it has one dimension.
                    writeln!(self.text, "const_assert {size} == {invocations}u;").ok()?;
                    let function = item.text.find("fn ").map(|at| &item.text[at..])?;
                    let function = self.call(function, names.get(item.name)?)?;
                    self.text += &renamed(&function, &names, false);
                }
                Kind::Struct => self.text += &renamed(item.text, &names, true),
                Kind::Other => self.text += &renamed(item.text, &names, false),
            }
        }
        Some(())
    }

    /// Finds a binding for every storage array, and names the array after it.
    fn bind<'a>(
        &mut self,
        dispatch: &Dispatch,
        items: &[Item<'a>],
        names: &mut HashMap<&'a str, String>,
    ) -> Option<()> {
        let mut seen = HashSet::new();
        for item in items {
            let Kind::Storage(number, mode) = item.kind else {
                continue;
            };
            let &(slot, access) = dispatch.bindings.get(number.checked_sub(1)?)?;
            let expected = match access {
                Access::Read => "read",
                Access::Write => "read_write",
                _ => return None,
            };
            if mode != expected || !seen.insert(number) {
                return None;
            }
            let ty = renamed(declared_type(item.text)?, names, false);
            let known = self
                .bindings
                .iter()
                .find(|known| (known.slot, known.access) == (slot, access) && known.ty == ty);
            match known {
                Some(known) => _ = names.insert(item.name, known.name.clone()),
                None => self.bindings.push(Binding {
                    slot,
                    access,
                    ty,
                    name: names.get(item.name)?.clone(),
                }),
            }
        }
        Some(())
    }

    /// Has parts use the same array where they call it the same and its elements are no struct of theirs.
    fn share<'a>(&mut self, items: &[Item<'a>], names: &mut HashMap<&'a str, String>) {
        for item in items {
            let Kind::Workgroup([element, size]) = item.kind else {
                continue;
            };
            let size = renamed(size, names, false);
            let is_own = renamed(element, names, false) != element;
            let name = match is_own {
                true => names[item.name].clone(),
                false => format!("{}_of_{}", item.name, words(element).collect::<String>()),
            };
            names.insert(item.name, name.clone());
            let mut known = self.shared.iter_mut();
            match known.find(|known| known.name == name) {
                Some(known) => known.size = format!("max({}, {size})", known.size),
                None => self.shared.push(Shared {
                    name,
                    element: renamed(element, names, false),
                    size,
                }),
            }
        }
    }

    /// Notes how the entry point is called, and gives it without its attributes.
    fn call(&mut self, function: &str, name: &str) -> Option<String> {
        let (start, end) = (function.find('(')? + 1, function.find(") {")?);
        let previous = match self.calls.len() {
            0 => "0u".to_owned(),
            part => format!("all.ends[{}]", part - 1),
        };
        let (mut arguments, mut parameters) = (Vec::new(), Vec::new());
        for parameter in function[start..end].split(',').map(str::trim) {
            if parameter.is_empty() {
                continue;
            }
            let (builtin, parameter) = parameter.strip_prefix("@builtin(")?.split_once(") ")?;
            let (_, ty) = parameter.split_once(": ")?;
            arguments.push(match builtin {
                "workgroup_id" => format!("vec3<u32>(index - {previous}, 0u, 0u)"),
                "num_workgroups" => "vec3<u32>(groups.x * groups.y, 1u, 1u)".to_owned(),
                _ => {
                    let value = (builtin.to_owned(), ty.to_owned());
                    if !self.builtins.contains(&value) {
                        self.builtins.push(value);
                    }
                    format!("the_{builtin}")
                }
            });
            parameters.push(parameter);
        }
        self.calls
            .push(format!("{name}({});", arguments.join(", ")));
        let (head, body) = (&function[..start], &function[end..]);
        Some(format!("{head}{}{body}", parameters.join(", ")))
    }

    fn finish(mut self, invocations: usize) -> Text {
        let mut text = String::new();
        let mut line = |line: String| {
            text.push_str(&line);
            text.push('\n');
        };
        line(format!("struct All {{ ends: vec4<u32>{} }}", self.fields));
        line("@group(0) @binding(0) var<uniform> all: All;".to_owned());
        for (number, binding) in (1..).zip(&self.bindings) {
            let mode = match binding.access {
                Access::Write => "read_write",
                _ => "read",
            };
            let (name, ty) = (&binding.name, &binding.ty);
            line(format!(
                "@group(0) @binding({number}) var<storage, {mode}> {name}: {ty};"
            ));
        }
        for Shared {
            name,
            element,
            size,
        } in &self.shared
        {
            line(format!("var<workgroup> {name}: array<{element}, {size}>;"));
        }
        line(std::mem::take(&mut self.text));
        line(format!("@compute @workgroup_size({invocations})"));
        line(format!("fn {ENTRY}("));
        line("    @builtin(workgroup_id) group: vec3<u32>,".to_owned());
        line("    @builtin(num_workgroups) groups: vec3<u32>,".to_owned());
        for (builtin, ty) in &self.builtins {
            line(format!("    @builtin({builtin}) the_{builtin}: {ty},"));
        }
        line(") {".to_owned());
        line("    let index = group.x + group.y * groups.x;".to_owned());
        let last = self.calls.len() - 1;
        for (part, call) in self.calls.iter().enumerate() {
            let otherwise = if part == 0 { "    " } else { "    else " };
            let condition = match part == last {
                true => String::new(),
                false => format!("if (index < all.ends[{part}]) "),
            };
            line(format!("{otherwise}{condition}{{ {call} }}"));
        }
        line("}".to_owned());
        let bindings = self.bindings.iter();
        Text {
            source: text,
            bindings: bindings.map(|b| (b.slot, b.access)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::merged;
    use crate::gpu::kernel::Access;
    use crate::gpu::{DType, Kernel};
    use crate::shape::{Layout, Shape};
    use crate::tape::plan::dispatch::{Dispatch, Operand};

    const SOURCE: &str = "\
struct Params { n: u32, x: u32 }  // x: a member called like an array
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> unused: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
const SIZE: u32 = 4u;
var<workgroup> rows: array<f32, SIZE * 2u>;
@compute @workgroup_size(SIZE)
fn other() {}
@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    rows[lane] = x[p.x];
    if (lane < p.n) { y[group.x] = rows[lane]; }
}
";

    fn dispatch(source: &'static str, from: usize, to: usize) -> Dispatch {
        let operand = |slot| Operand {
            slot,
            layout: Layout::contiguous(Shape::new(&[8]), 0),
            dtype: DType::F32,
        };
        Dispatch::new(Kernel::builtin("test", source, "main"))
            .read(&operand(from))
            .write(&operand(to))
            .params(&[4, 0])
            .may_pair("test_pair", 4)
    }

    #[test]
    fn what_is_shared() {
        let [one, two] = [dispatch(SOURCE, 1, 2), dispatch(SOURCE, 1, 3)];
        let text = merged(&[&one, &two]).unwrap();
        let expected = [(1, Access::Read), (2, Access::Write), (3, Access::Write)];
        assert_eq!(text.bindings, expected);
        for line in [
            "struct All { ends: vec4<u32>, @align(16) @size(16) first: Params_first, @align(16) @size(16) second: Params_second }",
            "var<workgroup> rows_of_f32: array<f32, max(SIZE_first * 2u, SIZE_second * 2u)>;",
            "struct Params_second { n: u32, x: u32 }",
            "const_assert SIZE_second == 4u;",
            "    rows_of_f32[lane] = x_first[all.second.x];",
            "    if (lane < all.second.n) { y_second[group.x] = rows_of_f32[lane]; }",
            "    else { main_second(vec3<u32>(index - all.ends[0], 0u, 0u), the_local_invocation_index); }",
        ] {
            assert!(
                text.source.lines().any(|l| l == line),
                "{line}\n{}",
                text.source
            );
        }
        assert!(!text.source.contains("unused") && !text.source.contains("other"));
    }

    #[test]
    fn what_is_refused() {
        let good = dispatch(SOURCE, 1, 2);
        for source in [
            // A local variable that hides the parameters.
            "@group(0) @binding(0) var<uniform> p: u32;\n@compute @workgroup_size(4)\nfn main() { let p = p; }\n",
            // A built-in value within a struct.
            "@group(0) @binding(0) var<uniform> p: u32;\n@compute @workgroup_size(4)\nfn main(place: Place) { _ = p; }\n",
            // A declaration of an unknown sort.
            "@group(0) @binding(0) var<uniform> p: u32;\nvar<private> q: u32;\n@compute @workgroup_size(4)\nfn main() { _ = p; }\n",
        ] {
            assert!(
                merged(&[&good, &dispatch(source, 1, 3)]).is_none(),
                "{source}"
            );
        }
    }
}
