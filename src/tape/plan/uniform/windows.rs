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
    let array = Array {
        name,
        windows: (1..windows.len())
            .map(|number| kernel.fresh(&format!("{name}_{number}")))
            .collect(),
        reader: kernel.fresh(&format!("{name}_at")),
        declared,
        element: Element::named(element)?,
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
    let mut new = kernel.clone();
    let mut text = array.declarations(binding, next, windows);
    // Whole vectors in a single window are indexed as they were.
    if array.element.shift > 0 || windows.len() > 1 {
        new.edit(name, |it, at| match it.index(&at) {
            Some([open, close]) => vec![
                (at.start..open + 1, format!("{}(", array.reader)),
                (close..close + 1, ")".to_owned()),
            ],
            None => Vec::new(),
        });
        text += &array.function();
    }
    new.replace(name, &text);
    Some(new)
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
    /// What windows but the first are called.
    windows: Vec<String>,
    reader: String,
    declared: &'a str,
    element: Element,
}

impl Array<'_> {
    /// Each window with what it is called.
    fn windows(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.name).chain(self.windows.iter().map(String::as_str))
    }

    /// All on one line, so that others keep their numbers.
    fn declarations(&self, binding: u32, next: u32, windows: &[u64]) -> String {
        let bindings = std::iter::once(binding).chain(next..);
        let declarations = self.windows().zip(windows).zip(bindings);
        let declarations = declarations.map(|((array, bytes), binding)| {
            let (vector, vectors) = (self.element.vector, bytes / 16);
            format!(
                "@group(0) @binding({binding}) var<uniform> {array}: array<{vector}, {vectors}>; "
            )
        });
        declarations.collect()
    }

    /// The function that reads element `i`.
    fn function(&self) -> String {
        let Array {
            name,
            declared,
            reader,
            ..
        } = self;
        let shift = self.element.shift;
        let vectors = (WINDOW / 16) as u32;
        let component = if shift == 2 { "[i & 3u]" } else { "" };
        let mut body = match self.windows.len() {
            0 => format!("let at = i >> {shift}u; "),
            _ => format!("let at = (i >> {shift}u) & {}u; ", vectors - 1),
        };
        body += &format!("var v = {name}[at]{component}; ");
        for (number, array) in (1..).zip(&self.windows) {
            let window = vectors.ilog2() + shift;
            body +=
                &format!("v = select(v, {array}[at]{component}, (i >> {window}u) == {number}u); ");
        }
        let value = match shift {
            1 => "select(v.xy, v.zw, (i & 1u) == 1u)",
            _ => "v",
        };
        format!("fn {reader}(i: u32) -> {declared} {{ {body}return {value}; }}")
    }
}

#[cfg(test)]
mod tests {
    use crate::gpu::syntax::Module;
    use crate::tape::plan::window::WINDOW;

    fn rewritten(source: &str, binding: u32, windows: &[u64]) -> Option<String> {
        let kernel = Module::parsed("test", source).unwrap();
        super::rewritten(&kernel, binding, 100, windows).map(|kernel| kernel.text())
    }

    const SOURCE: &str = "alias T = f32;
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> ab: array<T>; // ab is read
@group(0) @binding(3) var<storage, read> pair: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read> odd: array<vec3<f32>>;
const a_2: u32 = 0u;
fn f(i: u32) -> f32 { return ab[i + u32(ab[i])] + a[i].x + x.ab + pair[i].y; }
";

    #[test]
    fn one_window() {
        let uniform = |binding| rewritten(SOURCE, binding, &[4096]);
        let vector = "@group(0) @binding(1) var<uniform> a: array<vec4<f32>, 256>;";
        assert!(uniform(1).unwrap().contains(vector));
        let scalar = uniform(2).unwrap();
        for text in [
            "@group(0) @binding(2) var<uniform> ab: array<vec4<f32>, 256>;\n",
            "fn ab_at(i: u32) -> T { let at = i >> 2u; var v = ab[at][i & 3u]; return v; }",
            "ab_at(i + u32(ab_at(i)))",
        ] {
            assert!(scalar.contains(text), "{text}\n{scalar}");
        }
        assert!(uniform(3).unwrap().contains("+ pair_at(i).y"));
        assert_eq!(uniform(4), None, "vec3 has no place in vec4");
        assert_eq!(uniform(5), None, "nothing is declared there");
    }

    #[test]
    fn several_windows() {
        let text = rewritten(SOURCE, 1, &[WINDOW, WINDOW, 48]).unwrap();
        for text_of in [
            "@group(0) @binding(1) var<uniform> a: array<vec4<f32>, 4096>;",
            "@group(0) @binding(100) var<uniform> a_1: array<vec4<f32>, 4096>;",
            "@group(0) @binding(101) var<uniform> a_2_: array<vec4<f32>, 3>;",
            "{ let at = (i >> 0u) & 4095u; var v = a[at]; v = select(v, a_1[at], (i >> 12u) == 1u); \
             v = select(v, a_2_[at], (i >> 12u) == 2u); return v; }",
            "+ a_at(i).x",
        ] {
            assert!(text.contains(text_of), "{text_of}\n{text}");
        }
    }

    #[test]
    fn numbered_elements_are_left_alone() {
        let source = SOURCE.replace("a[i]", "a[0]");
        assert_eq!(rewritten(&source, 1, &[4096]), None);
        assert!(rewritten(&source, 2, &[4096]).is_some());
    }

    #[test]
    fn pointers_are_left_alone() {
        for pointed in ["a", "ab"] {
            let source = SOURCE.replace("x.ab", &format!("f32(arrayLength(&{pointed}))"));
            let binding = pointed.len() as u32;
            assert_eq!(rewritten(&source, binding, &[4096]), None);
        }
    }

    #[test]
    fn locals_may_have_any_name() {
        let more = "fn g(ab: f32, i: u32) -> f32 { let x = ab; { let ab = array<f32, 2>(x, x); _ = ab[i]; } return ab; }";
        let text = rewritten(&format!("{SOURCE}{more}"), 2, &[4096]).unwrap();
        assert!(text.contains(more), "{text}");
    }
}
