// What kernels share that work row by row. A team of lanes shares a row, see team.wgsl: lane l takes columns
// 4·(b·LANES + l) and the three after it for every block b. The first KEPT blocks stay in registers. Parameters are called
// `p`; they have the number of columns, `n`.

import shadegrad::team;

const KEPT: u32 = 8u;  // blocks in registers: at most 8, and no more than a row has
const EDGE: u32 = 1u;  // what the last of a row's blocks lack: 0 nothing, 4 quads of columns, 1 single columns

fn column(b: u32, lane: u32) -> u32 { return (b * LANES + lane) * 4u; }
fn inside(column: u32) -> vec4<bool> {
    if (EDGE == 0u) { return vec4<bool>(true); }
    if (EDGE == 4u) { return vec4<bool>(column < p.n); }
    return vec4<u32>(column) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(p.n);
}
fn only(value: vec4<f32>, column: u32) -> vec4<f32> { return select(vec4<f32>(0.0), value, inside(column)); }
fn total(v: vec4<f32>) -> f32 { return (v.x + v.y) + (v.z + v.w); }

// What a lane keeps of a row.
struct Blocks {
    b$8: vec4<f32>,
}
