// Matrix product for software adapters with a subgroup of exactly 8 (Mesa llvmpipe):
// C[M,N] = op(A)[M,K] · op(B)[K,N], batched by strides, any strides, any M, N, K.
//
// Used only where the driver guarantees subgroups of exactly 8 (smallest and largest size both 8); matmul.wgsl is the
// portable twin. 8 lanes a workgroup, one workgroup a 32 × 32 tile.
//
// Why this form. llvmpipe runs 8 lanes as one AVX vector. It compiles every storage load to a loop over the lanes
// (about 14 ns for an f32, 24 ns for a vec4, 22 and 40 with the address's arithmetic in the loop, *whether or not the
// address is the same in all lanes*: its uniformity analysis sees only constants), but a subgroupShuffle with a
// constant lane to one broadcast instruction. So each lane loads something different, and shuffles hand it round: one
// vec4 load per operand and 4 × 8 values feed 32 rows × 32 columns, where loading through uniform addresses feeds 4. A
// step of 4 along k is 8 loads and 512 vector multiply-adds. Small operands are not loaded from storage at all: the
// planner makes them uniform.
//
// Lane l owns columns 4l..4l+3 of the tile and holds all 32 rows of them (128 vector registers, most of them in the L1
// cache, touched once a step). A fragment of either operand is 4 vec4: element c of `k<j>` in lane l is (outer index
// 4l + c, depth k + j), for A as for B, so transposition is only a matter of how a fragment is loaded.
//
// The store is a run-time loop that shifts the tile through one call of `store_next`: the epilogue is compiled once
// instead of 32 times (unrolled it cost a third of the compile time), and the loop ends at the last row.
//
// Parameters are read once, before the loops: wherever one is read, llvmpipe gathers it for eight lanes, 30 instructions.
// Places are carried from iteration to iteration: a sum of several terms would be taken apart and gathered lane by lane.
//
// Where the epilogue makes one element of two that lie half a row apart (GATED), lanes 0 to 3 have 16 columns of the left
// half, the others the same of the right, and a shuffle brings them together.
//
// Operands, as in matmul_operands.wgsl, the epilogue and `accumulate` are declared when a kernel is made.

import shadegrad::epilogue;
import shadegrad::grid;

struct Params {
    m: u32, n: u32, k: u32,
    tiles_n: u32, tiles: u32, count: u32,     // tiles along the columns, tiles of one matrix, tiles of all
    lda: u32, ldb: u32,                       // leading dimensions, in elements
    a_offset: u32, b_offset: u32,
    a_batch: u32, b_batch: u32,               // batch strides, in elements
    operands: array<vec4<u32>, 7>,            // of the epilogue: offset, strides of batch, row and column
}

// Four depths of eight lanes × four outer indices.
struct Fragment { k0: vec4<f32>, k1: vec4<f32>, k2: vec4<f32>, k3: vec4<f32> }

// Rows 4l..4l+3 of the tile in q<l>, one column of the mat4x4 each.
struct Tile {
    q0: mat4x4<f32>, q1: mat4x4<f32>, q2: mat4x4<f32>, q3: mat4x4<f32>,
    q4: mat4x4<f32>, q5: mat4x4<f32>, q6: mat4x4<f32>, q7: mat4x4<f32>,
}

@group(0) @binding(0) var<uniform> p: Params;

// Past the end of the depth both factors are zero, whatever the memory behind holds.
fn live(f: Fragment, left: u32) -> Fragment {
    let none = vec4<f32>(0.0);
    return Fragment(f.k0, select(none, f.k1, left > 1u), select(none, f.k2, left > 2u), select(none, f.k3, left > 3u));
}

fn column_of(tile: u32, lane: u32) -> u32 {
    if (GATED) { return tile * 16u + 4u * (lane % 4u) + lane / 4u * (p.n / 2u); }
    return tile * 32u + 4u * lane;
}

// Asked for behind the loop, so that it need not be kept until then.
fn is_there(column: u32, lane: u32) -> bool {
    if (GATED) { return column - lane / 4u * (p.n / 2u) < p.n / 2u; }
    return column < p.n;
}

@compute @workgroup_size(8)
fn matmul(group: Group, @builtin(subgroup_invocation_id) lane: u32) {
    let tile = index_of(group);
    if (tile >= p.count) { return; }
    let batch = tile / p.tiles;
    let row0 = (tile % p.tiles) / p.tiles_n * 32u;
    let column = column_of((tile % p.tiles) % p.tiles_n, lane);
    var ao = a_origin(batch, row0 + 4u * lane);
    var bo = b_origin(batch, column);
    var t = Tile();
    let depth = p.k;
    let lda = p.lda;
    let ldb = p.ldb;
    for (var k = 0u; k < depth; k += 4u) {
        let fa = live(a_fragment(ao, lda), depth - k);
        let fb = live(b_fragment(bo, ldb), depth - k);
        ao = a_step(ao, lda);
        bo = b_step(bo, ldb);
        accumulate(&t, fa, fb);
    }
    if (is_there(column, lane)) {
        let end = min(row0 + 32u, p.m);
        var row = row0;
        var at = cursor(batch, row0, column);
        while (row < end) {
            var q = t.q0;
            let end4 = min(row + 4u, end);
            while (row < end4) {
                store_next(&at, column, q[0]);
                q[0] = q[1]; q[1] = q[2]; q[2] = q[3];
                row += 1u;
            }
            t.q0 = t.q1; t.q1 = t.q2; t.q2 = t.q3; t.q3 = t.q4; t.q4 = t.q5; t.q5 = t.q6; t.q6 = t.q7;
        }
    }
}
