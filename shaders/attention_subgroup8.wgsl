// Attention, forward, for software adapters with subgroups of exactly 8 (Mesa llvmpipe). attention_tiled.wgsl is the
// portable twin. Follows attention.wgsl.
//
//     out_i = Σ_j softmax_j(scale · q_i·k_j) v_j,    lse_i = ln Σ_j exp(scale · q_i·k_j)
//
// by online softmax (Milakov and Gimelshein 2018; Dao et al. 2022).
//
// Why this form. A lane is a query, so neither the softmax nor a dot product needs a reduction across lanes. Keys and
// values come eight rows at a time: each lane loads one of them (llvmpipe loads lane by lane, whatever the addresses, so
// that brings eight times as much as all lanes loading the same row) and a shuffle hands each row round. Causality
// bounds the loop. A workgroup is one subgroup; it works on eight queries of one head. Four keys a turn, with one
// rescaling for all, measured the same: loads and stores are most of the time.
//
// Operands are declared when a kernel is made, as in `tests/shaders`: how rows are held, loaded and stored.

import shadegrad::attention;

@compute @workgroup_size(8)
fn forward(group: Group, @builtin(local_invocation_index) lane: u32) {
    let index = index_of(group);
    if (index >= p.groups) { return; }
    let head = head_of(index);
    let first = head.tile * 8u;
    let i = min(first + lane, p.queries - 1u);
    let query = scaled(load_q(row_at(p.q, head, i)), p.scale);
    let dropout = dropout_key();
    let start = first_key(head, i);
    let seen = end_key(head, i) - start;
    let keys = end_key(head, min(first + 7u, p.queries - 1u));
    var acc = zero_row();
    var top = LOWEST;
    var sum = 0.0;
    let to = row_at(p.out, head, i);
    let lse_to = p.lse_offset + head.index * p.queries + i;
    if (CONTINUED) {
        let left = lse[lse_to];
        top = top_of_lse(left);
        sum = sum_of_lse(left);
        acc = scaled(load_out(to), sum);
    }
    let end = min(keys, p.end);
    for (var j0 = max(first_key(head, first) / 8u * 8u, p.begin); j0 < end; j0 += 8u) {
        let own = min(j0 + lane, p.keys - 1u);
        let key = load_k(key_row_at(p.k, head, own));
        let value = load_v(key_row_at(p.v, head, own));
        let kept = kept_eight(dropout, head, i, j0);
        let count = min(8u, keys - j0);
        for (var e = 0u; e < count; e++) {
            let j = j0 + e;
            let score = masked(dot_rows(query, row_of_lane(key, e)), j - start < seen, head, i, j);
            let next = max(top, score);
            let shrink = exp(top - next);
            let weight = exp(score - next);
            top = next;
            sum = sum * shrink + weight;
            acc = plus_scaled(scaled(acc, shrink), dropped(weight, kept, e), row_of_lane(value, e));
        }
    }
    if (first + lane < p.queries) {
        // A query that sees nothing gives zeros.
        let none = sum == 0.0;
        store_out(to, scaled(acc, select(1.0 / sum, 0.0, none)));
        lse[lse_to] = lse_of(top, sum);
    }
}
