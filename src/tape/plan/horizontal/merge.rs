//! Several kernels as one: each becomes a function of its workgroup.
//!
//! What is declared at the outermost level gets a part's name behind its own, so that names don't meet. Parts that bind the
//! same slot in the same way share the binding, and workgroup memory of the same name and element type is shared too: a
//! workgroup runs one of the parts.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;

use crate::gpu::kernel::Access;
use crate::gpu::syntax::{Declaration, Field, Kind, Module, declared_type, workgroup_size};
use crate::tape::plan::dispatch::Dispatch;

/// What the parts are called.
pub(super) const PARTS: [&str; 3] = ["first", "second", "third"];

/// The entry point.
pub(super) const ENTRY: &str = "horizontal";

/// What several kernels make.
pub(super) struct Merged {
    pub source: String,
    /// Slots in the order of the kernel's bindings.
    pub bindings: Vec<(usize, Access)>,
}

/// The kernels of all dispatches as one. `None` where they are not as `Dispatch::fusable` says.
pub(super) fn merged(members: &[&Dispatch]) -> Option<Merged> {
    let mut merger = Merger::default();
    for (member, part) in members.iter().zip(PARTS) {
        merger.add(member, part)?;
    }
    Some(merger.finish(members[0].fusable_as?.1))
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

type Names<'a> = HashMap<&'a str, String>;

impl Merger {
    fn add(&mut self, dispatch: &Dispatch, part: &str) -> Option<()> {
        let kernel = &dispatch.kernel.module;
        let mut names: Names<'_> = kernel
            .iter()
            .map(|it| (&*it.name, format!("{}_{part}", it.name)))
            .collect();
        let parameters = kernel.iter().find(|it| it.kind == Kind::Uniform(0))?;
        names.insert(&parameters.name, format!("all.{part}"));
        // None of these names may stand for something else somewhere.
        let end = format!("_{part}");
        let is_taken = |local: &str| local == "all" || local.ends_with(&end);
        if kernel.iter().any(|it| it.declares_local(is_taken)) {
            return None;
        }
        self.bind(dispatch, &mut names)?;
        self.share(kernel, &mut names)?;
        for it in kernel.iter() {
            let text = it.renamed(&names);
            match it.kind {
                Kind::Uniform(0) => {
                    let ty = declared_type(&text);
                    let bytes = (4 * dispatch.params.len()).next_multiple_of(16);
                    write!(self.fields, ", @align(16) @size({bytes}) {part}: {ty}").ok()?;
                }
                Kind::Storage(..) | Kind::Workgroup => {}
                Kind::Entry => {
                    let parameters = self.call(kernel, it, &names)?;
                    let (name, body) = (&names[&*it.name], text.split_once('{')?.1);
                    let size = workgroup_size(&text);
                    // That the dispatch was right about its invocations, and that they have one dimension.
                    let invocations = dispatch.fusable_as?.1;
                    writeln!(self.text, "const_assert {size} == {invocations}u;").ok()?;
                    writeln!(self.text, "fn {name}({parameters}) {{{body}").ok()?;
                }
                _ if it.name.is_empty() || matches!(it.kind, Kind::Uniform(_)) => return None,
                _ => writeln!(self.text, "{text}").ok()?,
            }
        }
        Some(())
    }

    /// Finds a binding for every storage array, and names the array after it.
    fn bind<'a>(&mut self, dispatch: &'a Dispatch, names: &mut Names<'a>) -> Option<()> {
        let mut seen = HashSet::new();
        for it in dispatch.kernel.module.iter() {
            let Kind::Storage(number, is_written) = it.kind else {
                continue;
            };
            let &(slot, access) = dispatch.bindings.get((number as usize).checked_sub(1)?)?;
            let expected = if is_written {
                Access::Write
            } else {
                Access::Read
            };
            if access != expected || !seen.insert(number) {
                return None;
            }
            let text = it.renamed(names);
            let ty = declared_type(&text);
            let known = self
                .bindings
                .iter()
                .find(|known| (known.slot, known.access) == (slot, access) && known.ty == ty);
            match known {
                Some(known) => _ = names.insert(&it.name, known.name.clone()),
                None if is_written && self.bindings.iter().any(|known| known.slot == slot) => {
                    return None;
                }
                None => self.bindings.push(Binding {
                    slot,
                    access,
                    ty: ty.to_owned(),
                    name: names.get(&*it.name)?.clone(),
                }),
            }
        }
        Some(())
    }

    /// Has parts use the same array where they call it the same and its elements are no struct of theirs.
    fn share<'a>(&mut self, kernel: &'a Module, names: &mut Names<'a>) -> Option<()> {
        fn array(text: &str) -> Option<(&str, &str)> {
            let array = declared_type(text).strip_prefix("array<")?;
            array.strip_suffix('>')?.split_once(", ")
        }
        for it in kernel.iter().filter(|it| it.kind == Kind::Workgroup) {
            let text = it.renamed(names);
            let (element, size) = array(&text)?;
            let is_own = array(&it.text)?.0 != element;
            let word: String = element
                .chars()
                .filter(char::is_ascii_alphanumeric)
                .collect();
            let name = match is_own {
                true => names[&*it.name].clone(),
                false => format!("{}_of_{word}", it.name),
            };
            names.insert(&it.name, name.clone());
            match self.shared.iter_mut().find(|known| known.name == name) {
                Some(known) => known.size = format!("max({}, {size})", known.size),
                None => self.shared.push(Shared {
                    name,
                    element: element.to_owned(),
                    size: size.to_owned(),
                }),
            }
        }
        Some(())
    }

    /// Notes how the entry point is called, and gives its parameters.
    fn call(&mut self, kernel: &Module, entry: &Declaration, names: &Names<'_>) -> Option<String> {
        let previous = match self.calls.len() {
            0 => "0u".to_owned(),
            part => format!("all.ends[{}]", part - 1),
        };
        let mut value = |field: Field<'_>| match field.builtin {
            "" => None,
            "workgroup_id" => Some(format!("vec3<u32>(index - {previous}, 0u, 0u)")),
            "num_workgroups" => Some("vec3<u32>(groups.x * groups.y, 1u, 1u)".to_owned()),
            builtin => {
                let value = (builtin.to_owned(), field.ty.to_owned());
                if !self.builtins.contains(&value) {
                    self.builtins.push(value);
                }
                Some(format!("the_{builtin}"))
            }
        };
        let (mut arguments, mut parameters) = (Vec::new(), Vec::new());
        for field in entry.fields() {
            let ty = names.get(field.ty).map_or(field.ty, String::as_str);
            parameters.push(format!("{}: {ty}", field.name));
            arguments.push(match kernel.members(field.ty) {
                Some(members) => {
                    let values: Option<Vec<String>> = members.map(&mut value).collect();
                    format!("{ty}({})", values?.join(", "))
                }
                None => value(field)?,
            });
        }
        let name = names.get(&*entry.name)?;
        self.calls
            .push(format!("{name}({});", arguments.join(", ")));
        Some(parameters.join(", "))
    }

    fn finish(self, invocations: usize) -> Merged {
        let bindings = (1..).zip(&self.bindings).map(|(number, binding)| {
            let mode = match binding.access {
                Access::Write => "read_write",
                _ => "read",
            };
            let (name, ty) = (&binding.name, &binding.ty);
            format!("@group(0) @binding({number}) var<storage, {mode}> {name}: {ty};\n")
        });
        let shared = self.shared.iter().map(|shared| {
            let (name, element, size) = (&shared.name, &shared.element, &shared.size);
            format!("var<workgroup> {name}: array<{element}, {size}>;\n")
        });
        let builtins = self.builtins.iter();
        let builtins =
            builtins.map(|(builtin, ty)| format!("    @builtin({builtin}) the_{builtin}: {ty},\n"));
        let last = self.calls.len() - 1;
        let calls = self.calls.iter().enumerate().map(|(part, call)| {
            let otherwise = if part == 0 { "    " } else { "    else " };
            let condition = match part == last {
                true => String::new(),
                false => format!("if (index < all.ends[{part}]) "),
            };
            format!("{otherwise}{condition}{{ {call} }}\n")
        });
        let source = format!(
            "struct All {{ ends: vec4<u32>{} }}\n@group(0) @binding(0) var<uniform> all: All;\n\
             {}{}{}\n@compute @workgroup_size({invocations})\nfn {ENTRY}(\n    \
             @builtin(workgroup_id) group: vec3<u32>,\n    \
             @builtin(num_workgroups) groups: vec3<u32>,\n{}) {{\n    \
             let index = group.x + group.y * groups.x;\n{}}}\n",
            self.fields,
            bindings.collect::<String>(),
            shared.collect::<String>(),
            self.text,
            builtins.collect::<String>(),
            calls.collect::<String>(),
        );
        let bindings = self.bindings.iter();
        Merged {
            source,
            bindings: bindings.map(|b| (b.slot, b.access)).collect(),
        }
    }
}

#[cfg(test)]
#[path = "../../../../tests/unit/tape/plan/horizontal/merge.rs"]
mod tests;
