// Attention, backward, for software adapters with subgroups of exactly 8, for more than a few rows. Follows
// attention.wgsl; see attention_wide8.wgsl for why it has this form, and attention_subgroup8_backward.wgsl for what it
// computes. `queries` gives dq, `keys` dk and dv. Every element is written once, by one lane: the order of all sums is
// fixed.
//
// Operands are declared when a kernel is made, as in `tests/shaders`: see blocks.rs.

import shadegrad::attention;

const PARTS: u32 = 8u;
const SLICE: u32 = 1u; // chunks of a streamed row in one lane

@compute @workgroup_size(8)
fn queries(group: Group, @builtin(local_invocation_index) lane: u32) {
    let index = index_of(group);
    if (index >= p.groups) { return; }
    let head = head_of(index);
    let first = head.tile * 8u * BLOCK;
    let i = first + lane * BLOCK;
    let query = block_times(load_q_block(head, i, 0u), p.scale);
    let upstream = load_dout_block(head, i, 0u);
    let about = about_queries(head, i);
    let dropout = dropout_key();
    let start = first_keys(head, i);
    let seen = end_keys(head, i) - start;
    let keys = end_key(head, min(first + 8u * BLOCK, p.queries) - 1u);
    let part = lane % PARTS * SLICE;
    var dq = zero_block();
    if (CONTINUED) { dq = load_dq_block(head, i, 0u); }
    let end = min(keys, p.end);
    for (var j = max(first_key(head, first) / STEP * STEP, p.begin); j < end; j += STEP) {
        let row = min(j + lane / PARTS, p.keys - 1u);
        let key = load_k(key_row_at(p.k, head, row), part);
        let value = load_v(key_row_at(p.v, head, row), part);
        let weights = weights_about(masked_keys(first_products(query, key), head, i, j, start, seen), about);
        let dweights = dropped_keys(second_products(upstream, value), kept_keys(dropout, head, i, j));
        dq = plus_first(dq, gradients_about(weights, dweights, about), key);
    }
    store_dq_block(head, i, 0u, block_times(dq, select(p.scale, 1.0, UNFINISHED)));
}

@compute @workgroup_size(8)
fn keys(group: Group, @builtin(local_invocation_index) lane: u32) {
    let index = index_of(group);
    if (index >= p.groups) { return; }
    let owner = head_at(first_sharing(index), index % p.tiles);
    let first = owner.tile * 8u * BLOCK;
    let j = first + lane * BLOCK;
    let key = block_times(load_k_block(owner, j, 0u), p.scale);
    let value = load_v_block(owner, j, 0u);
    let dropout = dropout_key();
    let start = first_queries(owner, j);
    let seen = end_queries(owner, j) - start;
    let queries = end_query(owner, min(first + 8u * BLOCK, p.keys) - 1u);
    let part = lane % PARTS * SLICE;
    var dk = zero_block();
    var dv = zero_block();
    if (CONTINUED) {
        dk = load_dk_block(owner, j, 0u);
        dv = load_dv_block(owner, j, 0u);
    }
    let end = min(queries, p.end);
    for (var n = 0u; n < p.share; n++) {
        let head = head_at(owner.index + n, 0u);
        for (var i = max(first_query(head, first) / STEP * STEP, p.begin); i < end; i += STEP) {
            let row = min(i + lane / PARTS, p.queries - 1u);
            let query = load_q(row_at(p.q, head, row), part);
            let upstream = load_dout(row_at(p.dout, head, row), part);
            let about = statistics_of(head, row);
            let kept = kept_queries(dropout, head, i, j);
            let scores = masked_queries(first_products(key, query), head, i, j, start, seen);
            let weights = weights_of_queries(scores, about);
            let dweights = dropped_queries(second_products(value, upstream), kept);
            dv = plus_second(dv, dropped_queries(weights, kept), upstream);
            dk = plus_first(dk, gradients_of_queries(weights, dweights, about), query);
        }
    }
    store_dk_block(owner, j, 0u, block_times(dk, select(p.scale, 1.0, UNFINISHED)));
    store_dv_block(owner, j, 0u, dv);
}
