// Attention, backward, on GPUs and any other device. Follows attention.wgsl, attention_squares.wgsl and
// attention_pairs.wgsl; built as attention_tiled.wgsl is. With the weights P recomputed from the log-sum-exp and
// D_i = dout_i·out_i (attention_statistics.wgsl prepares both):
//
//     dS_ij = P_ij (dout_i·v_j − D_i),   dq_i = scale · Σ_j dS_ij k_j
//     dk_j = scale · Σ_i dS_ij q_i,      dv_j = Σ_i P_ij dout_i
//
// Teams own queries, compute dq (x) and walk over tiles of keys; or, where OWNS_KEYS, own keys, compute dk (x) and dv (y) and
// walk over tiles of queries, of all the heads that share the keys. Every element is written once, by one invocation: no
// atomics, and the order of all sums is fixed.
//
// Operands are declared when a kernel is made, as in `tests/shaders`: how chunks of rows are loaded and stored.

import shadegrad::attention_pairs;

const QUERIES: u32 = 0u;
const KEYS: u32 = 1u;
const VALUES: u32 = 2u;
const UPSTREAM: u32 = 3u; // gradients of what queries get

// What is multiplied for scores, and for their gradients.
const OWN_SIDE: u32 = select(QUERIES, KEYS, OWNS_KEYS);
const OTHER_SIDE: u32 = select(KEYS, QUERIES, OWNS_KEYS);
const OWN_ARRIVED: u32 = select(UPSTREAM, VALUES, OWNS_KEYS);
const OTHER_ARRIVED: u32 = select(VALUES, UPSTREAM, OWNS_KEYS);

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

// Weights of a square of scaled scores, and dS from these weights and their gradients.
fn square_weights(c: mat4x4<f32>, about: mat2x4<f32>) -> mat4x4<f32> {
    let s = by_queries(c);
    return by_queries(mat4x4<f32>(
        bounded_exp(s[0] - about[0]), bounded_exp(s[1] - about[0]),
        bounded_exp(s[2] - about[0]), bounded_exp(s[3] - about[0])));
}
fn square_gradients(weights: mat4x4<f32>, gradients: mat4x4<f32>, about: mat2x4<f32>) -> mat4x4<f32> {
    let w = by_queries(weights);
    let d = by_queries(gradients);
    return by_queries(mat4x4<f32>(
        shared_weights(w[0]) * (d[0] - about[1]), shared_weights(w[1]) * (d[1] - about[1]),
        shared_weights(w[2]) * (d[2] - about[1]), shared_weights(w[3]) * (d[3] - about[1])));
}

// Log-sum-exps and D of the queries of all squares: of the upper and the lower ones or, where own rows are keys, of the left
// and the right ones.
struct About { first: mat2x4<f32>, second: mat2x4<f32> }

fn about_squares(head: Head, own: u32, other: u32) -> About {
    if (OWNS_KEYS) { return About(about_queries(head, other), about_queries(head, other + 4u * ACROSS)); }
    return About(about_queries(head, own), about_queries(head, own + 4u * DOWN));
}
fn about_01(about: About) -> mat2x4<f32> {
    if (OWNS_KEYS) { return about.second; }
    return about.first;
}
fn about_10(about: About) -> mat2x4<f32> {
    if (OWNS_KEYS) { return about.first; }
    return about.second;
}

@compute @workgroup_size(THREADS)
fn backward(group: Group, @builtin(local_invocation_index) local: u32) {
    let index = index_of(group);
    if (index >= p.groups) { return; }
    let place = team_place(local);
    // Heads that share what a team owns; of queries, the longest rows start first.
    let share = select(1u, p.share, OWNS_KEYS);
    let tile = select(p.tiles - 1u - index % p.tiles, index % p.tiles, OWNS_KEYS);
    // The same for all teams, as everything is that loops depend on: if there are several, one tile has all rows.
    let leader = head_at(index / p.tiles * HEADS * share, tile);
    let own_head = leader.index + place.team * share;
    let first_head = min(own_head, p.all_heads - share);
    let first = tile * 4u * OWN;
    let end = min(first + 4u * OWN, own_rows());
    let own = first + 4u * place.row;
    let dropout = dropout_key();
    let to_x = select(p.dq, p.dk, vec4<bool>(OWNS_KEYS));
    var head = head_at(first_head, tile);
    var about = about_squares(head, own, own);
    var x = Squares();
    var y = Squares();
    if (CONTINUED) {
        x = load_squares(to_x, head, own, place.column);
        if (OWNS_KEYS) { y = load_squares(p.dv, head, own, place.column); }
    }
    let begin = max(first_seen(leader, first) / (4u * OTHER) * (4u * OTHER), p.begin);
    let end_other = min(end_seen(leader, end - 1u), p.end);
    for (var n = 0u; n < share; n++) {
        head = head_at(first_head + n, tile);
        for (var at = begin; at < end_other; at += 4u * OTHER) {
            let other = at + 4u * place.column;
            if (OWNS_KEYS) { about = about_squares(head, own, other); }
            var scores = Squares();
            plus_along(&scores, place, head, OWN_SIDE, first, OTHER_SIDE, at);
            scores = all_scaled(scores, p.scale);
            let end_at = at + 4u * OTHER;
            var are_seen = all_seen(leader, first, end, at, end_at);
            if (OWNS_KEYS) { are_seen = end_at <= p.queries && all_seen(leader, at, end_at, first, end); }
            if (BIASED || !are_seen) { scores = squares_masked(scores, head, own, other); }
            let w = Squares(
                square_weights(scores.c00, about.first), square_weights(scores.c01, about_01(about)),
                square_weights(scores.c10, about_10(about)), square_weights(scores.c11, about.second));
            if (OWNS_KEYS) { plus_across(&y, place, head, squares_dropped(w, dropout, head, own, other), UPSTREAM, at); }
            var d = Squares();
            plus_along(&d, place, head, OWN_ARRIVED, first, OTHER_ARRIVED, at);
            d = squares_dropped(d, dropout, head, own, other);
            d = Squares(
                square_gradients(w.c00, d.c00, about.first), square_gradients(w.c01, d.c01, about_01(about)),
                square_gradients(w.c10, d.c10, about_10(about)), square_gradients(w.c11, d.c11, about.second));
            plus_across(&x, place, head, d, OTHER_SIDE, at);
        }
    }
    if (own_head >= p.all_heads) { return; }
    head = head_at(own_head, tile);
    store_squares(to_x, head, own, place.column, all_scaled(x, select(p.scale, 1.0, UNFINISHED)));
    if (OWNS_KEYS) { store_squares(p.dv, head, own, place.column, y); }
}
