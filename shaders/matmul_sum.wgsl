// The second stage of a matrix product whose depth was shared by several workgroups: adds up what each left, in order,
// and stores through the epilogue. An invocation has four columns. Where the epilogue makes one element of two that lie
// half a row apart (GATED), those of the left half add up the right one, too.
//
// Epilogue and gate are declared again when a kernel is made.

import shadegrad::epilogue;
import shadegrad::grid;

struct Params {
    m: u32, n: u32,
    quads: u32,    // of a row
    splits: u32,   // partial products of one matrix
    count: u32,    // quads in all
    pad0: u32, pad1: u32, pad2: u32,
    operands: array<vec4<u32>, 7>,  // of the epilogue: offset, strides of batch, row and column
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> parts: array<vec4<f32>>;  // [batch, splits, m, quads]

fn sum_at(first: u32) -> vec4<f32> {
    let matrix = p.m * p.quads;
    var sum = parts[first];
    for (var split = 1u; split < p.splits; split++) { sum += parts[first + split * matrix]; }
    return sum;
}

@compute @workgroup_size(64)
fn add_up(group: Group, @builtin(local_invocation_index) lane: u32) {
    let i = index_of(group) * 64u + lane;
    if (i >= p.count) { return; }
    let matrix = p.m * p.quads;
    let batch = i / matrix;
    let place = i % matrix;
    let first = batch * p.splits * matrix + place;
    let sum = sum_at(first);
    let row = place / p.quads;
    let quad = place % p.quads;
    store4(batch, row, quad * 4u, sum);
    if (GATED && quad < p.quads / 2u) { store_gate(batch, row, quad * 4u, sum, sum_at(first + p.quads / 2u)); }
}
