// The gated unit h = silu(gate)·up of a packed row [gate, up], and its gradient. Neighbouring invocations work on
// neighbouring elements of h: one each, or four (T = vec4) where all extents and offsets are multiples of four.
// `swiglu_quads` takes four elements that need not lie in one row: it reads them one by one and stores a vec4, because
// on software adapters it is the stores that are dear.

struct Params {
    count: u32,            // elements of h that invocations take: in units of T, or of four for quads
    half: u32,             // extent of h's last axis, in units of T
    packed_offset: u32,
    hidden_offset: u32,    // of h, or of its gradient
    gradient_offset: u32,  // of the packed gradient
    inverse: f32,          // 1 / half
}

//:begin element
alias T = f32;
//:end element

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> packed: array<T>;
@group(0) @binding(2) var<storage, read_write> hidden: array<T>;
@group(0) @binding(2) var<storage, read> hidden_gradient: array<T>;
@group(0) @binding(3) var<storage, read_write> packed_gradient: array<T>;

// Beyond ±80 the exponential would overflow; the value is 0 or 1 to f32 precision long before.
fn sigmoid(x: T) -> T {
    return T(1.0) / (T(1.0) + exp(-clamp(x, T(-80.0), T(80.0))));
}

fn index(group: vec3<u32>, groups: vec3<u32>, lane: u32) -> u32 {
    return (group.x + group.y * groups.x) * 64u + lane;
}

// i / half. Software adapters divide integers lane by lane; so guess in floating point, improve the guess for what f32
// cannot tell apart, and correct the rounding.
fn row_of(i: u32) -> u32 {
    let guess = u32(f32(i) * p.inverse);
    let rest = f32(i32(i - guess * p.half));
    let row = guess + u32(i32(floor(rest * p.inverse)));
    return row - select(0u, 1u, row * p.half > i) + select(0u, 1u, (row + 1u) * p.half <= i);
}

@compute @workgroup_size(64)
fn swiglu(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = index(group, groups, lane);
    if (i >= p.count) { return; }
    // Row r of h starts at r·half, of the packed rows at 2·r·half.
    let place = p.packed_offset + i + row_of(i) * p.half;
    let gate = packed[place];
    hidden[p.hidden_offset + i] = gate * sigmoid(gate) * packed[place + p.half];
}

@compute @workgroup_size(64)
fn swiglu_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = index(group, groups, lane);
    if (i >= p.count) { return; }
    let row_start = row_of(i) * p.half;
    let place = p.packed_offset + i + row_start;
    let gate = packed[place];
    let up = packed[place + p.half];
    let gradient = hidden_gradient[p.hidden_offset + i];
    let s = sigmoid(gate);
    let to = p.gradient_offset + i + row_start;
    packed_gradient[to] = gradient * up * s * (T(1.0) + gate * (T(1.0) - s));
    packed_gradient[to + p.half] = gradient * gate * s;
}

//:begin quads
@group(0) @binding(2) var<storage, read_write> hidden_quads: array<vec4<f32>>;

fn packed4(i: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(packed[i.x], packed[i.y], packed[i.z], packed[i.w]);
}

@compute @workgroup_size(64)
fn swiglu_quads(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let quad = index(group, groups, lane);
    if (quad >= p.count) { return; }
    let i = 4u * quad + vec4<u32>(0u, 1u, 2u, 3u);
    // The next row may begin within the quad, but not the one after: half is three or more.
    let row = row_of(i.x);
    let rows = select(vec4<u32>(row), vec4<u32>(row + 1u), i >= vec4<u32>((row + 1u) * p.half));
    let place = p.packed_offset + i + rows * p.half;
    let gate = packed4(place);
    let s = 1.0 / (1.0 + exp(-clamp(gate, vec4<f32>(-80.0), vec4<f32>(80.0))));
    hidden_quads[p.hidden_offset / 4u + quad] = gate * s * packed4(place + p.half);
}
//:end quads
