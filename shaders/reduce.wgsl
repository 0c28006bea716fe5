// Reductions over any axes of a strided tensor: sum, max and min, and the place of the maximum.
//
// LANES invocations, a team, work on one place: each folds every LANES-th step of the reduced axes in order, then the
// team combines what its lanes have in a fixed tree. A place is one output or four neighbouring ones, a step one
// element or four neighbouring ones, as the block `access` says:
//
//   single   one output,   one element a step
//   along    one output,   four elements a step: the innermost reduced axis is dense
//   across   four outputs, four elements a step: the innermost kept axis is dense
//
// Where few places have many steps, several teams share a place, a chunk of the steps each. They leave one partial
// result a team, and a second dispatch reduces those.

import shadegrad::grid;

const LANES: u32 = 1u;
const TEAMS: u32 = 64u;    // in a workgroup
const ADJACENT: u32 = 0u;  // 1: neighbouring invocations are lanes of one team; 0: they are neighbouring teams
const NESTED: u32 = 0u;    // 1: several axes are reduced, and steps are found by dividing

struct Params {
    teams: u32,            // places times chunks
    places: u32,
    steps: u32,            // of one place
    chunk: u32,            // steps of one team
    input_offset: u32,     // offsets and strides count in units of the bound array
    output_offset: u32,
    scale: f32,
    kept_rank: u32,
    folded_rank: u32,
    kept: array<vec4<u32>, 6>,     // extent and stride of each kept axis, innermost first
    folded: array<vec4<u32>, 6>,   // extent and stride of each reduced axis, innermost first
}

@group(0) @binding(0) var<uniform> p: Params;

alias Step = f32;
alias StepBits = u32;
alias Place = f32;
alias PlaceBits = u32;
@group(0) @binding(1) var<storage, read> input: array<f32>;
@group(0) @binding(2) var<storage, read_write> output: array<f32>;
fn element(at: u32, step: u32) -> Step { return input[at]; }
fn finish(value: Step) -> Place { return value; }
fn put(at: u32, value: Place) { output[at] = value * p.scale; }

fn start(first: Step) -> Step { return Step(0.0); }
fn fold(a: Step, b: Step) -> Step { return a + b; }
fn combine(a: Place, b: Place) -> Place { return a + b; }

// Which part of which place an invocation works on. Those past the end repeat the last team and must not store.
struct Part {
    live: bool,
    team: u32,    // in the grid
    lane: u32,
    base: u32,    // index of the place's first element
    begin: u32,   // the team's steps
    end: u32,
}

fn part(group: u32, local: u32) -> Part {
    let lane = select(local / TEAMS, local % LANES, ADJACENT == 1u);
    let team = group * TEAMS + select(local % TEAMS, local / LANES, ADJACENT == 1u);
    let index = min(team, p.teams - 1u);
    var base = p.input_offset;
    var rest = index % p.places;
    for (var axis = 0u; axis < p.kept_rank; axis++) {
        base += (rest % p.kept[axis].x) * p.kept[axis].y;
        rest /= p.kept[axis].x;
    }
    let begin = index / p.places * p.chunk;
    return Part(team < p.teams, team, lane, base, begin, begin + min(p.chunk, p.steps - begin));
}

// Where a step is, relative to the place's first element.
fn position(step: u32) -> u32 {
    if (NESTED == 0u) { return step * p.folded[0].y; }
    var place = 0u;
    var left = step;
    for (var axis = 0u; axis < p.folded_rank; axis++) {
        place += (left % p.folded[axis].x) * p.folded[axis].y;
        left /= p.folded[axis].x;
    }
    return place;
}

var<workgroup> partial: array<Place, LANES * TEAMS>;

@compute @workgroup_size(LANES * TEAMS)
fn reduce(group: Group, @builtin(local_invocation_index) local: u32) {
    let part = part(index_of(group), local);
    // Maxima start from an element; a lane without steps may take any of the team's.
    var total = start(element(part.base + position(part.begin), part.begin));
    for (var step = part.begin + part.lane; step < part.end; step += LANES) {
        total = fold(total, element(part.base + position(step), step));
    }
    var result = finish(total);
    if (LANES > 1u) {
        partial[local] = result;
        workgroupBarrier();
        let stride = select(TEAMS, 1u, ADJACENT == 1u);
        for (var half = LANES / 2u; half > 0u; half /= 2u) {
            if (part.lane < half) {
                partial[local] = combine(partial[local], partial[local + half * stride]);
            }
            workgroupBarrier();
        }
        result = partial[local];
    }
    if (part.live && part.lane == 0u) { put(p.output_offset + part.team, result); }
}

// The place of the maximum.
struct Candidate { value: f32, step: u32 }

// Told by the bits, as compilers may assume that floats are numbers.
fn is_nan(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u; }

// NaN, else the larger value; the smaller step between equals. Values are compared only where neither is NaN.
fn better(a: Candidate, b: Candidate) -> Candidate {
    let first = b.step < a.step;
    let larger = !is_nan(a.value) && (is_nan(b.value) || b.value > a.value);
    let equal = select(a.value == b.value, is_nan(b.value), is_nan(a.value));
    let take_b = larger || (equal && first);
    return Candidate(select(a.value, b.value, take_b), select(a.step, b.step, take_b));
}
