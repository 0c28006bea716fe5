// How long it takes to load 16 bytes in every lane, again and again: run with the source as a storage buffer and as a
// uniform one, it tells which of both an adapter reads faster.

struct Params { rounds: u32, step: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> source: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> sums: array<vec4<f32>>;

@compute @workgroup_size(8)
fn load_cost(@builtin(local_invocation_index) lane: u32) {
    let step = p.step;
    let rounds = p.rounds;
    var at = lane;
    var sum = vec4<f32>(0.0);
    for (var round = 0u; round < rounds; round++) {
        sum += source[at];
        at = (at + step) & 255u;
    }
    sums[lane] = sum;
}
