@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;
fn chunk_q(at: u32, chunk: u32) -> vec4<f32> { return q[at / 4u + chunk]; }
@group(0) @binding(2) var<storage, read> k: array<vec4<f32>>;
fn chunk_k(at: u32, chunk: u32) -> vec4<f32> { return k[at / 4u + chunk]; }
@group(0) @binding(3) var<storage, read> v: array<vec4<f32>>;
fn chunk_v(at: u32, chunk: u32) -> vec4<f32> { return v[at / 4u + chunk]; }
@group(0) @binding(4) var<storage, read> dout: array<vec4<f32>>;
fn chunk_dout(at: u32, chunk: u32) -> vec4<f32> { return dout[at / 4u + chunk]; }
@group(0) @binding(5) var<storage, read_write> result: array<vec4<f32>>;
fn store_chunk_result(at: u32, chunk: u32, a: vec4<f32>) { result[at / 4u + chunk] = a; }
fn chunk_result(at: u32, chunk: u32) -> vec4<f32> { return result[at / 4u + chunk]; }
@group(0) @binding(6) var<storage, read> statistics: array<u32>;
fn statistics_of(head: Head, i: u32) -> vec2<f32> { return vec2<f32>(bitcast<f32>(statistics[0]), 0.0); }
@group(0) @binding(7) var<storage, read_write> lse: array<f32>;

fn stage_q(head: Head, first: u32, local: u32) {
    for (var n = local; n < QUERY_ROWS * WIDTH / 4u; n += INVOCATIONS) {
        let row = n / (WIDTH / 4u);
        let chunk = n % (WIDTH / 4u);
        var four = vec4<f32>();
        if (first + row < p.queries && chunk < CHUNKS) { four = chunk_q(row_at(p.q, head, first + row), chunk); }
        let at = (row * LINE + 4u * chunk) / PART;
        for (var e = 0u; e < 4u / PART; e++) { q_tile[at + e] = part(vec4<f16>(four), e); }
    }
}

fn stage_k(head: Head, first: u32, local: u32) {
    for (var n = local; n < KEY_ROWS * WIDTH / 4u; n += INVOCATIONS) {
        let row = n / (WIDTH / 4u);
        let chunk = n % (WIDTH / 4u);
        var four = vec4<f32>();
        if (first + row < p.keys && chunk < CHUNKS) { four = chunk_k(key_row_at(p.k, head, first + row), chunk); }
        let at = (row * LINE + 4u * chunk) / PART;
        for (var e = 0u; e < 4u / PART; e++) { k_tile[at + e] = part(vec4<f16>(four), e); }
    }
}

fn stage_v(head: Head, first: u32, local: u32) {
    for (var n = local; n < KEY_ROWS * WIDTH / 4u; n += INVOCATIONS) {
        let row = n / (WIDTH / 4u);
        let chunk = n % (WIDTH / 4u);
        var four = vec4<f32>();
        if (first + row < p.keys && chunk < CHUNKS) { four = chunk_v(key_row_at(p.v, head, first + row), chunk); }
        let at = (row * LINE + 4u * chunk) / PART;
        for (var e = 0u; e < 4u / PART; e++) { v_tile[at + e] = part(vec4<f16>(four), e); }
    }
}

fn stage_dout(head: Head, first: u32, local: u32) {
    for (var n = local; n < QUERY_ROWS * WIDTH / 4u; n += INVOCATIONS) {
        let row = n / (WIDTH / 4u);
        let chunk = n % (WIDTH / 4u);
        var four = vec4<f32>();
        if (first + row < p.queries && chunk < CHUNKS) { four = chunk_dout(row_at(p.dout, head, first + row), chunk); }
        let at = (row * LINE + 4u * chunk) / PART;
        for (var e = 0u; e < 4u / PART; e++) { dout_tile[at + e] = part(vec4<f16>(four), e); }
    }
}

fn scores(place: Place) {
    var s00 = Sum();
    for (var e = 0u; e < WIDTH; e += MATRIX_SIZE) {
        let a0 = coopLoadT<Left>(&q_tile[((place.query + 0u * MATRIX_SIZE) * LINE + e) / PART], LINE / PART);
        let b0 = coopLoad<Right>(&k_tile[((place.key + 0u * MATRIX_SIZE) * LINE + e) / PART], LINE / PART);
        s00 = coopMultiplyAdd(a0, b0, s00);
    }
    coopStore(s00, &sums[(place.key + 0u * MATRIX_SIZE) * SCORE_LINE + place.query + 0u * MATRIX_SIZE], SCORE_LINE);
}

