// What a device can do at most: multiply-adds in registers, and a copy too large for any cache.
//
// The block multiply_add is replaced when a kernel is made: no one form is the fastest on every driver.

import shadegrad::grid;

struct Params {
    count: u32,   // multiply_add: rounds of each invocation; copy: elements
    scale: f32,
    shift: f32,
}

@group(0) @binding(0) var<uniform> p: Params;

fn advance(x: vec4<f32>) -> vec4<f32> { return x * p.scale + p.shift; }

@group(0) @binding(1) var<storage, read_write> sums: array<f32>;

// Twelve chains that don't wait for each other hide the latency of an addition and a multiplication behind one another,
// and still fit the 16 registers of a small vector unit. Values tend to shift / (1 − scale), far from overflow and from
// denormal numbers.
struct Chains { x: vec4<f32>, y: vec4<f32>, z: vec4<f32> }

fn advance4(chains: Chains) -> Chains {
    var c = chains;
    c.x = advance(c.x); c.y = advance(c.y); c.z = advance(c.z);
    c.x = advance(c.x); c.y = advance(c.y); c.z = advance(c.z);
    c.x = advance(c.x); c.y = advance(c.y); c.z = advance(c.z);
    c.x = advance(c.x); c.y = advance(c.y); c.z = advance(c.z);
    return c;
}

// A round is 32 multiply-adds of each chain, so that the loop itself doesn't count.
@compute @workgroup_size(64)
fn multiply_add(group: Group, @builtin(local_invocation_index) lane: u32) {
    let i = index_of(group) * 64u + lane;
    let x = vec4<f32>(0.0, 0.25, 0.5, 0.75) + f32(lane);
    var c = Chains(x, x + 0.1, x + 0.2);
    for (var round = 0u; round < p.count; round++) {
        c = advance4(advance4(advance4(advance4(c))));
        c = advance4(advance4(advance4(advance4(c))));
    }
    let total = c.x + c.y + c.z;
    if (i < arrayLength(&sums)) { sums[i] = total.x + total.y + total.z + total.w; }
}

const LANES: u32 = 64u; // of workgroups that copy

@group(0) @binding(1) var<storage, read> source: array<f32>;
@group(0) @binding(2) var<storage, read_write> destination: array<f32>;

@compute @workgroup_size(LANES)
fn copy(group: Group, @builtin(local_invocation_index) lane: u32) {
    let i = index_of(group) * LANES + lane;
    if (i < p.count) { destination[i] = source[i]; }
}

@group(0) @binding(1) var<storage, read> source4: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> destination4: array<vec4<f32>>;

@compute @workgroup_size(LANES)
fn copy4(group: Group, @builtin(local_invocation_index) lane: u32) {
    let i = index_of(group) * LANES + lane;
    if (i < p.count / 4u) { destination4[i] = source4[i]; }
}
