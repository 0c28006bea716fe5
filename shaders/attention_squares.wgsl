// Products of tiles, for attention's kernels on GPUs: put in front of attention_tiled.wgsl and
// attention_tiled_backward.wgsl, which say by `chunk_of` what they multiply. Follows attention.wgsl.
//
// A team of DOWN × ACROSS invocations owns a tile of rows of one head (queries, or keys) while tiles of the other
// side's rows pass by. Everything is computed in squares of 4 × 4 that an invocation holds in registers, ROW_QUADS of
// them below each other, as many across as the product has columns for: scores of own rows with other rows, or chunks
// (four elements) of results of own rows. Both kinds of square belong to the same own rows, so that what softmax knows
// about a row stays in registers. A square's column, a column of the matrix, has a number for each of four own rows.
//
// Where there are few rows, a workgroup has several teams, each with a head of its own and its own part of workgroup
// memory. They go through the same loops.
//
// A product's operands go through workgroup memory in slices: first_tile holds own rows, second_tile what they meet.
// Along the rows (scores), a slice is 4·DEPTH elements deep. Across the rows (results), it is 4·LINES other rows deep,
// and first_tile holds the scores or weights of own rows with them. A line of first_tile is one step of depth and has a
// vec4 for each quad of own rows: squares of 8 × 4 elements take 3 reads of workgroup memory for 32 multiply-adds. Own
// rows are read again for every tile: kept, they alone would take all of the 16 KiB that every GPU has.

import shadegrad::attention;

const HEADS: u32 = 1u;        // teams of a workgroup
const DOWN: u32 = 8u;
const ACROSS: u32 = 16u;
const ROW_QUADS: u32 = 2u;    // 1 or 2
const SCORE_QUADS: u32 = 1u;  // quads of other rows that an invocation has scores for: 1 or 2
const RESULT_QUADS: u32 = 1u; // chunks of results that an invocation has: 1 or 2
const CHUNKS: u32 = 16u;      // of a row

const TEAM: u32 = DOWN * ACROSS;
const THREADS: u32 = HEADS * TEAM;
const OWN: u32 = DOWN * ROW_QUADS;       // quads of own rows
const OTHER: u32 = ACROSS * SCORE_QUADS; // quads of other rows
const WIDTH: u32 = ACROSS * RESULT_QUADS;
const DEPTH: u32 = min(4u, CHUNKS);
const LINES: u32 = min(min(4u, OTHER), 128u / WIDTH);

// vec4s of a team
const FIRST: u32 = 4u * max(DEPTH, LINES) * OWN;
const SECOND: u32 = 4u * max(DEPTH * OTHER, LINES * WIDTH);

var<workgroup> first_tile: array<vec4<f32>, HEADS * FIRST>;
var<workgroup> second_tile: array<vec4<f32>, HEADS * SECOND>;

// 32 neighbours make a patch about as high as wide: they read little from workgroup memory, and different banks of it.
// (Or one as wide as a row, where its invocations have to be neighbours.)
const MOST_ACROSS: u32 = 8u;
const PATCH_ACROSS: u32 = min(MOST_ACROSS, ACROSS);
const PATCH_DOWN: u32 = min(32u / PATCH_ACROSS, DOWN);
const PATCH: u32 = PATCH_DOWN * PATCH_ACROSS;

struct Place {
    team: u32,
    lane: u32,   // within the team
    row: u32,    // quads of own rows: row, and row + DOWN
    column: u32, // chunks, or quads of other rows: column, and column + ACROSS
    first: u32,  // where the team's parts of the tiles begin
    second: u32,
}

fn team_place(local: u32) -> Place {
    let team = local / TEAM;
    let lane = local % TEAM;
    let patch_index = lane / PATCH;
    let row = patch_index / (ACROSS / PATCH_ACROSS) * PATCH_DOWN + lane % PATCH / PATCH_ACROSS;
    let column = patch_index % (ACROSS / PATCH_ACROSS) * PATCH_ACROSS + lane % PATCH_ACROSS;
    return Place(team, lane, row, column, team * FIRST, team * SECOND);
}

// An invocation's squares: c<down><across>.
struct Squares { c00: mat4x4<f32>, c01: mat4x4<f32>, c10: mat4x4<f32>, c11: mat4x4<f32> }

// A number for each of an invocation's own rows.
struct Numbers { r0: vec4<f32>, r1: vec4<f32> }

fn scaled_rows(c: mat4x4<f32>, w: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(c[0] * w, c[1] * w, c[2] * w, c[3] * w);
}

