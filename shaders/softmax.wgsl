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
        if (KEPT > 0u) { r.b0 = x4(source, column(0u, lane)); }
        if (KEPT > 1u) { r.b1 = x4(source, column(1u, lane)); }
        if (KEPT > 2u) { r.b2 = x4(source, column(2u, lane)); }
        if (KEPT > 3u) { r.b3 = x4(source, column(3u, lane)); }
        if (KEPT > 4u) { r.b4 = x4(source, column(4u, lane)); }
        if (KEPT > 5u) { r.b5 = x4(source, column(5u, lane)); }
        if (KEPT > 6u) { r.b6 = x4(source, column(6u, lane)); }
        if (KEPT > 7u) { r.b7 = x4(source, column(7u, lane)); }
        if (KEPT > 0u) { most = max(most, max4(r.b0)); }
        if (KEPT > 1u) { most = max(most, max4(r.b1)); }
        if (KEPT > 2u) { most = max(most, max4(r.b2)); }
        if (KEPT > 3u) { most = max(most, max4(r.b3)); }
        if (KEPT > 4u) { most = max(most, max4(r.b4)); }
        if (KEPT > 5u) { most = max(most, max4(r.b5)); }
        if (KEPT > 6u) { most = max(most, max4(r.b6)); }
        if (KEPT > 7u) { most = max(most, max4(r.b7)); }
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
        if (KEPT > 0u) { r.b0 = away(r.b0, 0u, lane, top); terms += term_of(r.b0, 0u, lane); }
        if (KEPT > 1u) { r.b1 = away(r.b1, 1u, lane, top); terms += term_of(r.b1, 1u, lane); }
        if (KEPT > 2u) { r.b2 = away(r.b2, 2u, lane, top); terms += term_of(r.b2, 2u, lane); }
        if (KEPT > 3u) { r.b3 = away(r.b3, 3u, lane, top); terms += term_of(r.b3, 3u, lane); }
        if (KEPT > 4u) { r.b4 = away(r.b4, 4u, lane, top); terms += term_of(r.b4, 4u, lane); }
        if (KEPT > 5u) { r.b5 = away(r.b5, 5u, lane, top); terms += term_of(r.b5, 5u, lane); }
        if (KEPT > 6u) { r.b6 = away(r.b6, 6u, lane, top); terms += term_of(r.b6, 6u, lane); }
        if (KEPT > 7u) { r.b7 = away(r.b7, 7u, lane, top); terms += term_of(r.b7, 7u, lane); }
        sum += total(terms);
        // At least 1, from the maximum itself, which the term doesn't change, or 0 if nothing is finite. NaN stays, which
        // `max` may drop.
        let denominator = sums_over_team(vec2<f32>(sum, 0.0), place).x + 1.0e-30;
        var rest = 1.0 / denominator;
        if (LOG == 1u) { rest = log(denominator); }
        if (KEPT > 0u) { put_kept(row, 0u, lane, r.b0, rest); }
        if (KEPT > 1u) { put_kept(row, 1u, lane, r.b1, rest); }
        if (KEPT > 2u) { put_kept(row, 2u, lane, r.b2, rest); }
        if (KEPT > 3u) { put_kept(row, 3u, lane, r.b3, rest); }
        if (KEPT > 4u) { put_kept(row, 4u, lane, r.b4, rest); }
        if (KEPT > 5u) { put_kept(row, 5u, lane, r.b5, rest); }
        if (KEPT > 6u) { put_kept(row, 6u, lane, r.b6, rest); }
        if (KEPT > 7u) { put_kept(row, 7u, lane, r.b7, rest); }
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
        if (KEPT > 0u) { g.b0 = x4(source, column(0u, lane)); y.b0 = result4(source, column(0u, lane)); }
        if (KEPT > 1u) { g.b1 = x4(source, column(1u, lane)); y.b1 = result4(source, column(1u, lane)); }
        if (KEPT > 2u) { g.b2 = x4(source, column(2u, lane)); y.b2 = result4(source, column(2u, lane)); }
        if (KEPT > 3u) { g.b3 = x4(source, column(3u, lane)); y.b3 = result4(source, column(3u, lane)); }
        if (KEPT > 4u) { g.b4 = x4(source, column(4u, lane)); y.b4 = result4(source, column(4u, lane)); }
        if (KEPT > 5u) { g.b5 = x4(source, column(5u, lane)); y.b5 = result4(source, column(5u, lane)); }
        if (KEPT > 6u) { g.b6 = x4(source, column(6u, lane)); y.b6 = result4(source, column(6u, lane)); }
        if (KEPT > 7u) { g.b7 = x4(source, column(7u, lane)); y.b7 = result4(source, column(7u, lane)); }
        if (KEPT > 0u) { sum += term(g.b0, y.b0, 0u, lane); }
        if (KEPT > 1u) { sum += term(g.b1, y.b1, 1u, lane); }
        if (KEPT > 2u) { sum += term(g.b2, y.b2, 2u, lane); }
        if (KEPT > 3u) { sum += term(g.b3, y.b3, 3u, lane); }
        if (KEPT > 4u) { sum += term(g.b4, y.b4, 4u, lane); }
        if (KEPT > 5u) { sum += term(g.b5, y.b5, 5u, lane); }
        if (KEPT > 6u) { sum += term(g.b6, y.b6, 6u, lane); }
        if (KEPT > 7u) { sum += term(g.b7, y.b7, 7u, lane); }
        for (var b = KEPT; b < p.blocks; b++) {
            sum += term(x4(source, column(b, lane)), result4(source, column(b, lane)), b, lane);
        }
        let s = sums_over_team(vec2<f32>(total(sum), 0.0), place).x;
        if (KEPT > 0u) { put_dx(row, 0u, lane, g.b0, y.b0, s); }
        if (KEPT > 1u) { put_dx(row, 1u, lane, g.b1, y.b1, s); }
        if (KEPT > 2u) { put_dx(row, 2u, lane, g.b2, y.b2, s); }
        if (KEPT > 3u) { put_dx(row, 3u, lane, g.b3, y.b3, s); }
        if (KEPT > 4u) { put_dx(row, 4u, lane, g.b4, y.b4, s); }
        if (KEPT > 5u) { put_dx(row, 5u, lane, g.b5, y.b5, s); }
        if (KEPT > 6u) { put_dx(row, 6u, lane, g.b6, y.b6, s); }
        if (KEPT > 7u) { put_dx(row, 7u, lane, g.b7, y.b7, s); }
        for (var b = KEPT; b < p.blocks; b++) {
            put_dx(row, b, lane, x4(source, column(b, lane)), result4(source, column(b, lane)), s);
        }
    }
}
