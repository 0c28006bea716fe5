// The gated unit h = f(gate)·up of a packed row [gate, up], and its gradient. Neighbouring invocations work on
// neighbouring elements of h: one each, or four (T = vec4) where all extents and offsets are multiples of four.

import shadegrad::grid;

struct Params {
    count: u32,            // elements of h, in units of T
    half: u32,             // extent of h's last axis, in units of T
    packed_offset: u32,
    hidden_offset: u32,    // of h, or of its gradient
    gradient_offset: u32,  // of the packed gradient
}

alias T = f32;
alias Bits = u32;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> packed: array<T>;
@group(0) @binding(2) var<storage, read_write> hidden: array<T>;
@group(0) @binding(2) var<storage, read> hidden_gradient: array<T>;
@group(0) @binding(3) var<storage, read_write> packed_gradient: array<T>;

// What is computed: declared again for each kind of gate.
fn gated(gate: T, up: T) -> T { return gate * up; }
fn gate_gradient(gate: T, up: T, gradient: T) -> T { return gradient * up; }
fn up_gradient(gate: T, up: T, gradient: T) -> T { return gradient * gate; }

fn index(group: Group, lane: u32) -> u32 {
    return index_of(group) * 64u + lane;
}

@compute @workgroup_size(64)
fn forward(group: Group, @builtin(local_invocation_index) lane: u32) {
    let i = index(group, lane);
    if (i >= p.count) { return; }
    // Row r of h starts at r·half, of the packed rows at 2·r·half.
    let place = p.packed_offset + i + i / p.half * p.half;
    let gate = packed[place];
    hidden[p.hidden_offset + i] = gated(gate, packed[place + p.half]);
}

@compute @workgroup_size(64)
fn backward(group: Group, @builtin(local_invocation_index) lane: u32) {
    let i = index(group, lane);
    if (i >= p.count) { return; }
    let row_start = i / p.half * p.half;
    let place = p.packed_offset + i + row_start;
    let gate = packed[place];
    let up = packed[place + p.half];
    let gradient = hidden_gradient[p.hidden_offset + i];
    let to = p.gradient_offset + i + row_start;
    packed_gradient[to] = gate_gradient(gate, up, gradient);
    packed_gradient[to + p.half] = up_gradient(gate, up, gradient);
}
