// How kernels store their results: imported by those with an epilogue, `src/tape/plan/epilogue.rs`, which declares all of
// this again. As it stands, dense matrices of vec4 are stored, at binding 3. Parameters are called `p`; they have `operands`.

@group(0) @binding(3) var<storage, read_write> out0: array<vec4<f32>>;

// Columns `column` to `column + 3` of a row.
fn store4(batch: u32, row: u32, column: u32, value: vec4<f32>) {
    let o = p.operands[0];
    out0[o.x + batch * o.y + row * o.z + column / 4u] = value;
}

// The same row by row: a place, and storing there, which goes on to the next row.
struct Cursor { place0: u32, row0: u32 }
fn cursor(batch: u32, row: u32, column: u32) -> Cursor {
    let o = p.operands[0];
    return Cursor(o.x + batch * o.y + row * o.z + column / 4u, o.z);
}
fn store_next(c: ptr<function, Cursor>, column: u32, value: vec4<f32>) {
    out0[(*c).place0] = value;
    (*c).place0 += (*c).row0;
}

// Whether the epilogue makes one element of two that lie half a row apart, and stores it.
const GATED: bool = false;
fn store_gate(batch: u32, row: u32, column: u32, gate: vec4<f32>, up: vec4<f32>) {}
