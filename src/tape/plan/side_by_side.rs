//! Independent dispatches that run as one, each as a part of its workgroups.
//!
//! On software adapters, where a dispatch costs as much as a small matrix product and its workgroups are dealt out to the
//! threads beforehand: the gradients of a product's two factors become one dispatch.

use std::collections::HashSet;
use std::fmt::Write;

use super::dispatch::{Dispatch, Program, Slot};
use super::units::MOST_BINDINGS;
use crate::gpu::Kernel;
use crate::gpu::kernel::Access;

/// How far ahead a partner is looked for.
const REACH: usize = 4;

/// Pairs the dispatches that [allow it](Dispatch::may_pair) and do not depend on one another.
pub(super) fn pair(program: &mut Program) {
    let dispatches = std::mem::take(&mut program.dispatches);
    let mut waiting: Vec<Option<Dispatch>> = dispatches.into_iter().map(Some).collect();
    for index in 0..waiting.len() {
        let Some(first) = waiting[index].take() else {
            continue;
        };
        let partner = partner(&program.slots, &first, &waiting, index);
        let pair = partner.and_then(|at| {
            let text = source(&first, waiting[at].as_ref()?)?;
            Some(merged(first.pair?, &first, &waiting[at].take()?, text))
        });
        program.dispatches.push(pair.unwrap_or(first));
    }
}

/// The next dispatch that may run beside `first`, ahead of everything between them.
fn partner(
    slots: &[Slot],
    first: &Dispatch,
    waiting: &[Option<Dispatch>],
    index: usize,
) -> Option<usize> {
    first.pair?;
    let end = waiting.len().min(index + 1 + REACH);
    (index + 1..end).find(|&at| {
        let Some(other) = &waiting[at] else {
            return false;
        };
        let between = waiting[index + 1..at].iter().flatten();
        other.pair == first.pair
            && first.bindings.len() + other.bindings.len() <= MOST_BINDINGS
            && !binds_for_both(slots, first, other)
            && std::iter::once(first)
                .chain(between)
                .all(|earlier| !depend(slots, earlier, other))
    })
}

/// Whether their order matters.
fn depend(slots: &[Slot], one: &Dispatch, other: &Dispatch) -> bool {
    any_pair(one, other, |(a, access_a), (b, access_b)| {
        (access_a == Access::Write || access_b == Access::Write) && overlap(slots, a, b)
    })
}

/// Whether one reads a buffer that the other writes to, if only elsewhere: one dispatch may not do that.
fn binds_for_both(slots: &[Slot], one: &Dispatch, other: &Dispatch) -> bool {
    any_pair(one, other, |(a, access_a), (b, access_b)| {
        access_a != access_b && same_buffer(slots, a, b)
    })
}

fn any_pair(
    one: &Dispatch,
    other: &Dispatch,
    test: impl Fn((usize, Access), (usize, Access)) -> bool,
) -> bool {
    one.bindings
        .iter()
        .any(|&a| other.bindings.iter().any(|&b| test(a, b)))
}

fn same_buffer(slots: &[Slot], a: usize, b: usize) -> bool {
    match (&slots[a], &slots[b]) {
        (Slot::External { buffer: a, .. }, Slot::External { buffer: b, .. }) => a.id() == b.id(),
        _ => a == b,
    }
}

fn overlap(slots: &[Slot], a: usize, b: usize) -> bool {
    let range = |slot: &Slot| match slot {
        Slot::External { start, bytes, .. } => *start..*start + *bytes,
        _ => 0..u64::MAX,
    };
    let (one, other) = (range(&slots[a]), range(&slots[b]));
    same_buffer(slots, a, b) && one.start < other.end && other.start < one.end
}

fn merged(name: &'static str, first: &Dispatch, second: &Dispatch, source: String) -> Dispatch {
    let groups = |dispatch: &Dispatch| dispatch.grid.iter().product::<u32>();
    let mut params = vec![groups(first), 0, 0, 0];
    for dispatch in [first, second] {
        params.extend(&dispatch.params);
        params.resize(params.len().next_multiple_of(4), 0);
    }
    let mut pair = Dispatch::new(Kernel::builtin(name, source, "pair"))
        .params(&params)
        .groups((groups(first) + groups(second)) as usize)
        .cost(
            first.cost.flops + second.cost.flops,
            first.cost.bytes + second.cost.bytes,
        );
    pair.bindings = [&first.bindings[..], &second.bindings[..]].concat();
    pair
}

