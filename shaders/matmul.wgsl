// Matrix product for GPUs: C[M,N] = A[M,K] · B[K,N], batched, transposed or not.
//
// Everything is moved in squares of 4 × 4: an invocation loads squares of the operands with four loads of four elements
// each, and holds squares of C in registers.
//
// `tiles`: a workgroup computes a tile of C, each invocation ROW_QUADS × COLUMN_QUADS squares of it. Slices 16 deep of
// both operands go through workgroup memory; while one is multiplied, the next is on its way to registers. 8 × 8 elements
// an invocation take 4 reads of workgroup memory for 64 multiply-adds, which is what keeps the multipliers rather than
// the memory busy. Where M × N is small, the depth is shared: by TEAMS teams of a workgroup, which add up what they have
// at the end, and where that is not enough by several workgroups, whose sums matmul_sum.wgsl adds up.
//
// `rows`: where C has at most four rows (single-token decoding) or columns, time goes into reading the matrix once. The
// invocations of a workgroup share the depth of QUADS squares of C and add up.
//
// Workgroup memory is [depth][rows or columns / 4] of vec4, its lines without padding. Storing squares that run along the
// depth would put every fourth invocation on the same banks, so the vec4 of depths 4d … 4d + 3 are kept at their place
// xor 2d.
//
// Where the epilogue makes one element of two that lie half a row apart (GATED), a tile's columns are as many of the left
// half as of the right.
//
// Operands, epilogue and gate are declared again when a kernel is made.

import shadegrad::matmul_work;

// Four elements side by side, of which the first `left` are there; the others are zero.

@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;
fn a4(at: u32, left: u32) -> vec4<f32> { return a[at / 4u]; }

@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>;
fn b4(at: u32, left: u32) -> vec4<f32> { return b[at / 4u]; }

// Whether nothing that is read lies past an end.
const WHOLE: bool = false;

fn a_line(origin: u32, outer: u32, inner: u32, end: vec2<u32>) -> vec4<f32> {
    if (WHOLE || (outer < end.x && inner < end.y)) { return a4(origin + outer * p.lda + inner, end.y - inner); }
    return vec4<f32>(0.0);
}

fn b_line(origin: u32, outer: u32, inner: u32, end: vec2<u32>) -> vec4<f32> {
    if (WHOLE || (outer < end.x && inner < end.y)) { return b4(origin + outer * p.ldb + inner, end.y - inner); }
    return vec4<f32>(0.0);
}

// Column j of the result holds four rows of A at depth k + j; zeros past the end of either.
fn a_square(origin: u32, row: u32, k: u32, end: u32) -> mat4x4<f32> {
    if (A_ALONG_DEPTH) {
        let ends = vec2<u32>(p.m, end);
        return transpose(mat4x4<f32>(
            a_line(origin, row, k, ends), a_line(origin, row + 1u, k, ends),
            a_line(origin, row + 2u, k, ends), a_line(origin, row + 3u, k, ends)));
    }
    let ends = vec2<u32>(end, p.m);
    return mat4x4<f32>(
        a_line(origin, k, row, ends), a_line(origin, k + 1u, row, ends),
        a_line(origin, k + 2u, row, ends), a_line(origin, k + 3u, row, ends));
}

// Column j of the result holds four columns of B at depth k + j.
fn b_square(origin: u32, column: u32, k: u32, end: u32) -> mat4x4<f32> {
    if (B_ALONG_DEPTH) {
        let ends = vec2<u32>(p.n, end);
        return transpose(mat4x4<f32>(
            b_line(origin, column, k, ends), b_line(origin, column + 1u, k, ends),
            b_line(origin, column + 2u, k, ends), b_line(origin, column + 3u, k, ends)));
    }
    let ends = vec2<u32>(end, p.n);
    return mat4x4<f32>(
        b_line(origin, k, column, ends), b_line(origin, k + 1u, column, ends),
        b_line(origin, k + 2u, column, ends), b_line(origin, k + 3u, column, ends));
}

// c + x·yᵀ, where column i of a square of C is its row i.
fn multiplied(c: mat4x4<f32>, x: vec4<f32>, y: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        fma(vec4<f32>(x.x), y, c[0]), fma(vec4<f32>(x.y), y, c[1]),
        fma(vec4<f32>(x.z), y, c[2]), fma(vec4<f32>(x.w), y, c[3]));
}

const ROW_QUADS: u32 = 2u;     // squares of an invocation, down and across: 1 or 2
const COLUMN_QUADS: u32 = 2u;
const DOWN: u32 = 8u;          // invocations of a team: a multiple of 8
const ACROSS: u32 = 8u;        // a multiple of 8
const TEAMS: u32 = 1u;         // of a workgroup: 1, or 4 if each invocation has one square

