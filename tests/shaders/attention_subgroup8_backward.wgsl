struct Row { d0: vec4<f32> }
fn zero_row() -> Row { return Row(vec4<f32>()); }
fn scaled(a: Row, w: f32) -> Row { return Row(a.d0 * w); }
fn plus_scaled(a: Row, w: f32, b: Row) -> Row { return Row(a.d0 + w * b.d0); }
fn dot_rows(a: Row, b: Row) -> f32 { let s = a.d0 * b.d0; return (s.x + s.y) + (s.z + s.w); }
fn row_of_lane(a: Row, lane: u32) -> Row { return Row(subgroupShuffle(a.d0, lane)); }
@group(0) @binding(1) var<storage, read> qkv: array<vec4<f32>>;
fn load_q(at: u32) -> Row { return Row(qkv[at / 4u]); }
fn load_k(at: u32) -> Row { return Row(qkv[at / 4u]); }
fn load_v(at: u32) -> Row { return Row(qkv[at / 4u]); }
@group(0) @binding(2) var<storage, read> dout: array<vec4<f32>>;
fn load_dout(at: u32) -> Row { return Row(dout[at / 4u]); }
@group(0) @binding(3) var<storage, read_write> gradient: array<vec4<f32>>;
fn store_gradient(at: u32, a: Row) { gradient[at / 4u] = a.d0; }
fn load_gradient(at: u32) -> Row { return Row(gradient[at / 4u]); }
@group(0) @binding(4) var<storage, read> out: array<vec4<f32>>;
fn load_out(at: u32) -> Row { return Row(out[at / 4u]); }
@group(0) @binding(5) var<storage, read> lse: array<f32>;
fn about_of(head: Head, i: u32, upstream: Row) -> vec2<f32> {
    let delta = dot_rows(upstream, load_out(row_at(p.out, head, i)));
    return vec2<f32>(lse[p.lse_offset + head.index * p.queries + i], delta);
}
