// The optimizers, over whole segments of flat storage. A segment is a multiple of eight elements; its padding is zero
// in parameters, gradients and moments alike and stays so.

import shadegrad::grid;

struct Params {
    vectors: u32,         // vec4s in the segment
    runs: u32,            // of parameters that are treated alike
    runs_offset: u32,     // in runs
    values_offset: u32,   // of the hyperparameters, in vec4s
    control_offset: u32,
    // Of the partial sums:
    count: u32,
    first: u32,
    // Of the scalars that go into `control`:
    loss_offset: u32,
    clip_offset: u32,
    chunk: u32,           // vec4s that a workgroup sums the squares of, an even number
    state_offset: u32,    // of the loss scale
}

@group(0) @binding(0) var<uniform> p: Params;

// Invocations in a workgroup of an update, and vec4s that each of them takes. Software adapters get few and many:
// there a workgroup costs as much as hundreds of elements.
const WIDTH: u32 = 256u;
const EACH: u32 = 1u;

// --- The global norm of the gradient, in two kernels ---

@group(0) @binding(1) var<storage, read> squared: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> partial_out: array<f32>;

var<workgroup> lanes: array<f32, 256>;

// The workgroup's total of what each invocation brings, in a fixed order. For uniform control flow only.
fn total(lane: u32, mine: f32) -> f32 {
    lanes[lane] = mine;
    workgroupBarrier();
    for (var half = 128u; half > 0u; half >>= 1u) {
        if (lane < half) { lanes[lane] += lanes[lane + half]; }
        workgroupBarrier();
    }
    return lanes[0];
}

@compute @workgroup_size(256)
fn sum_squares(group: Group, @builtin(local_invocation_index) lane: u32) {
    let index = index_of(group);
    let end = min(p.vectors, (index + 1u) * p.chunk);
    var i = index * p.chunk + lane;
    var sums = vec4<f32>(0.0);
    // Four loads under way at a time.
    for (; i + 768u < end; i += 1024u) {
        let a = squared[i];
        let b = squared[i + 256u];
        let c = squared[i + 512u];
        let d = squared[i + 768u];
        sums += (a * a + b * b) + (c * c + d * d);
    }
    for (; i < end; i += 256u) {
        let g = squared[i];
        sums += g * g;
    }
    let sum = total(lane, (sums.x + sums.y) + (sums.z + sums.w));
    if (lane == 0u && index < p.count) { partial_out[p.first + index] = sum; }
}

@group(0) @binding(1) var<storage, read> partials: array<f32>;
@group(0) @binding(2) var<storage, read> loss: array<f32>;
@group(0) @binding(3) var<storage, read> clip: array<f32>;
@group(0) @binding(4) var<storage, read_write> control_out: array<u32>;

// Where the loss was scaled, `src/optim/clip.rs` declares these again.
fn loss_scale() -> f32 { return 1.0; }
fn keep_scale(sum: u32) {}

// control = [norm, min(1, clip / (norm + 1e-6)), loss, what that was scaled by]; a clip of zero stands for none. The
// gradient is as much larger as the loss that was differentiated, and so is what the sum was made of. Its bits are looked
// at before any arithmetic: see `is_sound`.
fn finish(sum: f32) {
    let loss_scale = loss_scale();
    let norm = sqrt(sum) / loss_scale;
    let most = clip[p.clip_offset];
    var scale = 1.0;
    if (most > 0.0) { scale = min(1.0, most / (norm + 1e-6)); }
    control_out[p.control_offset] = bitcast<u32>(norm);
    control_out[p.control_offset + 1u] = bitcast<u32>(scale / loss_scale);
    control_out[p.control_offset + 2u] = bitcast<u32>(loss[p.loss_offset]);
    control_out[p.control_offset + 3u] = bitcast<u32>(loss_scale);
    keep_scale(bitcast<u32>(sum));
}

@compute @workgroup_size(256)
fn norm(@builtin(local_invocation_index) lane: u32) {
    var sum = 0.0;
    var i = lane;
    for (; i + 768u < p.count; i += 1024u) {
        sum += (partials[i] + partials[i + 256u]) + (partials[i + 512u] + partials[i + 768u]);
    }
    for (; i < p.count; i += 256u) { sum += partials[i]; }
    let sum_of_all = total(lane, sum);
    if (lane == 0u) { finish(sum_of_all); }
}

// The same for software adapters: one invocation does it all, without workgroup memory, its loads uniform.

@compute @workgroup_size(1)
fn sum_squares_serial(group: Group) {
    let index = index_of(group);
    let end = min(p.vectors, (index + 1u) * p.chunk);
    var even = vec4<f32>(0.0);
    var odd = vec4<f32>(0.0);
    for (var i = index * p.chunk; i < end; i += 2u) {
        let a = squared[i];
        let b = squared[i + 1u];
        even += a * a;
        odd += b * b;
    }
    let sums = even + odd;
    if (index < p.count) { partial_out[p.first + index] = (sums.x + sums.y) + (sums.z + sums.w); }
}

@compute @workgroup_size(1)
fn norm_serial() {
    var sum = 0.0;
    for (var i = 0u; i < p.count; i++) { sum += partials[i]; }
    finish(sum);
}

// --- The updates ---

@group(0) @binding(1) var<storage, read_write> parameters: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> gradient: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> runs: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> values: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> control: array<u32>;
@group(0) @binding(6) var<storage, read_write> first_moment: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> second_moment: array<vec4<f32>>;

