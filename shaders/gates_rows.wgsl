// The gated unit h = f(gate)·up of a packed row [gate, up], and its gradient, for software adapters: a vector register
// of invocations goes through rows of its own. gates.wgsl is the form for GPUs and says what is computed.
//
// Parameters are read before the loops, and places are carried from iteration to iteration: llvmpipe gathers a parameter
// lane by lane wherever one is read, and takes sums in an address apart to gather each term. Nothing is divided.

import shadegrad::grid;

struct Params {
    rows: u32,
    rows_per_team: u32,
    half: u32,             // extent of h's last axis, in units of T
    packed_offset: u32,    // offsets are in units of T, too
    hidden_offset: u32,    // of h, or of its gradient
    gradient_offset: u32,  // of the packed gradient
}

const LANES: u32 = 8u;

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

@compute @workgroup_size(8)
fn forward(group: Group, @builtin(local_invocation_index) lane: u32) {
    let first = index_of(group) * p.rows_per_team;
    let end = min(first + p.rows_per_team, p.rows);
    let half = p.half;
    var gate_row = p.packed_offset + first * 2u * half;
    var hidden_row = p.hidden_offset + first * half;
    for (var row = first; row < end; row++) {
        var gate_at = gate_row + lane;
        var up_at = gate_at + half;
        var hidden_at = hidden_row + lane;
        for (var column = lane; column < half; column += LANES) {
            let gate = packed[gate_at];
            hidden[hidden_at] = gated(gate, packed[up_at]);
            gate_at += LANES;
            up_at += LANES;
            hidden_at += LANES;
        }
        gate_row += 2u * half;
        hidden_row += half;
    }
}

@compute @workgroup_size(8)
fn backward(group: Group, @builtin(local_invocation_index) lane: u32) {
    let first = index_of(group) * p.rows_per_team;
    let end = min(first + p.rows_per_team, p.rows);
    let half = p.half;
    var gate_row = p.packed_offset + first * 2u * half;
    var hidden_row = p.hidden_offset + first * half;
    var gradient_row = p.gradient_offset + first * 2u * half;
    for (var row = first; row < end; row++) {
        var gate_at = gate_row + lane;
        var up_at = gate_at + half;
        var hidden_at = hidden_row + lane;
        var to_gate = gradient_row + lane;
        var to_up = to_gate + half;
        for (var column = lane; column < half; column += LANES) {
            let gate = packed[gate_at];
            let gradient = hidden_gradient[hidden_at];
            let up = packed[up_at];
            packed_gradient[to_gate] = gate_gradient(gate, up, gradient);
            packed_gradient[to_up] = up_gradient(gate, up, gradient);
            gate_at += LANES;
            up_at += LANES;
            hidden_at += LANES;
            to_gate += LANES;
            to_up += LANES;
        }
        gate_row += 2u * half;
        hidden_row += half;
        gradient_row += 2u * half;
    }
}
