// What the heads of a packed projection go through before attention: an RMS norm of queries and of keys, a turn of pairs
// (i, i + half) by an angle that depends on the row's position, and the way of keys and values into a cache.
//
// Without norms an invocation has one pair, or four neighbouring pairs where half a head and all offsets are multiples of
// four. With norms a team has a head, see team.wgsl.
//
// What there is of all this is declared when a kernel is made; as it stands there is nothing of the kind.

import shadegrad::grid;
import shadegrad::team;

struct Params {
    count: u32,         // pairs of all rows; heads of all rows where a team has one
    slots: u32,         // heads of a row
    half: u32,          // pairs of a head: the last has one element only where a head has an odd number
    width: u32,         // elements of a head
    queries: u32,       // heads of queries, from the row's start
    turned: u32,        // heads that are normalised and turned, from the row's start; the others are copied
    positions: u32,     // rows r, r + positions, … share a position
    capacity: u32,      // rows of the cache
    input_offset: u32,
    output_offset: u32,
    gradient_offset: u32,
    statistics_offset: u32,
    table_offset: u32,
    table_stride: u32,  // from one position to the next
    table_rows: u32,
    query_weight_offset: u32,
    key_weight_offset: u32,
    cache_offset: u32,
    starts_offset: u32,
    rows: u32,
    rows_per_part: u32, // for weights' gradients
    sign: f32,          // 1 turns forward, −1 back
    epsilon: f32,
    scale: f32,         // 1 / elements of a head
}

alias T = f32;
fn total(v: T) -> f32 { return v; }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> input: array<T>;
@group(0) @binding(2) var<storage, read_write> output: array<T>;

struct Pair { a: T, b: T }

// Cosine and sine.
fn angle_of(row: u32, pair: u32) -> Pair { return Pair(T(1.0), T(0.0)); }
fn position_of(row: u32) -> u32 { return row % p.positions; }
fn weight_of(slot: u32, i: u32) -> T { return T(1.0); }
fn keep_statistic(head: u32, rstd: f32) {}
fn put(row: u32, slot: u32, i: u32, value: T) {
    output[p.output_offset + (row * p.slots + slot) * p.width + i] = value;
}

fn input_pair(head: u32, pair: u32) -> Pair {
    let at = p.input_offset + head * p.width + pair;
    if (pair + p.half < p.width) { return Pair(input[at], input[at + p.half]); }
    return Pair(input[at], T(0.0));
}

fn turned(x: Pair, row: u32, slot: u32, pair: u32, sign: f32) -> Pair {
    let angle = angle_of(row, pair);
    let is_turned = slot < p.turned;
    let cosine = select(T(1.0), angle.a, is_turned);
    let sine = select(T(0.0), angle.b * sign, is_turned);
    return Pair(x.a * cosine - x.b * sine, x.b * cosine + x.a * sine);
}

fn put_pair(row: u32, slot: u32, pair: u32, x: Pair) {
    put(row, slot, pair, x.a);
    if (pair + p.half < p.width) { put(row, slot, pair + p.half, x.b); }
}

@compute @workgroup_size(64)
fn heads(group: Group, @builtin(local_invocation_index) lane: u32) {
    let i = index_of(group) * 64u + lane;
    if (i >= p.count) { return; }
    let head = i / p.half;
    let pair = i % p.half;
    let row = head / p.slots;
    let slot = head % p.slots;
    put_pair(row, slot, pair, turned(input_pair(head, pair), row, slot, pair, p.sign));
}

fn weights_of(slot: u32, pair: u32) -> Pair {
    return Pair(weight_of(slot, pair), weight_of(slot, min(pair + p.half, p.width - 1u)));
}

