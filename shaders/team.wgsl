// How invocations share rows: LANES of them, a team, have a row; a workgroup has TEAMS teams. For kernels
// that work row by row. This is the portable form; team_shuffles.wgsl and team_subgroups.wgsl are its twins.

const LANES: u32 = 8u;
const TEAMS: u32 = 8u;

struct Place {
    @builtin(local_invocation_index) local: u32,
}

fn lane_of(place: Place) -> u32 { return place.local % LANES; }
fn team_of(place: Place) -> u32 { return place.local / LANES; }

var<workgroup> exchange: array<vec2<f32>, LANES * TEAMS>;

// The two functions that combine what the lanes of every team have are for uniform control flow only. All lanes get the
// result. Each adds up eight by itself, then all sums of eight: two rounds, where a tree would wait for a barrier at
// every level.

fn sums_over_team(value: vec2<f32>, place: Place) -> vec2<f32> {
    workgroupBarrier();  // what the exchange before left has been read
    exchange[place.local] = value;
    workgroupBarrier();
    let first = place.local - place.local % LANES;
    if (LANES <= 8u) { return sum_of(first, LANES); }
    let eight = sum_of(first + place.local % (LANES / 8u) * 8u, 8u);
    workgroupBarrier();
    exchange[place.local] = eight;
    workgroupBarrier();
    return sum_of(first, LANES / 8u);
}

fn max_over_team(value: f32, place: Place) -> f32 {
    workgroupBarrier();
    exchange[place.local] = vec2<f32>(value, 0.0);
    workgroupBarrier();
    let first = place.local - place.local % LANES;
    if (LANES <= 8u) { return max_of(first, LANES); }
    let eight = max_of(first + place.local % (LANES / 8u) * 8u, 8u);
    workgroupBarrier();
    exchange[place.local] = vec2<f32>(eight, 0.0);
    workgroupBarrier();
    return max_of(first, LANES / 8u);
}

fn sum_of(first: u32, count: u32) -> vec2<f32> {
    var sum = exchange[first];
    for (var i = 1u; i < count; i++) { sum += exchange[first + i]; }
    return sum;
}

fn max_of(first: u32, count: u32) -> f32 {
    var most = exchange[first].x;
    for (var i = 1u; i < count; i++) { most = max(most, exchange[first + i].x); }
    return most;
}
