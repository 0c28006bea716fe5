// Softmax and log-softmax over rows, and their gradients.
//
// LANES invocations, a team, share a row: lane l takes columns 4·(b·LANES + l) and the three after it for every block b.
// A row is read again for every pass over it; between passes the team exchanges maximum and sum. The maximum is
// subtracted before exponentiating, so nothing overflows. A row without any finite element gives zeros.
//
// The blocks operands, team and epilogue are replaced when a kernel is made, and the other direction is cut out.

const LANES: u32 = 8u;
const TEAMS: u32 = 8u;  // in a workgroup
const LOG: u32 = 0u;    // 1: log-softmax

struct Params {
    n: u32,                        // columns
    rows: u32,
    rows_per_team: u32,
    blocks: u32,                   // of a row
    x_at: vec2<u32>,               // offset and row stride of each operand
    result_at: vec2<u32>,
    operands: array<vec4<u32>, 7>, // of the epilogue: offset, strides of batch, row and column
}

@group(0) @binding(0) var<uniform> p: Params;

//:begin operands
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;       // backward: the gradient that arrives
@group(0) @binding(2) var<storage, read> result: array<vec4<f32>>;  // backward only
fn x4(row: u32, column: u32) -> vec4<f32> {
    return x[(p.x_at.x + row * p.x_at.y + min(column, p.n - 4u)) / 4u];
}
fn result4(row: u32, column: u32) -> vec4<f32> {
    return result[(p.result_at.x + row * p.result_at.y + min(column, p.n - 4u)) / 4u];
}
//:end operands

//:begin epilogue
@group(0) @binding(3) var<storage, read_write> out0: array<vec4<f32>>;
fn store4(batch: u32, row: u32, column: u32, value: vec4<f32>) {
    let o = p.operands[0];
    out0[o.x + batch * o.y + row * o.z + column / 4u] = value;
}
//:end epilogue

//:begin team
var<workgroup> exchange: array<f32, LANES * TEAMS>;
fn sum_over_team(value: f32, local: u32) -> f32 {
    workgroupBarrier();  // what the exchange before left has been read
    exchange[local] = value;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if (local % LANES < half) { exchange[local] += exchange[local + half]; }
        workgroupBarrier();
    }
    return exchange[local - local % LANES];
}
fn max_over_team(value: f32, local: u32) -> f32 {
    workgroupBarrier();
    exchange[local] = value;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if (local % LANES < half) { exchange[local] = max(exchange[local], exchange[local + half]); }
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
@compute @workgroup_size(LANES * TEAMS)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let lane = local % LANES;
    let team = (group.x + group.y * groups.x) * TEAMS + local / LANES;
    // Every team makes as many rounds, so that barriers stay uniform; those past the end store nothing.
    for (var i = 0u; i < p.rows_per_team; i++) {
        let row = team * p.rows_per_team + i;
        let source = min(row, p.rows - 1u);
        var most = x4(source, column(0u, lane));
        for (var b = 1u; b < p.blocks; b++) { most = max(most, x4(source, column(b, lane))); }
        let top = max(max_over_team(max(max(most.x, most.y), max(most.z, most.w)), local), -3.0e38);
        var sum = vec4<f32>(0.0);
        for (var b = 0u; b < p.blocks; b++) {
            let at = column(b, lane);
            sum += only(exp(x4(source, at) - top), at);
        }
        // At least 1, from the maximum itself, unless nothing is finite.
        let denominator = max(sum_over_team(total(sum), local), 1.0e-30);
        for (var b = 0u; b < p.blocks; b++) {
            let at = column(b, lane);
            var v = x4(source, at) - top;
            if (LOG == 1u) { v -= log(denominator); } else { v = exp(v) / denominator; }
            if (row < p.rows && at < p.n) { store4(0u, row, at, v); }
        }
    }
}
//:end forward

//:begin backward
// softmax:      dx = y·(g − Σ g·y)
// log-softmax:  dx = g − exp(y)·Σ g
@compute @workgroup_size(LANES * TEAMS)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let lane = local % LANES;
    let team = (group.x + group.y * groups.x) * TEAMS + local / LANES;
    for (var i = 0u; i < p.rows_per_team; i++) {
        let row = team * p.rows_per_team + i;
        let source = min(row, p.rows - 1u);
        var sum = vec4<f32>(0.0);
        for (var b = 0u; b < p.blocks; b++) {
            let at = column(b, lane);
            var term = x4(source, at);
            if (LOG == 0u) { term *= result4(source, at); }
            sum += only(term, at);
        }
        let s = sum_over_team(total(sum), local);
        for (var b = 0u; b < p.blocks; b++) {
            let at = column(b, lane);
            let gradient = x4(source, at);
            let result = result4(source, at);
            var v: vec4<f32>;
            if (LOG == 1u) { v = gradient - exp(result) * s; } else { v = result * (gradient - s); }
            if (row < p.rows && at < p.n) { store4(0u, row, at, v); }
        }
    }
}
//:end backward
