// Cross-entropy of logits [rows, classes] with one target class a row, and its gradient.
//
//   most = maxₖ xₖ      total = Σₖ e^(xₖ − most)      distance = Σₖ (xₖ − most)
//   loss = ln total − confidence·(x_target − most) − uniform·distance
//   dxₖ  = (e^(xₖ − most) / total − confidence·[k = target] − uniform) · scale
//
// with confidence = 1 − label smoothing and uniform = label smoothing / classes. Maximum and sums are found in one pass
// over the row: when the maximum rises, the sums so far are rescaled. Rows whose target is ignored give zeros. A target
// that is no class makes its row not a number, so that the mistake shows.
//
// `count_targets` → the scale; `rows_…` → a loss for each row, and its gradient unless what writes it is declared away;
// `mean_loss` → their scaled sum.

import shadegrad::grid;
import shadegrad::team;

struct Params {
    rows: u32,
    classes: u32,
    logits_offset: u32, logits_row: u32, logits_class: u32,
    targets_offset: u32,
    losses_offset: u32,
    gradient_offset: u32,
    has_ignore: u32,
    ignore: u32,         // the target of rows that do not count
    is_counted: u32,     // whether the scale is in `counted` rather than here
    scale: f32,
    confidence: f32,
    uniform: f32,
    not_a_number: u32,   // as bits: WGSL has no such literal
    lift: f32,           // a power of two by which the gradient is larger than it should be
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(2) var<storage, read> targets: array<u32>;
@group(0) @binding(3) var<storage, read_write> losses: array<f32>;
@group(0) @binding(4) var<storage, read_write> gradient: array<f32>;
@group(0) @binding(5) var<storage, read> counted: array<f32>;

fn is_ignored(target_class: u32) -> bool {
    return p.has_ignore == 1u && target_class == p.ignore;
}

// Declared again where the gradient overwrites the logits.
@group(0) @binding(1) var<storage, read> logits: array<f32>;
fn logit(row: u32, k: u32) -> f32 {
    return logits[p.logits_offset + row * p.logits_row + k * p.logits_class];
}

// What is known of a part of a row.
struct Part {
    most: f32,
    total: f32,
    distance: f32,
    count: f32,
}

// The same relative to another maximum.
fn rescaled(part: Part, most: f32) -> Part {
    let rise = part.most - most;
    return Part(most, part.total * exp(rise), part.distance + part.count * rise, part.count);
}

fn joined(a: Part, b: Part) -> Part {
    let most = max(a.most, b.most);
    let x = rescaled(a, most);
    let y = rescaled(b, most);
    return Part(most, x.total + y.total, x.distance + y.distance, x.count + y.count);
}

// Classes `first`, `first + step`, … of a row.
fn part_of(row: u32, first: u32, step: u32) -> Part {
    var part = Part(-3.0e38, 0.0, 0.0, 0.0);
    var k = first;
    for (; k + 3u * step < p.classes; k += 4u * step) {
        let x = vec4<f32>(
            logit(row, k), logit(row, k + step),
            logit(row, k + 2u * step), logit(row, k + 3u * step));
        part = rescaled(part, max(part.most, max(max(x.x, x.y), max(x.z, x.w))));
        let away = x - part.most;
        let terms = exp(away);
        part.total += (terms.x + terms.y) + (terms.z + terms.w);
        part.distance += (away.x + away.y) + (away.z + away.w);
        part.count += 4.0;
    }
    for (; k < p.classes; k += step) {
        let x = logit(row, k);
        part = rescaled(part, max(part.most, x));
        part.total += exp(x - part.most);
        part.distance += x - part.most;
        part.count += 1.0;
    }
    return part;
}

// Replaced where the host has not checked the targets.
fn refuse(index: u32) {}

fn loss_of(row: u32, target_class: u32, part: Part) -> f32 {
    if (is_ignored(target_class)) { return 0.0; }
    if (target_class >= p.classes) {
        refuse(target_class);
        return bitcast<f32>(p.not_a_number);
    }
    var loss = log(part.total) - p.confidence * (logit(row, target_class) - part.most);
    // Without smoothing, a class that is masked by −∞ must not matter.
    if (p.uniform > 0.0) { loss -= p.uniform * part.distance; }
    return loss;
}

// Writes the gradient for classes `first`, `first + step`, … of a row.
fn write_gradient(row: u32, target_class: u32, part: Part, first: u32, step: u32) {
    let scale = slope_of(target_class);
    let ignored = is_ignored(target_class);
    let per_total = 1.0 / part.total;
    let to = p.gradient_offset + row * p.classes;
    for (var k = first; k < p.classes; k += step) {
        let expected = p.uniform + select(0.0, p.confidence, k == target_class);
        let slope = (exp(logit(row, k) - part.most) * per_total - expected) * scale;
        gradient[to + k] = select(slope, 0.0, ignored);
    }
}

// One row an invocation: for short rows on software adapters.

@compute @workgroup_size(16)
fn rows_by_invocation(group: Group, @builtin(local_invocation_index) lane: u32) {
    let row = index_of(group) * 16u + lane;
    if (row >= p.rows) { return; }
    let target_class = targets[p.targets_offset + row];
    let part = part_of(row, 0u, 1u);
    losses[p.losses_offset + row] = loss_of(row, target_class, part);
    write_gradient(row, target_class, part, 0u, 1u);
}

// One row a workgroup: for long rows on software adapters.

var<workgroup> parts: array<Part, LANES>;

// The whole row, from what every invocation knows of its part.
fn join_all(part: Part, lane: u32) -> Part {
    parts[lane] = part;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if (lane < half) { parts[lane] = joined(parts[lane], parts[lane + half]); }
        workgroupBarrier();
    }
    return parts[0];
}

