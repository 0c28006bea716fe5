// What norm.wgsl and norm_subgroup8.wgsl have in common: parameters, and what both write beside their results.

import shadegrad::epilogue;
import shadegrad::grid;

const LAYER_NORM: bool = false;  // false: RMSNorm, without mean
const BIAS: bool = false;

struct Params {
    n: u32,                         // columns
    rows: u32,
    rows_per_team: u32,
    blocks: u32,                    // of a row
    x_at: vec2<u32>,                // offset and row stride of each operand
    weight_at: vec2<u32>,
    bias_at: vec2<u32>,
    dy_at: vec2<u32>,
    parts: u32,                     // workgroups that have rows: each leaves partial sums
    epsilon: f32,
    dweight_offset: u32,
    dbias_offset: u32,
    operands: array<vec4<u32>, 7>,  // of the epilogue: offset, strides of batch, row and column
}

@group(0) @binding(0) var<uniform> p: Params;

@group(0) @binding(1) var<storage, read_write> statistics: array<vec2<f32>>;  // of each row: 1/σ, mean
@group(0) @binding(1) var<storage, read> saved: array<vec2<f32>>;             // the statistics
@group(0) @binding(5) var<storage, read_write> partial_sums: array<f32>;  // [parts, 2, n]: of weight, of bias

fn put_partial(part: u32, which: u32, column: u32, value: vec4<f32>) {
    let at = (part * 2u + which) * p.n + column;
    if (column + $4u < p.n) { partial_sums[at + $4u] = value[$4]; }
}
