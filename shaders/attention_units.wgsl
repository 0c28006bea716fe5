// Attention on matrix units, forward and backward. Follows attention.wgsl and matrix_units.wgsl.
//
// A workgroup owns OWN rows of one head: queries or, where OWNS_KEYS, keys. Tiles of OTHER rows of the other side pass by.
// Operands go through workgroup memory, with zeros past their ends, so that units never see one. Scores, queries down and
// keys across, are added up in f32 by the units and stored to workgroup memory, column by column: invocations that have
// different rows then read different banks. There, ordinary invocations make weights of them, four neighbouring keys at a
// time, and round these to f16 for the next product. Results are matrices that stay with the units while tiles pass by.
//
// Subgroups share the rows that the workgroup owns by DOWN, and what they meet by ACROSS: both where they compute scores and
// where they compute results.
//
// Matrices can't be in arrays, so each has a name: what has to do with them is written by `src/ops/attention/units.rs`, as
// is how operands are staged.

import shadegrad::attention;
import shadegrad::matrix_units;

const OWNS_KEYS: bool = false;
const DOWN: u32 = 2u;    // subgroups of a workgroup, down and across
const ACROSS: u32 = 1u;
const OWN: u32 = 32u;
const OTHER: u32 = 16u;
const WIDTH: u32 = 16u;  // of rows, a multiple of ACROSS · MATRIX_SIZE
const CHUNKS: u32 = 4u;  // of rows, as far as there is anything in them

const INVOCATIONS: u32 = DOWN * ACROSS * MATRIX_LANES;
const QUERY_ROWS: u32 = select(OWN, OTHER, OWNS_KEYS);
const KEY_ROWS: u32 = select(OTHER, OWN, OWNS_KEYS);
const TEAM: u32 = INVOCATIONS / QUERY_ROWS; // invocations that share a query's scores

// Lines are a little longer than what is in them: those that units load together then lie on different banks.
const LINE: u32 = WIDTH + 8u;
const WEIGHT_LINE: u32 = KEY_ROWS + 8u;
const SCORE_LINE: u32 = QUERY_ROWS + 4u;
const RESULT_LINE: u32 = OWN + 4u;

var<workgroup> q_tile: array<Part, QUERY_ROWS * LINE / PART>;
var<workgroup> k_tile: array<Part, KEY_ROWS * LINE / PART>;
var<workgroup> v_tile: array<Part, KEY_ROWS * LINE / PART>;
var<workgroup> dout_tile: array<Part, QUERY_ROWS * LINE / PART>;
var<workgroup> weights: array<Part, QUERY_ROWS * WEIGHT_LINE / PART>;
var<workgroup> sums: array<f32, max(KEY_ROWS * SCORE_LINE, ACROSS * MATRIX_SIZE * RESULT_LINE)>;
var<workgroup> of_rows: array<f32, INVOCATIONS>; // what those that share a row tell one another
var<workgroup> rises: atomic<u32>;

struct Place {
    query: u32,  // where the scores of the subgroup begin in their tile
    key: u32,
    own: u32,    // the first row of its results,
    across: u32, // and which of the subgroups it is that share them
    row: u32,    // the query that the invocation has scores of: those of every TEAM'th quad of keys,
    part: u32,   // from this one on
}

fn place_of(local: u32) -> Place {
    let own = local / MATRIX_LANES / ACROSS * (OWN / DOWN);
    let other = local / MATRIX_LANES % ACROSS * (OTHER / ACROSS);
    return Place(
        select(own, other, OWNS_KEYS), select(other, own, OWNS_KEYS), own, local / MATRIX_LANES % ACROSS,
        local / (8u * TEAM) * 8u + local % 8u, local / 8u % TEAM);
}

// Left operands of the products that give results: weights or their gradients, as they are or transposed.
fn weights_at(own: u32, other: u32) -> Left {
    if (OWNS_KEYS) { return coopLoad<Left>(&weights[(other * WEIGHT_LINE + own) / PART], WEIGHT_LINE / PART); }
    return coopLoadT<Left>(&weights[(own * WEIGHT_LINE + other) / PART], WEIGHT_LINE / PART);
}

fn keep_weights(row: u32, quad: u32, four: vec4<f32>) {
    let at = (row * WEIGHT_LINE + 4u * quad) / PART;
    for (var e = 0u; e < 4u / PART; e++) { weights[at + e] = part(vec4<f16>(four), e); }
}