@compute @workgroup_size(LANES)
fn rows_by_workgroup(group: Group, @builtin(local_invocation_index) lane: u32) {
    let index = index_of(group);
    // Groups past the end read the last row and store nothing, so that barriers stay uniform.
    let row = min(index, p.rows - 1u);
    let part = join_all(part_of(row, lane, LANES), lane);
    let target_class = targets[p.targets_offset + row];
    if (index < p.rows && lane == 0u) {
        losses[p.losses_offset + row] = loss_of(row, target_class, part);
    }
    // The gradient may overwrite the logit that the loss is of.
    storageBarrier();
    if (index < p.rows) { write_gradient(row, target_class, part, lane, LANES); }
}

// A team of lanes shares a row, see team.wgsl: on GPUs. Lane l takes classes l, l + LANES, … in both passes, so that the
// gradient may overwrite the logits without a barrier between them.

// Four logits of a row, LANES apart.
fn four(row: u32, k: u32) -> vec4<f32> {
    return vec4<f32>(
        logit(row, k), logit(row, k + LANES), logit(row, k + 2u * LANES), logit(row, k + 3u * LANES));
}

fn sum_of_four(v: vec4<f32>) -> f32 { return (v.x + v.y) + (v.z + v.w); }

// The whole row, from what every lane knows. For uniform control flow only.
fn join_team(part: Part, place: Place) -> Part {
    let most = max_over_team(part.most, place);
    let scaled = rescaled(part, most);
    let sums = sums_over_team(vec2<f32>(scaled.total, scaled.distance), place);
    return Part(most, sums.x, sums.y, 0.0);
}

fn store_four(to: u32, v: vec4<f32>) {
    gradient[to + $4u * LANES] = v[$4];
}

// Writes the gradient of a lane's classes as if none were the target.
fn write_others(row: u32, lane: u32, most: f32, factor: f32, off: f32) {
    let to = p.gradient_offset + row * p.classes;
    var k = lane;
    for (; k + 3u * LANES < p.classes; k += 4u * LANES) {
        store_four(to + k, exp(four(row, k) - most) * factor - off);
    }
    for (; k < p.classes; k += LANES) {
        gradient[to + k] = exp(logit(row, k) - most) * factor - off;
    }
}

