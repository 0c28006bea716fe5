// The product of complex numbers, each stored as a real and an imaginary part side by side. Either factor may be
// conjugated.

struct Params {
    count: u32,          // complex numbers
    a_offset: u32,       // where the tensors begin in their buffers, in elements
    b_offset: u32,
    output_offset: u32,
    a_sign: f32,         // of the imaginary parts: −1 conjugates
    b_sign: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> output: array<f32>;

@compute @workgroup_size(64)
fn complex_multiply(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    // Long grids are folded into two dimensions.
    let i = (group.x + group.y * groups.x) * 64u + lane;
    if (i >= p.count) { return; }
    let x = vec2<f32>(a[p.a_offset + 2u * i], p.a_sign * a[p.a_offset + 2u * i + 1u]);
    let y = vec2<f32>(b[p.b_offset + 2u * i], p.b_sign * b[p.b_offset + 2u * i + 1u]);
    output[p.output_offset + 2u * i] = x.x * y.x - x.y * y.y;
    output[p.output_offset + 2u * i + 1u] = x.x * y.y + x.y * y.x;
}
