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