const TEAM: u32 = DOWN * ACROSS;
const A_QUADS: u32 = ROW_QUADS * DOWN;
const B_QUADS: u32 = COLUMN_QUADS * ACROSS;
const DEPTH: u32 = 16u;
const A_TILE: u32 = DEPTH * A_QUADS;
const B_TILE: u32 = DEPTH * B_QUADS;
// Squares of a slice of both operands: one or two for each invocation to load.
const A_SQUARES: u32 = A_TILE / 4u;
const SQUARES: u32 = A_SQUARES + B_TILE / 4u;

var<workgroup> tile_a: array<vec4<f32>, TEAMS * A_TILE>;
var<workgroup> tile_b: array<vec4<f32>, TEAMS * B_TILE>;

// Where in a slice a square lies: which quad of rows or columns, which quad of depths. Neighbours are neighbours in
// memory.
fn place_of(square: u32, quads: u32, along_depth: bool) -> vec2<u32> {
    if (along_depth) { return vec2<u32>(square / 4u, square % 4u); }
    return vec2<u32>(square % quads, square / quads);
}

// The first column of a quad of a tile; p.n and more past the end.
fn column_of(tile: u32, quad: u32) -> u32 {
    if (GATED) {
        let half = p.n / 2u;
        let within = 4u * (tile * (B_QUADS / 2u) + quad % (B_QUADS / 2u));
        return select(p.n, within + quad / (B_QUADS / 2u) * half, within < half);
    }
    return 4u * (tile * B_QUADS + quad);
}

fn fetched(square: u32, work: Work, row: u32, tile_column: u32, k: u32) -> mat4x4<f32> {
    if (square < A_SQUARES) {
        let place = place_of(square, A_QUADS, A_ALONG_DEPTH);
        return a_square(work.a, row + 4u * place.x, k + 4u * place.y, work.end);
    }
    if (square < SQUARES) {
        let place = place_of(square - A_SQUARES, B_QUADS, B_ALONG_DEPTH);
        return b_square(work.b, column_of(tile_column, place.x), k + 4u * place.y, work.end);
    }
    return mat4x4<f32>();
}

fn keep(team: u32, square: u32, value: mat4x4<f32>) {
    if (square < A_SQUARES) {
        let place = place_of(square, A_QUADS, A_ALONG_DEPTH);
        let at = team * A_TILE + 4u * place.y * A_QUADS + (place.x ^ (2u * place.y));
        tile_a[at + $4u * A_QUADS] = value[$4];
    } else if (square < SQUARES) {
        let place = place_of(square - A_SQUARES, B_QUADS, B_ALONG_DEPTH);
        let at = team * B_TILE + 4u * place.y * B_QUADS + (place.x ^ (2u * place.y));
        tile_b[at + $4u * B_QUADS] = value[$4];
    }
}

// An invocation's squares of C. They lie half a tile apart, so that neighbours read neighbouring vec4.
struct Squares { c00: mat4x4<f32>, c01: mat4x4<f32>, c10: mat4x4<f32>, c11: mat4x4<f32> }

fn step(c: ptr<function, Squares>, x: u32, y: u32) {
    let x0 = tile_a[x];
    let y0 = tile_b[y];
    (*c).c00 = multiplied((*c).c00, x0, y0);
    if (COLUMN_QUADS == 2u) {
        let y1 = tile_b[y + ACROSS];
        (*c).c01 = multiplied((*c).c01, x0, y1);
    }
    if (ROW_QUADS == 2u) {
        let x1 = tile_a[x + DOWN];
        (*c).c10 = multiplied((*c).c10, x1, y0);
        if (COLUMN_QUADS == 2u) {
            let y1 = tile_b[y + ACROSS];
            (*c).c11 = multiplied((*c).c11, x1, y1);
        }
    }
}

// On GPUs, the next slice is fetched while one is multiplied, and the steps are written out, not a loop: compilers that
// leave a loop alone can't overlap its turns, which on an H100 made everything a sixth slower. On software adapters that is
// only long to compile.
const OVERLAPPED: bool = true;

// Four steps of the depth.
fn four_steps(c: ptr<function, Squares>, team: u32, row: u32, column: u32, d: u32) {
    let x = team * A_TILE + 4u * d * A_QUADS + (row ^ (2u * d));
    let y = team * B_TILE + 4u * d * B_QUADS + (column ^ (2u * d));
    step(c, x + $4u * A_QUADS, y + $4u * B_QUADS);
}

