//! Kernels with arrays in uniform buffers instead of storage buffers.

use crate::gpu::syntax::{Declaration, Kind, Module};
use crate::tape::plan::halves::element;
use crate::tape::plan::window::WINDOW;

/// The kernel with what is read at a binding declared as uniform arrays of so many bytes, of which all but the first are
/// bound at `next` and behind. `None` where the array is not only indexed, where an index is a number (a load from there is
/// quick as it is, and the driver would compile what it finds at such a place of a uniform buffer: `gpu/opaque.rs`), or where
/// its elements are of some other size.
pub(super) fn rewritten(
    kernel: &Module,
    binding: u32,
    next: u32,
    windows: &[u64],
) -> Option<Module> {
    let array = kernel
        .iter()
        .find(|it| it.kind == Kind::Storage(binding, false))?;
    let name = &*array.name;
    let (declared, element) = element(kernel, array)?;
    // Those of uniform arrays are vectors of four; how many of its own elements one holds, as a power of two.
    let (vector, shift) = match element {
        "vec4<f32>" => ("vec4<f32>", 0),
        "vec4<u32>" => ("vec4<u32>", 0),
        "vec2<f32>" => ("vec4<f32>", 1),
        "f32" => ("vec4<f32>", 2),
        "u32" => ("vec4<u32>", 2),
        _ => return None,
    };
    let is_load = |it: &Declaration, at| match it.index(&at) {
        Some([open, _]) => {
            !it.text[open + 1..].starts_with(|c: char| c.is_ascii_digit())
                && !it.text[..at.start].ends_with('&')
        }
        None => *it.name == *name,
    };
    if !kernel
        .iter()
        .all(|it| it.mentions(name).all(|at| is_load(it, at)))
    {
        return None;
    }
    // What windows are called.
    let more = (1..windows.len()).map(|number| kernel.fresh(&format!("{name}_{number}")));
    let names: Vec<String> = std::iter::once(name.to_owned()).chain(more).collect();
    let bindings = std::iter::once(binding).chain(next..);
    let declarations = names.iter().zip(windows).zip(bindings);
    // All on one line, so that others keep their numbers.
    let declarations = declarations.map(|((array, bytes), binding)| {
        let vectors = bytes / 16;
        format!("@group(0) @binding({binding}) var<uniform> {array}: array<{vector}, {vectors}>; ")
    });
    let (mut new, mut text) = (kernel.clone(), declarations.collect::<String>());
    // Whole vectors in a single window are indexed as they were.
    if shift > 0 || windows.len() > 1 {
        let reader = kernel.fresh(&format!("{name}_at"));
        new.edit(name, |it, at| match it.index(&at) {
            Some([open, close]) => vec![
                (at.start..open + 1, format!("{reader}(")),
                (close..close + 1, ")".to_owned()),
            ],
            None => Vec::new(),
        });
        let body = body(&names, shift);
        text += &format!("fn {reader}(i: u32) -> {declared} {{ {body} }}");
    }
    new.replace(name, &text);
    Some(new)
}

/// What the function does that reads element `i`.
fn body(windows: &[String], shift: u32) -> String {
    let vectors = (WINDOW / 16) as u32;
    let component = if shift == 2 { "[i & 3u]" } else { "" };
    let mut body = match windows.len() {
        1 => format!("let at = i >> {shift}u; "),
        _ => format!("let at = (i >> {shift}u) & {}u; ", vectors - 1),
    };
    body += &format!("var v = {}[at]{component}; ", windows[0]);
    for (number, array) in windows.iter().enumerate().skip(1) {
        let window = vectors.ilog2() + shift;
        body += &format!("v = select(v, {array}[at]{component}, (i >> {window}u) == {number}u); ");
    }
    body + match shift {
        1 => "return select(v.xy, v.zw, (i & 1u) == 1u);",
        _ => "return v;",
    }
}

#[cfg(test)]
#[path = "../../../../tests/unit/tape/plan/uniform/windows.rs"]
mod tests;
