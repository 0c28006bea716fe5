// What causality, windows, masks and dropout do to squares of scores, for attention's kernels on GPUs: put in front of
// attention_tiled.wgsl and attention_tiled_backward.wgsl. Follows attention.wgsl and attention_squares.wgsl.
//
// A square's rows are own rows: queries in functions named after queries, keys in those named after keys. What is done
// for its columns is long, and done for tiles on a border only, or not at all: loops of four turns keep the text short.

import shadegrad::attention_squares;

const BIASED: bool = false; // scores of all tiles go through `masked`: there is a mask, or a linear bias

// Four rows from `first` on; those past the end repeat the last.
fn four_rows(first: u32, rows: u32) -> vec4<u32> {
    return min(vec4<u32>(first, first + 1u, first + 2u, first + 3u), vec4<u32>(rows - 1u));
}

// The columns of a square one further, with another last one: four turns are through with all of them.
fn turned(c: mat4x4<f32>, last: vec4<f32>) -> mat4x4<f32> { return mat4x4<f32>(c[1], c[2], c[3], last); }

// Own rows are queries i ….

fn masked_for_queries(scores: vec4<f32>, head: Head, i: vec4<u32>, start: vec4<u32>, seen: vec4<u32>, j: u32) -> vec4<f32> {
    let is_seen = vec4<u32>(j) - start < seen;
    return vec4<f32>(
        masked(scores.x, is_seen.x, head, i.x, j), masked(scores.y, is_seen.y, head, i.y, j),
        masked(scores.z, is_seen.z, head, i.z, j), masked(scores.w, is_seen.w, head, i.w, j));
}

fn query_square_masked(c: mat4x4<f32>, head: Head, i0: u32, j: u32) -> mat4x4<f32> {
    let i = four_rows(i0, p.queries);
    let start = vec4<u32>(first_key(head, i.x), first_key(head, i.y), first_key(head, i.z), first_key(head, i.w));
    let end = vec4<u32>(end_key(head, i.x), end_key(head, i.y), end_key(head, i.z), end_key(head, i.w));
    var result = c;
    for (var e = 0u; e < 4u; e++) {
        result = turned(result, masked_for_queries(result[0], head, i, start, end - start, j + e));
    }
    return result;
}

fn queries_masked(c: Squares, head: Head, i: u32, j: u32) -> Squares {
    var result = Squares();
    result.c00 = query_square_masked(c.c00, head, i, j);
    if (SCORE_QUADS == 2u) { result.c01 = query_square_masked(c.c01, head, i, j + 4u * ACROSS); }
    if (ROW_QUADS == 2u) {
        result.c10 = query_square_masked(c.c10, head, i + 4u * DOWN, j);
        if (SCORE_QUADS == 2u) { result.c11 = query_square_masked(c.c11, head, i + 4u * DOWN, j + 4u * ACROSS); }
    }
    return result;
}

fn dropped_for_queries(w: vec4<f32>, kept: vec4<u32>, e: u32) -> vec4<f32> {
    return vec4<f32>(
        dropped(w.x, kept.x, e), dropped(w.y, kept.y, e), dropped(w.z, kept.z, e), dropped(w.w, kept.w, e));
}

fn query_square_dropped(c: mat4x4<f32>, key: DropoutKey, head: Head, i: u32, j: u32) -> mat4x4<f32> {
    var kept = vec4<u32>(); // by each query, for keys j … j + 3
    for (var r = 0u; r < 4u; r++) {
        kept = vec4<u32>(kept.yzw, kept_weights(key, head, min(i + r, p.queries - 1u), j));
    }
    return mat4x4<f32>(
        dropped_for_queries(c[0], kept, 0u), dropped_for_queries(c[1], kept, 1u),
        dropped_for_queries(c[2], kept, 2u), dropped_for_queries(c[3], kept, 3u));
}

