// Attention, forward, on GPUs and any other device. Follows attention.wgsl, attention_squares.wgsl, attention_pairs.wgsl
// and attention_rows.wgsl or its twin.
//
//     out_i = Σ_j softmax_j(scale · q_i·k_j) v_j,    lse_i = ln Σ_j exp(scale · q_i·k_j)
//
// by online softmax over tiles of keys (Milakov and Gimelshein 2018; Dao et al. 2022).
//
// A team owns a tile of queries of one head. For every tile of keys it computes the scores (a product along the rows),
// turns them into weights where they are, in registers, and adds weights times values (a product across the rows). Only
// the largest score of a row has to be told to all invocations that share the row, once a tile; sums of weights are
// kept in parts until the end. Tiles of keys that causality or a window hides are not visited, only those on a border
// are masked, and the longest rows start first.
//
// Operands are declared when a kernel is made, as in `tests/shaders`: how chunks of rows are loaded and stored.

import shadegrad::attention_pairs;
import shadegrad::attention_rows;

const QUERIES: u32 = 0u;
const KEYS: u32 = 1u;
const VALUES: u32 = 2u;

// Rows past the end repeat the last: nobody sees their scores.
fn chunk_of(operand: u32, head: Head, row: u32, chunk: u32) -> vec4<f32> {
    switch operand {
        case QUERIES: { return chunk_q(row_at(p.q, head, min(row, p.queries - 1u)), chunk); }
        case KEYS: { return chunk_k(key_row_at(p.k, head, min(row, p.keys - 1u)), chunk); }
        default: { return chunk_v(key_row_at(p.v, head, min(row, p.keys - 1u)), chunk); }
    }
}

fn largest_of(c: mat4x4<f32>) -> vec4<f32> { return max(max(c[0], c[1]), max(c[2], c[3])); }
fn sum_of(c: mat4x4<f32>) -> vec4<f32> { return (c[0] + c[1]) + (c[2] + c[3]); }
fn weights_of(c: mat4x4<f32>, top: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(exp(c[0] - top), exp(c[1] - top), exp(c[2] - top), exp(c[3] - top));
}

// Of each row, what an invocation has.
fn largest(c: Squares) -> Numbers {
    if (SCORE_QUADS == 1u) { return Numbers(largest_of(c.c00), largest_of(c.c10)); }
    return Numbers(max(largest_of(c.c00), largest_of(c.c01)), max(largest_of(c.c10), largest_of(c.c11)));
}
fn sums(c: Squares) -> Numbers {
    if (SCORE_QUADS == 1u) { return Numbers(sum_of(c.c00), sum_of(c.c10)); }
    return Numbers(sum_of(c.c00) + sum_of(c.c01), sum_of(c.c10) + sum_of(c.c11));
}
fn weights_under(c: Squares, top: Numbers) -> Squares {
    return Squares(
        weights_of(c.c00, top.r0), weights_of(c.c01, top.r0), weights_of(c.c10, top.r1), weights_of(c.c11, top.r1));
}

fn store_lse(head: Head, i: u32, top: vec4<f32>, sum: vec4<f32>) {
    let at = p.lse_offset + head.index * p.queries + i;
    if (i + $4u < p.queries) { lse[at + $4u] = lse_of(top[$4], sum[$4]); }
}

// What dispatches before have left.
fn load_lse(head: Head, i: u32) -> vec4<f32> {
    let at = four_rows(i, p.queries) + p.lse_offset + head.index * p.queries;
    return vec4<f32>(lse[at.x], lse[at.y], lse[at.z], lse[at.w]);
}
fn tops_of_lse(lse: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(top_of_lse(lse.x), top_of_lse(lse.y), top_of_lse(lse.z), top_of_lse(lse.w));
}
fn sums_of_lse(lse: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(sum_of_lse(lse.x), sum_of_lse(lse.y), sum_of_lse(lse.z), sum_of_lse(lse.w));
}

@compute @workgroup_size(THREADS)
fn forward(group: Group, here: Here) {
    let index = index_of(group);
    if (index >= p.groups) { return; }
    let place = team_place(invocation(here));
    // The same for all teams, as everything is that loops depend on: if there are several, one tile has all queries.
    let leader = head_at(index / p.tiles * HEADS, p.tiles - 1u - index % p.tiles);
    let head = head_at(min(leader.index + place.team, p.all_heads - 1u), leader.tile);
    let first = leader.tile * 4u * OWN;
    let end = min(first + 4u * OWN, p.queries);
    let keys = end_key(leader, end - 1u);
    let i = first + 4u * place.row;
    let dropout = dropout_key();
    var acc = Squares();
    var top = Numbers(vec4<f32>(LOWEST), vec4<f32>(LOWEST));
    var sum = Numbers();
    if (CONTINUED) {
        acc = load_squares(p.out, head, i, place.column);
        let upper = load_lse(head, i);
        top.r0 = tops_of_lse(upper);
        sum.r0 = sums_of_lse(upper);
        if (ROW_QUADS == 2u) {
            let lower = load_lse(head, i + 4u * DOWN);
            top.r1 = tops_of_lse(lower);
            sum.r1 = sums_of_lse(lower);
        }
        acc = squares_scaled(acc, sum);
        // In parts until the end, of which the first column's goes on.
        if (place.column > 0u) { sum = Numbers(); }
    }
    let end_j = min(keys, p.end);
    for (var j0 = max(first_key(leader, first) / (4u * OTHER) * (4u * OTHER), p.begin); j0 < end_j; j0 += 4u * OTHER) {
        var scores = Squares();
        plus_along(&scores, place, head, QUERIES, first, KEYS, j0);
        let j = j0 + 4u * place.column;
        scores = squares_scaled(scores, Numbers(vec4<f32>(p.scale), vec4<f32>(p.scale)));
        if (BIASED || !all_seen(leader, first, end, j0, j0 + 4u * OTHER)) {
            scores = squares_masked(scores, head, i, j);
        }

        let tops = largest_of_rows(largest(scores), place);
        let next = Numbers(max(top.r0, tops.r0), max(top.r1, tops.r1));
        let shrink = Numbers(exp(top.r0 - next.r0), exp(top.r1 - next.r1));
        top = next;
        let weights = weights_under(scores, top);
        let added = sums(weights);
        sum = Numbers(fma(sum.r0, shrink.r0, added.r0), fma(sum.r1, shrink.r1, added.r1));
        acc = squares_scaled(acc, shrink);
        plus_across(&acc, place, head, squares_dropped(weights, dropout, head, i, j), VALUES, j0);
    }

    sum = sum_of_rows(sum, place);
    if (leader.index + place.team >= p.all_heads) { return; }
    // A query that sees nothing gives zeros.
    let none0 = sum.r0 == vec4<f32>();
    let none1 = sum.r1 == vec4<f32>();
    acc = squares_scaled(acc, Numbers(select(1.0 / sum.r0, vec4<f32>(), none0), select(1.0 / sum.r1, vec4<f32>(), none1)));
    store_squares(p.out, head, i, place.column, acc);
    if (place.column > 0u) { return; }
    store_lse(head, i, top.r0, sum.r0);
    if (ROW_QUADS == 2u) { store_lse(head, i + 4u * DOWN, top.r1, sum.r1); }
}
