// Rows of a table by index. An invocation copies four columns of a few rows.
//
// The block `epilogue` is replaced when a kernel is made, `weight` where strides do not allow loads of a vec4, and `refuse`
// where the host has not checked the indices.

import shadegrad::epilogue;
import shadegrad::grid;

struct Params {
    n: u32,                          // columns
    rows: u32,                       // indices in one batch
    count: u32,                      // indices in all
    vocabulary: u32,                 // rows of the table
    weight_offset: u32, weight_row: u32, weight_column: u32,   // in units of what `weight` loads
    ids_offset: u32,
    first: u32,                      // the index of the table's first row, as it may be a part of a larger one
    whole: u32,                      // rows of the whole table
    not_a_number: u32,
    unused: u32,
    operands: array<vec4<u32>, 7>,   // of the epilogue: offset, strides of batch, row and column
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(2) var<storage, read> ids: array<u32>;

@group(0) @binding(1) var<storage, read> weight: array<vec4<f32>>;
fn load4(base: u32, column: u32) -> vec4<f32> { return weight[base + column / 4u]; }

fn refuse(index: u32) {}

const LANES: u32 = 32u;
const ROWS: u32 = 1u;

@compute @workgroup_size(LANES)
fn embedding(group: Group, @builtin(local_invocation_index) lane: u32) {
    let tile = index_of(group);
    let tiles = (p.n + 4u * LANES - 1u) / (4u * LANES);
    let column = (tile % tiles * LANES + lane) * 4u;
    if (column >= p.n) { return; }
    let first = tile / tiles * ROWS;
    let end = min(first + ROWS, p.count);
    // Integer division is dear on software adapters: batch and row are found once and then counted.
    var batch = first / p.rows;
    var row = first % p.rows;
    for (var place = first; place < end; place++) {
        let id = ids[p.ids_offset + place];
        // An index below the first row wraps around to one far beyond the last.
        let index = id - p.first;
        let value = load4(p.weight_offset + min(index, p.vocabulary - 1u) * p.weight_row, column);
        let missing = select(0.0, bitcast<f32>(p.not_a_number), id >= p.whole);
        store4(batch, row, column, select(value, vec4<f32>(missing), index >= p.vocabulary));
        if (id >= p.whole && column == 0u) { refuse(id); }
        row++;
        if (row == p.rows) {
            row = 0u;
            batch++;
        }
    }
}
