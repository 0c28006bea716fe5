// LayerNorm and RMSNorm, forward and backward, for software adapters with subgroups of exactly 8 (Mesa llvmpipe), and
// rows of a few hundred columns. norm.wgsl is the portable twin, and its `parameters…` is the second stage here too.
//
// A row belongs to the 8 lanes; lane l holds columns 32b + 4l .. 32b + 4l + 3 of every block b. One vec4 load then brings
// 32 contiguous values, the weight stays in registers for all rows of the team, and the sum over the lanes is three
// shuffles (one instruction each there; subgroupAdd is a loop). The row is read once and written once. Backward adds up
// the gradients of weight and bias over the team's rows in registers, one partial row a team. As in the matrix product,
// parameters are read before the loop, and places are carried from row to row.
//
// Operands are declared when a kernel is made, as in `tests/shaders`, and the epilogue again.

import shadegrad::norm_operands;

const BLOCKS: u32 = 1u;
alias Row = array<vec4<f32>, BLOCKS>;

fn over_lanes(v: vec2<f32>) -> vec2<f32> {
    let a = v + subgroupShuffleXor(v, 1u);
    let b = a + subgroupShuffleXor(a, 2u);
    return b + subgroupShuffleXor(b, 4u);
}

fn total(v: vec4<f32>) -> f32 { return (v.x + v.y) + (v.z + v.w); }
fn column(b: u32, lane: u32) -> u32 { return b * 32u + lane * 4u; }
// Zero past the end: `left` columns are there from this one on.
fn only(value: vec4<f32>, left: i32) -> vec4<f32> {
    return select(vec4<f32>(0.0), value, vec4<i32>(left) > vec4<i32>(0, 1, 2, 3));
}

@compute @workgroup_size(8)
fn forward(group: Group, @builtin(subgroup_invocation_id) lane: u32) {
    let team = index_of(group);
    if (team >= p.parts) { return; }
    let n = p.n;
    let epsilon = p.epsilon;
    let first = team * p.rows_per_team;
    let end = min(first + p.rows_per_team, p.rows);
    let x_next = x_step();
    var w: Row;
    var c: Row;
    var x_at: array<vec4<u32>, BLOCKS>;
    var out_at: array<Cursor, BLOCKS>;
    for (var b = 0u; b < BLOCKS; b++) {
        w[b] = weight_load(weight_place(0u, column(b, lane)));
        if (BIAS) { c[b] = bias_load(bias_place(0u, column(b, lane))); }
        x_at[b] = x_place(first, column(b, lane));
        out_at[b] = cursor(0u, first, min(column(b, lane), n - 1u));
    }
    let scale = 1.0 / f32(n);
    for (var row = first; row < end; row++) {
        var r: Row;
        var s = vec4<f32>(0.0);
        for (var b = 0u; b < BLOCKS; b++) {
            r[b] = only(x_load(x_at[b]), i32(n - column(b, lane)));
            s += r[b];
            x_at[b] += x_next;
        }
        var mean = 0.0;
        if (LAYER_NORM) { mean = over_lanes(vec2<f32>(total(s), 0.0)).x * scale; }
        // Two passes over registers: the variance is of the centred values, as accurate as can be.
        var q = vec4<f32>(0.0);
        for (var b = 0u; b < BLOCKS; b++) {
            r[b] = only(r[b] - mean, i32(n - column(b, lane)));
            q += r[b] * r[b];
        }
        let rstd = inverseSqrt(over_lanes(vec2<f32>(total(q), 0.0)).x * scale + epsilon);
        for (var b = 0u; b < BLOCKS; b++) {
            var v = r[b] * rstd * w[b];
            if (BIAS) { v += c[b]; }
            var at = out_at[b];
            if (column(b, lane) < n) { store_next(&at, column(b, lane), v); }
            out_at[b] = at;
        }
        if (lane == 0u) { statistics[row] = vec2<f32>(rstd, mean); }
    }
}

@compute @workgroup_size(8)
fn backward(group: Group, @builtin(subgroup_invocation_id) lane: u32) {
    let team = index_of(group);
    if (team >= p.parts) { return; }
    let n = p.n;
    let first = team * p.rows_per_team;
    let end = min(first + p.rows_per_team, p.rows);
    let x_next = x_step();
    let dy_next = dy_step();
    var w: Row;
    var dw: Row;
    var db: Row;
    var x_at: array<vec4<u32>, BLOCKS>;
    var dy_at: array<vec4<u32>, BLOCKS>;
    var out_at: array<Cursor, BLOCKS>;
    for (var b = 0u; b < BLOCKS; b++) {
        w[b] = weight_load(weight_place(0u, column(b, lane)));
        dw[b] = vec4<f32>(0.0);
        db[b] = vec4<f32>(0.0);
        x_at[b] = x_place(first, column(b, lane));
        dy_at[b] = dy_place(first, column(b, lane));
        out_at[b] = cursor(0u, first, min(column(b, lane), n - 1u));
    }
    let scale = 1.0 / f32(n);
    for (var row = first; row < end; row++) {
        let st = saved[row];
        var h: Row;
        var g: Row;
        var s = vec4<f32>(0.0);
        var q = vec4<f32>(0.0);
        for (var b = 0u; b < BLOCKS; b++) {
            h[b] = (x_load(x_at[b]) - st.y) * st.x;
            let d = only(dy_load(dy_at[b]), i32(n - column(b, lane)));
            x_at[b] += x_next;
            dy_at[b] += dy_next;
            dw[b] += d * h[b];
            if (BIAS) { db[b] += d; }
            g[b] = d * w[b];
            s += g[b];
            q += g[b] * h[b];
        }
        // dx = 1/σ · (g − mean(g) [LayerNorm only] − x̂ · mean(g·x̂)), g = dy·weight
        let sums = over_lanes(vec2<f32>(total(s), total(q))) * scale;
        for (var b = 0u; b < BLOCKS; b++) {
            var v = g[b] - h[b] * sums.y;
            if (LAYER_NORM) { v -= sums.x; }
            var at = out_at[b];
            if (column(b, lane) < n) { store_next(&at, column(b, lane), v * st.x); }
            out_at[b] = at;
        }
    }
    for (var b = 0u; b < BLOCKS; b++) {
        put_partial(team, 0u, column(b, lane), dw[b]);
        if (BIAS) { put_partial(team, 1u, column(b, lane), db[b]); }
    }
}
