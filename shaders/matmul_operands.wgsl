// How a fragment of an operand of matmul_subgroup8.wgsl is loaded; the Rust side declares one section for each
// operand. X is `a` or `b`, BINDING 1 or 2, OUTER p.m or p.n, LD p.lda or p.ldb.
//
//   rows_*:    the depth k runs along memory: A as [M,K], B as [N,K] (transposed)
//   columns_*: the outer index runs along memory: A as [K,M] (transposed), B as [K,N]
//   *_vec4:    the leading dimension, the offset and the batch stride are multiples of 4; *_scalar: anything

// section rows_vec4
@group(0) @binding(BINDING) var<storage, read> X: array<vec4<f32>>;
fn X_origin(batch: u32, i: u32) -> vec4<u32> {
    let row = min(vec4<u32>(i) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(OUTER - 1u));
    return (row * LD + (p.X_offset + batch * p.X_batch)) / 4u;
}
fn X_step(o: vec4<u32>, ld: u32) -> vec4<u32> { return o + vec4<u32>(1u); }
fn X_fragment(o: vec4<u32>, ld: u32) -> Fragment {
    let x = X[o.x];
    let y = X[o.y];
    let z = X[o.z];
    let w = X[o.w];
    return Fragment(vec4<f32>(x.x, y.x, z.x, w.x), vec4<f32>(x.y, y.y, z.y, w.y),
                    vec4<f32>(x.z, y.z, z.z, w.z), vec4<f32>(x.w, y.w, z.w, w.w));
}

// section columns_vec4
@group(0) @binding(BINDING) var<storage, read> X: array<vec4<f32>>;
fn X_origin(batch: u32, i: u32) -> vec4<u32> {
    return vec4<u32>((min(i, LD - 4u) + p.X_offset + batch * p.X_batch) / 4u);
}
fn X_step(o: vec4<u32>, ld: u32) -> vec4<u32> { return o + vec4<u32>(ld); }
fn X_fragment(o: vec4<u32>, ld: u32) -> Fragment {
    let line = vec4<u32>(ld / 4u);
    let o1 = o + line;
    let o2 = o1 + line;
    let o3 = o2 + line;
    return Fragment(X[o.x], X[o1.x], X[o2.x], X[o3.x]);
}

// section rows_scalar
@group(0) @binding(BINDING) var<storage, read> X: array<f32>;
fn X_origin(batch: u32, i: u32) -> vec4<u32> {
    let row = min(vec4<u32>(i) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(OUTER - 1u));
    return row * LD + (p.X_offset + batch * p.X_batch);
}
fn X_step(o: vec4<u32>, ld: u32) -> vec4<u32> { return o + vec4<u32>(4u); }
fn X_fragment(o: vec4<u32>, ld: u32) -> Fragment {
    return Fragment(vec4<f32>(X[o.x], X[o.y], X[o.z], X[o.w]),
                    vec4<f32>(X[o.x + 1u], X[o.y + 1u], X[o.z + 1u], X[o.w + 1u]),
                    vec4<f32>(X[o.x + 2u], X[o.y + 2u], X[o.z + 2u], X[o.w + 2u]),
                    vec4<f32>(X[o.x + 3u], X[o.y + 3u], X[o.z + 3u], X[o.w + 3u]));
}

// section columns_scalar
@group(0) @binding(BINDING) var<storage, read> X: array<f32>;
fn X_origin(batch: u32, i: u32) -> vec4<u32> {
    let column = min(vec4<u32>(i) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(OUTER - 1u));
    return column + (p.X_offset + batch * p.X_batch);
}
fn X_step(o: vec4<u32>, ld: u32) -> vec4<u32> { return o + vec4<u32>(4u * ld); }
fn X_fragment(o: vec4<u32>, ld: u32) -> Fragment {
    let o1 = o + vec4<u32>(ld);
    let o2 = o1 + vec4<u32>(ld);
    let o3 = o2 + vec4<u32>(ld);
    return Fragment(vec4<f32>(X[o.x], X[o.y], X[o.z], X[o.w]), vec4<f32>(X[o1.x], X[o1.y], X[o1.z], X[o1.w]),
                    vec4<f32>(X[o2.x], X[o2.y], X[o2.z], X[o2.w]), vec4<f32>(X[o3.x], X[o3.y], X[o3.z], X[o3.w]));
}