// Each invocation's only square, for row_of_teams.
fn tell_teams(c: mat4x4<f32>, local: u32) {
    workgroupBarrier();  // the last slice has been multiplied
    tile_a[local] = c[0];
    tile_a[TEAMS * TEAM + local] = c[1];
    tile_b[local] = c[2];
    tile_b[TEAMS * TEAM + local] = c[3];
    workgroupBarrier();
}

// Row `team` of what invocation `local` told, summed over the teams in their order.
fn row_of_teams(local: u32) -> vec4<f32> {
    let team = local / TEAM;
    let at = team % 2u * TEAMS * TEAM + local % TEAM;
    var sum = vec4<f32>(0.0);
    for (var other = 0u; other < TEAMS; other++) {
        if (team < 2u) { sum += tile_a[at + other * TEAM]; } else { sum += tile_b[at + other * TEAM]; }
    }
    return sum;
}

@compute @workgroup_size(TEAMS * TEAM)
fn tiles(group: Group, @builtin(local_invocation_index) local: u32) {
    var work = work(index_of(group));
    let team = local / TEAM;
    let lane = local % TEAM;
    // Every team goes through as many slices, so that barriers stay uniform; those past the end are zeros.
    let depth = (work.end - work.begin + TEAMS * DEPTH - 1u) / (TEAMS * DEPTH) * DEPTH;
    work.begin += team * depth;
    work.end = min(work.begin + depth, work.end);
    let row0 = work.tile.x * 4u * A_QUADS;
    let tile_column = work.tile.y;

    // 32 neighbours make a patch of 4 × 8: they read little from workgroup memory, and different banks of it.
    let patch_index = lane / 32u;
    let my_row = patch_index / (ACROSS / 8u) * 4u + lane % 32u / 8u;
    let my_column = patch_index % (ACROSS / 8u) * 8u + lane % 8u;

    var c = Squares();
    var next0 = mat4x4<f32>();
    var next1 = mat4x4<f32>();
    if (OVERLAPPED) { next0 = fetched(lane, work, row0, tile_column, work.begin); }
    if (OVERLAPPED && SQUARES > TEAM) { next1 = fetched(lane + TEAM, work, row0, tile_column, work.begin); }
    for (var k = 0u; k < depth; k += DEPTH) {
        workgroupBarrier();  // the slice before has been multiplied
        if (OVERLAPPED) {
            keep(team, lane, next0);
            if (SQUARES > TEAM) { keep(team, lane + TEAM, next1); }
        } else {
            for (var square = lane; square < SQUARES; square += TEAM) {
                keep(team, square, fetched(square, work, row0, tile_column, work.begin + k));
            }
        }
        workgroupBarrier();
        if (OVERLAPPED) {
            let next_k = work.begin + k + DEPTH;
            next0 = fetched(lane, work, row0, tile_column, next_k);
            if (SQUARES > TEAM) { next1 = fetched(lane + TEAM, work, row0, tile_column, next_k); }
            four_steps(&c, team, my_row, my_column, $4u);
        } else {
            for (var d = 0u; d < DEPTH / 4u; d++) { four_steps(&c, team, my_row, my_column, d); }
        }
    }
    let row = row0 + 4u * my_row;
    let column = column_of(tile_column, my_column);
    if (TEAMS > 1u) {
        tell_teams(c.c00, local);
        if (!work.stores || row + team >= p.m || column >= p.n) { return; }
        let value = row_of_teams(local);
        store4(work.slice, row + team, column, value);
        // Columns are neighbours, and the other half of the row is half a tile further.
        if (GATED && my_column < B_QUADS / 2u) {
            store_gate(work.slice, row + team, column, value, row_of_teams(local + B_QUADS / 2u));
        }
        return;
    }
    if (!work.stores) { return; }
    let next_column = column_of(tile_column, my_column + ACROSS);
    for (var i = 0u; i < 4u; i++) {
        let next_row = row + i + 4u * DOWN;
        if (row + i < p.m) {
            if (column < p.n) { store4(work.slice, row + i, column, c.c00[0]); }
            if (COLUMN_QUADS == 2u && next_column < p.n) { store4(work.slice, row + i, next_column, c.c01[0]); }
            if (GATED && column < p.n) { store_gate(work.slice, row + i, column, c.c00[0], c.c01[0]); }
        }
        if (ROW_QUADS == 2u && next_row < p.m) {
            if (column < p.n) { store4(work.slice, next_row, column, c.c10[0]); }
            if (COLUMN_QUADS == 2u && next_column < p.n) { store4(work.slice, next_row, next_column, c.c11[0]); }
            if (GATED && column < p.n) { store_gate(work.slice, next_row, column, c.c10[0], c.c11[0]); }
        }
        c.c00 = shifted(c.c00);
        c.c01 = shifted(c.c01);
        c.c10 = shifted(c.c10);
        c.c11 = shifted(c.c11);
    }
}

