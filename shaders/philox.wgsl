// Philox4x32-10, a counter-based random number generator: every counter gives four random words, and nothing has to be
// remembered. Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".

// High and low word of a product of 32-bit factors.
fn philox_multiply(a: u32, b: u32) -> vec2<u32> {
    let a_low = a & 0xffffu;
    let a_high = a >> 16u;
    let b_low = b & 0xffffu;
    let b_high = b >> 16u;
    let low = a_low * b_low;
    // Neither sum overflows: (2¹⁶ − 1)² + 2 · (2¹⁶ − 1) = 2³² − 1.
    let middle = a_high * b_low + (low >> 16u);
    let carry = a_low * b_high + (middle & 0xffffu);
    return vec2<u32>(a_high * b_high + (middle >> 16u) + (carry >> 16u), a * b);
}

fn philox4x32(counter: vec4<u32>, key: vec2<u32>) -> vec4<u32> {
    var c = counter;
    var k = key;
    for (var round = 0u; round < 10u; round++) {
        let x = philox_multiply(0xd2511f53u, c.x);
        let z = philox_multiply(0xcd9e8d57u, c.z);
        c = vec4<u32>(z.x ^ c.y ^ k.x, z.y, x.x ^ c.w ^ k.y, x.y);
        k += vec2<u32>(0x9e3779b9u, 0xbb67ae85u);
    }
    return c;
}

// The words that belong to block `index` of a random operation: `key` is the tape's random key (low and high word of the
// seed, low and high word of the step), `stream` tells the tape's random operations apart.
fn random_words(key: vec4<u32>, stream: u32, index: u32) -> vec4<u32> {
    return philox4x32(vec4<u32>(index, stream, key.z, key.w), key.xy);
}
