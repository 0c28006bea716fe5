// Zeros before and after one axis. The tensor is seen as [outer, axis, inner].

import shadegrad::grid;

struct Params {
    count: u32,  // elements of the output
    input_offset: u32,
    output_offset: u32,
    inner: u32,
    input_axis: u32,
    output_axis: u32,
    before: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> input: array<f32>;
@group(0) @binding(2) var<storage, read_write> output: array<f32>;

@compute @workgroup_size(64)
fn pad(group: Group, @builtin(local_invocation_index) lane: u32) {
    let i = index_of(group) * 64u + lane;
    if (i >= p.count) { return; }
    let inner = i % p.inner;
    let row = i / p.inner;
    let axis = row % p.output_axis;
    let outer = row / p.output_axis;
    var value = 0.0;
    if (axis >= p.before && axis < p.before + p.input_axis) {
        value = input[p.input_offset + (outer * p.input_axis + axis - p.before) * p.inner + inner];
    }
    output[p.output_offset + i] = value;
}
