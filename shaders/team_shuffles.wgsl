// The twin of team.wgsl for adapters whose subgroups all have SUBGROUP lanes: a team is a subgroup or a part of one, and
// shuffles combine what its lanes have, without workgroup memory or barriers. Invocations are numbered by subgroup and by
// lane, so that nothing is assumed about which of them make a subgroup; a workgroup is a multiple of SUBGROUP, so that
// all subgroups are full.

const SUBGROUP: u32 = 8u;
const LANES: u32 = 8u;  // 8, 16 or 32, and at most SUBGROUP
const TEAMS: u32 = 8u;

struct Place {
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) subgroup_lane: u32,
}

fn lane_of(place: Place) -> u32 { return place.subgroup_lane % LANES; }
fn team_of(place: Place) -> u32 { return (place.subgroup * SUBGROUP + place.subgroup_lane) / LANES; }

fn sums_over_team(value: vec2<f32>, place: Place) -> vec2<f32> {
    var sum = value;
    if (LANES > 1u << $5u) { sum += subgroupShuffleXor(sum, 1u << $5u); }
    return sum;
}

fn max_over_team(value: f32, place: Place) -> f32 {
    var most = value;
    if (LANES > 1u << $5u) { most = max(most, subgroupShuffleXor(most, 1u << $5u)); }
    return most;
}