// Neither infinite nor not a number, by the exponent. On integers straight from memory, because compilers may assume
// that floats are finite.
fn is_sound(bits: u32) -> bool {
    return (bits & 0x7f800000u) != 0x7f800000u;
}

// The settings, too: a learning rate that is finite on the host may overflow when it is put together with others.
fn may_update() -> bool {
    let settings = bitcast<vec4<u32>>(values[p.values_offset]);
    return is_sound(control[p.control_offset]) && is_sound(control[p.control_offset + 2u])
        && is_sound(settings.x) && is_sound(settings.y) && is_sound(settings.z) && is_sound(settings.w);
}

// Where a workgroup's vec4s end: before they begin, if there must be no update.
fn end_of(index: u32) -> u32 {
    return select(0u, min(p.vectors, (index + 1u) * WIDTH * EACH), may_update());
}

fn scale() -> f32 {
    return bitcast<f32>(control[p.control_offset + 1u]);
}

// Parameters are treated differently. A run is a stretch of those that are treated alike: [the vec4 of the gradient that
// it ends before, the bits of the factor on the learning rate, those on the weight decay, how many vec4s further on the
// parameters lie than their gradients]. The last ends with the gradient. Where the rate is zero, nothing changes. This
// gives the run that a vec4 lies in.
fn run_at(vector: u32) -> u32 {
    var low = p.runs_offset;
    var high = low + p.runs - 1u;
    while (low < high) {
        let middle = (low + high) / 2u;
        if (runs[middle].x > vector) { high = middle; } else { low = middle + 1u; }
    }
    return low;
}

// Where a copy in halves is kept, `src/optim/gradients.rs` declares this again.
fn keep_half(place: u32, value: vec4<f32>) {}

// values = [step size, √(1 − β₂ᵗ), ε, lr·λ], [1 − β₁, β₂, 1 − β₂, –]
@compute @workgroup_size(WIDTH)
fn adamw(group: Group, @builtin(local_invocation_index) lane: u32) {
    let index = index_of(group);
    let a = values[p.values_offset];
    let b = values[p.values_offset + 1u];
    let scale = scale();
    let end = end_of(index);
    var first = index * WIDTH * EACH;
    for (var r = run_at(first); first < end; r++) {
        let run = runs[r];
        let rate = bitcast<f32>(run.y);
        let factor = 1.0 - a.w * rate * bitcast<f32>(run.z);
        let stop = min(end, run.x);
        let start = select(first + lane, stop, rate == 0.0);
        for (var i = start; i < stop; i += WIDTH) {
            let g = gradient[i] * scale;
            var m = first_moment[i];
            m += b.x * (g - m);
            let v = b.y * second_moment[i] + b.z * g * g;
            first_moment[i] = m;
            second_moment[i] = v;
            let place = i + run.w;
            let next = parameters[place] * factor - a.x * rate * m / (sqrt(v) / a.y + a.z);
            parameters[place] = next;
            keep_half(place, next);
        }
        first = stop;
    }
}

// values = [lr, momentum, λ, –]
@compute @workgroup_size(WIDTH)
fn sgd_momentum(group: Group, @builtin(local_invocation_index) lane: u32) {
    let index = index_of(group);
    let a = values[p.values_offset];
    let scale = scale();
    let end = end_of(index);
    var first = index * WIDTH * EACH;
    for (var r = run_at(first); first < end; r++) {
        let run = runs[r];
        let rate = bitcast<f32>(run.y);
        let factor = a.z * bitcast<f32>(run.z);
        let stop = min(end, run.x);
        let start = select(first + lane, stop, rate == 0.0);
        for (var i = start; i < stop; i += WIDTH) {
            let place = i + run.w;
            let old = parameters[place];
            let u = a.y * first_moment[i] + gradient[i] * scale + factor * old;
            first_moment[i] = u;
            let next = old - a.x * rate * u;
            parameters[place] = next;
            keep_half(place, next);
        }
        first = stop;
    }
}

@compute @workgroup_size(WIDTH)
fn sgd(group: Group, @builtin(local_invocation_index) lane: u32) {
    let index = index_of(group);
    let a = values[p.values_offset];
    let scale = scale();
    let end = end_of(index);
    var first = index * WIDTH * EACH;
    for (var r = run_at(first); first < end; r++) {
        let run = runs[r];
        let rate = bitcast<f32>(run.y);
        let factor = a.z * bitcast<f32>(run.z);
        let stop = min(end, run.x);
        let start = select(first + lane, stop, rate == 0.0);
        for (var i = start; i < stop; i += WIDTH) {
            let place = i + run.w;
            let old = parameters[place];
            let u = gradient[i] * scale + factor * old;
            let next = old - a.x * rate * u;
            parameters[place] = next;
            keep_half(place, next);
        }
        first = stop;
    }
}

// --- Gradient accumulation ---

@group(0) @binding(1) var<storage, read_write> sum: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> addend: array<vec4<f32>>;

@compute @workgroup_size(WIDTH)
fn add_into(group: Group, @builtin(local_invocation_index) lane: u32) {
    let index = index_of(group);
    let end = min(p.vectors, (index + 1u) * WIDTH * EACH);
    for (var i = index * WIDTH * EACH + lane; i < end; i += WIDTH) { sum[i] += addend[i]; }
}
