// Attention, backward, on any device. Follows attention.wgsl. With the weights P recomputed from the log-sum-exp and
// D_i = dout_i·out_i (attention_statistics.wgsl prepares both):
//
//     dS_ij = P_ij (dout_i·v_j − D_i),   dq_i = scale · Σ_j dS_ij k_j
//     dk_j = scale · Σ_i dS_ij q_i,      dv_j = Σ_i P_ij dout_i
//
// `queries` computes dq: its workgroups own queries and walk over tiles of keys. `keys` computes dk and dv: its
// workgroups own keys and walk over tiles of queries. Otherwise as attention_tiled.wgsl. Every element is written once,
// by one invocation: no atomics, and the order of all sums is fixed.
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
fn load_k(at: u32, chunk: u32) -> Row { return Row(chunk_k(at, chunk)); }
@group(0) @binding(3) var<storage, read> v: array<vec4<f32>>;
fn chunk_v(at: u32, chunk: u32) -> vec4<f32> { return v[at / 4u + chunk]; }
fn load_v(at: u32, chunk: u32) -> Row { return Row(chunk_v(at, chunk)); }
@group(0) @binding(4) var<storage, read> dout: array<vec4<f32>>;
fn chunk_dout(at: u32, chunk: u32) -> vec4<f32> { return dout[at / 4u + chunk]; }
fn load_dout(at: u32, chunk: u32) -> Row { return Row(chunk_dout(at, chunk)); }
@group(0) @binding(5) var<storage, read_write> gradient: array<vec4<f32>>;
fn store_gradient(at: u32, chunk: u32, a: Row) { gradient[at / 4u + chunk] = a.d0; }
@group(0) @binding(6) var<storage, read> statistics: array<u32>;
//:end operands

var<workgroup> first_tile: array<vec4<f32>, TILE * CHUNKS>;  // keys, or queries
var<workgroup> second_tile: array<vec4<f32>, TILE * CHUNKS>; // values, or upstream gradients
var<workgroup> parts: array<vec2<f32>, TILE * THREADS>;      // of dot products with them: [row of the tile, part, own row]
var<workgroup> about_tile: array<vec2<f32>, TILE>;
var<workgroup> kept_tile: array<u32, TILE * ROWS / 8u>;

fn products(e: u32, r: u32) -> vec2<f32> {
    var sum = parts[e * THREADS + r];
    for (var part = 1u; part < SPLIT; part++) { sum += parts[e * THREADS + part * ROWS + r]; }
    return sum;
}

fn statistics_of(head: Head, i: u32) -> vec2<f32> {
    let at = 4u + 2u * (head.index * p.queries + i);
    return vec2<f32>(bitcast<f32>(statistics[at]), bitcast<f32>(statistics[at + 1u]));
}

@compute @workgroup_size(THREADS)
fn queries(
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
    let query = load_q(row_at(p.q, head, i), part * SLICE);
    let upstream = load_dout(row_at(p.dout, head, i), part * SLICE);
    let about = statistics_of(head, i);
    let dropout = dropout_key();
    let start = first_key(head, i);
    let seen = end_key(head, i) - start;
    let keys = end_key(head, min(first + ROWS, p.queries) - 1u);
    var dq = zero_row();
    for (var j0 = first_key(head, first) / TILE * TILE; j0 < keys; j0 += TILE) {
        workgroupBarrier(); // the tile before has been read
        for (var t = lane; t < TILE * CHUNKS; t += THREADS) {
            let j = min(j0 + t / CHUNKS, p.keys - 1u);
            first_tile[t] = chunk_k(key_row_at(p.k, head, j), t % CHUNKS);
            second_tile[t] = chunk_v(key_row_at(p.v, head, j), t % CHUNKS);
        }
        workgroupBarrier();
        for (var e = 0u; e < TILE; e++) {
            let at = e * CHUNKS + part * SLICE;
            parts[e * THREADS + lane] =
                vec2<f32>(dot_rows(query, row_of_first(at)), dot_rows(upstream, row_of_second(at)));
        }
        if (SPLIT > 1u) { workgroupBarrier(); }
        let kept = kept_eight(dropout, head, i, j0);
        for (var e = 0u; e < TILE; e++) {
            let j = j0 + e;
            let product = products(e, r);
            let score = masked(product.x * p.scale, j - start < seen, head, i, j);
            let weight = exp(min(score - about.x, 0.0));
            let dweight = dropped(product.y, kept, e);
            dq = plus_scaled(dq, weight * (dweight - about.y), row_of_first(e * CHUNKS + part * SLICE));
        }
    }
    if (first + r < p.queries) {
        store_gradient(row_at(p.dq, head, i), part * SLICE, scaled(dq, p.scale));
    }
}

