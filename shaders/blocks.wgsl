// Columns of a matrix spread over blocks of rows, one block for each range of columns, and the way back.

import shadegrad::grid;

struct Params {
    count: u32,        // elements of the output
    rows: u32,         // of a block
    narrow: u32,       // columns of the matrix
    wide: u32,         // columns of the blocks
    input_offset: u32,
    output_offset: u32,
    unused0: u32,
    unused1: u32,
    starts: vec4<u32>, // of each block's columns among the wide ones,
    ends: vec4<u32>,
    firsts: vec4<u32>, // and where they begin among the narrow ones
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> input: array<f32>;
@group(0) @binding(2) var<storage, read_write> output: array<f32>;

@compute @workgroup_size(64)
fn spread(group: Group, @builtin(local_invocation_index) lane: u32) {
    let i = index_of(group) * 64u + lane;
    if (i >= p.count) { return; }
    let row = i / p.wide;
    let column = i % p.wide;
    let block = row / p.rows;
    var value = 0.0;
    if (column >= p.starts[block] && column < p.ends[block]) {
        value = input[p.input_offset + row % p.rows * p.narrow + p.firsts[block] + column - p.starts[block]];
    }
    output[p.output_offset + i] = value;
}

@compute @workgroup_size(64)
fn collect(group: Group, @builtin(local_invocation_index) lane: u32) {
    let i = index_of(group) * 64u + lane;
    if (i >= p.count) { return; }
    let column = i % p.narrow;
    let block = u32(column >= p.firsts.y) + u32(column >= p.firsts.z) + u32(column >= p.firsts.w);
    let row = block * p.rows + i / p.narrow;
    output[p.output_offset + i] = input[p.input_offset + row * p.wide + p.starts[block] + column - p.firsts[block]];
}
