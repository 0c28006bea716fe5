// The weights of attention themselves, exp(score − lse), to look at. One weight an invocation. Follows attention.wgsl.
//
// Block operands is replaced when a kernel is made.

//:begin operands
struct Row { d0: vec4<f32> }
fn dot_rows(a: Row, b: Row) -> f32 { let s = a.d0 * b.d0; return (s.x + s.y) + (s.z + s.w); }
@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;
fn load_q(at: u32) -> Row { return Row(q[at / 4u]); }
@group(0) @binding(2) var<storage, read> k: array<vec4<f32>>;
fn load_k(at: u32) -> Row { return Row(k[at / 4u]); }
@group(0) @binding(3) var<storage, read> lse: array<f32>;
@group(0) @binding(4) var<storage, read_write> weights: array<f32>;
//:end operands

@compute @workgroup_size(64)
fn weights_of_pairs(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = (group.x + group.y * groups.x) * 64u + lane;
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
