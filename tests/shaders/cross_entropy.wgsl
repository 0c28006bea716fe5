struct Kept { b0: vec4<f32>, b1: vec4<f32> }
fn kept_row(row: u32, lane: u32) -> Kept { return Kept(block(row, lane, 0u), block(row, lane, 1u)); }
fn most_kept(r: Kept) -> f32 { return max(most_of_four(r.b0), most_of_four(r.b1)); }
fn distance_kept(r: Kept, lane: u32, top: f32) -> f32 {
    return distance_of_four(r.b0, lane, 0u, top) + distance_of_four(r.b1, lane, 1u, top);
}
fn exp_kept(r: Kept, top: f32) -> Kept { return Kept(exp(r.b0 - top), exp(r.b1 - top)); }
fn total_kept(r: Kept) -> f32 { return sum_of_four(r.b0) + sum_of_four(r.b1); }
fn store_kept(to: u32, lane: u32, r: Kept, factor: f32, off: f32) {
    store_block(to, lane, 0u, r.b0 * factor - off);
    store_block(to, lane, 1u, r.b1 * factor - off);
}
