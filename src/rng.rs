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
mod tests {
    use super::*;

    #[test]
    fn the_key_stream_is_chacha8() {
        // First bytes of ChaCha8 with a zero 256-bit key and nonce, draft-strombergson-chacha-test-vectors:
        // 3e 00 ef 2f 89 5f 40 d6.
        assert_eq!(keyed(0, "", 0).next_u64(), 0xd640_5f89_2fef_003e);
    }

    #[test]
    fn seed_purpose_and_step_each_matter() {
        let first = |seed, purpose, step| keyed(seed, purpose, step).next_u64();
        let reference = first(1, "a", 2);
        assert_eq!(reference, first(1, "a", 2));
        assert_ne!(reference, first(2, "a", 2));
        assert_ne!(reference, first(1, "b", 2));
        assert_ne!(reference, first(1, "a", 3));
        assert_ne!(first(0, "", u64::MAX), first(0, "", u64::from(u32::MAX)));
    }

    #[test]
    fn below_covers_the_range_evenly() {
        let mut rng = keyed(3, "below", 0);
        let mut counts = [0; 7];
        for _ in 0..70_000 {
            counts[below(&mut rng, 7)] += 1;
        }
        // Standard deviation of a count is 93; five of them.
        for count in counts {
            assert!((9_535..=10_465).contains(&count), "{counts:?}");
        }
        assert_eq!(below(&mut rng, 1), 0);
    }

    #[test]
    fn unit_stays_inside_its_interval() {
        let mut rng = keyed(4, "unit", 0);
        let mean = (0..10_000)
            .map(|_| {
                let x = unit(&mut rng);
                assert!((0.0..1.0).contains(&x));
                x
            })
            .sum::<f64>()
            / 10_000.0;
        assert!((mean - 0.5).abs() < 0.015, "{mean}");
    }

    #[test]
    fn shuffle_permutes() {
        let mut items: Vec<usize> = (0..100).collect();
        shuffle(&mut items, &mut keyed(5, "shuffle", 0));
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
        shuffle::<u8, _>(&mut [], &mut keyed(5, "shuffle", 0));
    }
}
