// Turns pairs (i, i + half) of every head by an angle that depends on the row's position. One invocation per pair, or
// per four neighbouring pairs where half a head and all offsets are multiples of four.

import shadegrad::grid;

struct Params {
    count: u32,         // pairs
    pairs: u32,         // of one row
    half: u32,          // pairs of one head
    turned: u32,        // heads that are turned, from the row's start; the others are copied
    positions: u32,     // rows r, r + positions, … share a position
    input_offset: u32,
    table_offset: u32,
    table_stride: u32,  // from one position to the next
    output_offset: u32,
    sign: f32,          // 1 turns forward, −1 back
}

alias T = f32;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> input: array<T>;
@group(0) @binding(2) var<storage, read> table: array<T>;  // per position: cosines, then sines
@group(0) @binding(3) var<storage, read_write> output: array<T>;

@compute @workgroup_size(64)
fn rotary(group: Group, @builtin(local_invocation_index) lane: u32) {
    let i = index_of(group) * 64u + lane;
    if (i >= p.count) { return; }
    let row = i / p.pairs;
    let pair = i % p.pairs;
    let head = pair / p.half;
    let angle = p.table_offset + row % p.positions * p.table_stride + pair % p.half;
    // The first half of head h of row r starts at 2·r·pairs + 2·h·half.
    let place = i + row * p.pairs + head * p.half;
    let a = input[p.input_offset + place];
    let b = input[p.input_offset + place + p.half];
    let is_turned = head < p.turned;
    let cosine = select(T(1.0), table[angle], is_turned);
    let sine = select(T(0.0), table[angle + p.half] * p.sign, is_turned);
    output[p.output_offset + place] = a * cosine - b * sine;
    output[p.output_offset + place + p.half] = b * cosine + a * sine;
}
