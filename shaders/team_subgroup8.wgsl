// The twin of team.wgsl for software adapters with subgroups of exactly 8 (Mesa llvmpipe): a team is a subgroup and a
// workgroup. A shuffle by a constant is one instruction there; subgroupAdd is a loop.

const LANES: u32 = 8u;
const TEAMS: u32 = 1u;

struct Place {
    @builtin(local_invocation_index) local: u32,
}

fn lane_of(place: Place) -> u32 { return place.local; }
fn team_of(place: Place) -> u32 { return 0u; }

fn sums_over_team(value: vec2<f32>, place: Place) -> vec2<f32> {
    let a = value + subgroupShuffleXor(value, 1u);
    let b = a + subgroupShuffleXor(a, 2u);
    return b + subgroupShuffleXor(b, 4u);
}

fn max_over_team(value: f32, place: Place) -> f32 {
    let a = max(value, subgroupShuffleXor(value, 1u));
    let b = max(a, subgroupShuffleXor(a, 2u));
    return max(b, subgroupShuffleXor(b, 4u));
}
