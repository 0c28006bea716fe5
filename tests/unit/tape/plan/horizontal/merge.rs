//! Kernels made one.

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
    let SIZE = p.n;
    if (lane < SIZE) { let y = rows[lane]; rows[lane] = y; }
    y[group.x] = rows[lane];
}
";

fn dispatch(source: &'static str, from: usize, to: usize) -> Dispatch {
    let operand = |slot| Operand {
        slot,
        layout: Layout::contiguous(Shape::new(&[8]), 0),
        dtype: DType::F32,
    };
    Dispatch::new(Kernel::generated("test", source, "main"))
        .read(&operand(from))
        .write(&operand(to))
        .params(&[4, 0])
        .fusable("test_fused", 4)
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
        "    let SIZE = all.second.n;",
        "    if (lane < SIZE) { let y = rows_of_f32[lane]; rows_of_f32[lane] = y; }",
        "    y_second[group.x] = rows_of_f32[lane];",
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
        // No parameters.
        "@compute @workgroup_size(4)\nfn main() { let p = 0u; }\n",
        // A built-in value within a struct.
        "@group(0) @binding(0) var<uniform> p: u32;\n@compute @workgroup_size(4)\nfn main(place: Place) { _ = p; }\n",
        // A local variable that is called like what is to come.
        "@group(0) @binding(0) var<uniform> p: u32;\n@compute @workgroup_size(4)\nfn main() { let all = p; }\n",
    ] {
        assert!(
            merged(&[&good, &dispatch(source, 1, 3)]).is_none(),
            "{source}"
        );
    }
}