// Four columns of what units have left in `sums`.
fn sums_at(quad: u32, line: u32, row: u32) -> vec4<f32> {
    let at = 4u * quad * line + row;
    return vec4<f32>(sums[at], sums[at + line], sums[at + 2u * line], sums[at + 3u * line]);
}

// The tiles of scores whose first query and key these are: whether all are seen, and as they are.
const BIASED: bool = false; // there is a mask, or a linear bias
fn needs_masks(head: Head, i: u32, j: u32) -> bool {
    let end = i + QUERY_ROWS;
    return BIASED || end > p.queries || !all_seen(head, i, end, j, j + KEY_ROWS);
}

// Scores of the invocation's query i with the quad's keys j ….
fn scores_at(head: Head, i: u32, j: u32, quad: u32, place: Place, masks: bool) -> vec4<f32> {
    let scores = p.scale * sums_at(quad, SCORE_LINE, place.row);
    if (!masks) { return scores; }
    let start = first_key(head, i);
    let count = select(0u, end_key(head, i) - start, i < p.queries);
    let seen = vec4<u32>(j, j + 1u, j + 2u, j + 3u) - start < vec4<u32>(count);
    return vec4<f32>(
        masked(scores.x, seen.x, head, i, j), masked(scores.y, seen.y, head, i, j + 1u),
        masked(scores.z, seen.z, head, i, j + 2u), masked(scores.w, seen.w, head, i, j + 3u));
}

fn dropped_at(weights: vec4<f32>, key: DropoutKey, head: Head, i: u32, j: u32) -> vec4<f32> {
    let kept = kept_weights(key, head, min(i, p.queries - 1u), j);
    return vec4<f32>(
        dropped(weights.x, kept, 0u), dropped(weights.y, kept, 1u), dropped(weights.z, kept, 2u), dropped(weights.w, kept, 3u));
}

// Forward: scores may rise so far above the largest that there was when their weights were last made small, before they are
// again: e⁸ is far from what f16 can't hold. So nearly all tiles are added to what the units have already.
const MOST_RISE: f32 = 8.0;

// Backward: gradients of scores are kept as f16 times this. Weights are 1 / keys on average: half of that exponent is left to
// weights that are larger.
fn gradient_factor() -> f32 { return f32(1u << (firstLeadingBit(p.keys) / 2u)); }

fn weights_below(scores: vec4<f32>, lse: f32) -> vec4<f32> {
    return vec4<f32>(weight_of(scores.x - lse), weight_of(scores.y - lse), weight_of(scores.z - lse), weight_of(scores.w - lse));
}

fn shared_by(weights: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(shared_weight(weights.x), shared_weight(weights.y), shared_weight(weights.z), shared_weight(weights.w));
}

fn largest_of(four: vec4<f32>) -> f32 { return max(max(four.x, four.y), max(four.z, four.w)); }
fn sum_of(four: vec4<f32>) -> f32 { return (four.x + four.y) + (four.z + four.w); }

// Of what all that share a row have told.
fn largest_of_row(place: Place) -> f32 {
    var largest = of_rows[place.row];
    for (var part = 1u; part < TEAM; part++) { largest = max(largest, of_rows[part * QUERY_ROWS + place.row]); }
    return largest;
}
fn sum_of_row(place: Place) -> f32 {
    var sum = of_rows[place.row];
    for (var part = 1u; part < TEAM; part++) { sum += of_rows[part * QUERY_ROWS + place.row]; }
    return sum;
}

// Stores what the units have left of results: columns of matrices side by side, of own rows from `first` on.
fn store_results(lies: vec4<u32>, head: Head, first: u32, column: u32, factor: f32, local: u32) {
    for (var n = local; n < OWN * ACROSS * MATRIX_SIZE / 4u; n += INVOCATIONS) {
        let row = first + n % OWN;
        let quad = n / OWN;
        let chunk = column * (ACROSS * MATRIX_SIZE / 4u) + quad;
        let at = select(row_at(lies, head, row), key_row_at(lies, head, row), OWNS_KEYS);
        if (row < select(p.queries, p.keys, OWNS_KEYS) && chunk < CHUNKS) {
            store_chunk_result(at, chunk, factor * sums_at(quad, RESULT_LINE, n % OWN));
        }
    }
}
