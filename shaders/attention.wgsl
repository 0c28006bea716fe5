// What all attention kernels share; each of them is compiled with this text in front.
//
// A "row" is one query or one key of one head: HEAD_DIM elements in sequence. Where rows lie is given by an offset and
// the strides of batch, head and row, so that q, k and v may be parts of one packed projection, or views of anything.
//
// Blocks mask and dropout are replaced when a kernel is made; as they stand there is neither.

struct Params {
    queries: u32,           // rows of q
    keys: u32,              // rows of k and v
    heads: u32,
    reach: i32,             // query i sees keys 0 .. i + reach
    scale: f32,
    tiles: u32,             // workgroups of one head
    groups: u32,            // workgroups of all heads
    lse_offset: u32,
    mask_offset: u32,
    key_offset: u32,        // of the random key
    stream: u32,            // of random numbers
    dropout_threshold: u32, // a weight is kept if its random word is at least this
    dropout_scale: f32,     // what kept weights are multiplied by
    pad0: u32,
    pad1: u32,
    pad2: u32,
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

// The head that a workgroup works on.
struct Head {
    batch: u32,
    head: u32,
    index: u32, // of all heads of all batches
    tile: u32,
}

fn head_of(group: u32) -> Head {
    let index = group / p.tiles;
    return Head(index / p.heads, index % p.heads, index, group % p.tiles);
}

fn row_at(place: vec4<u32>, head: Head, row: u32) -> u32 {
    return place.x + head.batch * place.y + head.head * place.z + row * place.w;
}

// How many keys query i sees, by causality alone.
fn seen_keys(i: u32) -> u32 {
    return u32(clamp(i32(i) + p.reach, 0, i32(p.keys)));
}

// The first query that sees key j.
fn first_query(j: u32) -> u32 {
    return u32(max(i32(j) + 1 - p.reach, 0));
}

//:begin mask
fn masked(score: f32, seen: bool, head: Head, i: u32, j: u32) -> f32 {
    return select(UNSEEN, score, seen);
}
//:end mask

//:begin dropout
alias DropoutKey = u32;
fn dropout_key() -> DropoutKey { return 0u; }
// Bit e says whether the weight of query i for key j + e is kept; j is a multiple of 8.
fn kept_weights(key: DropoutKey, head: Head, i: u32, j: u32) -> u32 { return 0u; }
fn dropped(weight: f32, kept: u32, e: u32) -> f32 { return weight; }
//:end dropout