fn squares_scaled(c: Squares, w: Numbers) -> Squares {
    return Squares(scaled_rows(c.c00, w.r0), scaled_rows(c.c01, w.r0), scaled_rows(c.c10, w.r1), scaled_rows(c.c11, w.r1));
}

// c + x·yᵀ
fn multiplied(c: mat4x4<f32>, x: vec4<f32>, y: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        fma(x, vec4<f32>(y.x), c[0]), fma(x, vec4<f32>(y.y), c[1]),
        fma(x, vec4<f32>(y.z), c[2]), fma(x, vec4<f32>(y.w), c[3]));
}

// One step of depth: own rows from x on in first_tile, what they meet from y on in second_tile.
fn step(c: ptr<function, Squares>, x: u32, y: u32, across: u32) {
    let x0 = first_tile[x];
    let y0 = second_tile[y];
    (*c).c00 = multiplied((*c).c00, x0, y0);
    if (across == 2u) {
        let y1 = second_tile[y + ACROSS];
        (*c).c01 = multiplied((*c).c01, x0, y1);
    }
    if (ROW_QUADS == 2u) {
        let x1 = first_tile[x + DOWN];
        (*c).c10 = multiplied((*c).c10, x1, y0);
        if (across == 2u) {
            let y1 = second_tile[y + ACROSS];
            (*c).c11 = multiplied((*c).c11, x1, y1);
        }
    }
}

// Storing squares that run along the depth would put many invocations on the same banks, so a quad's place in a line is
// its number xor something that depends on the depth, below `count` and 8.
fn mixed(quad: u32, by: u32, count: u32) -> u32 { return quad ^ (by & (min(count, 8u) - 1u)); }

fn keep_own(at: u32, square: mat4x4<f32>) {
    first_tile[at + $4u * OWN] = square[$4];
}

fn keep_other(at: u32, square: mat4x4<f32>) {
    second_tile[at + $4u * OTHER] = square[$4];
}

// Four rows (which are its rows) by the four elements of a chunk.
fn square_of(operand: u32, head: Head, row: u32, chunk: u32) -> mat4x4<f32> {
    return transpose(mat4x4<f32>(
        chunk_of(operand, head, row, chunk), chunk_of(operand, head, row + 1u, chunk),
        chunk_of(operand, head, row + 2u, chunk), chunk_of(operand, head, row + 3u, chunk)));
}

// On GPUs, the next slice is fetched while one is multiplied, and calls of the steps are written out, not loops:
// compilers that leave a loop alone can't overlap its turns. On software adapters that is only long to compile.
const OVERLAPPED: bool = true;

// Squares of a slice along the rows: those of own rows, then those of other rows. Neighbours are neighbours in memory.
const OWN_SLICE: u32 = DEPTH * OWN;
const SLICE: u32 = OWN_SLICE + DEPTH * OTHER;

struct Pair { own: u32, own_row: u32, other: u32, other_row: u32 } // operands, and their first rows

fn slice_square(head: Head, pair: Pair, chunk: u32, t: u32) -> mat4x4<f32> {
    let d = chunk + t % DEPTH;
    if (d < CHUNKS) {
        if (t < OWN_SLICE) { return square_of(pair.own, head, pair.own_row + t / DEPTH * 4u, d); }
        if (t < SLICE) { return square_of(pair.other, head, pair.other_row + (t - OWN_SLICE) / DEPTH * 4u, d); }
    }
    return mat4x4<f32>();
}

fn keep_slice_square(place: Place, t: u32, square: mat4x4<f32>) {
    let d = t % DEPTH;
    if (t < OWN_SLICE) {
        keep_own(place.first + 4u * d * OWN + mixed(t / DEPTH, 2u * d, DOWN), square);
    } else if (t < SLICE) {
        keep_other(place.second + 4u * d * OTHER + mixed((t - OWN_SLICE) / DEPTH, 2u * d, ACROSS), square);
    }
}

fn along_steps(c: ptr<function, Squares>, place: Place, d: u32) {
    let x = place.first + 4u * d * OWN + mixed(place.row, 2u * d, DOWN);
    let y = place.second + 4u * d * OTHER + mixed(place.column, 2u * d, ACROSS);
    step(c, x + $4u * OWN, y + $4u * OTHER, SCORE_QUADS);
}

fn across_steps(c: ptr<function, Squares>, place: Place, d: u32) {
    let x = place.first + 4u * d * OWN + mixed(place.row, d, DOWN);
    let y = place.second + 4u * d * WIDTH + place.column;
    step(c, x + $4u * OWN, y + $4u * WIDTH, RESULT_QUADS);
}

