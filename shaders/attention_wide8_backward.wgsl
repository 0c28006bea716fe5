// Attention, backward, for software adapters with subgroups of exactly 8, for more than a few rows. Follows
// attention.wgsl; see attention_wide8.wgsl for why it has this form, and attention_subgroup8_backward.wgsl for what it
// computes. `queries` gives dq, `keys` dk and dv. Every element is written once, by one lane: the order of all sums is
// fixed.
//
// Block operands is replaced when a kernel is made: see blocks.rs.

const PARTS: u32 = 8u;
const SLICE: u32 = 1u; // chunks of a streamed row in one lane

//:begin operands
const BLOCK: u32 = 2u;
const STEP: u32 = 1u;
alias Numbers = vec2<f32>;
alias Words = vec2<u32>;
struct Row { d0: vec4<f32> }
struct Block { m0: mat4x2<f32> }
struct Scores { s0: Numbers }
fn zero_block() -> Block { return Block(); }
fn block_times(a: Block, w: f32) -> Block { return Block(a.m0 * w); }
struct About { lse: Numbers, delta: Numbers }
fn weights_about(a: Scores, about: About) -> Scores { return a; }
fn gradients_about(w: Scores, d: Scores, about: About) -> Scores { return d; }
fn about_queries(head: Head, i: u32) -> About { return About(); }
fn first_keys(head: Head, i: u32) -> Words { return Words(); }
fn end_keys(head: Head, i: u32) -> Words { return Words(); }
fn masked_keys(a: Scores, head: Head, i: u32, j: u32, start: Words, seen: Words) -> Scores { return a; }
fn kept_keys(key: DropoutKey, head: Head, i: u32, j: u32) -> Words { return Words(); }
fn dropped_keys(a: Scores, kept: Words) -> Scores { return a; }
fn first_queries(head: Head, j: u32) -> Words { return Words(); }
fn end_queries(head: Head, j: u32) -> Words { return Words(); }
fn masked_queries(a: Scores, head: Head, i: u32, j: u32, start: Words, seen: Words) -> Scores { return a; }
fn kept_queries(key: DropoutKey, head: Head, i: u32, j: u32) -> u32 { return 0u; }
fn dropped_queries(a: Scores, kept: u32) -> Scores { return a; }
fn weights_of_queries(a: Scores, about: vec2<f32>) -> Scores { return a; }
fn gradients_of_queries(w: Scores, d: Scores, about: vec2<f32>) -> Scores { return d; }
fn first_products(a: Block, first: Row) -> Scores { return Scores(a.m0 * subgroupShuffle(first.d0, 0u)); }
fn second_products(a: Block, second: Row) -> Scores { return first_products(a, second); }
fn plus_first(a: Block, w: Scores, first: Row) -> Block { return a; }
fn plus_second(a: Block, w: Scores, second: Row) -> Block { return a; }
@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;
fn load_q(at: u32, chunk: u32) -> Row { return Row(q[at / 4u + chunk]); }
fn load_q_block(head: Head, first: u32, chunk: u32) -> Block { return Block(mat4x2<f32>(q[0].xy, q[0].zw, q[1].xy, q[1].zw)); }
@group(0) @binding(2) var<storage, read> k: array<vec4<f32>>;
fn load_k(at: u32, chunk: u32) -> Row { return Row(k[at / 4u + chunk]); }
fn load_k_block(head: Head, first: u32, chunk: u32) -> Block { return load_q_block(head, first, chunk); }
@group(0) @binding(3) var<storage, read> v: array<vec4<f32>>;
fn load_v(at: u32, chunk: u32) -> Row { return Row(v[at / 4u + chunk]); }
fn load_v_block(head: Head, first: u32, chunk: u32) -> Block { return load_q_block(head, first, chunk); }
@group(0) @binding(4) var<storage, read> dout: array<vec4<f32>>;
fn load_dout(at: u32, chunk: u32) -> Row { return Row(dout[at / 4u + chunk]); }
fn load_dout_block(head: Head, first: u32, chunk: u32) -> Block { return load_q_block(head, first, chunk); }
@group(0) @binding(5) var<storage, read_write> gradient: array<vec4<f32>>;
fn load_dq_block(head: Head, first: u32, chunk: u32) -> Block { return load_q_block(head, first, chunk); }
fn load_dk_block(head: Head, first: u32, chunk: u32) -> Block { return load_q_block(head, first, chunk); }
fn load_dv_block(head: Head, first: u32, chunk: u32) -> Block { return load_q_block(head, first, chunk); }
fn store_dq_block(head: Head, first: u32, chunk: u32, a: Block) { gradient[0] = vec4<f32>(a.m0[0], a.m0[1]); }
fn store_dk_block(head: Head, first: u32, chunk: u32, a: Block) { store_dq_block(head, first, chunk, a); }
fn store_dv_block(head: Head, first: u32, chunk: u32, a: Block) { store_dq_block(head, first, chunk, a); }
@group(0) @binding(6) var<storage, read> statistics: array<u32>;
fn statistics_of(head: Head, i: u32) -> vec2<f32> { return vec2<f32>(bitcast<f32>(statistics[0]), 0.0); }
//:end operands

@compute @workgroup_size(8)
fn queries(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = group.x + group.y * groups.x;
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
fn keys(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = group.x + group.y * groups.x;
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
