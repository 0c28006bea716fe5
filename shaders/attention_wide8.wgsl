// Attention for software adapters with subgroups of exactly 8 (Mesa llvmpipe), for more than a few rows. Follows
// attention.wgsl. attention_tiled.wgsl is the portable twin; attention_subgroup8.wgsl serves short contexts, and
// explains what both compute.
//
// Why this form. On llvmpipe a load costs as much as a hundred vector operations, so everything that is loaded must be
// used often. A lane owns a block of BLOCK rows (queries, or keys) in registers, 8·BLOCK rows a workgroup. Rows of the
// other side stream by, STEP at a time, each held in parts by PARTS neighbouring lanes, so that every lane loads
// something different; shuffles with constant lanes hand the elements round. Within a step nothing is a loop: a loop
// would select, load and store every register of the block once a turn.
//
// Operands are declared when a kernel is made, as in `tests/shaders`: see blocks.rs.

import shadegrad::attention;

const PARTS: u32 = 8u;
const SLICE: u32 = 1u; // chunks of a streamed row in one lane

@compute @workgroup_size(8)
fn forward(group: Group, @builtin(local_invocation_index) lane: u32) {
    let index = index_of(group);
    if (index >= p.groups) { return; }
    let head = head_of(index);
    let first = head.tile * 8u * BLOCK;
    let i = first + lane * BLOCK;
    let query = block_times(load_q_block(head, i, 0u), p.scale);
    let dropout = dropout_key();
    let start = first_seen(head, i);
    let seen = end_seen(head, i) - start;
    let keys = end_key(head, min(first + 8u * BLOCK, p.queries) - 1u);
    let part = lane % PARTS * SLICE;
    var acc = zero_block();
    var top = Numbers(LOWEST);
    var sum = Numbers();
    if (CONTINUED) {
        let left = load_lse(head, i);
        top = tops_of_lse(left);
        sum = sums_of_lse(left);
        acc = block_scaled(load_out_block(head, i, 0u), sum);
    }
    let end = min(keys, p.end);
    for (var j = max(first_key(head, first) / STEP * STEP, p.begin); j < end; j += STEP) {
        let row = min(j + lane / PARTS, p.keys - 1u);
        let key = load_k(key_row_at(p.k, head, row), part);
        let scores = masked_rows(first_products(query, key), head, i, j, start, seen);
        let next = max(top, largest(scores));
        let shrink = exp(top - next);
        let weights = weights_under(scores, next);
        top = next;
        sum = sum * shrink + total(weights);
        let value = load_v(key_row_at(p.v, head, row), part);
        let kept = kept_rows(dropout, head, i, j);
        acc = plus_second(block_scaled(acc, shrink), dropped_rows(weights, kept), value);
    }
    // A query that sees nothing gives zeros.
    let none = sum == Numbers();
    store_out_block(head, i, 0u, block_scaled(acc, select(1.0 / sum, Numbers(), none)));
    store_lse(head, i, top, sum);
}
