// Elements by index along one axis, and its gradient. The tensors are seen as [outer, axis, inner].

import shadegrad::grid;

struct Params {
    count: u32,        // elements of the output
    inner: u32,
    picked: u32,       // extent of the axis in the indices
    extent: u32,       // extent of the axis in the table
    input_offset: u32,
    indices_offset: u32,
    output_offset: u32,
    first: u32,        // of the picked ones, where this part of the sum begins and ends
    end: u32,
    not_a_number: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> input: array<f32>;
@group(0) @binding(2) var<storage, read> indices: array<u32>;
@group(0) @binding(3) var<storage, read_write> output: array<f32>;

// Declared again where the host has not checked the indices.
fn refuse(index: u32) {}

@compute @workgroup_size(64)
fn gather(group: Group, @builtin(local_invocation_index) lane: u32) {
    let i = index_of(group) * 64u + lane;
    if (i >= p.count) { return; }
    let inner = i % p.inner;
    let outer = i / p.inner / p.picked;
    let index = indices[p.indices_offset + i];
    let within = min(index, p.extent - 1u);
    let value = input[p.input_offset + (outer * p.extent + within) * p.inner + inner];
    output[p.output_offset + i] = select(value, bitcast<f32>(p.not_a_number), index >= p.extent);
    if (index >= p.extent) { refuse(index); }
}

// An invocation sums what was read from one element, in the order of the indices, one part of them a dispatch.
@compute @workgroup_size(64)
fn gather_gradient(group: Group, @builtin(local_invocation_index) lane: u32) {
    let i = index_of(group) * 64u + lane;
    if (i >= p.count) { return; }
    let inner = i % p.inner;
    let row = i / p.inner;
    let mine = row % p.extent;
    let first = row / p.extent * p.picked * p.inner + inner;
    var sum = 0.0;
    if (p.first > 0u) { sum = output[p.output_offset + i]; }
    for (var k = p.first; k < p.end; k++) {
        let place = first + k * p.inner;
        if (indices[p.indices_offset + place] == mine) { sum += input[p.input_offset + place]; }
    }
    output[p.output_offset + i] = sum;
}
