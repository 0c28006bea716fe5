//! Kernels' texts with arrays in uniform buffers instead of storage buffers.

use std::fmt::Write;

use crate::tape::plan::window::WINDOW;

/// The text with what is read at a binding declared as uniform arrays of so many bytes, of which all but the first are bound
/// at `next` and behind. `None` where the array is not only indexed, where an index is a number (a load from there is quick
/// as it is, and the driver would compile what it finds at such a place of a uniform buffer: `gpu/opaque.rs`), or where its
/// elements are of some other size.
pub(super) fn rewritten(source: &str, binding: u32, next: u32, windows: &[u64]) -> Option<String> {
    let start = format!("@group(0) @binding({binding}) var<storage, read> ");
    // A text with several entry points may have several.
    let declarations = source.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix(&start)?.split_once(": array<")?;
        Some((name, rest.split_once(">;")?.0))
    });
    let mut text = source.to_owned();
    let mut is_declared = false;
    for (name, declared) in declarations {
        is_declared = true;
        let alias = format!("alias {declared} = ");
        let alias = source.lines().find_map(|line| line.strip_prefix(&alias));
        let element = alias.map_or(declared, |line| line.trim_end_matches(';'));
        let old = format!("{start}{name}: array<{declared}>;");
        let (before, after) = text.split_once(&old)?;
        if (0..=9).any(|digit| mention(source, &format!("{name}[{digit}"), 0).is_some()) {
            return None;
        }
        let array = Array {
            name,
            declared,
            element: Element::named(element)?,
        };
        let mut new = array.declarations(binding, next, windows);
        if array.element.shift == 0 && windows.len() == 1 {
            // Vectors are indexed as they were. A pointer would have to be of another type.
            if mention(source, &format!("&{name}"), 0).is_some() {
                return None;
            }
            text = format!("{before}{new}{after}");
            continue;
        }
        new += &array.reader(windows.len());
        let reader = format!("{name}_at");
        let (before, after) = (calls(before, name, &reader)?, calls(after, name, &reader)?);
        text = format!("{before}{new}{after}");
    }
    is_declared.then_some(text)
}

/// A type that arrays in storage have as elements. Those of uniform arrays are vectors of four.
struct Element {
    vector: &'static str,
    /// How many of them a vector holds, as a power of two.
    shift: u32,
}

impl Element {
    fn named(name: &str) -> Option<Element> {
        let (vector, shift) = match name {
            "vec4<f32>" => ("vec4<f32>", 0),
            "vec4<u32>" => ("vec4<u32>", 0),
            "vec2<f32>" => ("vec4<f32>", 1),
            "f32" => ("vec4<f32>", 2),
            "u32" => ("vec4<u32>", 2),
            _ => return None,
        };
        Some(Element { vector, shift })
    }
}

struct Array<'a> {
    name: &'a str,
    declared: &'a str,
    element: Element,
}

impl Array<'_> {
    fn window(&self, number: usize) -> String {
        match number {
            0 => self.name.to_owned(),
            _ => format!("{}_{number}", self.name),
        }
    }

    /// All on one line, so that others keep their numbers.
    fn declarations(&self, binding: u32, next: u32, windows: &[u64]) -> String {
        let bindings = std::iter::once(binding).chain(next..);
        let declarations = windows.iter().zip(bindings).enumerate();
        let declarations = declarations.map(|(number, (bytes, binding))| {
            let (array, vector, vectors) = (self.window(number), self.element.vector, bytes / 16);
            format!(
                "@group(0) @binding({binding}) var<uniform> {array}: array<{vector}, {vectors}>;"
            )
        });
        declarations.collect::<Vec<_>>().join(" ")
    }

    /// The function that reads element `i`.
    fn reader(&self, windows: usize) -> String {
        let Array { name, declared, .. } = self;
        let shift = self.element.shift;
        let vectors = (WINDOW / 16) as u32;
        let component = if shift == 2 { "[i & 3u]" } else { "" };
        let mut body = match windows {
            1 => format!("let at = i >> {shift}u; "),
            _ => format!("let at = (i >> {shift}u) & {}u; ", vectors - 1),
        };
        body += &format!("var {name}_v = {name}[at]{component}; ");
        for number in 1..windows {
            let array = self.window(number);
            let window = vectors.ilog2() + shift;
            body += &format!(
                "{name}_v = select({name}_v, {array}[at]{component}, (i >> {window}u) == {number}u); "
            );
        }
        let value = match shift {
            1 => format!("select({name}_v.xy, {name}_v.zw, (i & 1u) == 1u)"),
            _ => format!("{name}_v"),
        };
        format!(" fn {name}_at(i: u32) -> {declared} {{ {body}return {value}; }}")
    }
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
    use crate::tape::plan::window::WINDOW;

    const SOURCE: &str = "alias T = f32;
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> ab: array<T>; // ab is read
@group(0) @binding(3) var<storage, read> pair: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read> odd: array<vec3<f32>>;
fn f(i: u32) -> f32 { return ab[i + u32(ab[i])] + a[i].x + x.ab + pair[i].y; }
";

    #[test]
    fn one_window() {
        let uniform = |binding| rewritten(SOURCE, binding, 100, &[4096]);
        let vector = "<uniform> a: array<vec4<f32>, 256>";
        assert_eq!(
            uniform(1),
            Some(SOURCE.replace("<storage, read> a: array<vec4<f32>>", vector))
        );
        let scalar = SOURCE
            .replace(
                "<storage, read> ab: array<T>;",
                "<uniform> ab: array<vec4<f32>, 256>; \
                 fn ab_at(i: u32) -> T { let at = i >> 2u; var ab_v = ab[at][i & 3u]; return ab_v; }",
            )
            .replace("ab[i + u32(ab[i])]", "ab_at(i + u32(ab_at(i)))");
        assert_eq!(uniform(2), Some(scalar));
        assert!(uniform(3).unwrap().contains("+ pair_at(i).y"));
        assert_eq!(uniform(4), None, "vec3 has no place in vec4");
        assert_eq!(uniform(5), None, "nothing is declared there");
    }

    #[test]
    fn several_windows() {
        let text = rewritten(SOURCE, 1, 100, &[WINDOW, WINDOW, 48]).unwrap();
        assert!(text.contains(
            "@group(0) @binding(1) var<uniform> a: array<vec4<f32>, 4096>; \
             @group(0) @binding(100) var<uniform> a_1: array<vec4<f32>, 4096>; \
             @group(0) @binding(101) var<uniform> a_2: array<vec4<f32>, 3>;"
        ));
        assert!(text.contains(
            "{ let at = (i >> 0u) & 4095u; var a_v = a[at]; a_v = select(a_v, a_1[at], (i >> 12u) == 1u); \
             a_v = select(a_v, a_2[at], (i >> 12u) == 2u); return a_v; }"
        ));
        assert!(text.contains("+ a_at(i).x"));
    }

    #[test]
    fn numbered_elements_are_left_alone() {
        let source = SOURCE.replace("a[i]", "a[0]");
        assert_eq!(rewritten(&source, 1, 100, &[4096]), None);
        assert!(rewritten(&source, 2, 100, &[4096]).is_some());
    }

    #[test]
    fn pointers_are_left_alone() {
        for pointed in ["a", "ab"] {
            let source = SOURCE.replace("x.ab", &format!("f32(arrayLength(&{pointed}))"));
            let binding = pointed.len() as u32;
            assert_eq!(rewritten(&source, binding, 100, &[4096]), None);
        }
    }
}
