struct Row { d0: vec4<f32> }
fn dot_rows(a: Row, b: Row) -> f32 { let s = a.d0 * b.d0; return (s.x + s.y) + (s.z + s.w); }
@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;
fn load_q(at: u32) -> Row { return Row(q[at / 4u]); }
@group(0) @binding(2) var<storage, read> k: array<vec4<f32>>;
fn load_k(at: u32) -> Row { return Row(k[at / 4u]); }
@group(0) @binding(3) var<storage, read> lse: array<f32>;
@group(0) @binding(4) var<storage, read_write> weights: array<f32>;