// The loss, from the lane that has the target's class, before it overwrites the logit. Gives that logit to it. Of a target
// that is no class, the loss is not a number.
fn loss_at_target(row: u32, lane: u32, target_class: u32, part: Part) -> f32 {
    if (target_class % LANES != lane) { return 0.0; }
    losses[p.losses_offset + row] = loss_of(row, target_class, part);
    if (target_class < p.classes) { return logit(row, target_class); }
    return 0.0;
}

// What a row's gradient is multiplied by.
fn slope_of(target_class: u32) -> f32 {
    if (target_class >= p.classes) { return bitcast<f32>(p.not_a_number); }
    if (p.is_counted == 1u) { return counted[0] * p.lift; }
    return p.scale * p.lift;
}

// The target's gradient, over what was written as if it were none.
fn write_target(row: u32, lane: u32, target_class: u32, part: Part, at_target: f32, slope: f32) {
    if (target_class % LANES == lane && target_class < p.classes) {
        let share = exp(at_target - part.most) / part.total;
        gradient[p.gradient_offset + row * p.classes + target_class] = (share - p.confidence - p.uniform) * slope;
    }
}

// The gradient of a lane's classes, given the target's logit if that is among them.
fn write_of_lane(row: u32, lane: u32, target_class: u32, part: Part, at_target: f32) {
    if (is_ignored(target_class)) {
        let to = p.gradient_offset + row * p.classes;
        for (var k = lane; k < p.classes; k += LANES) { gradient[to + k] = 0.0; }
        return;
    }
    let slope = slope_of(target_class);
    write_others(row, lane, part.most, slope / part.total, p.uniform * slope);
    write_target(row, lane, target_class, part, at_target, slope);
}

@compute @workgroup_size(LANES * TEAMS)
fn rows_by_team(group: Group, place: Place) {
    let lane = lane_of(place);
    // Rows past the end have no classes.
    let row = index_of(group) * TEAMS + team_of(place);
    let part = join_team(part_of(row, select(p.classes, lane, row < p.rows), LANES), place);
    if (row >= p.rows) { return; }
    let target_class = targets[p.targets_offset + row];
    let at_target = loss_at_target(row, lane, target_class, part);
    write_of_lane(row, lane, target_class, part, at_target);
}

// For large vocabularies: a workgroup keeps its row in registers, so that memory is read once and written once. (Read
// twice, rows under way are more than caches hold.) A lane keeps BLOCKS vec4: LANES apart in each, the last ones past the end.

const CLASSES: u32 = 8u;
const BLOCKS: u32 = 2u; // at most 25

struct Kept {
    b$25: vec4<f32>,
}

fn block(row: u32, lane: u32, b: u32) -> vec4<f32> {
    let k = 4u * b * LANES + lane;
    if (4u * (b + 1u) * LANES <= CLASSES) { return four(row, k); }
    return vec4<f32>(
        guarded(row, k), guarded(row, k + LANES), guarded(row, k + 2u * LANES), guarded(row, k + 3u * LANES));
}

fn guarded(row: u32, k: u32) -> f32 {
    if (k < CLASSES) { return logit(row, k); }
    return -3.0e38;
}

fn are_classes(lane: u32, b: u32) -> vec4<bool> {
    return vec4<u32>(4u * b * LANES + lane) + vec4<u32>(0u, 1u, 2u, 3u) * LANES < vec4<u32>(CLASSES);
}

fn most_of_four(v: vec4<f32>) -> f32 { return max(max(v.x, v.y), max(v.z, v.w)); }

fn distance_of_four(v: vec4<f32>, lane: u32, b: u32, top: f32) -> f32 {
    return sum_of_four(select(vec4<f32>(0.0), v - top, are_classes(lane, b)));
}

fn store_block(to: u32, lane: u32, b: u32, v: vec4<f32>) {
    let k = 4u * b * LANES + lane;
    if (4u * (b + 1u) * LANES <= CLASSES) {
        store_four(to + k, v);
        return;
    }
    if (k + $4u * LANES < CLASSES) { gradient[to + k + $4u * LANES] = v[$4]; }
}

