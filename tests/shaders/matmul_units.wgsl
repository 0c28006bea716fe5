@group(0) @binding(1) var<storage, read> a: array<f16>;
fn a4(at: u32, first: u32, left: u32) -> vec4<f16> {
    let next = first + vec4<u32>(0u, 1u, 2u, 3u);
    let i = at + min(next, vec4<u32>(left - 1u));
    return select(vec4<f16>(), vec4<f16>(a[i.x], a[i.y], a[i.z], a[i.w]), next < vec4<u32>(left));
}
fn a8(at: u32, left: u32) -> Eight { return Eight(a4(at, 0u, left), a4(at, 4u, left)); }

@compute @workgroup_size(INVOCATIONS)
fn units(group: Group, @builtin(local_invocation_index) local: u32) {
    let work = work(index_of(group));
    let owner = local / MATRIX_LANES;
    let row = owner / ACROSS * ROWS * MATRIX_SIZE;
    let column = owner % ACROSS * COLUMNS * MATRIX_SIZE;
    var sum00 = Sum();
    var sum01 = Sum();
    var a0 = fetched_a(work, local, work.begin);
    var b0 = fetched_b(work, local, work.begin);
    for (var k = work.begin; k < work.end; k += DEPTH) {
        workgroupBarrier();
        keep_a(local, a0);
        keep_b(local, b0);
        workgroupBarrier();
        a0 = fetched_a(work, local, k + DEPTH);
        b0 = fetched_b(work, local, k + DEPTH);
        let left0 = left(row, 0u);
        sum00 = coopMultiplyAdd(left0, right(0u, column), sum00);
        sum01 = coopMultiplyAdd(left0, right(0u, column + MATRIX_SIZE), sum01);
    }
    let mine = owner * 2u * SUM;
    coopStoreT(sum00, &sums[mine], SUM_LINE);
    coopStoreT(sum01, &sums[mine + SUM], SUM_LINE);
    workgroupBarrier();
    store_two(work, mine, row, column, local % MATRIX_LANES);
}
