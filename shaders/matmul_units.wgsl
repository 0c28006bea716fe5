// Matrix product on matrix units: C[M,N] = A[M,K] · B[K,N] of halves, batched, transposed or not. Sums are f32 over all of
// the depth.
//
// A workgroup computes a tile of C, each of its subgroups ROWS × COLUMNS matrices of it, which it keeps in registers. Slices
// of both operands, DEPTH deep, go through workgroup memory as they lie in memory, along the depth or across it: matrix
// units take them either way. What lies past an edge is zero there, so that units never see an operand. While a slice is
// multiplied, the next is on its way to registers. Lines are eight halves longer than what is in them: the eight lines that
// units load together then lie on different banks.
//
// Sums go through workgroup memory, too, two matrices of each subgroup at a time, and from there through the epilogue.
// Where that makes one element of two that lie half a row apart (GATED), these two have the same columns of the left half
// and of the right.
//
// The entry point is written by `src/ops/matmul/units.rs`: matrices can't be in arrays, so each has a name.

import shadegrad::matmul_work;
import shadegrad::matrix_units;

// Eight elements side by side, of which the first `left` are there; the others are zero.
alias Eight = mat2x4<f16>;

@group(0) @binding(1) var<storage, read> a: array<mat2x4<f16>>;
fn a8(at: u32, left: u32) -> Eight { return a[at / 8u]; }

@group(0) @binding(2) var<storage, read> b: array<mat2x4<f16>>;
fn b8(at: u32, left: u32) -> Eight { return b[at / 8u]; }

const DOWN: u32 = 2u;     // subgroups of a workgroup, down and across
const ACROSS: u32 = 2u;
const ROWS: u32 = 2u;     // matrices of a subgroup, down and across
const COLUMNS: u32 = 2u;  // even
const DEPTH: u32 = 16u;

const INVOCATIONS: u32 = DOWN * ACROSS * MATRIX_LANES;
const TILE_ROWS: u32 = DOWN * ROWS * MATRIX_SIZE;
const TILE_COLUMNS: u32 = ACROSS * COLUMNS * MATRIX_SIZE;

// Where the lines of a slice lie: along the depth there are more.
const A_LINE: u32 = select(TILE_ROWS, DEPTH, A_ALONG_DEPTH) + 8u;
const B_LINE: u32 = select(TILE_COLUMNS, DEPTH, B_ALONG_DEPTH) + 8u;
var<workgroup> slice_a: array<Part, TILE_ROWS * (DEPTH + 8u) / PART>;
var<workgroup> slice_b: array<Part, TILE_COLUMNS * (DEPTH + 8u) / PART>;

// Eights of a slice.
const A_EIGHTS: u32 = TILE_ROWS * DEPTH / 8u;
const B_EIGHTS: u32 = TILE_COLUMNS * DEPTH / 8u;

// Two matrices of each subgroup.
const SUM_LINE: u32 = MATRIX_SIZE + 4u;
const SUM: u32 = MATRIX_SIZE * SUM_LINE;
var<workgroup> sums: array<f32, DOWN * ACROSS * 2u * SUM>;

// The column of C that is number `within` of a tile; p.n and more past the end.
fn column_of(tile: u32, within: u32) -> u32 {
    if (GATED) {
        let half = p.n / 2u;
        let matrix = within / MATRIX_SIZE;
        let owner = matrix / COLUMNS;
        let side = matrix % COLUMNS / (COLUMNS / 2u);
        let matrices = (tile * ACROSS + owner) * (COLUMNS / 2u) + matrix % (COLUMNS / 2u);
        let column = matrices * MATRIX_SIZE + within % MATRIX_SIZE;
        return select(p.n, column + side * half, column < half);
    }
    return tile * TILE_COLUMNS + within;
}

// Where eight elements lie in a slice: which line, and how far in it. Neighbours are neighbours in memory.
fn place_of(eight: u32, extent: u32, along_depth: bool) -> vec2<u32> {
    let eights = select(extent, DEPTH, along_depth) / 8u;
    return vec2<u32>(eight / eights, eight % eights * 8u);
}

