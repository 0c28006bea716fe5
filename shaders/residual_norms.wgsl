// A residual sum between two RMS norms, for inference: s = r + x/rms(x)·v, y = s/rms(s)·w. A team has a row, see team.wgsl;
// its lanes go through the row three times and read only what they have written themselves.

import shadegrad::grid;
import shadegrad::team;

struct Params {
    n: u32,           // columns, in units of T
    rows: u32,
    x_offset: u32,    // offsets are in units of T, too
    residual_offset: u32,
    first_weight_offset: u32,
    second_weight_offset: u32,
    sum_offset: u32,
    output_offset: u32,
    scale: f32,       // 1 / elements of a row
    first_epsilon: f32,
    second_epsilon: f32,
}

alias T = f32;
fn total(v: T) -> f32 { return v; }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<T>;
@group(0) @binding(2) var<storage, read> residual: array<T>;
@group(0) @binding(3) var<storage, read> first_weight: array<T>;
@group(0) @binding(4) var<storage, read> second_weight: array<T>;
@group(0) @binding(5) var<storage, read_write> sum: array<T>;
@group(0) @binding(6) var<storage, read_write> output: array<T>;

@compute @workgroup_size(LANES * TEAMS)
fn residual_norms(group: Group, place: Place) {
    let lane = lane_of(place);
    let index = index_of(group) * TEAMS + team_of(place);
    let is_there = index < p.rows;
    let n = p.n;
    let start = min(index, p.rows - 1u) * n;
    let x_at = p.x_offset + start;
    let sum_at = p.sum_offset + start;
    var squares = 0.0;
    for (var i = lane; i < n; i += LANES) {
        let value = x[x_at + i];
        squares += total(value * value);
    }
    let first = inverseSqrt(sums_over_team(vec2<f32>(squares, 0.0), place).x * p.scale + p.first_epsilon);
    squares = 0.0;
    for (var i = lane; i < n; i += LANES) {
        let value = residual[p.residual_offset + start + i] + x[x_at + i] * first * first_weight[p.first_weight_offset + i];
        if (is_there) { sum[sum_at + i] = value; }
        squares += total(value * value);
    }
    let second = inverseSqrt(sums_over_team(vec2<f32>(squares, 0.0), place).x * p.scale + p.second_epsilon);
    if (!is_there) { return; }
    for (var i = lane; i < n; i += LANES) {
        output[p.output_offset + start + i] = sum[sum_at + i] * second * second_weight[p.second_weight_offset + i];
    }
}
