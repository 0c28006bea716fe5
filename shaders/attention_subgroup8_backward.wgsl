// Attention, backward, for software adapters with subgroups of exactly 8. Follows attention.wgsl; see
// attention_subgroup8.wgsl for why it has this form. With the weights P recomputed from the log-sum-exp and
// D_i = dout_i·out_i:
//
//     dS_ij = P_ij (dout_i·v_j − D_i),   dq_i = scale · Σ_j dS_ij k_j
//     dk_j = scale · Σ_i dS_ij q_i,      dv_j = Σ_i P_ij dout_i
//
// `backward` does both in one dispatch, for short contexts: a group takes eight rows first as queries, then as keys.
// Under causality that is the same work for every group, and a tenth less than in two dispatches, because on the
// diagonal the rows are already there. For long contexts `queries` and `keys` are dispatched one after the other: less
// text to compile, and D_i is read instead of recomputed. Every element is written once, by one lane: the order of all
// sums is fixed.
//
// Operands are declared when a kernel is made, as in `tests/shaders`: how rows are held, loaded and stored.

import shadegrad::attention;

// A lane's own row: as a query, and as a key.
struct Own {
    query: Row,
    upstream: Row,
    about: vec2<f32>,
    key: Row,
    value: Row,
}

// Log-sum-exp and D of a query: `backward` finds D out.
fn about_of(head: Head, i: u32, upstream: Row) -> vec2<f32> { return statistics_of(head, i); }

// With `is_whole`, `own` has the row's key and value as well, which saves loading them again; queries and keys are then
// of one length. The loop of at most one turn is a branch: llvmpipe runs both sides of an `if`.
fn query_side(head: Head, lane: u32, own: Own, is_whole: bool) {
    let first = head.tile * 8u;
    let i = min(first + lane, p.queries - 1u);
    let dropout = dropout_key();
    let start = first_key(head, i);
    let seen = end_key(head, i) - start;
    let keys = end_key(head, min(first + 7u, p.queries - 1u));
    // Read here, it is not read again for every pair.
    let scale = p.scale;
    var dq = zero_row();
    if (CONTINUED) { dq = load_gradient(row_at(p.dq, head, i)); }
    let end = min(keys, p.end);
    for (var j0 = max(first_key(head, first) / 8u * 8u, p.begin); j0 < end; j0 += 8u) {
        var key = own.key;
        var value = own.value;
        for (var is_other = !is_whole || j0 != first; is_other; is_other = false) {
            let row = min(j0 + lane, p.keys - 1u);
            key = load_k(key_row_at(p.k, head, row));
            value = load_v(key_row_at(p.v, head, row));
        }
        let kept = kept_eight(dropout, head, i, j0);
        let count = min(8u, keys - j0);
        for (var e = 0u; e < count; e++) {
            let j = j0 + e;
            let key_j = row_of_lane(key, e);
            let score = masked(dot_rows(own.query, key_j) * scale, j - start < seen, head, i, j);
            let weight = shared_weight(weight_of(score - own.about.x));
            let dweight = dropped(dot_rows(own.upstream, row_of_lane(value, e)), kept, e);
            dq = plus_scaled(dq, weight * (dweight - own.about.y), key_j);
        }
    }
    if (first + lane < p.queries) {
        store_gradient(row_at(p.dq, head, i), scaled(dq, select(scale, 1.0, UNFINISHED)));
    }
}

// `owner` is the first of the heads that share the keys.
fn key_side(owner: Head, lane: u32, own: Own, is_whole: bool) {
    let first = owner.tile * 8u;
    let j = min(first + lane, p.keys - 1u);
    let dropout = dropout_key();
    let start = first_query(owner, j);
    let seen = end_query(owner, j) - start;
    let queries = end_query(owner, min(first + 7u, p.keys - 1u));
    let scale = p.scale;
    let share = p.share;
    var dk = zero_row();
    var dv = zero_row();
    if (CONTINUED) {
        dk = load_gradient(key_row_at(p.dk, owner, j));
        dv = load_gradient(key_row_at(p.dv, owner, j));
    }
    let end = min(queries, p.end);
    for (var n = 0u; n < share; n++) {
        let head = head_at(owner.index + n, 0u);
        for (var i0 = max(first_query(head, first) / 8u * 8u, p.begin); i0 < end; i0 += 8u) {
            var query = own.query;
            var upstream = own.upstream;
            var about = own.about;
            let row = min(i0 + lane, p.queries - 1u);
            for (var is_other = !is_whole || i0 != first; is_other; is_other = false) {
                query = load_q(row_at(p.q, head, row));
                upstream = load_dout(row_at(p.dout, head, row));
                about = about_of(head, row, upstream);
            }
            let kept = kept_eight(dropout, head, row, first);
            let count = min(8u, queries - i0);
            for (var e = 0u; e < count; e++) {
                let i = i0 + e;
                let query_i = row_of_lane(query, e);
                let upstream_i = row_of_lane(upstream, e);
                let about_i = subgroupShuffle(about, e);
                let kept_i = subgroupShuffle(kept, e);
                let score = masked(dot_rows(own.key, query_i) * scale, i - start < seen, head, i, j);
                let weight = weight_of(score - about_i.x);
                let dweight = dropped(dot_rows(own.value, upstream_i), kept_i, lane);
                dv = plus_scaled(dv, dropped(weight, kept_i, lane), upstream_i);
                dk = plus_scaled(dk, shared_weight(weight) * (dweight - about_i.y), query_i);
            }
        }
    }
    if (first + lane < p.keys) {
        store_gradient(key_row_at(p.dk, owner, j), scaled(dk, select(scale, 1.0, UNFINISHED)));
        store_gradient(key_row_at(p.dv, owner, j), dv);
    }
}

fn as_query(head: Head, lane: u32) -> Own {
    let i = min(head.tile * 8u + lane, p.queries - 1u);
    let upstream = load_dout(row_at(p.dout, head, i));
    let query = load_q(row_at(p.q, head, i));
    return Own(query, upstream, about_of(head, i, upstream), zero_row(), zero_row());
}

fn as_key(head: Head, lane: u32, own: Own) -> Own {
    let j = min(head.tile * 8u + lane, p.keys - 1u);
    let key = load_k(key_row_at(p.k, head, j));
    let value = load_v(key_row_at(p.v, head, j));
    return Own(own.query, own.upstream, own.about, key, value);
}

@compute @workgroup_size(8)
fn backward(group: Group, @builtin(local_invocation_index) lane: u32) {
    let index = index_of(group);
    if (index >= p.groups) { return; }
    let head = head_of(index);
    let own = as_key(head, lane, as_query(head, lane));
    query_side(head, lane, own, true);
    key_side(head, lane, own, true);
}

@compute @workgroup_size(8)
fn queries(group: Group, @builtin(local_invocation_index) lane: u32) {
    let index = index_of(group);
    if (index >= p.groups) { return; }
    let head = head_of(index);
    query_side(head, lane, as_query(head, lane), false);
}

@compute @workgroup_size(8)
fn keys(group: Group, @builtin(local_invocation_index) lane: u32) {
    let index = index_of(group);
    if (index >= p.groups) { return; }
    let head = head_at(first_sharing(index), index % p.tiles);
    let none = Own(zero_row(), zero_row(), vec2<f32>(), zero_row(), zero_row());
    key_side(head, lane, as_key(head, lane, none), false);
}