fn fetched_a(work: Work, eight: u32, k: u32) -> Eight {
    let place = place_of(eight, TILE_ROWS, A_ALONG_DEPTH);
    let row = work.tile.x * TILE_ROWS;
    let origin = select(vec2<u32>(k, row), vec2<u32>(row, k), A_ALONG_DEPTH);
    let end = select(vec2<u32>(work.end, p.m), vec2<u32>(p.m, work.end), A_ALONG_DEPTH);
    let at = origin + place;
    if (at.x < end.x && at.y < end.y) { return a8(work.a + at.x * p.lda + at.y, end.y - at.y); }
    return Eight();
}

fn fetched_b(work: Work, eight: u32, k: u32) -> Eight {
    let place = place_of(eight, TILE_COLUMNS, B_ALONG_DEPTH);
    let column = column_of(work.tile.y, select(place.y, place.x, B_ALONG_DEPTH));
    let depth = k + select(place.x, place.y, B_ALONG_DEPTH);
    let end = select(vec2<u32>(work.end, p.n), vec2<u32>(p.n, work.end), B_ALONG_DEPTH);
    let at = select(vec2<u32>(depth, column), vec2<u32>(column, depth), B_ALONG_DEPTH);
    if (at.x < end.x && at.y < end.y) { return b8(work.b + at.x * p.ldb + at.y, end.y - at.y); }
    return Eight();
}

fn keep_a(eight: u32, value: Eight) {
    let place = place_of(eight, TILE_ROWS, A_ALONG_DEPTH);
    let at = (place.x * A_LINE + place.y) / PART;
    for (var i = 0u; i < 4u / PART; i++) {
        slice_a[at + i] = part(value[0], i);
        slice_a[at + 4u / PART + i] = part(value[1], i);
    }
}

fn keep_b(eight: u32, value: Eight) {
    let place = place_of(eight, TILE_COLUMNS, B_ALONG_DEPTH);
    let at = (place.x * B_LINE + place.y) / PART;
    for (var i = 0u; i < 4u / PART; i++) {
        slice_b[at + i] = part(value[0], i);
        slice_b[at + 4u / PART + i] = part(value[1], i);
    }
}

// The matrix of A whose first element is at this row and depth of the slice.
fn left(row: u32, k: u32) -> Left {
    if (A_ALONG_DEPTH) { return coopLoadT<Left>(&slice_a[(row * A_LINE + k) / PART], A_LINE / PART); }
    return coopLoad<Left>(&slice_a[(k * A_LINE + row) / PART], A_LINE / PART);
}

fn right(k: u32, column: u32) -> Right {
    if (B_ALONG_DEPTH) { return coopLoad<Right>(&slice_b[(column * B_LINE + k) / PART], B_LINE / PART); }
    return coopLoadT<Right>(&slice_b[(k * B_LINE + column) / PART], B_LINE / PART);
}

fn sum_at(at: u32) -> vec4<f32> { return vec4<f32>(sums[at], sums[at + 1u], sums[at + 2u], sums[at + 3u]); }

// Stores the two matrices that a subgroup has left at `mine`. The first begins at this row and column of the tile, the
// second COLUMNS / 2 matrices further.
fn store_two(work: Work, mine: u32, first_row: u32, first_column: u32, lane: u32) {
    for (var quad = lane; quad < MATRIX_SIZE * MATRIX_SIZE / 4u; quad += MATRIX_LANES) {
        let row = work.tile.x * TILE_ROWS + first_row + quad / (MATRIX_SIZE / 4u);
        let within = quad % (MATRIX_SIZE / 4u) * 4u;
        let at = mine + quad / (MATRIX_SIZE / 4u) * SUM_LINE + within;
        let column = column_of(work.tile.y, first_column + within);
        let other = column_of(work.tile.y, first_column + within + COLUMNS / 2u * MATRIX_SIZE);
        if (!work.stores || row >= p.m) { continue; }
        if (column < p.n) { store4(work.slice, row, column, sum_at(at)); }
        if (other < p.n) { store4(work.slice, row, other, sum_at(at + SUM)); }
        if (GATED && column < p.n) { store_gate(work.slice, row, column, sum_at(at), sum_at(at + SUM)); }
    }
}
