// Dropout: an element is zero where its random word is below the threshold, else scaled up. The words depend on the key,
// the stream and the element's place alone, so the gradient is this kernel again.
//
// The epilogue is declared again when a kernel is made, and the input where strides do not allow loads of a vec4.

import shadegrad::epilogue;
import shadegrad::grid;
import shadegrad::philox;

struct Params {
    n: u32,                          // columns
    rows: u32,                       // rows in one batch
    count: u32,                      // rows in all
    stream: u32,
    threshold: u32,
    factor: f32,
    key_offset: u32,
    input_offset: u32,               // offset and strides in units of what `input` loads
    input_batch: u32, input_row: u32, input_column: u32,
    places_each: u32,                // rows of n in a row of the batch that the key counts rows of; else 0
    operands: array<vec4<u32>, 7>,   // of the epilogue: offset, strides of batch, row and column
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(2) var<storage, read> key: array<u32>;

@group(0) @binding(1) var<storage, read> input: array<vec4<f32>>;
fn load4(base: u32, column: u32) -> vec4<f32> { return input[base + column / 4u]; }

const LANES: u32 = 32u;
const ROWS: u32 = 1u;

@compute @workgroup_size(LANES)
fn dropout(group: Group, @builtin(local_invocation_index) lane: u32) {
    let index = index_of(group);
    let tiles = (p.n + 4u * LANES - 1u) / (4u * LANES);
    let column = (index % tiles * LANES + lane) * 4u;
    if (column >= p.n) { return; }
    let words = vec4<u32>(
        key[p.key_offset], key[p.key_offset + 1u], key[p.key_offset + 2u], key[p.key_offset + 3u]);
    let quads = (p.n + 3u) / 4u;
    let earlier = key[p.key_offset + 4u] * p.places_each;
    let first = index / tiles * ROWS;
    let end = min(first + ROWS, p.count);
    // Integer division is dear on software adapters: batch and row are found once and then counted.
    var batch = first / p.rows;
    var row = first % p.rows;
    for (var place = first; place < end; place++) {
        let random = random_words(words, p.stream, (earlier + place) * quads + column / 4u);
        let value = load4(p.input_offset + batch * p.input_batch + row * p.input_row, column);
        let kept = random >= vec4<u32>(p.threshold);
        store4(batch, row, column, select(vec4<f32>(0.0), value * p.factor, kept));
        row++;
        if (row == p.rows) {
            row = 0u;
            batch++;
        }
    }
}