// Adds the product, along the rows, of a tile of own rows and a tile of other rows: scores. For uniform control flow
// only.
fn plus_along(
    c: ptr<function, Squares>, place: Place, head: Head, own: u32, own_row: u32, other: u32, other_row: u32,
) {
    let pair = Pair(own, own_row, other, other_row);
    var next0 = mat4x4<f32>();
    var next1 = mat4x4<f32>();
    if (OVERLAPPED) { next0 = slice_square(head, pair, 0u, place.lane); }
    if (OVERLAPPED && SLICE > TEAM) { next1 = slice_square(head, pair, 0u, place.lane + TEAM); }
    for (var chunk = 0u; chunk < CHUNKS; chunk += DEPTH) {
        workgroupBarrier(); // the slice before has been read
        if (OVERLAPPED) { keep_slice_square(place, place.lane, next0); }
        if (OVERLAPPED && SLICE > TEAM) { keep_slice_square(place, place.lane + TEAM, next1); }
        for (var t = place.lane + select(0u, 2u * TEAM, OVERLAPPED); t < SLICE; t += TEAM) {
            keep_slice_square(place, t, slice_square(head, pair, chunk, t));
        }
        workgroupBarrier();
        if (OVERLAPPED) {
            next0 = slice_square(head, pair, chunk + DEPTH, place.lane);
            if (SLICE > TEAM) { next1 = slice_square(head, pair, chunk + DEPTH, place.lane + TEAM); }
            if (DEPTH > $4u) { along_steps(c, place, $4u); }
        } else {
            for (var d = 0u; d < DEPTH; d++) { along_steps(c, place, d); }
        }
    }
}

// Keeps those of the scores in column `column` that are part of a slice across the rows.
fn keep_scores(place: Place, slice: u32, column: u32, upper: mat4x4<f32>, lower: mat4x4<f32>) {
    if (column / LINES != slice) { return; }
    let line = column % LINES;
    let at = place.first + 4u * line * OWN + mixed(place.row, line, DOWN);
    keep_own(at, upper);
    if (ROW_QUADS == 2u) { keep_own(at + DOWN, lower); }
}

// Chunks of a slice across the rows.
const LINE_CHUNKS: u32 = 4u * LINES * WIDTH;

fn line_chunk(head: Head, other: u32, row: u32, t: u32, is_there: bool) -> vec4<f32> {
    if (is_there && t < LINE_CHUNKS && t % WIDTH < CHUNKS) { return chunk_of(other, head, row + t / WIDTH, t % WIDTH); }
    return vec4<f32>();
}

fn line_chunks(head: Head, other: u32, row: u32, lane: u32, is_there: bool) -> mat4x4<f32> {
    var next = mat4x4<f32>();
    if (LINE_CHUNKS > $4u * TEAM) { next[$4] = line_chunk(head, other, row, lane + $4u * TEAM, is_there); }
    return next;
}

fn keep_chunk(place: Place, t: u32, chunk: vec4<f32>) {
    if (t < LINE_CHUNKS) { second_tile[place.second + t] = chunk; }
}

fn keep_chunks(place: Place, next: mat4x4<f32>) {
    if (LINE_CHUNKS > $4u * TEAM) { keep_chunk(place, place.lane + $4u * TEAM, next[$4]); }
}

// Adds the product, across the rows, of scores (or weights) and a tile of other rows: results. For uniform control flow
// only.
fn plus_across(c: ptr<function, Squares>, place: Place, head: Head, scores: Squares, other: u32, other_row: u32) {
    var next = mat4x4<f32>();
    if (OVERLAPPED) { next = line_chunks(head, other, other_row, place.lane, true); }
    for (var slice = 0u; slice < OTHER / LINES; slice++) {
        workgroupBarrier(); // the slice before has been read
        keep_scores(place, slice, place.column, scores.c00, scores.c10);
        if (SCORE_QUADS == 2u) { keep_scores(place, slice, place.column + ACROSS, scores.c01, scores.c11); }
        if (OVERLAPPED) { keep_chunks(place, next); }
        let row = other_row + 4u * LINES * slice;
        for (var t = place.lane + select(0u, 4u * TEAM, OVERLAPPED); t < LINE_CHUNKS; t += TEAM) {
            keep_chunk(place, t, line_chunk(head, other, row, t, true));
        }
        workgroupBarrier();
        if (OVERLAPPED) {
            next = line_chunks(head, other, row + 4u * LINES, place.lane, slice + 1u < OTHER / LINES);
            if (LINES > $4u) { across_steps(c, place, $4u); }
        } else {
            for (var d = 0u; d < LINES; d++) { across_steps(c, place, d); }
        }
    }
}