fn upstream(place: Place) {
    var s00 = Sum();
    for (var e = 0u; e < WIDTH; e += MATRIX_SIZE) {
        let a0 = coopLoadT<Left>(&dout_tile[((place.query + 0u * MATRIX_SIZE) * LINE + e) / PART], LINE / PART);
        let b0 = coopLoad<Right>(&v_tile[((place.key + 0u * MATRIX_SIZE) * LINE + e) / PART], LINE / PART);
        s00 = coopMultiplyAdd(a0, b0, s00);
    }
    coopStore(s00, &sums[(place.key + 0u * MATRIX_SIZE) * SCORE_LINE + place.query + 0u * MATRIX_SIZE], SCORE_LINE);
}

@compute @workgroup_size(INVOCATIONS)
fn forward(group: Group, @builtin(local_invocation_index) local: u32) {
    let index = index_of(group);
    let item = min(index, p.groups - 1u);
    let head = head_at(item / p.tiles, p.tiles - 1u - item % p.tiles);
    let first = head.tile * OWN;
    let keys = end_key(head, min(first + OWN, p.queries) - 1u);
    let place = place_of(local);
    let mine = place.part * QUERY_ROWS + place.row;
    let i = first + place.row;
    let dropout = dropout_key();
    var top = LOWEST;
    var sum = 0.0;
    var own00 = vec4<f32>();
    var own01 = vec4<f32>();
    var o00 = Sum();
    let quad0 = place.part + 0u * TEAM;
    let quad1 = place.part + 1u * TEAM;
    var j0 = first_key(head, first) / OTHER * OTHER;
    if (local == 0u) { atomicStore(&rises, 0u); }
    stage_q(head, first, local);
    stage_k(head, j0, local);
    workgroupBarrier();
    for (; j0 < keys; j0 += OTHER) {
        scores(place);
        workgroupBarrier();
        stage_v(head, j0, local);
        let masks = needs_masks(head, first, j0);
        let s0 = scores_at(head, i, j0 + 4u * quad0, quad0, place, masks);
        let s1 = scores_at(head, i, j0 + 4u * quad1, quad1, place, masks);
        var largest = UNSEEN;
        largest = max(largest, largest_of(s0));
        largest = max(largest, largest_of(s1));
        of_rows[mine] = largest;
        if (largest > top + MOST_RISE) { atomicStore(&rises, 1u); }
        if (workgroupUniformLoad(&rises) == 1u) {
            coopStore(o00, &sums[place.across * MATRIX_SIZE * RESULT_LINE + place.own + 0u * MATRIX_SIZE], RESULT_LINE);
            workgroupBarrier();
            own00 += sums_at(place.part + 0u * TEAM, RESULT_LINE, place.row);
            own01 += sums_at(place.part + 1u * TEAM, RESULT_LINE, place.row);
            workgroupBarrier();

            o00 = Sum();
            let next = max(top, largest_of_row(place));
            let shrink = exp(top - next);
            top = next;
            sum *= shrink;
            own00 *= shrink;
            own01 *= shrink;
        }
        if (local == 0u) { atomicStore(&rises, 0u); }
        let w0 = exp(s0 - top);
        let w1 = exp(s1 - top);
        sum += sum_of(w0);
        sum += sum_of(w1);
        keep_weights(place.row, quad0, dropped_at(w0, dropout, head, i, j0 + 4u * quad0));
        keep_weights(place.row, quad1, dropped_at(w1, dropout, head, i, j0 + 4u * quad1));
        if (j0 + OTHER < keys) { stage_k(head, j0 + OTHER, local); }
        workgroupBarrier();
        for (var other = 0u; other < OTHER; other += MATRIX_SIZE) {
            let a0 = weights_at(place.own + 0u * MATRIX_SIZE, other);
            let b0 = coopLoadT<Right>(&v_tile[(other * LINE + (0u * ACROSS + place.across) * MATRIX_SIZE) / PART], LINE / PART);
            o00 = coopMultiplyAdd(a0, b0, o00);
        }
    }
            coopStore(o00, &sums[place.across * MATRIX_SIZE * RESULT_LINE + place.own + 0u * MATRIX_SIZE], RESULT_LINE);
            workgroupBarrier();
            own00 += sums_at(place.part + 0u * TEAM, RESULT_LINE, place.row);
            own01 += sums_at(place.part + 1u * TEAM, RESULT_LINE, place.row);
            workgroupBarrier();

    of_rows[mine] = sum;
    workgroupBarrier();
    sum = sum_of_row(place);
    let factor = select(1.0 / sum, 0.0, sum == 0.0);
    if (index >= p.groups || i >= p.queries) { return; }
    let at = row_at(p.out, head, i);
    let chunk0 = place.part + 0u * TEAM;
    let chunk1 = place.part + 1u * TEAM;
    if (0u * (ACROSS * MATRIX_SIZE / 4u) + chunk0 < CHUNKS) { store_chunk_result(at, 0u * (ACROSS * MATRIX_SIZE / 4u) + chunk0, factor * own00); }
    if (0u * (ACROSS * MATRIX_SIZE / 4u) + chunk1 < CHUNKS) { store_chunk_result(at, 0u * (ACROSS * MATRIX_SIZE / 4u) + chunk1, factor * own01); }
    if (place.part == 0u) { lse[p.lse_offset + head.index * p.queries + i] = lse_of(top, sum); }
}

