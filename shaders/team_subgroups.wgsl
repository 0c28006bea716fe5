// The twin of team.wgsl for adapters with subgroup operations, where a team is a whole workgroup. Nothing is assumed about
// how many lanes a subgroup has, or which invocations they are.

const LANES: u32 = 256u;
const TEAMS: u32 = 1u;

struct Place {
    @builtin(local_invocation_index) local: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
    @builtin(subgroup_invocation_id) subgroup_lane: u32,
}

fn lane_of(place: Place) -> u32 { return place.local; }
fn team_of(place: Place) -> u32 { return 0u; }

// By subgroup; a subgroup has at least one invocation.
var<workgroup> exchange: array<vec2<f32>, LANES>;

fn sums_over_team(value: vec2<f32>, place: Place) -> vec2<f32> {
    let part = subgroupAdd(value);
    workgroupBarrier();  // what the exchange before left has been read
    if (place.subgroup_lane == 0u) { exchange[place.subgroup] = part; }
    workgroupBarrier();
    var sum = exchange[0];
    for (var i = 1u; i < place.subgroups; i++) { sum += exchange[i]; }
    return sum;
}

fn max_over_team(value: f32, place: Place) -> f32 {
    let part = subgroupMax(value);
    workgroupBarrier();
    if (place.subgroup_lane == 0u) { exchange[place.subgroup] = vec2<f32>(part, 0.0); }
    workgroupBarrier();
    var most = exchange[0].x;
    for (var i = 1u; i < place.subgroups; i++) { most = max(most, exchange[i].x); }
    return most;
}
