@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;
fn chunk_q(at: u32, chunk: u32) -> vec4<f32> { return q[at / 4u + chunk]; }
@group(0) @binding(2) var<storage, read> k: array<vec4<f32>>;
fn chunk_k(at: u32, chunk: u32) -> vec4<f32> { return k[at / 4u + chunk]; }
@group(0) @binding(3) var<storage, read> v: array<vec4<f32>>;
fn chunk_v(at: u32, chunk: u32) -> vec4<f32> { return v[at / 4u + chunk]; }
@group(0) @binding(4) var<storage, read_write> result: array<vec4<f32>>;
fn store_chunk_result(at: u32, chunk: u32, a: vec4<f32>) { result[at / 4u + chunk] = a; }
fn chunk_result(at: u32, chunk: u32) -> vec4<f32> { return result[at / 4u + chunk]; }
@group(0) @binding(5) var<storage, read_write> lse: array<f32>;
