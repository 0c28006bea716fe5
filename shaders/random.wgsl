// Random numbers, four an invocation. The epilogue is declared again when a kernel is made.

import shadegrad::epilogue;
import shadegrad::grid;
import shadegrad::philox;

struct Params {
    n: u32,                          // columns
    rows: u32,                       // rows in one batch
    count: u32,                      // rows in all
    stream: u32,
    key_offset: u32,
    places_each: u32,                // rows of n in a row of the batch that the key counts rows of; else 0
    pad0: u32, pad1: u32,
    operands: array<vec4<u32>, 7>,   // of the epilogue: offset, strides of batch, row and column
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> key: array<u32>;

fn words_of(block: u32) -> vec4<u32> {
    let words = vec4<u32>(
        key[p.key_offset], key[p.key_offset + 1u], key[p.key_offset + 2u], key[p.key_offset + 3u]);
    let earlier = key[p.key_offset + 4u] * p.places_each;
    return random_words(words, p.stream, earlier * ((p.n + 3u) / 4u) + block);
}

// Multiples of 2⁻²⁴ in 0..1.
fn unit(words: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(words >> vec4<u32>(8u)) * 5.9604644775390625e-8;
}

@compute @workgroup_size(64)
fn uniform_numbers(group: Group, @builtin(local_invocation_index) lane: u32) {
    let i = index_of(group) * 64u + lane;
    let quads = (p.n + 3u) / 4u;
    let place = i / quads;
    if (place >= p.count) { return; }
    store4(place / p.rows, place % p.rows, i % quads * 4u, unit(words_of(i)));
}

// By Box and Muller 1958: two independent normal numbers from two uniform ones.
@compute @workgroup_size(64)
fn normal_numbers(group: Group, @builtin(local_invocation_index) lane: u32) {
    let i = index_of(group) * 64u + lane;
    let quads = (p.n + 3u) / 4u;
    let place = i / quads;
    if (place >= p.count) { return; }
    let u = unit(words_of(i));
    // In 2⁻²⁴..=1, so the logarithm is finite.
    let radius = sqrt(-2.0 * log(u.xy + 5.9604644775390625e-8));
    let angle = 6.283185307179586 * u.zw;
    store4(place / p.rows, place % p.rows, i % quads * 4u, vec4<f32>(radius * cos(angle), radius * sin(angle)));
}
