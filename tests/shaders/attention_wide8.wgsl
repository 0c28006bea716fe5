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
fn first_seen(head: Head, i: u32) -> Words { return Words(); }
fn end_seen(head: Head, i: u32) -> Words { return Words(); }
fn masked_rows(a: Scores, head: Head, i: u32, j: u32, start: Words, seen: Words) -> Scores { return a; }
fn kept_rows(key: DropoutKey, head: Head, i: u32, j: u32) -> Words { return Words(); }
fn dropped_rows(a: Scores, kept: Words) -> Scores { return a; }
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
