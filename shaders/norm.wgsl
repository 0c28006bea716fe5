// LayerNorm and RMSNorm, forward and backward, for any width on any adapter.
//
// A team of lanes shares a row, see team.wgsl: lane l takes columns 4·(b·LANES + l) and the three after it for every block
// b. The first KEPT blocks stay in registers, so that up to 8,192 columns are read once, backward 4,096; those beyond are
// read again for every pass. A team takes its rows one after the other. The gradients of weight and bias are summed over the rows of a
// workgroup first, then over the workgroups by `parameters…`. norm_subgroup8.wgsl is the twin for software adapters.
//
// Operands are declared when a kernel is made, as in `tests/shaders`, and the epilogue again.

import shadegrad::norm_operands;
import shadegrad::rows;

fn block(row: u32, b: u32, lane: u32) -> vec4<f32> {
    let at = column(b, lane);
    return only(x4(row, at), at);
}

fn squared(x: vec4<f32>, b: u32, lane: u32, mean: f32) -> vec4<f32> {
    let centred = only(x - mean, column(b, lane));
    return centred * centred;
}

fn put_kept(row: u32, b: u32, lane: u32, value: vec4<f32>) {
    let at = column(b, lane);
    if (row < p.rows && at < p.n) { store4(0u, row, at, value); }
}

fn put_y(row: u32, b: u32, lane: u32, x: vec4<f32>, mean: f32, rstd: f32) {
    let at = column(b, lane);
    var value = (x - mean) * rstd * weight4(0u, at);
    if (BIAS) { value += bias4(0u, at); }
    if (row < p.rows && at < p.n) { store4(0u, row, at, value); }
}

@compute @workgroup_size(LANES * TEAMS)
fn forward(group: Group, place: Place) {
    let lane = lane_of(place);
    let team = index_of(group) * TEAMS + team_of(place);
    let scale = 1.0 / f32(p.n);
    var w = Blocks();
    var c = Blocks();
    if (KEPT > $8u) { w.b$8 = weight4(0u, column($8u, lane)); }
    if (BIAS) {
        if (KEPT > $8u) { c.b$8 = bias4(0u, column($8u, lane)); }
    }
    // Every team makes as many rounds, so that barriers stay uniform; those past the end store nothing.
    for (var i = 0u; i < p.rows_per_team; i++) {
        let row = team * p.rows_per_team + i;
        let source = min(row, p.rows - 1u);
        var r = Blocks();
        if (KEPT > $8u) { r.b$8 = block(source, $8u, lane); }
        var mean = 0.0;
        if (LAYER_NORM) {
            var sum = vec4<f32>(0.0);
            if (KEPT > $8u) { sum += r.b$8; }
            for (var b = KEPT; b < p.blocks; b++) { sum += block(source, b, lane); }
            mean = sums_over_team(vec2<f32>(total(sum), 0.0), place).x * scale;
        }
        // The variance of the centred values: as accurate as can be.
        var squares = vec4<f32>(0.0);
        if (KEPT > $8u) { squares += squared(r.b$8, $8u, lane, mean); }
        for (var b = KEPT; b < p.blocks; b++) { squares += squared(x4(source, column(b, lane)), b, lane, mean); }
        let variance = sums_over_team(vec2<f32>(total(squares), 0.0), place).x * scale;
        let rstd = inverseSqrt(variance + p.epsilon);
        if (KEPT > $8u) { put_kept(row, $8u, lane, (r.b$8 - mean) * rstd * w.b$8 + c.b$8); }
        for (var b = KEPT; b < p.blocks; b++) { put_y(row, b, lane, x4(source, column(b, lane)), mean, rstd); }
        if (row < p.rows && lane == 0u) { statistics[row] = vec2<f32>(rstd, mean); }
    }
}

// A block of x̂ = (x − mean)/σ and of dy, which is zero in rows and columns past the end.
struct Terms { h: vec4<f32>, d: vec4<f32> }

fn terms(row: u32, b: u32, lane: u32) -> Terms {
    let source = min(row, p.rows - 1u);
    let at = column(b, lane);
    let s = saved[source];
    let d = select(vec4<f32>(0.0), dy4(source, at), row < p.rows);
    return Terms((x4(source, at) - s.y) * s.x, only(d, at));
}

// dx = 1/σ · (g − mean(g) − x̂·mean(g·x̂)) with g = dy·weight; RMSNorm has no mean of g.
fn put_dx(row: u32, b: u32, lane: u32, g: vec4<f32>, h: vec4<f32>, means: vec2<f32>) {
    let at = column(b, lane);
    var value = g - h * means.y;
    if (LAYER_NORM) { value -= means.x; }
    if (row < p.rows && at < p.n) { store4(0u, row, at, value * saved[row].x); }
}

var<workgroup> of_teams: array<vec4<f32>, LANES * TEAMS>;

// What the first team gets is the sum over all teams. For uniform control flow only.
fn over_teams(value: vec4<f32>, place: Place) -> vec4<f32> {
    if (TEAMS == 1u) { return value; }
    let lane = lane_of(place);
    workgroupBarrier();
    of_teams[team_of(place) * LANES + lane] = value;
    workgroupBarrier();
    var sum = of_teams[lane];
    for (var team = 1u; team < TEAMS; team++) { sum += of_teams[team * LANES + lane]; }
    return sum;
}

