// What the matrix product's kernels on GPUs have in common, in front of matmul.wgsl and matmul_units.wgsl: their parameters,
// and how a product is shared out among workgroups.

import shadegrad::epilogue;
import shadegrad::grid;

const A_ALONG_DEPTH: bool = true;   // [M,K] in memory rather than [K,M]
const B_ALONG_DEPTH: bool = false;  // [N,K] in memory rather than [K,N]

struct Params {
    m: u32, n: u32, k: u32,
    splits: u32,                  // parts of the depth that have workgroups of their own
    chunk: u32,                   // depth of a part: a multiple of 16
    tiles_m: u32, tiles_n: u32,   // of one matrix
    count: u32,                   // workgroups
    lda: u32, ldb: u32,           // leading dimensions, in elements, as all strides of the operands
    a_offset: u32, b_offset: u32,
    a_batch: u32, b_batch: u32,
    pad0: u32, pad1: u32,
    operands: array<vec4<u32>, 7>,  // of the epilogue: offset, strides of batch, row and column
}

@group(0) @binding(0) var<uniform> p: Params;

// What a workgroup works on; those past the end of the grid repeat the last and must not store.
struct Work {
    slice: u32,       // of the output: matrix of the batch, and part of the depth
    a: u32, b: u32,   // where the operands' matrices begin
    begin: u32,       // of the depth
    end: u32,
    tile: vec2<u32>,  // row and column of the tile among those of the matrix
    stores: bool,
}

fn work(index: u32) -> Work {
    let item = min(index, p.count - 1u);
    let tiles = p.tiles_m * p.tiles_n;
    let slice = item / tiles;
    let batch = slice / p.splits;
    let begin = slice % p.splits * p.chunk;
    // Eight rows of tiles at a time, column by column: what runs at the same time shares its operands in the cache.
    let tile = item % tiles;
    let strip = tile / (8u * p.tiles_n);
    let within = tile % (8u * p.tiles_n);
    let height = min(8u, p.tiles_m - 8u * strip);
    return Work(
        slice, p.a_offset + batch * p.a_batch, p.b_offset + batch * p.b_batch,
        begin, min(begin + p.chunk, p.k),
        vec2<u32>(8u * strip + within % height, within / height), index < p.count);
}
