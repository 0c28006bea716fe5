// The gradient of an embedding: for every row of the table, the sum of the gradients at the places that hold its index,
// in a fixed order.
//
// On software adapters an invocation walks over all places with one column (`walk`). On GPUs that would be too few
// invocations: where table × places is small, every row looks at every place (`direct`); else the places are first sorted
// by index: `sort_blocks` sorts blocks, `merge` joins sorted runs two by two, `find_starts` finds where each index
// begins, and `sum_places` adds up. Both sorts keep the order of equal indices.

import shadegrad::grid;

struct Params {
    places: u32,            // indices in all
    vocabulary: u32,        // rows of the table
    width: u32,             // columns
    ids_offset: u32,
    gradient_offset: u32,
    output_offset: u32,
    run: u32,               // length of the sorted runs that `merge` joins
    first: u32,             // the first place that `walk` goes to, or of those with an index that `sum_places` does
    end: u32,               // the place that it stops before
    clears: u32,            // whether `walk` clears the table first
    first_row: u32,         // the index of the table's first row, as it may be a part of a larger one
}

@group(0) @binding(0) var<uniform> p: Params;

// The row that an index names: one past the last if the table does not hold it. (An index below the first row wraps
// around.)
fn row_of(id: u32) -> u32 {
    return min(id - p.first_row, p.vocabulary);
}

alias T = f32;
const WIDTH: u32 = 1u;

@group(0) @binding(1) var<storage, read> terms: array<T>;
@group(0) @binding(2) var<storage, read> ids: array<u32>;
@group(0) @binding(3) var<storage, read_write> table: array<T>;

@group(0) @binding(1) var<storage, read_write> cleared: array<T>;

@compute @workgroup_size(64)
fn clear(group: Group, @builtin(local_invocation_index) lane: u32) {
    let i = index_of(group) * 64u + lane;
    if (i >= p.vocabulary * (p.width / WIDTH)) { return; }
    cleared[p.output_offset / WIDTH + i] = T();
}

// An invocation owns one column (or four) of the whole table: it adds every place's gradient to the row it belongs to.
@compute @workgroup_size(8)
fn walk(group: Group, @builtin(local_invocation_index) lane: u32) {
    let column = index_of(group) * 8u + lane;
    let width = p.width / WIDTH;
    if (column >= width) { return; }
    let to = p.output_offset / WIDTH + column;
    if (p.clears == 1u) {
        for (var row = 0u; row < p.vocabulary; row++) {
            table[to + row * width] = T();
        }
    }
    let origin = p.gradient_offset / WIDTH + column;
    for (var place = p.first; place < p.end; place++) {
        let row = row_of(ids[p.ids_offset + place]);
        if (row < p.vocabulary) {
            table[to + row * width] += terms[origin + place * width];
        }
    }
}

// A workgroup sums 32 columns of one row: an invocation four of them, over every SLICES-th place.

const SLICES: u32 = 32u;

@group(0) @binding(1) var<storage, read> gradient: array<f32>;
@group(0) @binding(3) var<storage, read_write> output: array<f32>;

var<workgroup> of_slices: array<vec4<f32>, 8u * SLICES>;

fn row_at(place: u32) -> u32 { return row_of(ids[p.ids_offset + place]); }

// Columns past the end repeat the last one.
fn gradient4(place: u32, column: u32) -> vec4<f32> {
    let at = p.gradient_offset + place * p.width;
    let last = p.width - 1u;
    return vec4<f32>(
        gradient[at + min(column, last)], gradient[at + min(column + 1u, last)],
        gradient[at + min(column + 2u, last)], gradient[at + min(column + 3u, last)]);
}

@compute @workgroup_size(8u * SLICES)
fn direct(group: Group, @builtin(local_invocation_index) local: u32) {
    let index = index_of(group);
    let tiles = (p.width + 31u) / 32u;
    let column = index % tiles * 32u + local % 8u * 4u;
    let row = index / tiles;
    var sum = vec4<f32>(0.0);
    var place = local / 8u;
    // Several indices under way at a time; few of them are this row's.
    for (; place + 3u * SLICES < p.places; place += 4u * SLICES) {
        let rows = vec4<u32>(
            row_at(place), row_at(place + SLICES), row_at(place + 2u * SLICES), row_at(place + 3u * SLICES));
        let is_mine = rows == vec4<u32>(row);
        if (is_mine.x) { sum += gradient4(place, column); }
        if (is_mine.y) { sum += gradient4(place + SLICES, column); }
        if (is_mine.z) { sum += gradient4(place + 2u * SLICES, column); }
        if (is_mine.w) { sum += gradient4(place + 3u * SLICES, column); }
    }
    for (; place < p.places; place += SLICES) {
        if (row_at(place) == row) { sum += gradient4(place, column); }
    }
    of_slices[local] = sum;
    workgroupBarrier();
    for (var half = SLICES / 2u; half > 0u; half /= 2u) {
        if (local < 8u * half) { of_slices[local] += of_slices[local + 8u * half]; }
        workgroupBarrier();
    }
    if (local < 8u && row < p.vocabulary && column < p.width) {
        let all = of_slices[local];
        let to = p.output_offset + row * p.width + column;
        if (column + $4u < p.width) { output[to + $4u] = all[$4]; }
    }
}

