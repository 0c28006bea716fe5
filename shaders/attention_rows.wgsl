// How invocations that share own rows combine a number for each row: put in front of attention_tiled.wgsl, behind
// attention_squares.wgsl. This is the portable form, attention_rows_shuffles.wgsl its twin.

import shadegrad::attention_squares;

struct Here {
    @builtin(local_invocation_index) local: u32,
}

fn invocation(here: Here) -> u32 { return here.local; }

var<workgroup> exchange: array<vec4<f32>, HEADS * ACROSS * OWN>; // [team, column, quad of own rows]

// For uniform control flow only, and with a barrier between one call and the next.
fn tell(place: Place, n: Numbers) {
    let at = (place.team * ACROSS + place.column) * OWN + place.row;
    exchange[at] = n.r0;
    if (ROW_QUADS == 2u) { exchange[at + DOWN] = n.r1; }
    workgroupBarrier();
}

fn told(place: Place, column: u32) -> Numbers {
    let at = (place.team * ACROSS + column) * OWN + place.row;
    if (ROW_QUADS == 2u) { return Numbers(exchange[at], exchange[at + DOWN]); }
    return Numbers(exchange[at], vec4<f32>());
}

fn largest_of_rows(n: Numbers, place: Place) -> Numbers {
    tell(place, n);
    var most = told(place, 0u);
    for (var column = 1u; column < ACROSS; column++) {
        let other = told(place, column);
        most = Numbers(max(most.r0, other.r0), max(most.r1, other.r1));
    }
    return most;
}

fn sum_of_rows(n: Numbers, place: Place) -> Numbers {
    tell(place, n);
    var sum = told(place, 0u);
    for (var column = 1u; column < ACROSS; column++) {
        let other = told(place, column);
        sum = Numbers(sum.r0 + other.r0, sum.r1 + other.r1);
    }
    return sum;
}
