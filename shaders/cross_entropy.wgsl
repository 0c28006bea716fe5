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
// `count_targets` → the scale; `losses_…` or `gradients_…` → a loss for each row; `mean_loss` → their scaled sum.

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
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(2) var<storage, read> targets: array<u32>;
@group(0) @binding(3) var<storage, read_write> losses: array<f32>;
@group(0) @binding(4) var<storage, read_write> gradient: array<f32>;
@group(0) @binding(5) var<storage, read> counted: array<f32>;

fn is_ignored(target_class: u32) -> bool {
    return p.has_ignore == 1u && target_class == p.ignore;
}

// The block is replaced where the gradient overwrites the logits.
//:begin logits
@group(0) @binding(1) var<storage, read> logits: array<f32>;
fn logit(row: u32, k: u32) -> f32 {
    return logits[p.logits_offset + row * p.logits_row + k * p.logits_class];
}
//:end logits

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

fn loss_of(row: u32, target_class: u32, part: Part) -> f32 {
    if (is_ignored(target_class)) { return 0.0; }
    if (target_class >= p.classes) { return bitcast<f32>(p.not_a_number); }
    var loss = log(part.total) - p.confidence * (logit(row, target_class) - part.most);
    // Without smoothing, a class that is masked by −∞ must not matter.
    if (p.uniform > 0.0) { loss -= p.uniform * part.distance; }
    return loss;
}

// Writes the gradient for classes `first`, `first + step`, … of a row.
fn write_gradient(row: u32, target_class: u32, part: Part, first: u32, step: u32) {
    var scale = p.scale;
    if (p.is_counted == 1u) { scale = counted[0]; }
    if (target_class >= p.classes) { scale = bitcast<f32>(p.not_a_number); }
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
fn losses_by_invocation(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = (group.x + group.y * groups.x) * 16u + lane;
    if (row >= p.rows) { return; }
    let target_class = targets[p.targets_offset + row];
    losses[p.losses_offset + row] = loss_of(row, target_class, part_of(row, 0u, 1u));
}

@compute @workgroup_size(16)
fn gradients_by_invocation(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = (group.x + group.y * groups.x) * 16u + lane;
    if (row >= p.rows) { return; }
    let target_class = targets[p.targets_offset + row];
    let part = part_of(row, 0u, 1u);
    losses[p.losses_offset + row] = loss_of(row, target_class, part);
    write_gradient(row, target_class, part, 0u, 1u);
}

// One row a workgroup.

const LANES: u32 = 64u;

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
fn losses_by_workgroup(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = group.x + group.y * groups.x;
    // Groups past the end read the last row and store nothing, so that barriers stay uniform.
    let row = min(index, p.rows - 1u);
    let part = join_all(part_of(row, lane, LANES), lane);
    if (index < p.rows && lane == 0u) {
        losses[p.losses_offset + row] = loss_of(row, targets[p.targets_offset + row], part);
    }
}

@compute @workgroup_size(LANES)
fn gradients_by_workgroup(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = group.x + group.y * groups.x;
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

// Both of these run as a single workgroup.

@group(0) @binding(1) var<storage, read> all_targets: array<u32>;
@group(0) @binding(2) var<storage, read_write> count: array<f32>;

var<workgroup> counts: array<u32, LANES>;

// One over the number of targets that are not ignored; zero if all are.
@compute @workgroup_size(LANES)
fn count_targets(@builtin(local_invocation_index) lane: u32) {
    var mine = 0u;
    for (var row = lane; row < p.rows; row += LANES) {
        mine += select(1u, 0u, is_ignored(all_targets[p.targets_offset + row]));
    }
    counts[lane] = mine;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if (lane < half) { counts[lane] += counts[lane + half]; }
        workgroupBarrier();
    }
    if (lane == 0u) {
        let all = counts[0];
        count[0] = select(1.0 / f32(max(all, 1u)), 0.0, all == 0u);
    }
}

@group(0) @binding(1) var<storage, read> row_losses: array<f32>;
@group(0) @binding(2) var<storage, read> row_scale: array<f32>;
@group(0) @binding(3) var<storage, read_write> loss: array<f32>;

var<workgroup> sums: array<f32, LANES>;

@compute @workgroup_size(LANES)
fn mean_loss(@builtin(local_invocation_index) lane: u32) {
    var mine = 0.0;
    for (var row = lane; row < p.rows; row += LANES) {
        mine += row_losses[row];
    }
    sums[lane] = mine;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if (lane < half) { sums[lane] += sums[lane + half]; }
        workgroupBarrier();
    }
    if (lane == 0u) {
        var scale = p.scale;
        if (p.is_counted == 1u) { scale = row_scale[0]; }
        loss[p.losses_offset] = sums[0] * scale;
    }
}