// Sorting: an entry is an index and its place.

const BLOCK: u32 = 1024u;

@group(0) @binding(1) var<storage, read> unsorted: array<u32>;
@group(0) @binding(2) var<storage, read_write> blocks: array<vec2<u32>>;

// An invocation counts how many entries of its block come before its own.
@compute @workgroup_size(64)
fn sort_blocks(group: Group, @builtin(local_invocation_index) lane: u32) {
    let index = index_of(group);
    let place = index * 64u + lane;
    let start = index * 64u / BLOCK * BLOCK;
    let end = min(start + BLOCK, p.places);
    let id = row_of(unsorted[p.ids_offset + min(place, p.places - 1u)]);
    var rank = 0u;
    for (var other = start; other < end; other++) {
        let other_id = row_of(unsorted[p.ids_offset + other]);
        rank += select(0u, 1u, other_id < id || (other_id == id && other < place));
    }
    if (place < p.places) { blocks[start + rank] = vec2<u32>(id, place); }
}

@group(0) @binding(1) var<storage, read> entries: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read_write> merged: array<vec2<u32>>;

// How many entries in start..end, which are sorted, have an index below `limit`.
fn count_below(limit: u32, start: u32, end: u32) -> u32 {
    var low = start;
    var high = end;
    while (low < high) {
        let middle = low + (high - low) / 2u;
        if (entries[middle].x < limit) {
            low = middle + 1u;
        } else {
            high = middle;
        }
    }
    return low - start;
}

// An invocation moves one entry: past those of its own run that come before it, and those of the other run.
@compute @workgroup_size(64)
fn merge(group: Group, @builtin(local_invocation_index) lane: u32) {
    let i = index_of(group) * 64u + lane;
    if (i >= p.places) { return; }
    let entry = entries[i];
    let mine = i / p.run;
    let is_left = mine % 2u == 0u;
    let other = select(mine - 1u, mine + 1u, is_left);
    let start = min(other * p.run, p.places);
    let end = min(start + p.run, p.places);
    // Among equals the left run comes first.
    let before = count_below(select(entry.x + 1u, entry.x, is_left), start, end);
    merged[mine / 2u * 2u * p.run + i % p.run + before] = entry;
}

@group(0) @binding(2) var<storage, read_write> starts: array<u32>;

// For every index, and one past the last: how many entries lie before its first.
@compute @workgroup_size(64)
fn find_starts(group: Group, @builtin(local_invocation_index) lane: u32) {
    let id = index_of(group) * 64u + lane;
    if (id > p.vocabulary) { return; }
    starts[id] = count_below(id, 0u, p.places);
}

@group(0) @binding(2) var<storage, read> sorted: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read> bounds: array<u32>;
@group(0) @binding(4) var<storage, read_write> sums: array<f32>;

// An invocation sums one column of one row, in parts, so that rounding does not grow with the number of places. One dispatch
// goes over some of a row's places.
@compute @workgroup_size(64)
fn sum_places(group: Group, @builtin(local_invocation_index) lane: u32) {
    let i = index_of(group) * 64u + lane;
    if (i >= p.vocabulary * p.width) { return; }
    let row = i / p.width;
    let column = p.gradient_offset + i % p.width;
    let first = bounds[row] + p.first;
    let end = min(bounds[row + 1u], bounds[row] + p.end);
    var sum = 0.0;
    if (p.first > 0u) { sum = sums[p.output_offset + i]; }
    for (var start = first; start < end; start += 64u) {
        let part_end = min(start + 64u, end);
        var part = 0.0;
        for (var k = start; k < part_end; k++) {
            part += gradient[column + sorted[k].y * p.width];
        }
        sum += part;
    }
    sums[p.output_offset + i] = sum;
}