@compute @workgroup_size(LANES)
fn gradients_in_registers(group: Group, place: Place) {
    let lane = lane_of(place);
    let index = index_of(group);
    // Groups past the end read the last row and store nothing, so that barriers stay uniform.
    let row = min(index, p.rows - 1u);
    var r = Kept();
    var most = -3.0e38;
    if (BLOCKS > $25u) { r.b$25 = block(row, lane, $25u); }
    if (BLOCKS > $25u) { most = max(most, most_of_four(r.b$25)); }
    let top = max_over_team(most, place);
    var distance = 0.0;
    if (p.uniform > 0.0) {
        if (BLOCKS > $25u) { distance += distance_of_four(r.b$25, lane, $25u, top); }
    }
    var total = 0.0;
    if (BLOCKS > $25u) { r.b$25 = exp(r.b$25 - top); total += sum_of_four(r.b$25); }
    let sums = sums_over_team(vec2<f32>(total, distance), place);
    let part = Part(top, sums.x, sums.y, 0.0);
    if (index >= p.rows) { return; }
    let target_class = targets[p.targets_offset + row];
    let at_target = loss_at_target(row, lane, target_class, part);
    let ignored = is_ignored(target_class);
    let slope = slope_of(target_class);
    let factor = slope / part.total;
    let off = p.uniform * slope;
    let to = p.gradient_offset + row * p.classes;
    if (BLOCKS > $25u) { store_block(to, lane, $25u, select(r.b$25 * factor - off, vec4<f32>(), vec4<bool>(ignored))); }
    if (!ignored) { write_target(row, lane, target_class, part, at_target, slope); }
}

// Both of these run as a single workgroup.

@group(0) @binding(1) var<storage, read> all_targets: array<u32>;
@group(0) @binding(2) var<storage, read_write> count: array<f32>;
@group(0) @binding(1) var<storage, read> row_losses: array<f32>;
@group(0) @binding(2) var<storage, read> row_scale: array<f32>;
@group(0) @binding(3) var<storage, read_write> loss: array<f32>;

fn is_counted(row: u32) -> f32 { return select(1.0, 0.0, is_ignored(all_targets[p.targets_offset + row])); }

// What is added up: declared again where targets are counted.
fn term(row: u32) -> f32 { return row_losses[row]; }
fn terms(row: u32) -> vec4<f32> {
    return vec4<f32>(term(row), term(row + LANES), term(row + 2u * LANES), term(row + 3u * LANES));
}

var<workgroup> sums: array<f32, LANES>;

fn sum_of_rows(lane: u32) -> f32 {
    var mine = 0.0;
    var row = lane;
    // On GPUs, many loads under way at a time.
    if (LANES > 8u) {
        for (; row + 15u * LANES < p.rows; row += 16u * LANES) {
            mine += sum_of_four((terms(row) + terms(row + 4u * LANES)) + (terms(row + 8u * LANES) + terms(row + 12u * LANES)));
        }
    }
    for (; row < p.rows; row += LANES) { mine += term(row); }
    sums[lane] = mine;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if (lane < half) { sums[lane] += sums[lane + half]; }
        workgroupBarrier();
    }
    return sums[0];
}

// One over the number of targets that are not ignored; zero if all are.
@compute @workgroup_size(LANES)
fn count_targets(@builtin(local_invocation_index) lane: u32) {
    let all = sum_of_rows(lane);
    if (lane == 0u) { count[0] = select(1.0 / max(all, 1.0), 0.0, all == 0.0); }
}

@compute @workgroup_size(LANES)
fn mean_loss(@builtin(local_invocation_index) lane: u32) {
    let all = sum_of_rows(lane);
    if (lane == 0u) {
        var scale = p.scale;
        if (p.is_counted == 1u) { scale = row_scale[0]; }
        loss[p.losses_offset] = all * scale;
    }
}
