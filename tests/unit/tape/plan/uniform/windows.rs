//! Kernels that read uniform operands.

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
