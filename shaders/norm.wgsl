// LayerNorm and RMSNorm, forward and backward, for any width on any adapter.
//
// LANES invocations, a team, share a row: lane l takes columns 4·(b·LANES + l) and the three after it for every block b,
// and a row is read again for every pass over it. A team takes its rows one after the other. The gradients of weight and
// bias are summed over a team's rows first, then over the teams by `parameters…`. norm_subgroup8.wgsl, which keeps rows
// in registers, is the faster twin.
//
// The blocks operands, team and epilogue are replaced when a kernel is made, and the entry points not called are cut out.

const LANES: u32 = 8u;
const TEAMS: u32 = 8u;           // in a workgroup
const LAYER_NORM: bool = false;  // false: RMSNorm, without mean
const BIAS: bool = false;

struct Params {
    n: u32,                         // columns
    rows: u32,
    rows_per_team: u32,
    blocks: u32,                    // of a row
    x_at: vec2<u32>,                // offset and row stride of each operand
    weight_at: vec2<u32>,
    bias_at: vec2<u32>,
    dy_at: vec2<u32>,
    teams: u32,                     // that have rows, and leave a partial sum
    epsilon: f32,
    dweight_offset: u32,
    dbias_offset: u32,
    operands: array<vec4<u32>, 7>,  // of the epilogue: offset, strides of batch, row and column
}

@group(0) @binding(0) var<uniform> p: Params;

//:begin operands
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> bias: array<vec4<f32>>;  // forward
@group(0) @binding(4) var<storage, read> dy: array<vec4<f32>>;    // backward
fn x4(row: u32, column: u32) -> vec4<f32> {
    return x[(p.x_at.x + row * p.x_at.y + min(column, p.n - 4u)) / 4u];
}
fn weight4(row: u32, column: u32) -> vec4<f32> {
    return weight[(p.weight_at.x + row * p.weight_at.y + min(column, p.n - 4u)) / 4u];
}
fn bias4(row: u32, column: u32) -> vec4<f32> {
    return bias[(p.bias_at.x + row * p.bias_at.y + min(column, p.n - 4u)) / 4u];
}
fn dy4(row: u32, column: u32) -> vec4<f32> {
    return dy[(p.dy_at.x + row * p.dy_at.y + min(column, p.n - 4u)) / 4u];
}
//:end operands

//:begin epilogue
@group(0) @binding(6) var<storage, read_write> out0: array<vec4<f32>>;
fn store4(batch: u32, row: u32, column: u32, value: vec4<f32>) {
    let o = p.operands[0];
    out0[o.x + batch * o.y + row * o.z + column / 4u] = value;
}
//:end epilogue

//:begin team
var<workgroup> exchange: array<vec2<f32>, LANES * TEAMS>;
fn sums_over_team(value: vec2<f32>, local: u32) -> vec2<f32> {
    workgroupBarrier();  // what the exchange before left has been read
    exchange[local] = value;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if (local % LANES < half) { exchange[local] += exchange[local + half]; }
        workgroupBarrier();
    }
    return exchange[local - local % LANES];
}
//:end team

fn column(b: u32, lane: u32) -> u32 { return (b * LANES + lane) * 4u; }
fn inside(column: u32) -> vec4<bool> { return vec4<u32>(column) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(p.n); }
fn only(value: vec4<f32>, column: u32) -> vec4<f32> { return select(vec4<f32>(0.0), value, inside(column)); }
fn total(v: vec4<f32>) -> f32 { return (v.x + v.y) + (v.z + v.w); }

//:begin forward
@group(0) @binding(1) var<storage, read_write> statistics: array<vec2<f32>>;  // of each row: 1/σ, mean

@compute @workgroup_size(LANES * TEAMS)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let lane = local % LANES;
    let team = (group.x + group.y * groups.x) * TEAMS + local / LANES;
    let scale = 1.0 / f32(p.n);
    // Every team makes as many rounds, so that barriers stay uniform; those past the end store nothing.
    for (var i = 0u; i < p.rows_per_team; i++) {
        let row = team * p.rows_per_team + i;
        let source = min(row, p.rows - 1u);
        var mean = 0.0;
        if (LAYER_NORM) {
            var sum = vec4<f32>(0.0);
            for (var b = 0u; b < p.blocks; b++) {
                let at = column(b, lane);
                sum += only(x4(source, at), at);
            }
            mean = sums_over_team(vec2<f32>(total(sum), 0.0), local).x * scale;
        }
        // The variance of the centred values: as accurate as can be.
        var squares = vec4<f32>(0.0);
        for (var b = 0u; b < p.blocks; b++) {
            let at = column(b, lane);
            let centred = only(x4(source, at) - mean, at);
            squares += centred * centred;
        }
        let variance = sums_over_team(vec2<f32>(total(squares), 0.0), local).x * scale;
        let rstd = inverseSqrt(variance + p.epsilon);
        for (var b = 0u; b < p.blocks; b++) {
            let at = column(b, lane);
            var value = (x4(source, at) - mean) * rstd * weight4(0u, at);
            if (BIAS) { value += bias4(0u, at); }
            if (row < p.rows && at < p.n) { store4(0u, row, at, value); }
        }
        if (row < p.rows && lane == 0u) { statistics[row] = vec2<f32>(rstd, mean); }
    }
}
//:end forward