@compute @workgroup_size(LANES * TEAMS)
fn normed_heads(group: Group, place: Place) {
    let lane = lane_of(place);
    let index = index_of(group) * TEAMS + team_of(place);
    let head = min(index, p.count - 1u);
    let row = head / p.slots;
    let slot = head % p.slots;
    let half = p.half;
    var squares = 0.0;
    for (var pair = lane; pair < half; pair += LANES) {
        let x = input_pair(head, pair);
        squares += total(x.a * x.a) + total(x.b * x.b);
    }
    let sum = sums_over_team(vec2<f32>(squares, 0.0), place).x;
    if (index >= p.count) { return; }
    let rstd = select(1.0, inverseSqrt(sum * p.scale + p.epsilon), slot < p.turned);
    for (var pair = lane; pair < half; pair += LANES) {
        let x = input_pair(head, pair);
        let w = weights_of(slot, pair);
        put_pair(row, slot, pair, turned(Pair(x.a * rstd * w.a, x.b * rstd * w.b), row, slot, pair, p.sign));
    }
    if (lane == 0u) { keep_statistic(head, rstd); }
}

// Gradients. What arrives is turned back; x̂ = x/σ.

@group(0) @binding(3) var<storage, read> gradient: array<T>;
@group(0) @binding(4) var<storage, read> saved: array<f32>;  // of each head: 1/σ

fn arrived(head: u32, row: u32, slot: u32, pair: u32) -> Pair {
    let at = p.gradient_offset + head * p.width + pair;
    var d = Pair(gradient[at], T(0.0));
    if (pair + p.half < p.width) { d.b = gradient[at + p.half]; }
    return turned(d, row, slot, pair, -p.sign);
}

// dx = 1/σ · (g − x̂·mean(g·x̂)) with g = dy·weight
@compute @workgroup_size(LANES * TEAMS)
fn heads_gradient(group: Group, place: Place) {
    let lane = lane_of(place);
    let index = index_of(group) * TEAMS + team_of(place);
    let head = min(index, p.count - 1u);
    let row = head / p.slots;
    let slot = head % p.slots;
    let half = p.half;
    let rstd = saved[p.statistics_offset + head];
    var products = 0.0;
    for (var pair = lane; pair < half; pair += LANES) {
        let x = input_pair(head, pair);
        let d = arrived(head, row, slot, pair);
        let w = weights_of(slot, pair);
        products += total(d.a * w.a * x.a) + total(d.b * w.b * x.b);
    }
    let sum = sums_over_team(vec2<f32>(products, 0.0), place).x;
    if (index >= p.count) { return; }
    let mean = select(0.0, sum * p.scale * rstd, slot < p.turned);
    for (var pair = lane; pair < half; pair += LANES) {
        let x = input_pair(head, pair);
        let d = arrived(head, row, slot, pair);
        let w = weights_of(slot, pair);
        put_pair(row, slot, pair, Pair((d.a * w.a - x.a * rstd * mean) * rstd, (d.b * w.b - x.b * rstd * mean) * rstd));
    }
}

// Σ dy·x̂ over the heads of queries or keys of some rows: [of queries and of keys, parts, width], a pair an invocation.
@compute @workgroup_size(64)
fn weight_gradients(group: Group, @builtin(local_invocation_index) lane: u32) {
    let i = index_of(group) * 64u + lane;
    if (i >= p.count) { return; }
    let pair = i % p.half;
    let part_of_kind = i / p.half;  // parts of queries, then of keys
    let parts = (p.rows + p.rows_per_part - 1u) / p.rows_per_part;
    let is_key = part_of_kind >= parts;
    let first_row = part_of_kind % parts * p.rows_per_part;
    let end_row = min(first_row + p.rows_per_part, p.rows);
    let first_slot = select(0u, p.queries, is_key);
    let end_slot = select(p.queries, p.turned, is_key);
    var sum = Pair();
    for (var row = first_row; row < end_row; row++) {
        for (var slot = first_slot; slot < end_slot; slot++) {
            let head = row * p.slots + slot;
            let rstd = saved[p.statistics_offset + head];
            let x = input_pair(head, pair);
            let d = arrived(head, row, slot, pair);
            sum.a += d.a * x.a * rstd;
            sum.b += d.b * x.b * rstd;
        }
    }
    let at = p.output_offset + part_of_kind * p.width + pair;
    output[at] = sum.a;
    if (pair + p.half < p.width) { output[at + p.half] = sum.b; }
}
