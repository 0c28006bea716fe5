//! Random numbers on the host: counter-based, so that a draw is a function of what it is for and never of what was
//! drawn before it.
//!
//! Everything is built from ChaCha's key stream alone. The distributions of the `rand` crate may change their values
//! between versions; the ones below are spelled out, because the same seed has to give the same batches for good.

use rand::rngs::ChaCha8Rng;
use rand::{Rng, SeedableRng};

/// The generator for draw number `step` of `purpose` under `seed`.
///
/// Seed and purpose form the ChaCha key and the step its nonce, so that two draws that differ in any of the three
/// share nothing, and a resumed run needs the step only.
///
/// # Panics
///
/// If `purpose` is longer than the 24 bytes that the key has left for it.
pub(crate) fn keyed(seed: u64, purpose: &str, step: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..8 + purpose.len()].copy_from_slice(purpose.as_bytes());
    let mut rng = ChaCha8Rng::from_seed(key);
    rng.set_stream(step);
    rng
}

/// Uniform in `0..n`, by the high half of a 64 × 64-bit product: the bias, below `n / 2⁶⁴`, cannot be observed, and
/// every draw takes exactly one word from the generator.
pub(crate) fn below<R: Rng + ?Sized>(rng: &mut R, n: usize) -> usize {
    assert!(n > 0, "nothing to draw from an empty range");
    ((u128::from(rng.next_u64()) * n as u128) >> 64) as usize
}

/// Uniform in `[0, 1)`, a multiple of 2⁻⁵³.
pub(crate) fn unit<R: Rng + ?Sized>(rng: &mut R) -> f64 {
    const SCALE: f64 = 1.0 / (1u64 << 53) as f64;
    (rng.next_u64() >> 11) as f64 * SCALE
}

/// Fisher–Yates shuffle.
pub(crate) fn shuffle<T, R: Rng + ?Sized>(items: &mut [T], rng: &mut R) {
    for last in (1..items.len()).rev() {
        items.swap(last, below(rng, last + 1));
    }
}

#[cfg(test)]
#[path = "../tests/unit/rng.rs"]
mod tests;
