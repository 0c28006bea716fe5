//! How kernels hide their parameters from drivers.

use super::{Module, copied};

const SOURCE: &str = "struct Params { n: u32, rank: u32, axes: array<vec4<u32>, 2> }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
fn place(i: u32) -> u32 { return p.axes[i].x + p.axes[0].y + p.n; }
fn other(p: Params, i: u32) -> u32 { return p.axes[i].x; }
@compute @workgroup_size(8)
fn main(@builtin(local_invocation_index) i: u32) {
    for (var n = place(i); n < p.n; n++) { y[n] = p.axes[n].x + other(p, n); }
}
";

fn of(source: &str) -> Option<String> {
    let module = Module::parsed("test", source).unwrap();
    copied(&module, "main").map(|module| module.text())
}

#[test]
fn parameters_are_copied_but_for_what_is_looked_up() {
    let text = of(SOURCE).unwrap();
    for line in [
        "fn place(i: u32) -> u32 { return bound_p.axes[i].x + p.axes[0].y + p.n; }",
        "fn other(p: Params, i: u32) -> u32 { return p.axes[i].x; }",
        "@group(0) @binding(0) var<uniform> bound_p: Params;",
        "var<private> p: Params;",
        "fn main(@builtin(num_workgroups) all_groups: vec3<u32>, @builtin(local_invocation_index) i: u32) { \
         if (all_groups.x > 0u) { p = bound_p; }",
        "    for (var n = place(i); n < p.n; n++) { y[n] = bound_p.axes[n].x + other(p, n); }",
    ] {
        assert!(text.lines().any(|other| other == line), "{line}\n{text}");
    }
    let text = of(&SOURCE.replace("main(", "main(@builtin(num_workgroups) g: vec3<u32>, "));
    assert!(text.unwrap().contains("{ if (g.x > 0u) { p = bound_p; }\n"));
    let group = "struct Group { @builtin(num_workgroups) all: vec3<u32> }";
    let text = of(&SOURCE
        .replace("main(", "main(g: Group, ")
        .replace("fn place", &format!("{group}\nfn place")));
    assert!(
        text.unwrap()
            .contains("{ if (g.all.x > 0u) { p = bound_p; }\n")
    );
}

#[test]
fn other_kernels_are_left_alone() {
    assert_eq!(of(&SOURCE.replace("binding(0)", "binding(3)")), None);
}
