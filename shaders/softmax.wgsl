// Softmax and log-softmax over rows, and their gradients.
//
// A team of lanes shares a row, see team.wgsl: lane l takes columns 4·(b·LANES + l) and the three after it for every block
// b. The first KEPT blocks stay in registers, so that up to 8,192 columns are read once; those beyond are read once more
// to be stored. The maximum is subtracted before exponentiating, so nothing overflows. A row without any finite element
// gives zeros.
//
// Operands are declared when a kernel is made, as in `tests/shaders`, and the epilogue again.

import shadegrad::epilogue;
import shadegrad::grid;
import shadegrad::rows;

const LOG: u32 = 0u;   // 1: log-softmax

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

fn max4(v: vec4<f32>) -> f32 { return max(max(v.x, v.y), max(v.z, v.w)); }

// e^(x − top), zero past the end.
fn share(x: vec4<f32>, b: u32, lane: u32, top: f32) -> vec4<f32> { return only(exp(x - top), column(b, lane)); }

// What is kept of a block once the maximum is known, and what it adds to the denominator.
fn away(x: vec4<f32>, b: u32, lane: u32, top: f32) -> vec4<f32> {
    if (LOG == 1u) { return x - top; }
    return share(x, b, lane, top);
}

fn term_of(away: vec4<f32>, b: u32, lane: u32) -> vec4<f32> {
    if (LOG == 1u) { return only(exp(away), column(b, lane)); }
    return away;
}

// Stores it, given the logarithm of the denominator or one over it.
fn put_kept(row: u32, b: u32, lane: u32, away: vec4<f32>, rest: f32) {
    let at = column(b, lane);
    var v = away * rest;
    if (LOG == 1u) { v = away - rest; }
    if (row < p.rows && at < p.n) { store4(0u, row, at, v); }
}

fn put_y(row: u32, b: u32, lane: u32, x: vec4<f32>, top: f32, denominator: f32) {
    let at = column(b, lane);
    var v = x - top;
    if (LOG == 1u) { v -= log(denominator); } else { v = exp(v) / denominator; }
    if (row < p.rows && at < p.n) { store4(0u, row, at, v); }
}

@compute @workgroup_size(LANES * TEAMS)
fn forward(group: Group, place: Place) {
    let lane = lane_of(place);
    let team = index_of(group) * TEAMS + team_of(place);
    // Every team makes as many rounds, so that barriers stay uniform; those past the end store nothing.
    for (var i = 0u; i < p.rows_per_team; i++) {
        let row = team * p.rows_per_team + i;
        let source = min(row, p.rows - 1u);
        var r = Blocks();
        var most = -3.0e38;
        if (KEPT > $8u) { r.b$8 = x4(source, column($8u, lane)); }
        if (KEPT > $8u) { most = max(most, max4(r.b$8)); }
        // The blocks beyond in one pass: when the maximum rises, the sum so far is rescaled.
        var sum = 0.0;
        for (var b = KEPT; b < p.blocks; b++) {
            let x = x4(source, column(b, lane));
            let higher = max(most, max4(x));
            sum = sum * exp(most - higher) + total(share(x, b, lane, higher));
            most = higher;
        }
        let top = max_over_team(most, place);
        sum *= exp(most - top);
        var terms = vec4<f32>(0.0);
        if (KEPT > $8u) { r.b$8 = away(r.b$8, $8u, lane, top); terms += term_of(r.b$8, $8u, lane); }
        sum += total(terms);
        // At least 1, from the maximum itself, which the term doesn't change, or 0 if nothing is finite. NaN stays, which
        // `max` may drop.
        let denominator = sums_over_team(vec2<f32>(sum, 0.0), place).x + 1.0e-30;
        var rest = 1.0 / denominator;
        if (LOG == 1u) { rest = log(denominator); }
        if (KEPT > $8u) { put_kept(row, $8u, lane, r.b$8, rest); }
        for (var b = KEPT; b < p.blocks; b++) {
            put_y(row, b, lane, x4(source, column(b, lane)), top, denominator);
        }
    }
}

fn term(gradient: vec4<f32>, y: vec4<f32>, b: u32, lane: u32) -> vec4<f32> {
    if (LOG == 1u) { return only(gradient, column(b, lane)); }
    return only(gradient * y, column(b, lane));
}

// softmax:      dx = y·(g − Σ g·y)
// log-softmax:  dx = g − exp(y)·Σ g
fn put_dx(row: u32, b: u32, lane: u32, gradient: vec4<f32>, y: vec4<f32>, sum: f32) {
    let at = column(b, lane);
    var v: vec4<f32>;
    if (LOG == 1u) { v = gradient - exp(y) * sum; } else { v = y * (gradient - sum); }
    if (row < p.rows && at < p.n) { store4(0u, row, at, v); }
}

@compute @workgroup_size(LANES * TEAMS)
fn backward(group: Group, place: Place) {
    let lane = lane_of(place);
    let team = index_of(group) * TEAMS + team_of(place);
    for (var i = 0u; i < p.rows_per_team; i++) {
        let row = team * p.rows_per_team + i;
        let source = min(row, p.rows - 1u);
        var g = Blocks();
        var y = Blocks();
        var sum = vec4<f32>(0.0);
        if (KEPT > $8u) { g.b$8 = x4(source, column($8u, lane)); y.b$8 = result4(source, column($8u, lane)); }
        if (KEPT > $8u) { sum += term(g.b$8, y.b$8, $8u, lane); }
        for (var b = KEPT; b < p.blocks; b++) {
            sum += term(x4(source, column(b, lane)), result4(source, column(b, lane)), b, lane);
        }
        let s = sums_over_team(vec2<f32>(total(sum), 0.0), place).x;
        if (KEPT > $8u) { put_dx(row, $8u, lane, g.b$8, y.b$8, s); }
        for (var b = KEPT; b < p.blocks; b++) {
            put_dx(row, b, lane, x4(source, column(b, lane)), result4(source, column(b, lane)), s);
        }
    }
}
