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
fn block_scaled(a: Block, w: Numbers) -> Block { return a; }
fn largest(a: Scores) -> Numbers { return a.s0; }
fn total(a: Scores) -> Numbers { return a.s0; }
fn weights_under(a: Scores, top: Numbers) -> Scores { return Scores(exp(a.s0 - top)); }
fn first_keys(head: Head, i: u32) -> Words { return Words(); }
fn end_keys(head: Head, i: u32) -> Words { return Words(); }
fn masked_keys(a: Scores, head: Head, i: u32, j: u32, start: Words, seen: Words) -> Scores { return a; }
fn kept_keys(key: DropoutKey, head: Head, i: u32, j: u32) -> Words { return Words(); }
fn dropped_keys(a: Scores, kept: Words) -> Scores { return a; }
fn first_products(a: Block, first: Row) -> Scores { return Scores(a.m0 * subgroupShuffle(first.d0, 0u)); }
fn plus_second(a: Block, w: Scores, second: Row) -> Block { return a; }
@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;
fn load_q_block(head: Head, first: u32, chunk: u32) -> Block { return Block(mat4x2<f32>(q[0].xy, q[0].zw, q[1].xy, q[1].zw)); }
@group(0) @binding(2) var<storage, read> k: array<vec4<f32>>;
fn load_k(at: u32, chunk: u32) -> Row { return Row(k[at / 4u + chunk]); }
@group(0) @binding(3) var<storage, read> v: array<vec4<f32>>;
fn load_v(at: u32, chunk: u32) -> Row { return Row(v[at / 4u + chunk]); }
@group(0) @binding(4) var<storage, read_write> out: array<vec4<f32>>;
fn load_out_block(head: Head, first: u32, chunk: u32) -> Block { return load_q_block(head, first, chunk); }
fn store_out_block(head: Head, first: u32, chunk: u32, a: Block) { out[0] = vec4<f32>(a.m0[0], a.m0[1]); }
@group(0) @binding(5) var<storage, read_write> lse: array<f32>;
fn store_lse(head: Head, i: u32, top: Numbers, sum: Numbers) { lse[0] = lse_of(top.x, sum.x); }
fn load_lse(head: Head, i: u32) -> Numbers { return Numbers(lse[0]); }
fn tops_of_lse(lse: Numbers) -> Numbers { return Numbers(top_of_lse(lse.x)); }
fn sums_of_lse(lse: Numbers) -> Numbers { return Numbers(sum_of_lse(lse.x)); }
//:end operands

@compute @workgroup_size(8)
fn forward(
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
    let dropout = dropout_key();
    let start = first_keys(head, i);
    let seen = end_keys(head, i) - start;
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
        let scores = masked_keys(first_products(query, key), head, i, j, start, seen);
        let next = max(top, largest(scores));
        let shrink = exp(top - next);
        let weights = weights_under(scores, next);
        top = next;
        sum = sum * shrink + total(weights);
        let value = load_v(key_row_at(p.v, head, row), part);
        let kept = kept_keys(dropout, head, i, j);
        acc = plus_second(block_scaled(acc, shrink), dropped_keys(weights, kept), value);
    }
    // A query that sees nothing gives zeros.
    let none = sum == Numbers();
    store_out_block(head, i, 0u, block_scaled(acc, select(1.0 / sum, Numbers(), none)));
    store_lse(head, i, top, sum);
}
