// What attention's backward kernels need to know about every query: its log-sum-exp and D_i = dout_i·out_i, in pairs
// behind six words, of which five are the random key (one buffer instead of three: bindings are few). One query an invocation.
// Follows attention.wgsl.
//
// Operands are declared when a kernel is made, as in `tests/shaders`, and key_word again where there is a key.

import shadegrad::attention;

@group(0) @binding(3) var<storage, read> lse: array<f32>;
@group(0) @binding(4) var<storage, read_write> statistics: array<u32>;
fn key_word(n: u32) -> u32 { return 0u; }

@compute @workgroup_size(64)
fn statistics_of_rows(group: Group, @builtin(local_invocation_index) lane: u32) {
    let index = index_of(group) * 64u + lane;
    if (index < 5u) { statistics[index] = key_word(index); }
    if (index >= p.groups) { return; }
    let i = index % p.queries;
    let head = head_at(index / p.queries, 0u);
    let upstream = load_dout(row_at(p.dout, head, i));
    let delta = dot_rows(upstream, load_out(row_at(p.out, head, i)));
    statistics[6u + 2u * index] = bitcast<u32>(lse[p.lse_offset + index]);
    statistics[7u + 2u * index] = bitcast<u32>(delta);
}
