// Attention, backward, on GPUs and any other device. Follows attention.wgsl, attention_squares.wgsl and
// attention_pairs.wgsl; built as attention_tiled.wgsl is. With the weights P recomputed from the log-sum-exp and
// D_i = dout_i·out_i (attention_statistics.wgsl prepares both):
//
//     dS_ij = P_ij (dout_i·v_j − D_i),   dq_i = scale · Σ_j dS_ij k_j
//     dk_j = scale · Σ_i dS_ij q_i,      dv_j = Σ_i P_ij dout_i
//
// `queries` computes dq: its teams own queries and walk over tiles of keys. `keys` computes dk and dv: its teams own
// keys and walk over tiles of queries, of all the heads that share the keys. Every element is written once, by one
// invocation: no atomics, and the order of all sums is fixed.
//
// Operands are declared when a kernel is made, as in `tests/shaders`: how chunks of rows are loaded and stored.

import shadegrad::attention_pairs;

const QUERIES: u32 = 0u;
const KEYS: u32 = 1u;
const VALUES: u32 = 2u;
const UPSTREAM: u32 = 3u; // gradients of what queries get

// Rows past the end repeat the last: as own rows they are not stored, as other rows they are not seen.
fn chunk_of(operand: u32, head: Head, row: u32, chunk: u32) -> vec4<f32> {
    switch operand {
        case QUERIES: { return chunk_q(row_at(p.q, head, min(row, p.queries - 1u)), chunk); }
        case KEYS: { return chunk_k(key_row_at(p.k, head, min(row, p.keys - 1u)), chunk); }
        case VALUES: { return chunk_v(key_row_at(p.v, head, min(row, p.keys - 1u)), chunk); }
        default: { return chunk_dout(row_at(p.dout, head, min(row, p.queries - 1u)), chunk); }
    }
}

// Log-sum-exp (first column) and D (second) of queries i ….
fn about_queries(head: Head, i: u32) -> mat2x4<f32> {
    let rows = four_rows(i, p.queries);
    return transpose(mat4x2<f32>(
        statistics_of(head, rows.x), statistics_of(head, rows.y), statistics_of(head, rows.z), statistics_of(head, rows.w)));
}

// weight_of and shared_weight of attention.wgsl for four.
fn bounded_exp(x: vec4<f32>) -> vec4<f32> { return exp(select(x, vec4<f32>(), x > vec4<f32>())); }
fn shared_weights(w: vec4<f32>) -> vec4<f32> { return select(w, vec4<f32>(), w >= vec4<f32>(1.0)); }

fn all_scaled(c: Squares, w: f32) -> Squares { return Squares(c.c00 * w, c.c01 * w, c.c10 * w, c.c11 * w); }

// Weights of squares of scaled scores, and dS from these weights and their gradients. A square's rows are queries.
fn query_weights(c: mat4x4<f32>, about: mat2x4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        bounded_exp(c[0] - about[0]), bounded_exp(c[1] - about[0]),
        bounded_exp(c[2] - about[0]), bounded_exp(c[3] - about[0]));
}
fn query_gradients(w: mat4x4<f32>, d: mat4x4<f32>, about: mat2x4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        shared_weights(w[0]) * (d[0] - about[1]), shared_weights(w[1]) * (d[1] - about[1]),
        shared_weights(w[2]) * (d[2] - about[1]), shared_weights(w[3]) * (d[3] - about[1]));
}

// The same where a square's columns are queries.
fn key_weights(c: mat4x4<f32>, about: mat2x4<f32>) -> mat4x4<f32> {
    let lse = about[0];
    return mat4x4<f32>(
        bounded_exp(c[0] - lse.x), bounded_exp(c[1] - lse.y), bounded_exp(c[2] - lse.z), bounded_exp(c[3] - lse.w));
}
fn key_gradients(w: mat4x4<f32>, d: mat4x4<f32>, about: mat2x4<f32>) -> mat4x4<f32> {
    let delta = about[1];
    return mat4x4<f32>(
        shared_weights(w[0]) * (d[0] - delta.x), shared_weights(w[1]) * (d[1] - delta.y),
        shared_weights(w[2]) * (d[2] - delta.z), shared_weights(w[3]) * (d[3] - delta.w));
}

