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
fn about_rows(head: Head, own: u32, row: u32) -> About { return About(statistics_of(head, own), Numbers()); }
fn weights_about(a: Scores, about: About) -> Scores { return a; }
fn gradients_about(w: Scores, d: Scores, about: About) -> Scores { return d; }
fn first_seen(head: Head, own: u32) -> Words { return Words(); }
fn end_seen(head: Head, own: u32) -> Words { return Words(); }
fn masked_rows(a: Scores, head: Head, own: u32, other: u32, start: Words, seen: Words) -> Scores { return a; }
fn kept_rows(key: DropoutKey, head: Head, own: u32, other: u32) -> Words { return Words(); }
fn dropped_rows(a: Scores, kept: Words) -> Scores { return a; }
fn first_products(a: Block, first: Row) -> Scores { return Scores(a.m0 * subgroupShuffle(first.d0, 0u)); }
fn second_products(a: Block, second: Row) -> Scores { return first_products(a, second); }
fn plus_first(a: Block, w: Scores, first: Row) -> Block { return a; }
fn plus_second(a: Block, w: Scores, second: Row) -> Block { return a; }
@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> dout: array<vec4<f32>>;
fn load_first_block(head: Head, first: u32, chunk: u32) -> Block { return Block(mat4x2<f32>(q[0].xy, q[0].zw, q[1].xy, q[1].zw)); }
fn load_first(head: Head, row: u32, part: u32) -> Row { return Row(k[row]); }
fn load_second_block(head: Head, first: u32, chunk: u32) -> Block { return Block(mat4x2<f32>(dout[0].xy, dout[0].zw, dout[1].xy, dout[1].zw)); }
fn load_second(head: Head, row: u32, part: u32) -> Row { return Row(v[row]); }
@group(0) @binding(5) var<storage, read_write> gradient: array<vec4<f32>>;
fn load_x_block(head: Head, first: u32, chunk: u32) -> Block { return load_first_block(head, first, chunk); }
fn store_x_block(head: Head, first: u32, chunk: u32, a: Block) { gradient[0] = vec4<f32>(a.m0[0], a.m0[1]); }
@group(0) @binding(6) var<storage, read> statistics: array<u32>;
fn statistics_of(head: Head, i: u32) -> vec2<f32> { return vec2<f32>(bitcast<f32>(statistics[0]), 0.0); }
