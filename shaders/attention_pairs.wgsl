// What causality, windows, masks and dropout do to squares of scores, and how squares of results are stored, for attention's
// kernels on GPUs: put in front of attention_tiled.wgsl and attention_tiled_backward.wgsl. Follows attention.wgsl and
// attention_squares.wgsl.
//
// What is done for a square's columns is long, and done for tiles on a border only, or not at all: loops of four turns keep
// the text short.

import shadegrad::attention_squares;

const BIASED: bool = false;    // scores of all tiles go through `masked`: there is a mask, or a linear bias
const OWNS_KEYS: bool = false; // a square's rows, own rows, are keys and its columns queries; else the other way round

fn own_rows() -> u32 { return select(p.queries, p.keys, OWNS_KEYS); }
fn own_at(lies: vec4<u32>, head: Head, row: u32) -> u32 {
    if (OWNS_KEYS) { return key_row_at(lies, head, row); }
    return row_at(lies, head, row);
}

// Which of the other side's rows an own row sees.
fn first_seen(head: Head, own: u32) -> u32 {
    if (OWNS_KEYS) { return first_query(head, own); }
    return first_key(head, own);
}
fn end_seen(head: Head, own: u32) -> u32 {
    if (OWNS_KEYS) { return end_query(head, own); }
    return end_key(head, own);
}

// Four rows from `first` on; those past the end repeat the last.
fn four_rows(first: u32, rows: u32) -> vec4<u32> {
    return min(vec4<u32>(first, first + 1u, first + 2u, first + 3u), vec4<u32>(rows - 1u));
}

fn column_masked(scores: vec4<f32>, head: Head, own: vec4<u32>, start: vec4<u32>, seen: vec4<u32>, other: u32) -> vec4<f32> {
    let is_seen = vec4<u32>(other) - start < seen;
    var i = own;
    var j = vec4<u32>(other);
    if (OWNS_KEYS) {
        i = vec4<u32>(min(other, p.queries - 1u));
        j = own;
    }
    return vec4<f32>(
        masked(scores.x, is_seen.x, head, i.x, j.x), masked(scores.y, is_seen.y, head, i.y, j.y),
        masked(scores.z, is_seen.z, head, i.z, j.z), masked(scores.w, is_seen.w, head, i.w, j.w));
}

fn square_masked(c: mat4x4<f32>, head: Head, own: u32, other: u32) -> mat4x4<f32> {
    let rows = four_rows(own, own_rows());
    let start = vec4<u32>(first_seen(head, rows.x), first_seen(head, rows.y), first_seen(head, rows.z), first_seen(head, rows.w));
    let end = vec4<u32>(end_seen(head, rows.x), end_seen(head, rows.y), end_seen(head, rows.z), end_seen(head, rows.w));
    var result = c;
    for (var e = 0u; e < 4u; e++) {
        // One column further: four turns are through with all of them.
        let column = column_masked(result[0], head, rows, start, end - start, other + e);
        result = mat4x4<f32>(result[1], result[2], result[3], column);
    }
    return result;
}

fn squares_masked(c: Squares, head: Head, own: u32, other: u32) -> Squares {
    var result = Squares();
    result.c00 = square_masked(c.c00, head, own, other);
    if (SCORE_QUADS == 2u) { result.c01 = square_masked(c.c01, head, own, other + 4u * ACROSS); }
    if (ROW_QUADS == 2u) {
        result.c10 = square_masked(c.c10, head, own + 4u * DOWN, other);
        if (SCORE_QUADS == 2u) { result.c11 = square_masked(c.c11, head, own + 4u * DOWN, other + 4u * ACROSS); }
    }
    return result;
}

fn column_dropped(w: vec4<f32>, kept: vec4<u32>, e: u32) -> vec4<f32> {
    return vec4<f32>(
        dropped(w.x, kept.x, e), dropped(w.y, kept.y, e), dropped(w.z, kept.z, e), dropped(w.w, kept.w, e));
}

// The square as if own rows were queries, and back.
fn by_queries(c: mat4x4<f32>) -> mat4x4<f32> {
    if (OWNS_KEYS) { return transpose(c); }
    return c;
}

fn square_dropped(c: mat4x4<f32>, key: DropoutKey, head: Head, own: u32, other: u32) -> mat4x4<f32> {
    let i = select(own, other, OWNS_KEYS);
    let j = select(other, own, OWNS_KEYS);
    var kept = vec4<u32>(); // by each query, for keys j … j + 3
    for (var r = 0u; r < 4u; r++) {
        kept = vec4<u32>(kept.yzw, kept_weights(key, head, min(i + r, p.queries - 1u), j));
    }
    let w = by_queries(c);
    return by_queries(mat4x4<f32>(
        column_dropped(w[0], kept, 0u), column_dropped(w[1], kept, 1u),
        column_dropped(w[2], kept, 2u), column_dropped(w[3], kept, 3u)));
}

fn squares_dropped(c: Squares, key: DropoutKey, head: Head, own: u32, other: u32) -> Squares {
    var result = Squares();
    result.c00 = square_dropped(c.c00, key, head, own, other);
    if (SCORE_QUADS == 2u) { result.c01 = square_dropped(c.c01, key, head, own, other + 4u * ACROSS); }
    if (ROW_QUADS == 2u) {
        result.c10 = square_dropped(c.c10, key, head, own + 4u * DOWN, other);
        if (SCORE_QUADS == 2u) { result.c11 = square_dropped(c.c11, key, head, own + 4u * DOWN, other + 4u * ACROSS); }
    }
    return result;
}

fn store_row(lies: vec4<u32>, head: Head, row: u32, chunk: u32, value: vec4<f32>) {
    if (row < own_rows() && chunk < CHUNKS) { store_chunk_result(own_at(lies, head, row), chunk, value); }
}
fn store_square(lies: vec4<u32>, head: Head, row: u32, chunk: u32, square: mat4x4<f32>) {
    let rows = transpose(square);
    store_row(lies, head, row + $4u, chunk, rows[$4]);
}
fn store_squares(lies: vec4<u32>, head: Head, row: u32, column: u32, c: Squares) {
    store_square(lies, head, row, column, c.c00);
    if (RESULT_QUADS == 2u) { store_square(lies, head, row, column + ACROSS, c.c01); }
    if (ROW_QUADS == 2u) {
        store_square(lies, head, row + 4u * DOWN, column, c.c10);
        if (RESULT_QUADS == 2u) { store_square(lies, head, row + 4u * DOWN, column + ACROSS, c.c11); }
    }
}

// What dispatches before have left.
fn load_square(lies: vec4<u32>, head: Head, row: u32, chunk: u32) -> mat4x4<f32> {
    let rows = four_rows(row, own_rows());
    let at = min(chunk, CHUNKS - 1u);
    return transpose(mat4x4<f32>(
        chunk_result(own_at(lies, head, rows.x), at), chunk_result(own_at(lies, head, rows.y), at),
        chunk_result(own_at(lies, head, rows.z), at), chunk_result(own_at(lies, head, rows.w), at)));
}
fn load_squares(lies: vec4<u32>, head: Head, row: u32, column: u32) -> Squares {
    var c = Squares();
    c.c00 = load_square(lies, head, row, column);
    if (RESULT_QUADS == 2u) { c.c01 = load_square(lies, head, row, column + ACROSS); }
    if (ROW_QUADS == 2u) {
        c.c10 = load_square(lies, head, row + 4u * DOWN, column);
        if (RESULT_QUADS == 2u) { c.c11 = load_square(lies, head, row + 4u * DOWN, column + ACROSS); }
    }
    return c;
}
