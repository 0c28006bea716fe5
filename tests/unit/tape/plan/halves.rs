//! Kernels whose operands are halves.

use super::*;

const SOURCE: &str = "alias T = vec4<f32>;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read_write> b: array<T>;
@group(0) @binding(3) var<storage, read_write> c: array<f32>;
@group(0) @binding(4) var<storage, read> ids: array<u32>;
@group(0) @binding(5) var<storage, read> own: array<f16>;
fn f(i: u32) {
    if (a[i] == 0.0) { b[i] = T(a[u32(a[i])]) + b[i + 1u].x; }
    c[i] += a[ids[i]] * 2.0;
}
";

fn text(binding: u32, has_f16: bool) -> String {
    let kernel = Module::parsed("test", SOURCE).unwrap();
    widened(&kernel, binding, has_f16).unwrap().unwrap().text()
}

#[test]
fn native() {
    for (binding, expected) in [
        (1, "a: array<f16>;"),
        (
            1,
            "if (f32(a[i]) == 0.0) { b[i] = T(f32(a[u32(f32(a[i]))])) + b[i + 1u].x; }",
        ),
        (2, "b: array<vec4<f16>>;"),
        (
            2,
            "b[i] = vec4<f16>(( T(a[u32(a[i])]) + vec4<f32>(b[i + 1u]).x)); }",
        ),
        (3, "c[i] = f16(f32(c[i]) + ( a[ids[i]] * 2.0));"),
    ] {
        let text = text(binding, true);
        assert!(text.contains(expected), "{expected}\n{text}");
    }
}

#[test]
fn pairs() {
    for (binding, expected) in [
        (
            1,
            "fn a_half(i: u32) -> f32 { return unpack2x16float(a[i >> 1u])[i & 1u]; }",
        ),
        (
            1,
            "if (a_half(i) == 0.0) { b[i] = T(a_half(u32(a_half(i)))) + b[i + 1u].x; }",
        ),
        (2, "b: array<vec2<u32>>;"),
        (2, "fn b_half(i: u32) -> vec4<f32> { let w = b[i];"),
        (2, "b_put(i, ( T(a[u32(a[i])]) + b_half(i + 1u).x)); }"),
        (3, "c: array<atomic<u32>>;"),
        (3, "c_put(i, c_half(i) + ( a[ids[i]] * 2.0));"),
    ] {
        let text = text(binding, false).replace('\n', " ");
        assert!(text.contains(expected), "{expected}\n{text}");
    }
}

#[test]
fn what_else_kernels_do_is_refused() {
    let kernel =
        |body: &str| Module::parsed("test", &format!("{SOURCE}fn g(i: u32) {{ {body} }}")).unwrap();
    let refused = |body: &str, binding| widened(&kernel(body), binding, true).unwrap().unwrap_err();
    assert!(refused("b[i].x = 1.0;", 2).contains("a component at a time"));
    assert!(refused("let n = arrayLength(&a);", 1).contains("pointed at"));
    assert!(refused("", 4).contains("no array of floats"));
    assert!(widened(&kernel(""), 5, true).is_none());
    assert!(widened(&kernel(""), 6, true).is_none());
}