//:begin backward
@group(0) @binding(1) var<storage, read> saved: array<vec2<f32>>;             // the statistics
@group(0) @binding(5) var<storage, read_write> partial_sums: array<f32>;  // [teams, 2, n]: of weight, of bias

fn put_partial(team: u32, which: u32, column: u32, value: vec4<f32>) {
    let at = (team * 2u + which) * p.n + column;
    partial_sums[at] = value.x;
    if (column + 1u < p.n) { partial_sums[at + 1u] = value.y; }
    if (column + 2u < p.n) { partial_sums[at + 2u] = value.z; }
    if (column + 3u < p.n) { partial_sums[at + 3u] = value.w; }
}

// dx = 1/σ · (g − mean(g) − x̂·mean(g·x̂)) with g = dy·weight and x̂ = (x − mean)/σ; RMSNorm has no means of x and g.
@compute @workgroup_size(LANES * TEAMS)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let lane = local % LANES;
    let team = (group.x + group.y * groups.x) * TEAMS + local / LANES;
    let scale = 1.0 / f32(p.n);
    for (var i = 0u; i < p.rows_per_team; i++) {
        let row = team * p.rows_per_team + i;
        let source = min(row, p.rows - 1u);
        let s = saved[source];
        var g_sum = vec4<f32>(0.0);
        var gx_sum = vec4<f32>(0.0);
        for (var b = 0u; b < p.blocks; b++) {
            let at = column(b, lane);
            let g = only(dy4(source, at) * weight4(0u, at), at);
            g_sum += g;
            gx_sum += g * ((x4(source, at) - s.y) * s.x);
        }
        let means = sums_over_team(vec2<f32>(total(g_sum), total(gx_sum)), local) * scale;
        for (var b = 0u; b < p.blocks; b++) {
            let at = column(b, lane);
            var value = dy4(source, at) * weight4(0u, at) - (x4(source, at) - s.y) * s.x * means.y;
            if (LAYER_NORM) { value -= means.x; }
            if (row < p.rows && at < p.n) { store4(0u, row, at, value * s.x); }
        }
    }
    if (team >= p.teams) { return; }
    let start = team * p.rows_per_team;
    let end = min(start + p.rows_per_team, p.rows);
    for (var b = 0u; b < p.blocks; b++) {
        let at = column(b, lane);
        if (at >= p.n) { break; }
        var dweight = vec4<f32>(0.0);
        var dbias = vec4<f32>(0.0);
        for (var row = start; row < end; row++) {
            let s = saved[row];
            let d = dy4(row, at);
            dweight += d * ((x4(row, at) - s.y) * s.x);
            dbias += d;
        }
        put_partial(team, 0u, at, dweight);
        if (BIAS) { put_partial(team, 1u, at, dbias); }
    }
}
//:end backward

// --- The second stage: the partial sums of all teams ---

//:begin parameters
const COLUMNS: u32 = 8u;  // of a workgroup
const PARTS: u32 = 1u;    // into which the teams are divided

@group(0) @binding(1) var<storage, read> partial_in: array<f32>;
@group(0) @binding(2) var<storage, read_write> dweight_out: array<f32>;
@group(0) @binding(3) var<storage, read_write> dbias_out: array<f32>;

var<workgroup> parts: array<vec2<f32>, COLUMNS * PARTS>;

// The sums for weight and bias of the column that an invocation of the first COLUMNS has.
fn added(group: u32, local: u32) -> vec2<f32> {
    let at = min(group * COLUMNS + local % COLUMNS, p.n - 1u);
    var sum = vec2<f32>(0.0);
    for (var team = local / COLUMNS; team < p.teams; team += PARTS) {
        sum.x += partial_in[team * 2u * p.n + at];
        if (BIAS) { sum.y += partial_in[(team * 2u + 1u) * p.n + at]; }
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
//:end parameters
