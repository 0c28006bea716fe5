// Matrix product for GPUs: C[M,N] = A[M,K] · B[K,N], batched, with any strides of both operands.
//
// One workgroup of 256 computes a 64 × 64 tile, each invocation 4 rows × 4 columns in registers. Slices 16 deep of both
// operands go through workgroup memory, each element loaded once per workgroup. Which way an operand runs in memory
// only decides which invocations load which elements, so that neighbours load neighbours.
//
// The block `epilogue` is replaced when a kernel is made.

struct Params {
    m: u32, n: u32, k: u32,
    tiles_n: u32, tiles: u32, count: u32,     // tiles along the columns, tiles of one matrix, tiles of all
    a_row: u32, a_k: u32,                     // strides, in elements
    b_k: u32, b_column: u32,
    a_offset: u32, b_offset: u32,
    a_batch: u32, b_batch: u32,
    pad0: u32, pad1: u32,
    operands: array<vec4<u32>, 7>,            // of the epilogue: offset, strides of batch, row and column
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;

//:begin epilogue
@group(0) @binding(3) var<storage, read_write> out0: array<vec4<f32>>;
fn store4(batch: u32, row: u32, column: u32, value: vec4<f32>) {
    let o = p.operands[0];
    out0[o.x + batch * o.y + row * o.z + column / 4u] = value;
}
//:end epilogue

const DEPTH: u32 = 16u;
// One vec4 of padding a line spreads the columns over the memory banks.
const LINE: u32 = 17u;

// [depth][rows or columns / 4]
var<workgroup> tile_a: array<vec4<f32>, DEPTH * LINE>;
var<workgroup> tile_b: array<vec4<f32>, DEPTH * LINE>;

fn load_a(batch: u32, row: u32, k: u32) -> f32 {
    if (row < p.m && k < p.k) {
        return a[p.a_offset + batch * p.a_batch + row * p.a_row + k * p.a_k];
    }
    return 0.0;
}

fn load_b(batch: u32, k: u32, column: u32) -> f32 {
    if (k < p.k && column < p.n) {
        return b[p.b_offset + batch * p.b_batch + k * p.b_k + column * p.b_column];
    }
    return 0.0;
}

@compute @workgroup_size(256)
fn matmul(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = group.x + group.y * groups.x;
    // Groups past the end compute the last tile again and store nothing, so that barriers stay uniform.
    let tile = min(index, p.count - 1u);
    let batch = tile / p.tiles;
    let row0 = (tile % p.tiles) / p.tiles_n * 64u;
    let column0 = (tile % p.tiles) % p.tiles_n * 64u;

    // Which four consecutive rows (or columns) of which depth this invocation loads.
    let a_along_k = p.a_k == 1u;
    let b_along_k = p.b_k == 1u;
    let fast = lane % 16u;
    let slow = lane / 16u;
    let a_depth = select(slow, fast, a_along_k);
    let a_quad = select(fast, slow, a_along_k);
    let b_depth = select(slow, fast, b_along_k);
    let b_quad = select(fast, slow, b_along_k);

    let my_rows = lane / 16u;     // rows 4·my_rows … of the tile
    let my_columns = lane % 16u;  // columns 4·my_columns …
    var c0 = vec4<f32>(0.0);
    var c1 = vec4<f32>(0.0);
    var c2 = vec4<f32>(0.0);
    var c3 = vec4<f32>(0.0);
    for (var k0 = 0u; k0 < p.k; k0 += DEPTH) {
        let row = row0 + 4u * a_quad;
        let column = column0 + 4u * b_quad;
        tile_a[a_depth * LINE + a_quad] = vec4<f32>(
            load_a(batch, row, k0 + a_depth), load_a(batch, row + 1u, k0 + a_depth),
            load_a(batch, row + 2u, k0 + a_depth), load_a(batch, row + 3u, k0 + a_depth));
        tile_b[b_depth * LINE + b_quad] = vec4<f32>(
            load_b(batch, k0 + b_depth, column), load_b(batch, k0 + b_depth, column + 1u),
            load_b(batch, k0 + b_depth, column + 2u), load_b(batch, k0 + b_depth, column + 3u));
        workgroupBarrier();
        for (var depth = 0u; depth < DEPTH; depth++) {
            let x = tile_a[depth * LINE + my_rows];
            let y = tile_b[depth * LINE + my_columns];
            c0 += x.x * y;
            c1 += x.y * y;
            c2 += x.z * y;
            c3 += x.w * y;
        }
        workgroupBarrier();
    }
    let row = row0 + 4u * my_rows;
    let column = column0 + 4u * my_columns;
    if (index < p.count && column < p.n) {
        if (row < p.m) { store4(batch, row, column, c0); }
        if (row + 1u < p.m) { store4(batch, row + 1u, column, c1); }
        if (row + 2u < p.m) { store4(batch, row + 2u, column, c2); }
        if (row + 3u < p.m) { store4(batch, row + 3u, column, c3); }
    }
}
