// Attention, forward, on any device. Follows attention.wgsl.
//
//     out_i = Σ_j softmax_j(scale · q_i·k_j) v_j,    lse_i = ln Σ_j exp(scale · q_i·k_j)
//
// by online softmax over tiles of keys (Milakov and Gimelshein 2018; Dao et al. 2022).
//
// A workgroup takes ROWS queries of one head. A query belongs to SPLIT invocations, each of which keeps a part of it,
// and of its result, in registers (a `Row`: SLICE chunks of four elements). Tiles of TILE keys and values go through
// workgroup memory, where all queries read the same addresses at the same time. The parts of the dot products meet in
// workgroup memory too. Tiles that causality hides are not visited; the longest rows start first.
//
// Block operands is replaced when a kernel is made: how rows are held, loaded and stored.

const ROWS: u32 = 16u;
const SPLIT: u32 = 1u;
const SLICE: u32 = 1u;
const TILE: u32 = 8u;
const THREADS: u32 = ROWS * SPLIT;
const CHUNKS: u32 = SPLIT * SLICE;

//:begin operands
struct Row { d0: vec4<f32> }
fn zero_row() -> Row { return Row(vec4<f32>()); }
fn scaled(a: Row, w: f32) -> Row { return Row(a.d0 * w); }
fn plus_scaled(a: Row, w: f32, b: Row) -> Row { return Row(a.d0 + w * b.d0); }
fn dot_rows(a: Row, b: Row) -> f32 { let s = a.d0 * b.d0; return (s.x + s.y) + (s.z + s.w); }
fn row_of_first(at: u32) -> Row { return Row(first_tile[at]); }
fn row_of_second(at: u32) -> Row { return Row(second_tile[at]); }
@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;
fn chunk_q(at: u32, chunk: u32) -> vec4<f32> { return q[at / 4u + chunk]; }
fn load_q(at: u32, chunk: u32) -> Row { return Row(chunk_q(at, chunk)); }
@group(0) @binding(2) var<storage, read> k: array<vec4<f32>>;
fn chunk_k(at: u32, chunk: u32) -> vec4<f32> { return k[at / 4u + chunk]; }
@group(0) @binding(3) var<storage, read> v: array<vec4<f32>>;
fn chunk_v(at: u32, chunk: u32) -> vec4<f32> { return v[at / 4u + chunk]; }
@group(0) @binding(4) var<storage, read_write> out: array<vec4<f32>>;
fn store_out(at: u32, chunk: u32, a: Row) { out[at / 4u + chunk] = a.d0; }
@group(0) @binding(5) var<storage, read_write> lse: array<f32>;
//:end operands

var<workgroup> first_tile: array<vec4<f32>, TILE * CHUNKS>;  // keys
var<workgroup> second_tile: array<vec4<f32>, TILE * CHUNKS>; // values
var<workgroup> parts: array<f32, TILE * THREADS>;            // of dot products: [key, part, query]

fn product(e: u32, r: u32) -> f32 {
    var sum = parts[e * THREADS + r];
    for (var part = 1u; part < SPLIT; part++) { sum += parts[e * THREADS + part * ROWS + r]; }
    return sum;
}

fn largest(a: vec4<f32>) -> f32 { return max(max(a.x, a.y), max(a.z, a.w)); }
fn total(a: vec4<f32>) -> f32 { return (a.x + a.y) + (a.z + a.w); }

@compute @workgroup_size(THREADS)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = group.x + group.y * groups.x;
    if (index >= p.groups) { return; }
    let head = head_of(index);
    let first = (p.tiles - 1u - head.tile) * ROWS;
    let r = lane % ROWS;
    let part = lane / ROWS;
    let i = min(first + r, p.queries - 1u);
    let query = scaled(load_q(row_at(p.q, head, i), part * SLICE), p.scale);
    let dropout = dropout_key();
    let start = first_key(head, i);
    let seen = end_key(head, i) - start;
    let keys = end_key(head, min(first + ROWS, p.queries) - 1u);
    var acc = zero_row();
    var top = LOWEST;
    var sum = 0.0;
    for (var j0 = first_key(head, first) / TILE * TILE; j0 < keys; j0 += TILE) {
        workgroupBarrier(); // the tile before has been read
        for (var t = lane; t < TILE * CHUNKS; t += THREADS) {
            let j = min(j0 + t / CHUNKS, p.keys - 1u);
            first_tile[t] = chunk_k(key_row_at(p.k, head, j), t % CHUNKS);
            second_tile[t] = chunk_v(key_row_at(p.v, head, j), t % CHUNKS);
        }
        workgroupBarrier();
        for (var e = 0u; e < TILE; e++) {
            parts[e * THREADS + lane] = dot_rows(query, row_of_first(e * CHUNKS + part * SLICE));
        }
        if (SPLIT > 1u) { workgroupBarrier(); }
        let a = vec4<f32>(
            masked(product(0u, r), j0 - start < seen, head, i, j0),
            masked(product(1u, r), j0 + 1u - start < seen, head, i, j0 + 1u),
            masked(product(2u, r), j0 + 2u - start < seen, head, i, j0 + 2u),
            masked(product(3u, r), j0 + 3u - start < seen, head, i, j0 + 3u),
        );
        let b = vec4<f32>(
            masked(product(4u, r), j0 + 4u - start < seen, head, i, j0 + 4u),
            masked(product(5u, r), j0 + 5u - start < seen, head, i, j0 + 5u),
            masked(product(6u, r), j0 + 6u - start < seen, head, i, j0 + 6u),
            masked(product(7u, r), j0 + 7u - start < seen, head, i, j0 + 7u),
        );
        let next = max(top, max(largest(a), largest(b)));
        let shrink = exp(top - next);
        let wa = exp(a - next);
        let wb = exp(b - next);
        top = next;
        sum = sum * shrink + (total(wa) + total(wb));
        let kept = kept_eight(dropout, head, i, j0);
        let at = part * SLICE;
        acc = scaled(acc, shrink);
        acc = plus_scaled(acc, dropped(wa.x, kept, 0u), row_of_second(at));
        acc = plus_scaled(acc, dropped(wa.y, kept, 1u), row_of_second(at + CHUNKS));
        acc = plus_scaled(acc, dropped(wa.z, kept, 2u), row_of_second(at + 2u * CHUNKS));
        acc = plus_scaled(acc, dropped(wa.w, kept, 3u), row_of_second(at + 3u * CHUNKS));
        acc = plus_scaled(acc, dropped(wb.x, kept, 4u), row_of_second(at + 4u * CHUNKS));
        acc = plus_scaled(acc, dropped(wb.y, kept, 5u), row_of_second(at + 5u * CHUNKS));
        acc = plus_scaled(acc, dropped(wb.z, kept, 6u), row_of_second(at + 6u * CHUNKS));
        acc = plus_scaled(acc, dropped(wb.w, kept, 7u), row_of_second(at + 7u * CHUNKS));
    }
    if (first + r < p.queries) {
        // A query that sees nothing gives zeros.
        let none = sum == 0.0;
        let inverse = select(1.0 / sum, 0.0, none);
        store_out(row_at(p.out, head, i), part * SLICE, scaled(acc, inverse));
        if (part == 0u) {
            lse[p.lse_offset + head.index * p.queries + i] = select(top + log(sum), 0.0, none);
        }
    }
}