@compute @workgroup_size(INVOCATIONS)
fn backward(group: Group, @builtin(local_invocation_index) local: u32) {
    let index = index_of(group);
    let item = min(index, p.groups - 1u);
    let tile = select(p.tiles - 1u - item % p.tiles, item % p.tiles, OWNS_KEYS);
    let owner = select(item / p.tiles, first_sharing(item), OWNS_KEYS);
    let first = tile * OWN;
    let last = min(first + OWN, select(p.queries, p.keys, OWNS_KEYS)) - 1u;
    var head = head_at(owner, tile);
    let place = place_of(local);
    let dropout = dropout_key();
    let factor = gradient_factor();
    var x00 = Sum();
    let quad0 = place.part + 0u * TEAM;
    let quad1 = place.part + 1u * TEAM;
    stage_q(head, first, local);
    stage_dout(head, first, local);
    let begin = select(first_key(head, first), first_query(head, first), OWNS_KEYS) / OTHER * OTHER;
    let end = select(end_key(head, last), end_query(head, last), OWNS_KEYS);
    for (var n = 0u; n < select(1u, p.share, OWNS_KEYS); n++) {
        head = head_at(owner + n, tile);
        for (var at = begin; at < end; at += OTHER) {
            let i0 = select(first, at, OWNS_KEYS);
            let j0 = select(at, first, OWNS_KEYS);
            stage_k(head, at, local);
            stage_v(head, at, local);
            workgroupBarrier();
            scores(place);
            workgroupBarrier();
            let i = i0 + place.row;
            let about = statistics_of(head, min(i, p.queries - 1u));
            let masks = needs_masks(head, i0, j0);
            let w0 = weights_below(scores_at(head, i, j0 + 4u * quad0, quad0, place, masks), about.x);
            let w1 = weights_below(scores_at(head, i, j0 + 4u * quad1, quad1, place, masks), about.x);
            workgroupBarrier();
            upstream(place);
            workgroupBarrier();
            let d0 = dropped_at(sums_at(quad0, SCORE_LINE, place.row), dropout, head, i, j0 + 4u * quad0) - about.y;
            let d1 = dropped_at(sums_at(quad1, SCORE_LINE, place.row), dropout, head, i, j0 + 4u * quad1) - about.y;
            keep_weights(place.row, quad0, factor * shared_by(w0) * d0);
            keep_weights(place.row, quad1, factor * shared_by(w1) * d1);
            workgroupBarrier();
            for (var other = 0u; other < OTHER; other += MATRIX_SIZE) {
                let a0 = weights_at(place.own + 0u * MATRIX_SIZE, other);
                let b0 = coopLoadT<Right>(&k_tile[(other * LINE + (0u * ACROSS + place.across) * MATRIX_SIZE) / PART], LINE / PART);
                x00 = coopMultiplyAdd(a0, b0, x00);
            }
            workgroupBarrier();
        }
    }
    coopStore(x00, &sums[place.across * MATRIX_SIZE * RESULT_LINE + place.own + 0u * MATRIX_SIZE], RESULT_LINE);
    workgroupBarrier();
    if (index < p.groups) { store_results(p.dq, head, first, 0u, p.scale / factor, local); }
    workgroupBarrier();

}