fn queries_dropped(c: Squares, key: DropoutKey, head: Head, i: u32, j: u32) -> Squares {
    var result = Squares();
    result.c00 = query_square_dropped(c.c00, key, head, i, j);
    if (SCORE_QUADS == 2u) { result.c01 = query_square_dropped(c.c01, key, head, i, j + 4u * ACROSS); }
    if (ROW_QUADS == 2u) {
        result.c10 = query_square_dropped(c.c10, key, head, i + 4u * DOWN, j);
        if (SCORE_QUADS == 2u) { result.c11 = query_square_dropped(c.c11, key, head, i + 4u * DOWN, j + 4u * ACROSS); }
    }
    return result;
}

// Own rows are keys j ….

fn masked_for_keys(scores: vec4<f32>, head: Head, i: u32, j: vec4<u32>, start: vec4<u32>, seen: vec4<u32>) -> vec4<f32> {
    let is_seen = vec4<u32>(i) - start < seen;
    let row = min(i, p.queries - 1u);
    return vec4<f32>(
        masked(scores.x, is_seen.x, head, row, j.x), masked(scores.y, is_seen.y, head, row, j.y),
        masked(scores.z, is_seen.z, head, row, j.z), masked(scores.w, is_seen.w, head, row, j.w));
}

fn key_square_masked(c: mat4x4<f32>, head: Head, i: u32, j0: u32) -> mat4x4<f32> {
    let j = four_rows(j0, p.keys);
    let start = vec4<u32>(first_query(head, j.x), first_query(head, j.y), first_query(head, j.z), first_query(head, j.w));
    let end = vec4<u32>(end_query(head, j.x), end_query(head, j.y), end_query(head, j.z), end_query(head, j.w));
    var result = c;
    for (var e = 0u; e < 4u; e++) {
        result = turned(result, masked_for_keys(result[0], head, i + e, j, start, end - start));
    }
    return result;
}

fn keys_masked(c: Squares, head: Head, i: u32, j: u32) -> Squares {
    var result = Squares();
    result.c00 = key_square_masked(c.c00, head, i, j);
    if (SCORE_QUADS == 2u) { result.c01 = key_square_masked(c.c01, head, i + 4u * ACROSS, j); }
    if (ROW_QUADS == 2u) {
        result.c10 = key_square_masked(c.c10, head, i, j + 4u * DOWN);
        if (SCORE_QUADS == 2u) { result.c11 = key_square_masked(c.c11, head, i + 4u * ACROSS, j + 4u * DOWN); }
    }
    return result;
}

fn dropped_for_keys(w: vec4<f32>, key: DropoutKey, head: Head, i: u32, j: u32) -> vec4<f32> {
    let kept = kept_weights(key, head, min(i, p.queries - 1u), j);
    return vec4<f32>(dropped(w.x, kept, 0u), dropped(w.y, kept, 1u), dropped(w.z, kept, 2u), dropped(w.w, kept, 3u));
}

fn key_square_dropped(c: mat4x4<f32>, key: DropoutKey, head: Head, i: u32, j: u32) -> mat4x4<f32> {
    var result = c;
    for (var e = 0u; e < 4u; e++) {
        result = turned(result, dropped_for_keys(result[0], key, head, i + e, j));
    }
    return result;
}

fn keys_dropped(c: Squares, key: DropoutKey, head: Head, i: u32, j: u32) -> Squares {
    var result = Squares();
    result.c00 = key_square_dropped(c.c00, key, head, i, j);
    if (SCORE_QUADS == 2u) { result.c01 = key_square_dropped(c.c01, key, head, i + 4u * ACROSS, j); }
    if (ROW_QUADS == 2u) {
        result.c10 = key_square_dropped(c.c10, key, head, i, j + 4u * DOWN);
        if (SCORE_QUADS == 2u) { result.c11 = key_square_dropped(c.c11, key, head, i + 4u * ACROSS, j + 4u * DOWN); }
    }
    return result;
}