fn store_row(at: u32, chunk: u32, is_there: bool, value: vec4<f32>) {
    if (is_there && chunk < CHUNKS) { store_chunk_gradient(at, chunk, value); }
}
fn store_query_square(head: Head, i: u32, chunk: u32, square: mat4x4<f32>) {
    let rows = transpose(square);
    store_row(row_at(p.dq, head, i), chunk, i < p.queries, rows[0]);
    store_row(row_at(p.dq, head, i + 1u), chunk, i + 1u < p.queries, rows[1]);
    store_row(row_at(p.dq, head, i + 2u), chunk, i + 2u < p.queries, rows[2]);
    store_row(row_at(p.dq, head, i + 3u), chunk, i + 3u < p.queries, rows[3]);
}
fn store_key_square(lies: vec4<u32>, head: Head, j: u32, chunk: u32, square: mat4x4<f32>) {
    let rows = transpose(square);
    store_row(key_row_at(lies, head, j), chunk, j < p.keys, rows[0]);
    store_row(key_row_at(lies, head, j + 1u), chunk, j + 1u < p.keys, rows[1]);
    store_row(key_row_at(lies, head, j + 2u), chunk, j + 2u < p.keys, rows[2]);
    store_row(key_row_at(lies, head, j + 3u), chunk, j + 3u < p.keys, rows[3]);
}
fn store_keys(lies: vec4<u32>, head: Head, j: u32, column: u32, c: Squares) {
    store_key_square(lies, head, j, column, c.c00);
    if (RESULT_QUADS == 2u) { store_key_square(lies, head, j, column + ACROSS, c.c01); }
    if (ROW_QUADS == 2u) {
        store_key_square(lies, head, j + 4u * DOWN, column, c.c10);
        if (RESULT_QUADS == 2u) { store_key_square(lies, head, j + 4u * DOWN, column + ACROSS, c.c11); }
    }
}

// What dispatches before have left.
fn load_query_square(head: Head, i: u32, chunk: u32) -> mat4x4<f32> {
    let rows = four_rows(i, p.queries);
    let at = min(chunk, CHUNKS - 1u);
    return transpose(mat4x4<f32>(
        chunk_gradient(row_at(p.dq, head, rows.x), at), chunk_gradient(row_at(p.dq, head, rows.y), at),
        chunk_gradient(row_at(p.dq, head, rows.z), at), chunk_gradient(row_at(p.dq, head, rows.w), at)));
}
fn load_key_square(lies: vec4<u32>, head: Head, j: u32, chunk: u32) -> mat4x4<f32> {
    let rows = four_rows(j, p.keys);
    let at = min(chunk, CHUNKS - 1u);
    return transpose(mat4x4<f32>(
        chunk_gradient(key_row_at(lies, head, rows.x), at), chunk_gradient(key_row_at(lies, head, rows.y), at),
        chunk_gradient(key_row_at(lies, head, rows.z), at), chunk_gradient(key_row_at(lies, head, rows.w), at)));
}
fn load_keys(lies: vec4<u32>, head: Head, j: u32, column: u32) -> Squares {
    var c = Squares();
    c.c00 = load_key_square(lies, head, j, column);
    if (RESULT_QUADS == 2u) { c.c01 = load_key_square(lies, head, j, column + ACROSS); }
    if (ROW_QUADS == 2u) {
        c.c10 = load_key_square(lies, head, j + 4u * DOWN, column);
        if (RESULT_QUADS == 2u) { c.c11 = load_key_square(lies, head, j + 4u * DOWN, column + ACROSS); }
    }
    return c;
}

