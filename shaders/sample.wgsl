// The next token of each row of logits: `SamplingConfig::distribution` and a draw from it, without sorting the row.
//
// Tokens have a rank: the greater logit first, then the lower token. Everything asked of a row is a token up to which, in
// the order of rank, a number of tokens or a weight adds up: where top-k ends, where top-p ends, and what is drawn. Such a
// token is searched for by the digits of what the rank comes from, each from a histogram of the tokens that agree in the
// digits before, until few enough are left to be compared with one another.
//
// Weights are whole numbers of 64 bits, so that sums have the same bits in whatever order atomics add them up.

import shadegrad::grid;

struct Params {
    n: u32,
    rows: u32,
    logits_offset: u32,
    logits_row: u32,
    draws_offset: u32,
    suppressed_offset: u32,
    suppressed_row: u32,
    tokens_offset: u32,
    faults_offset: u32,
    token_shift: u32,  // puts a token's first digit where digits are read
    levels: u32,       // digits in all
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read> draws: array<u32>;
@group(0) @binding(3) var<storage, read> suppressed: array<u32>;
@group(0) @binding(4) var<storage, read_write> tokens: array<u32>;
@group(0) @binding(5) var<storage, read_write> faults: array<u32>;

const LANES: u32 = 256u;  // a multiple of 8
const AT_ONCE: u32 = 4u;  // logits under way: 1 or 4
const BINS: u32 = 256u;   // a digit has so many values
const FEW: u32 = 64u;     // tokens that are compared with one another
const NONE: u32 = 0xffffffffu;

// What the row is drawn with, from the host.

struct Draw {
    inverse_temperature: f32,
    reach: f32,  // how far below the greatest logit weights end
    top_k: u32,
    is_greedy: bool,
    has_top_p: bool,
    suppresses: bool,
    top_p: vec2<u32>,    // as a fraction of 2⁶⁴, the low word first
    chance: vec2<u32>,   // likewise, what is drawn
}

var<private> draw: Draw;
// The row's first logit, and its first word of `suppressed`.
var<private> logits_at: u32;
var<private> suppressed_at: u32;
// The greatest logit, and what the distance to it is multiplied by for its first digits.
var<private> top: f32;
var<private> steps: f32;

fn draw_of(row: u32) -> Draw {
    let at = p.draws_offset + 8u * row;
    let flags = draws[at + 7u];
    return Draw(
        bitcast<f32>(draws[at]), bitcast<f32>(draws[at + 1u]), draws[at + 2u],
        (flags & 1u) != 0u, (flags & 2u) != 0u, (flags & 4u) != 0u,
        vec2<u32>(draws[at + 3u], draws[at + 4u]), vec2<u32>(draws[at + 5u], draws[at + 6u]));
}

fn is_allowed(token: u32) -> bool {
    if (!draw.suppresses) { return true; }
    return ((suppressed[suppressed_at + token / 32u] >> (token % 32u)) & 1u) == 0u;
}

// Four logits, LANES apart, or one. Those past the end repeat the last one.
fn four(token: u32) -> vec4<f32> {
    if (AT_ONCE == 1u) { return vec4<f32>(logits[logits_at + token]); }
    let at = vec4<u32>(logits_at) + min(vec4<u32>(token) + vec4<u32>(0u, 1u, 2u, 3u) * LANES, vec4<u32>(p.n - 1u));
    return vec4<f32>(logits[at.x], logits[at.y], logits[at.z], logits[at.w]);
}

// Numbers in the order of finite logits. Both zeros are one.
fn key_of(x: f32) -> u32 {
    let bits = select(bitcast<u32>(x), 0u, x == 0.0);
    return select(bits | 0x80000000u, ~bits, (bits >> 31u) == 1u);
}

fn logit_of(key: u32) -> f32 {
    return bitcast<f32>(select(~key, key & 0x7fffffffu, (key >> 31u) == 1u));
}

// Sums of 64 bits, the low word first.

fn plus(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    let low = a.x + b.x;
    return vec2<u32>(low, a.y + b.y + select(0u, 1u, low < a.x));
}

fn is_less(a: vec2<u32>, b: vec2<u32>) -> bool {
    return a.y < b.y || (a.y == b.y && a.x < b.x);
}

fn product(a: u32, b: u32) -> vec2<u32> {
    let low = (a & 0xffffu) * (b & 0xffffu);
    let one = (a >> 16u) * (b & 0xffffu) + (low >> 16u);
    let other = (a & 0xffffu) * (b >> 16u) + (one & 0xffffu);
    return vec2<u32>((other << 16u) | (low & 0xffffu), (a >> 16u) * (b >> 16u) + (one >> 16u) + (other >> 16u));
}

// So large a part of `a`, at most two too small.
fn part_of(a: vec2<u32>, fraction: vec2<u32>) -> vec2<u32> {
    let middle = plus(vec2<u32>(product(a.y, fraction.x).y, 0u), vec2<u32>(product(a.x, fraction.y).y, 0u));
    return plus(product(a.y, fraction.y), middle);
}

// The weight of a logit, in units of 2⁻⁴⁵ of the greatest one's.
fn weight_of(x: f32) -> vec2<u32> {
    let distance = top - x;
    let share = exp(-min(distance * draw.inverse_temperature, 100.0));
    let scaled = 8192.0 * select(min(share, 1.0), 1.0, distance == 0.0);
    let high = floor(scaled);
    return vec2<u32>(u32((scaled - high) * 4294967296.0), u32(high));
}

// What the rank comes from, the smaller the better: the distance to the greatest logit, two digits of it; the logit; the
// token.
fn rank_of(x: f32, token: u32) -> vec3<u32> {
    let distance = u32(min((top - x) * steps, 65535.0));
    return vec3<u32>(distance, ~key_of(x), token << p.token_shift);
}

fn digit_of(rank: vec3<u32>, level: u32) -> u32 {
    if (level < 2u) { return (rank.x >> (8u - 8u * level)) & 255u; }
    if (level < 6u) { return (rank.y >> (40u - 8u * level)) & 255u; }
    return (rank.z >> (72u - 8u * level)) & 255u;
}

// The tokens whose ranks agree in the first digits.
struct Path {
    rank: vec3<u32>,
    mask: vec3<u32>,
}

fn longer(path: Path, level: u32, digit: u32) -> Path {
    var place = vec3<u32>(0u);
    if (level < 2u) { place.x = 8u - 8u * level; }
    else if (level < 6u) { place.y = 40u - 8u * level; }
    else { place.z = 72u - 8u * level; }
    let is_there = vec3<u32>(select(0u, 1u, level < 2u), select(0u, 1u, level >= 2u && level < 6u), select(0u, 1u, level >= 6u));
    return Path(path.rank | ((is_there * digit) << place), path.mask | ((is_there * 255u) << place));
}

// Whether a token that may be drawn is one of the path's.
fn is_on(path: Path, x: f32, token: u32) -> bool {
    return token < p.n && top - x <= draw.reach && is_allowed(token)
        && all((rank_of(x, token) & path.mask) == path.rank);
}

// How many tokens, and their weight.
struct Sum {
    count: u32,
    weight: vec2<u32>,
}

fn joined(a: Sum, b: Sum) -> Sum { return Sum(a.count + b.count, plus(a.weight, b.weight)); }

// What a token is searched for: the first in rank up to which there are so many, or so much weight.
struct Target {
    is_count: bool,
    sum: Sum,
}

fn is_reached(goal: Target, sum: Sum) -> bool {
    if (goal.is_count) { return sum.count >= goal.sum.count; }
    return !is_less(sum.weight, goal.sum.weight);
}

// Histograms: of the first digit, which all searches begin with, and of another.
var<workgroup> counts: array<atomic<u32>, 2u * BINS>;
var<workgroup> low_words: array<atomic<u32>, 2u * BINS>;
var<workgroup> high_words: array<atomic<u32>, 2u * BINS>;
// Of sixteen bins each.
var<workgroup> sixteens: array<Sum, 32>;

fn bin(at: u32) -> Sum {
    return Sum(atomicLoad(&counts[at]), vec2<u32>(atomicLoad(&low_words[at]), atomicLoad(&high_words[at])));
}

fn note_in_histogram(at: u32, level: u32, path: Path, x: f32, token: u32) {
    if (!is_on(path, x, token)) { return; }
    let b = at + digit_of(rank_of(x, token), level);
    let weight = weight_of(x);
    atomicAdd(&counts[b], 1u);
    let carried = select(0u, 1u, atomicAdd(&low_words[b], weight.x) + weight.x < weight.x);
    if (weight.y + carried > 0u) { atomicAdd(&high_words[b], weight.y + carried); }
}

// Fills the histogram that begins `at`. For uniform control flow only, as what follows.
fn fill(at: u32, level: u32, path: Path, lane: u32) {
    workgroupBarrier();
    for (var b = at + lane; b < at + BINS; b += LANES) {
        atomicStore(&counts[b], 0u);
        atomicStore(&low_words[b], 0u);
        atomicStore(&high_words[b], 0u);
    }
    workgroupBarrier();
    for (var token = lane; token < p.n; token += AT_ONCE * LANES) {
        let x = four(token);
        if (AT_ONCE > $4u) { note_in_histogram(at, level, path, x[$4], token + $4u * LANES); }
    }
    workgroupBarrier();
    for (var s = lane; s < 16u; s += LANES) {
        var sum = bin(at + 16u * s);
        for (var b = 1u; b < 16u; b++) { sum = joined(sum, bin(at + 16u * s + b)); }
        sixteens[at / 16u + s] = sum;
    }
    workgroupBarrier();
}

// A bin, what is in it, and what is in those before.
struct Choice {
    digit: u32,
    count: u32,
    before: Sum,
}

var<workgroup> choice: Choice;

// The bin of the histogram `at` in which the target is reached, `before` being what comes before all of them.
fn choose(at: u32, goal: Target, before: Sum, lane: u32) -> Choice {
    if (lane == 0u) {
        var sum = before;
        var b = 0u;
        for (; b < BINS - 16u; b += 16u) {
            let next = joined(sum, sixteens[(at + b) / 16u]);
            if (is_reached(goal, next)) { break; }
            sum = next;
        }
        let last = b + 15u;
        for (; b < last; b++) {
            let next = joined(sum, bin(at + b));
            if (is_reached(goal, next)) { break; }
            sum = next;
        }
        choice = Choice(b, atomicLoad(&counts[at + b]), sum);
    }
    return workgroupUniformLoad(&choice);
}

var<workgroup> gathered: atomic<u32>;
var<workgroup> keys: array<u32, FEW>;
var<workgroup> gathered_tokens: array<u32, FEW>;

fn gather_token(path: Path, x: f32, token: u32) {
    if (!is_on(path, x, token)) { return; }
    let at = atomicAdd(&gathered, 1u);
    keys[at] = key_of(x);
    gathered_tokens[at] = token;
}

struct Found {
    token: u32,
    // Up to it.
    sum: Sum,
}

var<workgroup> found: Found;

// The target, among the few tokens of a path.
fn find_in(path: Path, goal: Target, before: Sum, lane: u32) -> Found {
    if (lane == 0u) { atomicStore(&gathered, 0u); }
    workgroupBarrier();
    for (var token = lane; token < p.n; token += AT_ONCE * LANES) {
        let x = four(token);
        if (AT_ONCE > $4u) { gather_token(path, x[$4], token + $4u * LANES); }
    }
    workgroupBarrier();
    let count = atomicLoad(&gathered);
    for (var mine = lane; mine < count; mine += LANES) {
        var sum = before;
        for (var other = 0u; other < count; other++) {
            let is_better = keys[other] > keys[mine]
                || (keys[other] == keys[mine] && gathered_tokens[other] < gathered_tokens[mine]);
            if (is_better) { sum = joined(sum, Sum(1u, weight_of(logit_of(keys[other])))); }
        }
        let with_mine = joined(sum, Sum(1u, weight_of(logit_of(keys[mine]))));
        if (is_reached(goal, with_mine) && !is_reached(goal, sum)) { found = Found(gathered_tokens[mine], with_mine); }
    }
    return workgroupUniformLoad(&found);
}

fn find(goal: Target, lane: u32) -> Found {
    var path = Path();
    var before = Sum();
    var at = 0u;
    for (var level = 0u; level < p.levels; level++) {
        if (level > 0u) {
            at = BINS;
            fill(at, level, path, lane);
        }
        let chosen = choose(at, goal, before, lane);
        path = longer(path, level, chosen.digit);
        before = chosen.before;
        if (chosen.count <= FEW) { break; }
    }
    return find_in(path, goal, before, lane);
}

var<workgroup> whole: Sum;

fn drawn(settings: Draw, lane: u32) -> u32 {
    fill(0u, 0u, Path(), lane);
    if (lane == 0u) {
        var sum = sixteens[0];
        for (var s = 1u; s < 16u; s++) { sum = joined(sum, sixteens[s]); }
        whole = sum;
    }
    var kept = workgroupUniformLoad(&whole);
    var token = 0u;
    // Where top-k ends, where top-p ends, and what is drawn: in a loop, so that there is one text of the search.
    for (var search = 0u; search < 3u; search++) {
        var goal = Target(search == 0u, Sum(settings.top_k, vec2<u32>(0u)));
        if (search == 0u && settings.top_k >= kept.count) { continue; }
        if (search == 1u) {
            if (!settings.has_top_p) { continue; }
            goal.sum.weight = part_of(kept.weight, settings.top_p);
            // At least one token.
            if (goal.sum.weight.y == 0u) { goal.sum.weight.x = max(goal.sum.weight.x, 1u); }
        }
        if (search == 2u) { goal.sum.weight = plus(part_of(kept.weight, settings.chance), vec2<u32>(1u, 0u)); }
        let up_to = find(goal, lane);
        kept = up_to.sum;
        token = up_to.token;
    }
    return token;
}

// What a row is made of: the keys of its greatest and its least logit, the first token that has the greatest, and the first
// whose logit is infinite or no number.
struct Extremes {
    most: u32,
    least: u32,
    first: u32,
    fault: u32,
}

var<workgroup> most_key: atomic<u32>;
var<workgroup> least_key: atomic<u32>;
var<workgroup> first_token: atomic<u32>;
var<workgroup> first_fault: atomic<u32>;
var<workgroup> extremes: Extremes;

fn with_token(known: Extremes, x: f32, token: u32) -> Extremes {
    if (token >= p.n) { return known; }
    if ((bitcast<u32>(x) & 0x7f800000u) == 0x7f800000u) {
        return Extremes(known.most, known.least, known.first, min(known.fault, token));
    }
    if (!is_allowed(token)) { return known; }
    let key = key_of(x);
    let is_first = key > known.most;
    return Extremes(
        max(known.most, key), min(known.least, key), select(known.first, token, is_first), known.fault);
}

fn extremes_of_row(lane: u32) -> Extremes {
    if (lane == 0u) {
        atomicStore(&most_key, 0u);
        atomicStore(&least_key, NONE);
        atomicStore(&first_token, NONE);
        atomicStore(&first_fault, NONE);
    }
    workgroupBarrier();
    var mine = Extremes(0u, NONE, NONE, NONE);
    for (var token = lane; token < p.n; token += AT_ONCE * LANES) {
        let x = four(token);
        if (AT_ONCE > $4u) { mine = with_token(mine, x[$4], token + $4u * LANES); }
    }
    atomicMax(&most_key, mine.most);
    atomicMin(&least_key, mine.least);
    atomicMin(&first_fault, mine.fault);
    workgroupBarrier();
    if (mine.most == atomicLoad(&most_key)) { atomicMin(&first_token, mine.first); }
    workgroupBarrier();
    if (lane == 0u) {
        extremes = Extremes(
            atomicLoad(&most_key), atomicLoad(&least_key), atomicLoad(&first_token), atomicLoad(&first_fault));
    }
    return workgroupUniformLoad(&extremes);
}

// A row a workgroup.
@compute @workgroup_size(LANES)
fn sample(group: Group, @builtin(local_invocation_index) lane: u32) {
    let index = index_of(group);
    // Groups past the end read the last row and store nothing, so that barriers stay uniform.
    let row = min(index, p.rows - 1u);
    let settings = draw_of(row);
    draw = settings;
    logits_at = p.logits_offset + row * p.logits_row;
    suppressed_at = p.suppressed_offset + row * p.suppressed_row;
    let known = extremes_of_row(lane);
    let is_possible = known.fault == NONE && known.most > 0u;
    var token = known.first;
    if (is_possible && !settings.is_greedy) {
        top = logit_of(known.most);
        steps = 65536.0 / max(min(draw.reach, top - logit_of(known.least)), 1e-28);
        token = drawn(settings, lane);
    }
    if (index < p.rows && lane == 0u) {
        tokens[p.tokens_offset + row] = select(0u, token, is_possible);
        var fault = known.fault;
        // −∞, where all tokens are suppressed.
        var value = 0xff800000u;
        if (fault != NONE) { value = bitcast<u32>(logits[logits_at + fault]); }
        else if (!is_possible) { fault = 0u; }
        faults[p.faults_offset + 2u * row] = fault;
        faults[p.faults_offset + 2u * row + 1u] = value;
    }
}
