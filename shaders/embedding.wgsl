// Rows of a table by index. An invocation copies four columns of one row.
//
// The block `epilogue` is replaced when a kernel is made.

struct Params {
    n: u32,                          // columns
    rows: u32,                       // indices in one batch
    count: u32,                      // indices in all
    vocabulary: u32,                 // rows of the table
    weight_offset: u32, weight_row: u32, weight_column: u32,
    ids_offset: u32,
    operands: array<vec4<u32>, 7>,   // of the epilogue: offset, strides of batch, row and column
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> ids: array<u32>;

//:begin epilogue
@group(0) @binding(3) var<storage, read_write> out0: array<vec4<f32>>;
fn store4(batch: u32, row: u32, column: u32, value: vec4<f32>) {
    let o = p.operands[0];
    out0[o.x + batch * o.y + row * o.z + column / 4u] = value;
}
//:end epilogue

@compute @workgroup_size(64)
fn embedding(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * 64u + lane;
    let quads = (p.n + 3u) / 4u;
    if (i >= p.count * quads) { return; }
    let place = i / quads;
    let column = i % quads * 4u;
    let id = min(ids[p.ids_offset + place], p.vocabulary - 1u);
    let base = p.weight_offset + id * p.weight_row;
    // Columns past the end are not stored; any address will do.
    let columns = min(column + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(p.n - 1u)) * p.weight_column;
    let value = vec4<f32>(
        weight[base + columns.x], weight[base + columns.y], weight[base + columns.z], weight[base + columns.w]);
    store4(place / p.rows, place % p.rows, column, value);
}
