// Attention, backward, for software adapters with subgroups of exactly 8, for more than a few rows. Follows
// attention.wgsl; see attention_wide8.wgsl for why it has this form, and attention_tiled_backward.wgsl for what it
// computes: dq (x) of own rows that are queries or, where OWNS_KEYS, dk (x) and dv (y). Every element is written once, by one
// lane: the order of all sums is fixed.
//
// Operands are declared when a kernel is made, as in `tests/shaders`: see blocks.rs.

import shadegrad::attention;

const OWNS_KEYS: bool = false;
const PARTS: u32 = 8u;
const SLICE: u32 = 1u; // chunks of a streamed row in one lane

// Declared again where own rows are keys.
fn load_y_block(head: Head, first: u32, chunk: u32) -> Block { return zero_block(); }
fn store_y_block(head: Head, first: u32, chunk: u32, a: Block) {}

@compute @workgroup_size(8)
fn backward(group: Group, @builtin(local_invocation_index) lane: u32) {
    let index = index_of(group);
    if (index >= p.groups) { return; }
    let share = select(1u, p.share, OWNS_KEYS);
    let owner = head_at(index / p.tiles * share, index % p.tiles);
    let first = owner.tile * 8u * BLOCK;
    let last = min(first + 8u * BLOCK, select(p.queries, p.keys, OWNS_KEYS)) - 1u;
    let own = first + lane * BLOCK;
    let mine = block_times(load_first_block(owner, own, 0u), p.scale);
    let arrived = load_second_block(owner, own, 0u);
    let about_own = about_rows(owner, own, 0u);
    let dropout = dropout_key();
    let start = first_seen(owner, own);
    let seen = end_seen(owner, own) - start;
    let begin = select(first_key(owner, first), first_query(owner, first), OWNS_KEYS) / STEP * STEP;
    let end = min(select(end_key(owner, last), end_query(owner, last), OWNS_KEYS), p.end);
    let part = lane % PARTS * SLICE;
    var x = zero_block();
    var y = zero_block();
    if (CONTINUED) {
        x = load_x_block(owner, own, 0u);
        y = load_y_block(owner, own, 0u);
    }
    for (var n = 0u; n < share; n++) {
        let head = head_at(owner.index + n, 0u);
        for (var at = max(begin, p.begin); at < end; at += STEP) {
            let row = at + lane / PARTS;
            let one = load_first(head, row, part);
            let other = load_second(head, row, part);
            var about = about_own;
            if (OWNS_KEYS) { about = about_rows(head, own, row); }
            let kept = kept_rows(dropout, head, own, at);
            let weights = weights_about(masked_rows(first_products(mine, one), head, own, at, start, seen), about);
            let dweights = dropped_rows(second_products(arrived, other), kept);
            if (OWNS_KEYS) { y = plus_second(y, dropped_rows(weights, kept), other); }
            x = plus_first(x, gradients_about(weights, dweights, about), one);
        }
    }
    store_x_block(owner, own, 0u, block_times(x, select(p.scale, 1.0, UNFINISHED)));
    store_y_block(owner, own, 0u, y);
}