// The next row comes first.
fn shifted(c: mat4x4<f32>) -> mat4x4<f32> { return mat4x4<f32>(c[1], c[2], c[3], c[0]); }

const QUADS: u32 = 8u;      // squares of C in a workgroup
const SHARERS: u32 = 32u;   // invocations that share the depth of each
const TALL: bool = false;   // the squares lie below each other rather than side by side
const SINGLE: bool = false; // C is one row, and A along the depth
const SPAN: u32 = 1u;       // of one row, squares of C side by side that an invocation has: 1, 2 or 4

var<workgroup> exchange: array<vec4<f32>, QUADS * SHARERS>;

// The sum over the invocations that share the depth. For uniform control flow only.
fn over_sharers(value: vec4<f32>, local: u32, sharer: u32, stride: u32) -> vec4<f32> {
    if (SHARERS == 1u) { return value; }
    workgroupBarrier();  // the sums before have been read
    exchange[local] = value;
    workgroupBarrier();
    for (var half = SHARERS / 2u; half > 0u; half /= 2u) {
        if (sharer < half) { exchange[local] += exchange[local + half * stride]; }
        workgroupBarrier();
    }
    return exchange[local];
}

@compute @workgroup_size(QUADS * SHARERS)
fn rows(group: Group, @builtin(local_invocation_index) local: u32) {
    let work = work(index_of(group));
    // Neighbours are neighbours in the larger operand's memory.
    let along_depth = (TALL && A_ALONG_DEPTH) || (!TALL && B_ALONG_DEPTH);
    let sharer = select(local / QUADS, local % SHARERS, along_depth || SHARERS == 1u);
    let quad = select(local % QUADS, local / SHARERS, along_depth);
    let stride = select(QUADS, 1u, along_depth);
    let first = 4u * SPAN * (work.tile.x * QUADS + quad);
    let row = select(0u, first, TALL);
    let column = select(first, 0u, TALL);
    // With a gate, an invocation also has the columns that lie half a row further.
    let half = p.n / 2u;
    let end_column = select(p.n, half, GATED);
    // Past the end, the last columns are read again, and not stored.
    let from_column = select(column, min(column, end_column - 4u * SPAN), WHOLE);
    var c = mat4x4<f32>();
    var d = mat4x4<f32>();
    for (var k = work.begin + 4u * sharer; k < work.end; k += 4u * SHARERS) {
        if (SINGLE) {
            let x = a_line(work.a, 0u, k, vec2<u32>(1u, work.end));
            if (SPAN > $4u) { c[$4] += b_square(work.b, from_column + 4u * $4u, k, work.end) * x; }
            if (GATED && SPAN > $4u) { d[$4] += b_square(work.b, from_column + half + 4u * $4u, k, work.end) * x; }
        } else {
            let y = b_square(work.b, from_column, k, work.end);
            let x = a_square(work.a, row, k, work.end);
            // Loaded before anything is multiplied: Mesa 26.1's llvmpipe gets single halves wrong that are read in between.
            var z = mat4x4<f32>();
            if (GATED) { z = b_square(work.b, from_column + half, k, work.end); }
            c = multiplied(multiplied(multiplied(multiplied(c, x[0], y[0]), x[1], y[1]), x[2], y[2]), x[3], y[3]);
            if (GATED) { d = multiplied(multiplied(multiplied(multiplied(d, x[0], z[0]), x[1], z[1]), x[2], z[2]), x[3], z[3]); }
        }
    }
    for (var i = 0u; i < select(min(p.m, 4u), SPAN, SINGLE); i++) {
        let at = vec2<u32>(select(row + i, 0u, SINGLE), select(column, column + 4u * i, SINGLE));
        let value = over_sharers(c[0], local, sharer, stride);
        var other = vec4<f32>();
        if (GATED) { other = over_sharers(d[0], local, sharer, stride); }
        if (work.stores && sharer == 0u && at.x < p.m && at.y < end_column) {
            store4(work.slice, at.x, at.y, value);
            if (GATED) {
                store4(work.slice, at.x, at.y + half, other);
                store_gate(work.slice, at.x, at.y, value, other);
            }
        }
        c = shifted(c);
        d = shifted(d);
    }
}
