// What all attention kernels share.
//
// A "row" is one query or one key of one head: HEAD_DIM elements in sequence. Where rows lie is given by an offset and
// the strides of batch, head and row, so that q, k and v may be parts of one packed projection, or views of anything.
//
// Slopes, masks and dropout are declared again when a kernel has them; as they stand there is nothing of the kind.

import shadegrad::grid;

struct Params {
    queries: u32,           // rows of q
    keys: u32,              // rows of k and v
    heads: u32,
    reach: i32,             // query i sees keys up to i + reach, that one excluded,
    window: i32,            // and no more than so many
    ahead: i32,             // query i stands at position i + reach - 1 - ahead among the keys
    share: u32,             // heads that share one head of k and v
    scale: f32,
    tiles: u32,             // workgroups of one head
    groups: u32,            // workgroups of all heads
    lse_offset: u32,
    mask_offset: u32,
    key_offset: u32,        // of the random key
    stream: u32,            // of random numbers
    dropout_threshold: u32, // a weight is kept if its random word is at least this
    dropout_scale: f32,     // what kept weights are multiplied by
    all_heads: u32,         // of all batches
    begin: u32,             // which rows of the other side are visited: a multiple of a tile,
    end: u32,               // and that one excluded
    heads_each: u32,        // of a row of the batch that the random key counts rows of; 0 if it is none of those
    // offset and strides of batch, head and row
    q: vec4<u32>,
    k: vec4<u32>,
    v: vec4<u32>,
    out: vec4<u32>,
    dout: vec4<u32>,
    dq: vec4<u32>,
    dk: vec4<u32>,
    dv: vec4<u32>,
    mask: vec4<u32>,        // strides of batch, head, query and key
}

@group(0) @binding(0) var<uniform> p: Params;

// The score of a key that a query does not see. Running maxima start higher, so that its weight comes out as zero.
const UNSEEN: f32 = -1.0e30;
const LOWEST: f32 = -0.5e30;

// Where there are more rows than an invocation's loops may go through, several dispatches visit some each, and leave their
// results where the next finds them.
const CONTINUED: bool = false;  // dispatches went before
const UNFINISHED: bool = false; // further ones follow

// The log-sum-exp of a row from its largest score and the sum of the exponentials below that. A row that sees nothing gets
// zero, so that its weights come out as zero; while there may be more to see, something that no score is.
//
// Where one key has all the weight, as it has when it is the only one, its weight should come out as exactly 1 whatever the
// order in which the score is added up again: others there have at most 1e-7.
fn lse_of(top: f32, sum: f32) -> f32 {
    if (UNFINISHED) {
        let bits = bitcast<u32>(top + log(sum));
        return select(bitcast<f32>(select(bits & ~1u, bits | 1u, sum == 1.0)), LOWEST, sum == 0.0);
    }
    return select(top + select(log(sum), -0.125, sum == 1.0), 0.0, sum == 0.0);
}

// The way back, for dispatches that go on: the last bit says whether one key has all the weight so far. If not, what has been
// seen counts as two keys, so that a sum of 1 keeps its meaning.
fn sum_of_lse(lse: f32) -> f32 {
    return select(select(2.0, 1.0, (bitcast<u32>(lse) & 1u) == 1u), 0.0, lse == LOWEST);
}
fn top_of_lse(lse: f32) -> f32 { return lse - select(0.0, 0.6931472, sum_of_lse(lse) == 2.0); }

// A weight is at most 1, also where the sum of weights was rounded. NaN stays NaN, as it does not in min().
fn weight_of(x: f32) -> f32 { return exp(select(x, 0.0, x > 0.0)); }

// The weight as a factor of its score's gradient, P (dP − D): with all the weight that is zero, which P = 1 and rounding
// would miss.
fn shared_weight(w: f32) -> f32 { return select(w, 0.0, w >= 1.0); }

fn slope_of(head: u32) -> f32 { return 0.0; }

// The head that an invocation works on.
struct Head {
    batch: u32,
    head: u32,
    key_head: u32, // of k and v
    index: u32,    // of all heads of all batches
    tile: u32,
    slope: f32,    // of the linear bias
}

fn head_at(index: u32, tile: u32) -> Head {
    let batch = index / p.heads;
    let head = index % p.heads;
    return Head(batch, head, head / p.share, index, tile, slope_of(head));
}

fn head_of(group: u32) -> Head { return head_at(group / p.tiles, group % p.tiles); }

// For workgroups that own keys: the first of the heads that share them. Their indices follow each other.
fn first_sharing(group: u32) -> u32 { return group / p.tiles * p.share; }

fn row_at(place: vec4<u32>, head: Head, row: u32) -> u32 {
    return place.x + head.batch * place.y + head.head * place.z + row * place.w;
}

fn key_row_at(place: vec4<u32>, head: Head, row: u32) -> u32 {
    return place.x + head.batch * place.y + head.key_head * place.z + row * place.w;
}

// Causality and window let query i see the keys first_key .. end_key, and key j the queries first_query .. end_query.
fn first_key(head: Head, i: u32) -> u32 {
    return u32(clamp(i32(i) + p.reach - p.window, 0, i32(p.keys)));
}
fn end_key(head: Head, i: u32) -> u32 { return u32(clamp(i32(i) + p.reach, 0, i32(p.keys))); }
fn first_query(head: Head, j: u32) -> u32 { return u32(max(i32(j) + 1 - p.reach, 0)); }
fn end_query(head: Head, j: u32) -> u32 {
    return u32(clamp(i32(j) + 1 - p.reach + p.window, 0, i32(p.queries)));
}

// Whether queries i .. end_i all see keys j .. end_j, as far as causality and window go.
fn all_seen(head: Head, i: u32, end_i: u32, j: u32, end_j: u32) -> bool {
    return first_key(head, end_i - 1u) <= j && end_j <= end_key(head, i);
}

fn masked(score: f32, seen: bool, head: Head, i: u32, j: u32) -> f32 {
    return select(UNSEEN, score, seen);
}

alias DropoutKey = u32;
fn dropout_key() -> DropoutKey { return 0u; }
// Bit e says whether the weight of query i for key j + e is kept; j is a multiple of 4, there are four bits.
fn kept_weights(key: DropoutKey, head: Head, i: u32, j: u32) -> u32 { return 0u; }
fn dropped(weight: f32, kept: u32, e: u32) -> f32 { return weight; }

fn kept_eight(key: DropoutKey, head: Head, i: u32, j: u32) -> u32 {
    return kept_weights(key, head, i, j) | (kept_weights(key, head, i, j + 4u) << 4u);
}
