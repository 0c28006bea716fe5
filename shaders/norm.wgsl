// LayerNorm and RMSNorm, forward and backward, for any width on any adapter.
//
// A workgroup takes a few rows, one after the other; its invocations walk the columns, and sums over a row go through
// workgroup memory in a fixed order. The gradients of weight and bias are summed over the group's rows first, each
// invocation for its own columns, and over the groups by `reduce_…`. norm_subgroup8.wgsl is the faster twin.

const LANES: u32 = 64u;
const LAYER_NORM: bool = false;  // false: RMSNorm, without mean and bias

struct Params {
    rows: u32, d: u32, rows_per_group: u32, groups: u32,
    x_offset: u32, weight_offset: u32, bias_offset: u32, y_offset: u32,
    dy_offset: u32, dweight_offset: u32, dbias_offset: u32, epsilon: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> statistics: array<vec2<f32>>;  // of each row: 1/σ, mean
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> weight: array<f32>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;  // forward: the result; backward: the gradient of x
@group(0) @binding(6) var<storage, read> dy: array<f32>;
@group(0) @binding(7) var<storage, read_write> partial: array<f32>;  // [groups, 2, d]: of weight, of bias

var<workgroup> lanes: array<vec2<f32>, LANES>;

// Sums over the workgroup. For uniform control flow only.
fn over_lanes(v: vec2<f32>, lane: u32) -> vec2<f32> {
    workgroupBarrier();  // the sum before has been read
    lanes[lane] = v;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if (lane < half) { lanes[lane] += lanes[lane + half]; }
        workgroupBarrier();
    }
    return lanes[0];
}

@compute @workgroup_size(LANES)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = group.x + group.y * groups.x;
    let scale = 1.0 / f32(p.d);
    let end = min((index + 1u) * p.rows_per_group, p.rows);
    for (var row = index * p.rows_per_group; row < end; row++) {
        let first = p.x_offset + row * p.d;
        var mean = 0.0;
        if (LAYER_NORM) {
            var sum = 0.0;
            for (var c = lane; c < p.d; c += LANES) { sum += x[first + c]; }
            mean = over_lanes(vec2<f32>(sum, 0.0), lane).x * scale;
        }
        // The variance of the centred values: as accurate as can be.
        var squares = 0.0;
        for (var c = lane; c < p.d; c += LANES) {
            let centred = x[first + c] - mean;
            squares += centred * centred;
        }
        let variance = over_lanes(vec2<f32>(squares, 0.0), lane).x * scale;
        let rstd = inverseSqrt(variance + p.epsilon);
        for (var c = lane; c < p.d; c += LANES) {
            var value = (x[first + c] - mean) * rstd * weight[p.weight_offset + c];
            if (LAYER_NORM) { value += bias[p.bias_offset + c]; }
            y[p.y_offset + row * p.d + c] = value;
        }
        if (lane == 0u) { statistics[row] = vec2<f32>(rstd, mean); }
    }
}

// dx = 1/σ · (g − mean(g) − x̂·mean(g·x̂)) with g = dy·weight; RMSNorm has no mean(g).
@compute @workgroup_size(LANES)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = group.x + group.y * groups.x;
    let scale = 1.0 / f32(p.d);
    let start = index * p.rows_per_group;
    let end = min(start + p.rows_per_group, p.rows);
    for (var row = start; row < end; row++) {
        let s = statistics[row];
        let first = row * p.d;
        var sums = vec2<f32>(0.0);
        for (var c = lane; c < p.d; c += LANES) {
            let g = dy[p.dy_offset + first + c] * weight[p.weight_offset + c];
            sums += vec2<f32>(g, g * (x[p.x_offset + first + c] - s.y) * s.x);
        }
        let means = over_lanes(sums, lane) * scale;
        for (var c = lane; c < p.d; c += LANES) {
            let g = dy[p.dy_offset + first + c] * weight[p.weight_offset + c];
            var value = g - (x[p.x_offset + first + c] - s.y) * s.x * means.y;
            if (LAYER_NORM) { value -= means.x; }
            y[p.y_offset + first + c] = value * s.x;
        }
    }
    if (index >= p.groups) { return; }
    for (var c = lane; c < p.d; c += LANES) {
        var dweight = 0.0;
        var dbias = 0.0;
        for (var row = start; row < end; row++) {
            let s = statistics[row];
            let g = dy[p.dy_offset + row * p.d + c];
            dweight += g * (x[p.x_offset + row * p.d + c] - s.y) * s.x;
            dbias += g;
        }
        partial[index * 2u * p.d + c] = dweight;
        if (LAYER_NORM) { partial[(index * 2u + 1u) * p.d + c] = dbias; }
    }
}

// --- The second stage: partial sums added in order ---

@group(0) @binding(1) var<storage, read> partial_in: array<f32>;
@group(0) @binding(2) var<storage, read_write> dweight_out: array<f32>;
@group(0) @binding(3) var<storage, read_write> dbias_out: array<f32>;

fn added(column: u32, which: u32) -> f32 {
    var sum = 0.0;
    for (var i = 0u; i < p.groups; i++) { sum += partial_in[(i * 2u + which) * p.d + column]; }
    return sum;
}

@compute @workgroup_size(8)
fn reduce_rms(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x < p.d) { dweight_out[p.dweight_offset + id.x] = added(id.x, 0u); }
}

@compute @workgroup_size(8)
fn reduce_layer(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x < p.d) {
        dweight_out[p.dweight_offset + id.x] = added(id.x, 0u);
        dbias_out[p.dbias_offset + id.x] = added(id.x, 1u);
    }
}
