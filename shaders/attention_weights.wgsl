// The weights of attention themselves, exp(score − lse), to look at. One weight an invocation. Follows attention.wgsl.
//
// Operands are declared when a kernel is made, as in `tests/shaders`.

import shadegrad::attention;

@compute @workgroup_size(64)
fn weights_of_pairs(group: Group, @builtin(local_invocation_index) lane: u32) {
    let index = index_of(group) * 64u + lane;
    if (index >= p.groups) { return; }
    let j = index % p.keys;
    let row = index / p.keys;
    let i = row % p.queries;
    let head = head_at(row / p.queries, 0u);
    let product = dot_rows(load_q(row_at(p.q, head, i)), load_k(key_row_at(p.k, head, j)));
    let seen = j >= first_key(head, i) && j < end_key(head, i);
    let score = masked(product * p.scale, seen, head, i, j);
    // A query that sees nothing has a log-sum-exp of zero, so that its weights are zero.
    weights[p.out.x + index] = weight_of(score - lse[p.lse_offset + row]);
}
