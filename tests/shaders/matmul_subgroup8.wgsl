@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;
fn a_origin(batch: u32, i: u32) -> vec4<u32> {
    let row = min(vec4<u32>(i) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(p.m - 1u));
    return (row * p.lda + (p.a_offset + batch * p.a_batch)) / 4u;
}
fn a_step(o: vec4<u32>, ld: u32) -> vec4<u32> { return o + vec4<u32>(1u); }
fn a_fragment(o: vec4<u32>, ld: u32) -> Fragment {
    let x = a[o.x];
    let y = a[o.y];
    let z = a[o.z];
    let w = a[o.w];
    return Fragment(vec4<f32>(x.x, y.x, z.x, w.x), vec4<f32>(x.y, y.y, z.y, w.y),
                    vec4<f32>(x.z, y.z, z.z, w.z), vec4<f32>(x.w, y.w, z.w, w.w));
}

@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>;
fn b_origin(batch: u32, i: u32) -> vec4<u32> {
    return vec4<u32>((min(i, p.ldb - 4u) + p.b_offset + batch * p.b_batch) / 4u);
}
fn b_step(o: vec4<u32>, ld: u32) -> vec4<u32> { return o + vec4<u32>(ld); }
fn b_fragment(o: vec4<u32>, ld: u32) -> Fragment {
    let line = vec4<u32>(ld / 4u);
    let o1 = o + line;
    let o2 = o1 + line;
    let o3 = o2 + line;
    return Fragment(b[o.x], b[o1.x], b[o2.x], b[o3.x]);
}

fn accumulate(t: ptr<function, Tile>, fa: Fragment, fb: Fragment) {
    (*t).q0[0] += fb.k0 * subgroupShuffle(fa.k0, 0u).x;
}