/// Both kernels in one text. `None` where their names cannot be told apart.
fn source(first: &Dispatch, second: &Dispatch) -> Option<String> {
    let mut text = String::new();
    let parts = [
        (first, "first", 0),
        (second, "second", first.bindings.len()),
    ];
    for (dispatch, part, bindings) in parts {
        text.push_str(&renamed(&dispatch.kernel, part, bindings)?);
    }
    let [one, two] = [first, second].map(|dispatch| dispatch.kernel.entry);
    write!(
        text,
        "struct Both {{ groups: vec4<u32>, first: Params_first, second: Params_second }}\n\
         @group(0) @binding(0) var<uniform> both: Both;\n\
         @compute @workgroup_size(8)\n\
         fn pair(\n    \
         @builtin(workgroup_id) group: vec3<u32>,\n    \
         @builtin(num_workgroups) groups: vec3<u32>,\n    \
         @builtin(subgroup_invocation_id) lane: u32,\n\
         ) {{\n    \
         let index = group.x + group.y * groups.x;\n    \
         let count = both.groups.x;\n    \
         if (index < count) {{ {one}_first(vec3<u32>(index, 0u, 0u), vec3<u32>(count, 1u, 1u), lane); }}\n    \
         else {{ {two}_second(vec3<u32>(index - count, 0u, 0u), vec3<u32>(count, 1u, 1u), lane); }}\n}}\n"
    )
    .expect("strings take everything");
    Some(text)
}

/// A kernel as a function of its group and lane: names declared at the outermost level end in the part's name, bindings
/// start behind `bindings` others, and parameters come from the part's member of the uniform `both`.
fn renamed(kernel: &Kernel, part: &str, bindings: usize) -> Option<String> {
    const UNIFORM: &str = "@group(0) @binding(0) var<uniform> p: Params;\n";
    const ENTRY: &str = "@compute @workgroup_size(8)\n";
    let source = kernel.source.as_ref();
    if !source.contains(UNIFORM) || !source.contains(ENTRY) {
        return None;
    }
    let source = source.replace(UNIFORM, "").replace(ENTRY, "");
    let names: HashSet<&str> = source.lines().filter_map(declared).collect();
    // A local variable of that name would be taken for the parameters.
    if ["let p ", "var p ", "let p:", "var p:", " p: ", "(p: "]
        .iter()
        .any(|local| source.contains(local))
    {
        return None;
    }
    let mut text = String::with_capacity(source.len());
    for line in source.lines() {
        let code = line.split("//").next().unwrap_or_default();
        let code = code.replace("@builtin(workgroup_id) ", "");
        let code = code.replace("@builtin(num_workgroups) ", "");
        let code = code.replace("@builtin(subgroup_invocation_id) ", "");
        rename_line(&mut text, &code, &names, part, bindings);
        text.push('\n');
    }
    Some(text)
}

/// The name that a line declares at the outermost level.
fn declared(line: &str) -> Option<&str> {
    let rest = ["fn ", "struct ", "alias ", "const "]
        .iter()
        .find_map(|keyword| line.strip_prefix(keyword))
        .or_else(|| {
            line.strip_prefix("@group(0) ")?
                .split_once("> ")
                .map(|(_, rest)| rest)
        })?;
    let end = rest.find(|c: char| !is_name(c)).unwrap_or(rest.len());
    Some(&rest[..end])
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn rename_line(text: &mut String, line: &str, names: &HashSet<&str>, part: &str, bindings: usize) {
    let mut rest = line;
    while let Some(start) = rest.find(is_name) {
        text.push_str(&rest[..start]);
        let is_member = rest[..start].ends_with('.');
        rest = &rest[start..];
        let end = rest.find(|c: char| !is_name(c)).unwrap_or(rest.len());
        let word = &rest[..end];
        rest = &rest[end..];
        let number = text
            .ends_with("@binding(")
            .then(|| word.parse::<usize>().ok())
            .flatten();
        match number {
            Some(number) => write!(text, "{}", number + bindings),
            None if !is_member && word == "p" => write!(text, "both.{part}"),
            None if !is_member && names.contains(word) => write!(text, "{word}_{part}"),
            None => write!(text, "{word}"),
        }
        .expect("strings take everything");
    }
    text.push_str(rest);
}
