// Reductions over any axes of a strided tensor: one output per invocation, summed serially in a fixed order.

struct Params {
    count: u32,           // outputs
    reduced: u32,         // elements per output
    input_offset: u32,
    output_offset: u32,
    scale: f32,
    kept_rank: u32,
    reduced_rank: u32,
    kept: array<vec4<u32>, 6>,     // extent and stride of each kept axis, innermost first
    folded: array<vec4<u32>, 6>,   // extent and stride of each reduced axis, innermost first
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> input: array<f32>;
@group(0) @binding(2) var<storage, read_write> output: array<f32>;

@compute @workgroup_size(64)
fn sum(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * 64u + lane;
    if (i >= p.count) { return; }
    var base = p.input_offset;
    var rest = i;
    for (var axis = 0u; axis < p.kept_rank; axis++) {
        base += (rest % p.kept[axis].x) * p.kept[axis].y;
        rest /= p.kept[axis].x;
    }
    var total = 0.0;
    for (var k = 0u; k < p.reduced; k++) {
        var place = base;
        var left = k;
        for (var axis = 0u; axis < p.reduced_rank; axis++) {
            place += (left % p.folded[axis].x) * p.folded[axis].y;
            left /= p.folded[axis].x;
        }
        total += input[place];
    }
    output[p.output_offset + i] = total * p.scale;
}
