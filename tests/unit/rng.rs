//! The host's random numbers.

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
