// Rows written into a tensor [batch, capacity, width] from a place on that is data, another one for each of the batch.

import shadegrad::grid;

struct Params {
    count: u32,  // elements of the rows
    width: u32,
    length: u32,  // rows to each of the batch
    capacity: u32,
    to_offset: u32,
    rows_offset: u32,
    batch_stride: u32,
    row_stride: u32,
    starts_offset: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> to: array<f32>;
@group(0) @binding(2) var<storage, read> rows: array<f32>;
@group(0) @binding(3) var<storage, read> starts: array<u32>;

@compute @workgroup_size(64)
fn write_rows(group: Group, @builtin(local_invocation_index) lane: u32) {
    let i = index_of(group) * 64u + lane;
    if (i >= p.count) { return; }
    let column = i % p.width;
    let row = i / p.width;
    let t = row % p.length;
    let b = row / p.length;
    let start = min(starts[p.starts_offset + b], p.capacity);
    if (t >= p.capacity - start) { return; }
    let at = (b * p.capacity + start + t) * p.width + column;
    to[p.to_offset + at] = rows[p.rows_offset + b * p.batch_stride + t * p.row_stride + column];
}