@compute @workgroup_size(THREADS)
fn queries(group: Group, @builtin(local_invocation_index) local: u32) {
    let index = index_of(group);
    if (index >= p.groups) { return; }
    let place = team_place(local);
    // The same for all teams, as everything is that loops depend on: if there are several, one tile has all queries.
    let leader = head_at(index / p.tiles * HEADS, p.tiles - 1u - index % p.tiles);
    let head = head_at(min(leader.index + place.team, p.all_heads - 1u), leader.tile);
    let first = leader.tile * 4u * OWN;
    let end = min(first + 4u * OWN, p.queries);
    let keys = end_key(leader, end - 1u);
    let i = first + 4u * place.row;
    let upper = about_queries(head, i);
    let lower = about_queries(head, i + 4u * DOWN);
    let dropout = dropout_key();
    var dq = Squares();
    if (CONTINUED) {
        dq.c00 = load_query_square(head, i, place.column);
        if (RESULT_QUADS == 2u) { dq.c01 = load_query_square(head, i, place.column + ACROSS); }
        if (ROW_QUADS == 2u) {
            dq.c10 = load_query_square(head, i + 4u * DOWN, place.column);
            if (RESULT_QUADS == 2u) { dq.c11 = load_query_square(head, i + 4u * DOWN, place.column + ACROSS); }
        }
    }
    let end_j = min(keys, p.end);
    for (var j0 = max(first_key(leader, first) / (4u * OTHER) * (4u * OTHER), p.begin); j0 < end_j; j0 += 4u * OTHER) {
        let j = j0 + 4u * place.column;
        var scores = Squares();
        plus_along(&scores, place, head, QUERIES, first, KEYS, j0);
        scores = all_scaled(scores, p.scale);
        if (BIASED || !all_seen(leader, first, end, j0, j0 + 4u * OTHER)) {
            scores = queries_masked(scores, head, i, j);
        }
        let w = Squares(
            query_weights(scores.c00, upper), query_weights(scores.c01, upper),
            query_weights(scores.c10, lower), query_weights(scores.c11, lower));
        var d = Squares();
        plus_along(&d, place, head, UPSTREAM, first, VALUES, j0);
        d = queries_dropped(d, dropout, head, i, j);
        d = Squares(
            query_gradients(w.c00, d.c00, upper), query_gradients(w.c01, d.c01, upper),
            query_gradients(w.c10, d.c10, lower), query_gradients(w.c11, d.c11, lower));
        plus_across(&dq, place, head, d, KEYS, j0);
    }
    if (leader.index + place.team >= p.all_heads) { return; }
    dq = all_scaled(dq, select(p.scale, 1.0, UNFINISHED));
    store_query_square(head, i, place.column, dq.c00);
    if (RESULT_QUADS == 2u) { store_query_square(head, i, place.column + ACROSS, dq.c01); }
    if (ROW_QUADS == 2u) {
        store_query_square(head, i + 4u * DOWN, place.column, dq.c10);
        if (RESULT_QUADS == 2u) { store_query_square(head, i + 4u * DOWN, place.column + ACROSS, dq.c11); }
    }
}

@compute @workgroup_size(THREADS)
fn keys(group: Group, @builtin(local_invocation_index) local: u32) {
    let index = index_of(group);
    if (index >= p.groups) { return; }
    let place = team_place(local);
    // Of the heads that share the first team's keys, the first; and of those that share this team's.
    let leader = head_at(index / p.tiles * HEADS * p.share, index % p.tiles);
    let own_head = leader.index + place.team * p.share;
    let first_head = min(own_head, p.all_heads - p.share);
    let first = leader.tile * 4u * OWN;
    let end = min(first + 4u * OWN, p.keys);
    let queries = end_query(leader, end - 1u);
    let j = first + 4u * place.row;
    let dropout = dropout_key();
    var dk = Squares();
    var dv = Squares();
    if (CONTINUED) {
        dk = load_keys(p.dk, head_at(first_head, leader.tile), j, place.column);
        dv = load_keys(p.dv, head_at(first_head, leader.tile), j, place.column);
    }
    let last_i = min(queries, p.end);
    for (var n = 0u; n < p.share; n++) {
        let head = head_at(first_head + n, leader.tile);
        for (var i0 = max(first_query(leader, first) / (4u * OTHER) * (4u * OTHER), p.begin); i0 < last_i; i0 += 4u * OTHER) {
            let i = i0 + 4u * place.column;
            let left = about_queries(head, i);
            let right = about_queries(head, i + 4u * ACROSS);
            var scores = Squares();
            plus_along(&scores, place, head, KEYS, first, QUERIES, i0);
            scores = all_scaled(scores, p.scale);
            let end_i = i0 + 4u * OTHER;
            if (BIASED || end_i > p.queries || !all_seen(leader, i0, end_i, first, end)) {
                scores = keys_masked(scores, head, i, j);
            }
            let w = Squares(
                key_weights(scores.c00, left), key_weights(scores.c01, right),
                key_weights(scores.c10, left), key_weights(scores.c11, right));
            plus_across(&dv, place, head, keys_dropped(w, dropout, head, i, j), UPSTREAM, i0);
            var d = Squares();
            plus_along(&d, place, head, VALUES, first, UPSTREAM, i0);
            d = keys_dropped(d, dropout, head, i, j);
            d = Squares(
                key_gradients(w.c00, d.c00, left), key_gradients(w.c01, d.c01, right),
                key_gradients(w.c10, d.c10, left), key_gradients(w.c11, d.c11, right));
            plus_across(&dk, place, head, d, QUERIES, i0);
        }
    }
    if (own_head >= p.all_heads) { return; }
    store_keys(p.dk, head_at(own_head, leader.tile), j, place.column, all_scaled(dk, select(p.scale, 1.0, UNFINISHED)));
    store_keys(p.dv, head_at(own_head, leader.tile), j, place.column, dv);
}