fn put_sums(part: u32, b: u32, dweight: vec4<f32>, dbias: vec4<f32>, place: Place) {
    let at = column(b, lane_of(place));
    let is_mine = team_of(place) == 0u && part < p.parts && at < p.n;
    let weight_sum = over_teams(dweight, place);
    if (is_mine) { put_partial(part, 0u, at, weight_sum); }
    if (BIAS) {
        let bias_sum = over_teams(dbias, place);
        if (is_mine) { put_partial(part, 1u, at, bias_sum); }
    }
}

@compute @workgroup_size(LANES * TEAMS)
fn backward(group: Group, place: Place) {
    let lane = lane_of(place);
    let part = index_of(group);
    let start = (part * TEAMS + team_of(place)) * p.rows_per_team;
    let scale = 1.0 / f32(p.n);
    var w = Blocks();
    var dw = Blocks();
    var db = Blocks();
    if (KEPT > $4u) { w.b$4 = weight4(0u, column($4u, lane)); }
    for (var i = 0u; i < p.rows_per_team; i++) {
        let row = start + i;
        var g = Blocks();
        var h = Blocks();
        if (KEPT > $4u) { let t = terms(row, $4u, lane); g.b$4 = t.d * w.b$4; h.b$4 = t.h; dw.b$4 += t.d * t.h; db.b$4 += t.d; }
        var g_sum = (g.b0 + g.b1) + (g.b2 + g.b3);
        var gh_sum = (g.b0 * h.b0 + g.b1 * h.b1) + (g.b2 * h.b2 + g.b3 * h.b3);
        for (var b = KEPT; b < p.blocks; b++) {
            let t = terms(row, b, lane);
            let term = t.d * weight4(0u, column(b, lane));
            g_sum += term;
            gh_sum += term * t.h;
        }
        let means = sums_over_team(vec2<f32>(total(g_sum), total(gh_sum)), place) * scale;
        if (KEPT > $4u) { put_dx(row, $4u, lane, g.b$4, h.b$4, means); }
        for (var b = KEPT; b < p.blocks; b++) {
            let t = terms(row, b, lane);
            put_dx(row, b, lane, t.d * weight4(0u, column(b, lane)), t.h, means);
        }
    }
    if (KEPT > $4u) { put_sums(part, $4u, dw.b$4, db.b$4, place); }
    for (var b = KEPT; b < p.blocks; b++) {
        var dweight = vec4<f32>(0.0);
        var dbias = vec4<f32>(0.0);
        for (var i = 0u; i < p.rows_per_team; i++) {
            let t = terms(start + i, b, lane);
            dweight += t.d * t.h;
            dbias += t.d;
        }
        put_sums(part, b, dweight, dbias, place);
    }
}

// --- The second stage: the partial sums of all workgroups ---

const COLUMNS: u32 = 8u;  // of a workgroup
const PARTS: u32 = 1u;    // into which the partial sums are divided

@group(0) @binding(1) var<storage, read> partial_in: array<f32>;
@group(0) @binding(2) var<storage, read_write> dweight_out: array<f32>;
@group(0) @binding(3) var<storage, read_write> dbias_out: array<f32>;

var<workgroup> parts: array<vec2<f32>, COLUMNS * PARTS>;

// The partial sums of four workgroups, PARTS apart.
fn four(part: u32, which: u32, at: u32) -> vec4<f32> {
    let first = (part * 2u + which) * p.n + at;
    let step = PARTS * 2u * p.n;
    return vec4<f32>(
        partial_in[first], partial_in[first + step],
        partial_in[first + 2u * step], partial_in[first + 3u * step]);
}

// The sums for weight and bias of the column that an invocation of the first COLUMNS has.
fn added(group: u32, local: u32) -> vec2<f32> {
    let at = min(group * COLUMNS + local % COLUMNS, p.n - 1u);
    var sum = vec2<f32>(0.0);
    var part = local / COLUMNS;
    if (PARTS > 1u) {
        // Eight loads under way at a time.
        for (; part + 7u * PARTS < p.parts; part += 8u * PARTS) {
            let weights = four(part, 0u, at) + four(part + 4u * PARTS, 0u, at);
            sum.x += (weights.x + weights.y) + (weights.z + weights.w);
            if (BIAS) {
                let biases = four(part, 1u, at) + four(part + 4u * PARTS, 1u, at);
                sum.y += (biases.x + biases.y) + (biases.z + biases.w);
            }
        }
    }
    for (; part < p.parts; part += PARTS) {
        sum.x += partial_in[part * 2u * p.n + at];
        if (BIAS) { sum.y += partial_in[(part * 2u + 1u) * p.n + at]; }
    }
    if (PARTS > 1u) {
        parts[local] = sum;
        workgroupBarrier();
        for (var half = PARTS / 2u; half > 0u; half /= 2u) {
            if (local < half * COLUMNS) { parts[local] += parts[local + half * COLUMNS]; }
            workgroupBarrier();
        }
        sum = parts[local];
    }
    return sum;
}

@compute @workgroup_size(COLUMNS * PARTS)
fn parameters(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let sum = added(group.x, local);
    let column = group.x * COLUMNS + local;
    if (local < COLUMNS && column < p.n) { dweight_out[p.dweight_offset + column] = sum.x; }
}

@compute @workgroup_size(COLUMNS * PARTS)
fn parameters_with_bias(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let sum = added(group.x, local);
    let column = group.x * COLUMNS + local;
    if (local < COLUMNS && column < p.n) {
        dweight_out[p.dweight_offset + column] = sum.x;
        dbias_out[p.dbias_offset + column] = sum.y;
    }
}