@compute @workgroup_size(THREADS)
fn keys(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = group.x + group.y * groups.x;
    if (index >= p.groups) { return; }
    let owner = head_at(first_sharing(index), index % p.tiles);
    let first = owner.tile * ROWS;
    let r = lane % ROWS;
    let part = lane / ROWS;
    let j = min(first + r, p.keys - 1u);
    let key = load_k(key_row_at(p.k, owner, j), part * SLICE);
    let value = load_v(key_row_at(p.v, owner, j), part * SLICE);
    let dropout = dropout_key();
    let start = first_query(owner, j);
    let seen = end_query(owner, j) - start;
    let queries = end_query(owner, min(first + ROWS, p.keys) - 1u);
    var dk = zero_row();
    var dv = zero_row();
    for (var n = 0u; n < p.share; n++) {
        let head = head_at(owner.index + n, 0u);
        for (var i0 = first_query(head, first) / TILE * TILE; i0 < queries; i0 += TILE) {
            workgroupBarrier(); // the tile before has been read
            for (var t = lane; t < TILE * CHUNKS; t += THREADS) {
                let i = min(i0 + t / CHUNKS, p.queries - 1u);
                first_tile[t] = chunk_q(row_at(p.q, head, i), t % CHUNKS);
                second_tile[t] = chunk_dout(row_at(p.dout, head, i), t % CHUNKS);
            }
            for (var t = lane; t < TILE; t += THREADS) {
                about_tile[t] = statistics_of(head, min(i0 + t, p.queries - 1u));
            }
            for (var t = lane; t < TILE * ROWS / 8u; t += THREADS) {
                let i = min(i0 + t % TILE, p.queries - 1u);
                kept_tile[t] = kept_eight(dropout, head, i, first + t / TILE * 8u);
            }
            workgroupBarrier();
            for (var e = 0u; e < TILE; e++) {
                let at = e * CHUNKS + part * SLICE;
                parts[e * THREADS + lane] =
                    vec2<f32>(dot_rows(key, row_of_first(at)), dot_rows(value, row_of_second(at)));
            }
            if (SPLIT > 1u) { workgroupBarrier(); }
            for (var e = 0u; e < TILE; e++) {
                let i = i0 + e;
                let at = e * CHUNKS + part * SLICE;
                let about = about_tile[e];
                let kept = kept_tile[r / 8u * TILE + e];
                let product = products(e, r);
                let is_seen = i - start < seen;
                let score = masked(product.x * p.scale, is_seen, head, min(i, p.queries - 1u), j);
                let weight = exp(min(score - about.x, 0.0));
                let dweight = dropped(product.y, kept, r % 8u);
                dv = plus_scaled(dv, dropped(weight, kept, r % 8u), row_of_second(at));
                dk = plus_scaled(dk, weight * (dweight - about.y), row_of_first(at));
            }
        }
    }
    if (first + r < p.keys) {
        store_gradient(key_row_at(p.dk, owner, j), part * SLICE, scaled(dk, p.scale));
        store_gradient(key_row_at(p.dv, owner, j), part * SLICE, dv);
    }
}
