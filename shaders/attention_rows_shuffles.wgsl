// The twin of attention_rows.wgsl for GPUs whose subgroups all have SUBGROUP lanes, where those that share rows lie in one
// subgroup: shuffles combine what they have, without workgroup memory or barriers. Invocations are numbered by subgroup
// and lane, so that nothing is assumed about which of them make a subgroup; a workgroup is a multiple of SUBGROUP, so that
// all subgroups are full.

import shadegrad::attention_squares;

const SUBGROUP: u32 = 32u; // a multiple of ACROSS

struct Here {
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) subgroup_lane: u32,
}

fn invocation(here: Here) -> u32 { return here.subgroup * SUBGROUP + here.subgroup_lane; }

fn largest_of_quad(n: vec4<f32>) -> vec4<f32> {
    var most = n;
    if (ACROSS > 1u << $5u) { most = max(most, subgroupShuffleXor(most, 1u << $5u)); }
    return most;
}

fn sum_of_quad(n: vec4<f32>) -> vec4<f32> {
    var sum = n;
    if (ACROSS > 1u << $5u) { sum += subgroupShuffleXor(sum, 1u << $5u); }
    return sum;
}

fn largest_of_rows(n: Numbers, place: Place) -> Numbers {
    return Numbers(largest_of_quad(n.r0), largest_of_quad(n.r1));
}

fn sum_of_rows(n: Numbers, place: Place) -> Numbers { return Numbers(sum_of_quad(n.r0), sum_of_quad(n.r1)); }
