// A product with unsymmetric operands, X·Y + Xᵀ·Yᵀ of 2·MATRIX_SIZE × 2·MATRIX_SIZE each, in the way that kernels with matrix units
// compute: four subgroups, each with a quarter of the result, matrices from workgroup memory by rows and by columns, and back
// by rows, then by columns. `src/gpu/matrix_units.rs` compares.

import shadegrad::matrix_units;

@group(0) @binding(1) var<storage, read_write> z: array<f32>;

const EXTENT: u32 = 2u * MATRIX_SIZE;
// Lines are padded, as those of kernels are.
const STRIDE: u32 = EXTENT + 8u;

var<workgroup> x: array<Part, EXTENT * STRIDE / PART>;
var<workgroup> y: array<Part, EXTENT * STRIDE / PART>;
var<workgroup> sums: array<f32, EXTENT * STRIDE>;

// Integers, so that every sum is exact in f32, but not in f16, nor products in bfloat16.
fn element(row: u32, column: u32, salt: u32) -> f16 {
    return f16(f32((71u * row + 43u * column + salt * row * column) % 251u) - 125.0);
}

fn quad(row: u32, column: u32, salt: u32) -> vec4<f16> {
    return vec4<f16>(
        element(row, column, salt), element(row, column + 1u, salt),
        element(row, column + 2u, salt), element(row, column + 3u, salt));
}

@compute @workgroup_size(4u * MATRIX_LANES)
fn test(@builtin(local_invocation_index) local: u32) {
    for (var i = local; i < EXTENT * EXTENT / 4u; i += 4u * MATRIX_LANES) {
        let row = i / (EXTENT / 4u);
        let column = i % (EXTENT / 4u) * 4u;
        let at = (row * STRIDE + column) / PART;
        for (var i = 0u; i < 4u / PART; i++) {
            x[at + i] = part(quad(row, column, 1u), i);
            y[at + i] = part(quad(row, column, 3u), i);
        }
    }
    workgroupBarrier();
    let row = local / MATRIX_LANES / 2u * MATRIX_SIZE;
    let column = local / MATRIX_LANES % 2u * MATRIX_SIZE;
    var sum = Sum();
    for (var k = 0u; k < EXTENT; k += MATRIX_SIZE) {
        let by_rows = coopLoadT<Left>(&x[(row * STRIDE + k) / PART], STRIDE / PART);
        sum = coopMultiplyAdd(by_rows, coopLoadT<Right>(&y[(k * STRIDE + column) / PART], STRIDE / PART), sum);
        let by_columns = coopLoad<Left>(&x[(k * STRIDE + row) / PART], STRIDE / PART);
        sum = coopMultiplyAdd(by_columns, coopLoad<Right>(&y[(column * STRIDE + k) / PART], STRIDE / PART), sum);
    }
    coopStoreT(sum, &sums[row * STRIDE + column], STRIDE);
    workgroupBarrier();
    for (var i = local; i < EXTENT * EXTENT; i += 4u * MATRIX_LANES) {
        z[i] = sums[i / EXTENT * STRIDE + i % EXTENT];
    }
    workgroupBarrier();
    coopStore(sum, &sums[column * STRIDE + row], STRIDE);
    workgroupBarrier();
    for (var i = local; i < EXTENT * EXTENT; i += 4u * MATRIX_LANES) {
        z[EXTENT * EXTENT + i] = sums[i / EXTENT * STRIDE + i % EXTENT];
    }
}
