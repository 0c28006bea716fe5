//! Operands that kernels read as uniform buffers instead of storage buffers.
//!
//! On llvmpipe, a storage load is a loop over the lanes that goes through memory for every element; a load from a uniform
//! buffer is straight-line code. `docs/performance.md` has both times. So wherever an operand is small enough, the kernel's
//! text is changed to read it from there.

use std::fmt::Write;

use super::dispatch::{Program, Slot};
use super::memory::Assignment;
use crate::gpu::kernel::Access;
use crate::gpu::{AdapterClass, Device};

/// Sizes that bindings are rounded up to, in bytes: a text declares how large its array is, and every further size is one
/// more text to compile.
const SIZES: [u64; 3] = [4 << 10, 16 << 10, 64 << 10];

/// What an operand of so many bytes is rounded up to, if it can be uniform on the device.
pub(super) fn window(device: &Device, bytes: u64) -> Option<u64> {
    let limit = device.limits().max_uniform_buffer_binding_size;
    let size = SIZES.into_iter().find(|&size| bytes <= size)?;
    (device.class() == AdapterClass::Software && size <= limit).then_some(size)
}

/// Turns the operands that fit into uniform ones, and changes the kernels' texts.
pub(super) fn bind(device: &Device, program: &mut Program, assignment: &Assignment) {
    let most = device.limits().max_uniform_buffers_per_shader_stage as usize;
    for dispatch in &mut program.dispatches {
        if !dispatch.kernel.trusted {
            continue;
        }
        // The parameters are one.
        let mut uniforms = 1;
        for (index, (slot, access)) in dispatch.bindings.iter_mut().enumerate() {
            if *access != Access::Read || uniforms == most {
                continue;
            }
            let Some(bytes) = available(device, &program.slots[*slot], *slot, assignment) else {
                continue;
            };
            let source = dispatch.kernel.source.as_ref();
            if let Some(source) = rewritten(source, index + 1, bytes / 16) {
                dispatch.kernel.source = source.into();
                *access = Access::Uniform { bytes };
                uniforms += 1;
            }
        }
    }
}

/// The window through which the slot can be read, where it does not reach beyond the buffer.
fn available(device: &Device, slot: &Slot, index: usize, assignment: &Assignment) -> Option<u64> {
    let (bytes, present) = match slot {
        Slot::Transient { elements } => {
            let buffer = assignment.buffer_of[index]?;
            (4 * *elements as u64, assignment.sizes[buffer])
        }
        Slot::External {
            buffer,
            start,
            bytes,
        } => (*bytes, buffer.bytes() - start),
        Slot::Upload => return None,
    };
    window(device, bytes).filter(|&size| size <= present)
}

/// The text with what is read at a binding declared as a uniform array of so many vectors. `None` where the array is not
/// only indexed, or its elements are of some other size.
fn rewritten(source: &str, binding: usize, vectors: u64) -> Option<String> {
    let start = format!("@group(0) @binding({binding}) var<storage, read> ");
    let declarations: Vec<(&str, &str)> = source
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.strip_prefix(&start)?.split_once(": array<")?;
            Some((name, rest.split_once(">;")?.0))
        })
        .collect();
    if declarations.is_empty() {
        return None;
    }
    let mut text = source.to_owned();
    for (name, declared) in declarations {
        let aliased = format!("alias {declared} = ");
        let alias = source.lines().find_map(|line| line.strip_prefix(&aliased));
        let element = alias.map_or(declared, |line| line.trim_end_matches(';'));
        let (vector, pick) = match element {
            "vec4<f32>" | "vec4<u32>" => (element, None),
            "f32" | "u32" => (
                if element == "f32" {
                    "vec4<f32>"
                } else {
                    "vec4<u32>"
                },
                Some(format!("return {name}[i >> 2u][i & 3u];")),
            ),
            "vec2<f32>" => (
                "vec4<f32>",
                Some(format!(
                    "let v = {name}[i >> 1u]; return select(v.xy, v.zw, (i & 1u) == 1u);"
                )),
            ),
            _ => return None,
        };
        let old = format!("{start}{name}: array<{declared}>;");
        let new = format!(
            "@group(0) @binding({binding}) var<uniform> {name}: array<{vector}, {vectors}>;"
        );
        let (before, after) = text.split_once(&old)?;
        let Some(pick) = pick else {
            // Vectors are indexed as they were. A pointer would have to be of another type.
            if mention(source, &format!("&{name}"), 0).is_some() {
                return None;
            }
            text = format!("{before}{new}{after}");
            continue;
        };
        let reader = format!("{name}_at");
        let (before, after) = (calls(before, name, &reader)?, calls(after, name, &reader)?);
        text = format!("{before}{new} fn {reader}(i: u32) -> {declared} {{ {pick} }}{after}");
    }
    Some(text)
}

/// The text with every `name[place]` as `reader(place)`. `None` if the name stands for anything else.
fn calls(text: &str, name: &str, reader: &str) -> Option<String> {
    let mut result = String::with_capacity(text.len());
    let mut done = 0;
    while let Some(at) = mention(text, name, done) {
        let start = at + name.len() + 1;
        let place = text[at + name.len()..].strip_prefix('[')?;
        let mut depth = 1;
        let length = place.find(|c| {
            depth += match c {
                '[' => 1,
                ']' => -1,
                _ => 0,
            };
            depth == 0
        })?;
        let place = calls(&place[..length], name, reader)?;
        write!(result, "{}{reader}({place})", &text[done..at]).expect("strings take everything");
        done = start + length + 1;
    }
    result.push_str(&text[done..]);
    Some(result)
}

/// Where a variable is mentioned next, from byte `from` on: not in a comment, nor as a part of a longer name, nor as a
/// member.
fn mention(text: &str, name: &str, from: usize) -> Option<usize> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut places = text[from..]
        .match_indices(name)
        .map(|(place, _)| from + place);
    places.find(|&at| {
        let (before, after) = (&text[..at], &text[at + name.len()..]);
        let line = before.rsplit('\n').next().unwrap_or_default();
        !line.contains("//")
            && !before.ends_with(|c: char| is_word(c) || c == '.')
            && !after.starts_with(is_word)
    })
}

#[cfg(test)]
mod tests {
    use super::rewritten;

    const SOURCE: &str = "alias T = f32;
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> ab: array<T>; // ab is read
@group(0) @binding(3) var<storage, read> pair: array<vec2<f32>>;
fn f(i: u32) -> f32 { return ab[i + u32(ab[i])] + a[i].x + x.ab[1] + pair[i].y; }
";

    #[test]
    fn texts() {
        let uniform = |binding| rewritten(SOURCE, binding, 256);
        assert_eq!(
            uniform(1),
            Some(SOURCE.replace(
                "<storage, read> a: array<vec4<f32>>",
                "<uniform> a: array<vec4<f32>, 256>"
            ))
        );
        let scalar = SOURCE
            .replace(
                "<storage, read> ab: array<T>;",
                "<uniform> ab: array<vec4<f32>, 256>; fn ab_at(i: u32) -> T { return ab[i >> 2u][i & 3u]; }",
            )
            .replace("ab[i + u32(ab[i])]", "ab_at(i + u32(ab_at(i)))");
        assert_eq!(uniform(2), Some(scalar));
        assert!(uniform(3).unwrap().contains("pair_at(i).y"));
        assert_eq!(uniform(4), None);
        let by_pointer = SOURCE.replace("ab[1]", "y + f32(arrayLength(&a))");
        assert_eq!(rewritten(&by_pointer, 1, 256), None);
    }
}
