// LayerNorm and RMSNorm, forward and backward, for software adapters with subgroups of exactly 8 (Mesa llvmpipe); widths
// that are multiples of 4, at most 1,024. norm.wgsl is the portable twin, and its `reduce_…` is the second stage here too.
//
// A row belongs to the 8 lanes; lane l holds columns 32b + 4l .. 32b + 4l + 3 of every block b. One vec4 load then brings
// 32 contiguous values, the weight stays in registers for all rows of the group, and the sum over the lanes is three
// shuffles (one instruction each there; subgroupAdd is a loop). The row is read once and written once. Backward adds up
// the gradients of weight and bias over the group's rows in registers, one partial row a group.

const BLOCKS: u32 = 1u;
const LAYER_NORM: bool = false;  // false: RMSNorm, without mean and bias

struct Params {
    rows: u32, d: u32, rows_per_group: u32, groups: u32,
    x_offset: u32, weight_offset: u32, bias_offset: u32, y_offset: u32,
    dy_offset: u32, dweight_offset: u32, dbias_offset: u32, epsilon: f32,
}

alias Row = array<vec4<f32>, BLOCKS>;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> statistics: array<vec2<f32>>;  // of each row: 1/σ, mean
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> y: array<vec4<f32>>;  // forward: the result; backward: the gradient of x
@group(0) @binding(6) var<storage, read> dy: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> partial: array<vec4<f32>>;  // [groups, 2, d]: of weight, of bias

fn x4(o: u32) -> vec4<f32> { return x[(p.x_offset + o) / 4u]; }
fn weight4(o: u32) -> vec4<f32> { return weight[(p.weight_offset + o) / 4u]; }
fn bias4(o: u32) -> vec4<f32> { return bias[(p.bias_offset + o) / 4u]; }
fn dy4(o: u32) -> vec4<f32> { return dy[(p.dy_offset + o) / 4u]; }
fn store4(row: u32, column: u32, v: vec4<f32>) { y[(p.y_offset + row * p.d + column) / 4u] = v; }

fn over_lanes(v: vec2<f32>) -> vec2<f32> {
    let a = v + subgroupShuffleXor(v, 1u);
    let b = a + subgroupShuffleXor(a, 2u);
    return b + subgroupShuffleXor(b, 4u);
}

fn total(v: vec4<f32>) -> f32 { return (v.x + v.y) + (v.z + v.w); }
fn column(b: u32, lane: u32) -> u32 { return b * 32u + lane * 4u; }
// Columns beyond d are read from the last ones and count as zero.
fn clamped(b: u32, lane: u32) -> u32 { return min(column(b, lane), p.d - 4u); }
fn inside(b: u32, lane: u32) -> bool { return column(b, lane) < p.d; }

@compute @workgroup_size(8)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let index = group.x + group.y * groups.x;
    if (index >= p.groups) { return; }
    var w: Row;
    var c: Row;
    for (var b = 0u; b < BLOCKS; b++) {
        w[b] = weight4(clamped(b, lane));
        if (LAYER_NORM) { c[b] = bias4(clamped(b, lane)); }
    }
    let scale = 1.0 / f32(p.d);
    let end = min((index + 1u) * p.rows_per_group, p.rows);
    for (var row = index * p.rows_per_group; row < end; row++) {
        var r: Row;
        var s = vec4<f32>(0.0);
        for (var b = 0u; b < BLOCKS; b++) {
            r[b] = select(vec4<f32>(0.0), x4(row * p.d + clamped(b, lane)), inside(b, lane));
            s += r[b];
        }
        var mean = 0.0;
        if (LAYER_NORM) { mean = over_lanes(vec2<f32>(total(s), 0.0)).x * scale; }
        // Two passes over registers: the variance is of the centred values, as accurate as can be.
        var q = vec4<f32>(0.0);
        for (var b = 0u; b < BLOCKS; b++) {
            r[b] = select(vec4<f32>(0.0), r[b] - mean, inside(b, lane));
            q += r[b] * r[b];
        }
        let rstd = inverseSqrt(over_lanes(vec2<f32>(total(q), 0.0)).x * scale + p.epsilon);
        for (var b = 0u; b < BLOCKS; b++) {
            var v = r[b] * rstd * w[b];
            if (LAYER_NORM) { v += c[b]; }
            if (inside(b, lane)) { store4(row, column(b, lane), v); }
        }
        if (lane == 0u) { statistics[row] = vec2<f32>(rstd, mean); }
    }
}

@compute @workgroup_size(8)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let index = group.x + group.y * groups.x;
    if (index >= p.groups) { return; }
    var w: Row;
    var dw: Row;
    var db: Row;
    for (var b = 0u; b < BLOCKS; b++) {
        w[b] = weight4(clamped(b, lane));
        dw[b] = vec4<f32>(0.0);
        db[b] = vec4<f32>(0.0);
    }
    let scale = 1.0 / f32(p.d);
    let end = min((index + 1u) * p.rows_per_group, p.rows);
    for (var row = index * p.rows_per_group; row < end; row++) {
        let st = statistics[row];
        var h: Row;
        var g: Row;
        var s = vec4<f32>(0.0);
        var q = vec4<f32>(0.0);
        for (var b = 0u; b < BLOCKS; b++) {
            let o = row * p.d + clamped(b, lane);
            h[b] = (x4(o) - st.y) * st.x;
            let d = select(vec4<f32>(0.0), dy4(o), inside(b, lane));
            dw[b] += d * h[b];
            if (LAYER_NORM) { db[b] += d; }
            g[b] = d * w[b];
            s += g[b];
            q += g[b] * h[b];
        }
        // dx = rstd · (g − mean(g) [LayerNorm only] − x̂ · mean(g·x̂)), g = dy·weight
        let sums = over_lanes(vec2<f32>(total(s), total(q))) * scale;
        for (var b = 0u; b < BLOCKS; b++) {
            var v = g[b] - h[b] * sums.y;
            if (LAYER_NORM) { v -= sums.x; }
            if (inside(b, lane)) { store4(row, column(b, lane), v * st.x); }
        }
    }
    for (var b = 0u; b < BLOCKS; b++) {
        if (inside(b, lane)) {
            partial[(index * 2u * p.d + column(b, lane)) / 4u] = dw[b];
            if (LAYER_NORM) { partial[((index * 2u + 1u) * p.d + column(b, lane)) / 4u] = db[b]; }
        }
    }
}
