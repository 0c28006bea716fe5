// What attention's backward kernels need to know about every query: its log-sum-exp and D_i = dout_i·out_i, in pairs
// behind the four words of the random key (one buffer instead of three: bindings are few). One query an invocation.
// Follows attention.wgsl.
//
// Blocks operands and key are replaced when a kernel is made.

//:begin operands
struct Row { d0: vec4<f32> }
fn dot_rows(a: Row, b: Row) -> f32 { let s = a.d0 * b.d0; return (s.x + s.y) + (s.z + s.w); }
@group(0) @binding(1) var<storage, read> out: array<vec4<f32>>;
fn load_out(at: u32) -> Row { return Row(out[at / 4u]); }
@group(0) @binding(2) var<storage, read> dout: array<vec4<f32>>;
fn load_dout(at: u32) -> Row { return Row(dout[at / 4u]); }
//:end operands
@group(0) @binding(3) var<storage, read> lse: array<f32>;
@group(0) @binding(4) var<storage, read_write> statistics: array<u32>;
//:begin key
fn key_word(n: u32) -> u32 { return 0u; }
//:end key

@compute @workgroup_size(64)
fn statistics_of_rows(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = (group.x + group.y * groups.x) * 64u + lane;
    if (index < 4u) { statistics[index] = key_word(index); }
    if (index >= p.groups) { return; }
    let i = index % p.queries;
    let head = head_at(index / p.queries, 0u);
    let upstream = load_dout(row_at(p.dout, head, i));
    let delta = dot_rows(upstream, load_out(row_at(p.out, head, i)));
    statistics[4u + 2u * index] = bitcast<u32>(lse[p.lse_offset + index]);
    statistics[5u + 2u * index] = bitcast<u32>(delta);
}
