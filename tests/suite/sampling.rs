//! Choosing the next token: every way against its definition, term by term.

use proptest::prelude::*;

use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;
use shadegrad::Error;
use shadegrad::sampling::*;

fn config(temperature: f32, top_k: Option<usize>, top_p: Option<f32>) -> SamplingConfig {
    SamplingConfig {
        temperature,
        top_k,
        top_p,
    }
}

fn tokens(distribution: &[(u32, f64)]) -> Vec<u32> {
    distribution.iter().map(|&(token, _)| token).collect()
}

/// The definition, term by term: each token's rank, weight and preceding probability by full sums over all others.
/// Also tells whether the sum comes so near to p that rounding decides.
fn naive(config: SamplingConfig, logits: &[f32]) -> (Vec<(u32, f64)>, bool) {
    let before = |i: usize, j: usize| logits[i] > logits[j] || (logits[i] == logits[j] && i < j);
    let everyone = 0..logits.len();
    let rank = |j: usize| everyone.clone().filter(|&i| before(i, j)).count();
    let k = config.top_k.unwrap_or(usize::MAX);
    let kept: Vec<usize> = everyone.clone().filter(|&i| rank(i) < k).collect();
    let best = kept.iter().copied().find(|&i| rank(i) == 0).unwrap();
    let weight = |i: usize| {
        let gap = f64::from(logits[i]) - f64::from(logits[best]);
        (gap / f64::from(config.temperature)).exp()
    };
    let total: f64 = kept.iter().map(|&i| weight(i)).sum();
    let p = config.top_p.map_or(1.0, f64::from);
    let mut near = false;
    let mut nucleus: Vec<usize> = kept
        .iter()
        .copied()
        .filter(|&j| {
            let preceding = kept.iter().filter(|&&i| before(i, j));
            let sum = preceding.map(|&i| weight(i)).sum::<f64>() / total;
            near |= p < 1.0 && (sum - p).abs() < 1e-12;
            p >= 1.0 || sum < p
        })
        .collect();
    nucleus.sort_by_key(|&i| rank(i));
    let total: f64 = nucleus.iter().map(|&i| weight(i)).sum();
    let distribution = nucleus.iter().map(|&i| (i as u32, weight(i) / total));
    (distribution.collect(), near)
}

/// Logits with many ties, and logits with hardly any.
fn logits() -> impl Strategy<Value = Vec<f32>> {
    let tied = (-4i8..=4).prop_map(|n| f32::from(n) / 2.0);
    prop_oneof![
        prop::collection::vec(tied, 1..40),
        prop::collection::vec(-20f32..20.0, 1..40),
    ]
}

/// Now and then extreme or not a number.
fn wild_logits() -> impl Strategy<Value = Vec<f32>> {
    let wild = prop_oneof![
        4 => -5f32..5.0,
        1 => prop::num::f32::ANY,
        1 => prop::sample::select(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, -0.0]),
    ];
    prop::collection::vec(wild, 1..30)
}

fn settings() -> impl Strategy<Value = SamplingConfig> {
    let temperature = prop_oneof![Just(1.0), 0.05f32..5.0];
    let top_k = prop::option::of(1usize..60);
    let top_p = prop::option::of(prop_oneof![
        Just(1.0),
        Just(1e-6),
        Just(0.5),
        0.001f32..=1.0
    ]);
    (temperature, top_k, top_p)
        .prop_map(|(temperature, top_k, top_p)| config(temperature, top_k, top_p))
}

proptest! {
    #[test]
    fn agrees_with_the_definition(logits in logits(), config in settings()) {
        prop_assert!(config.validate().is_ok());
        let (expected, near) = naive(config, &logits);
        prop_assume!(!near);
        let actual = config.distribution(&logits);
        prop_assert_eq!(tokens(&actual), tokens(&expected));
        for (a, e) in actual.iter().zip(&expected) {
            prop_assert!((a.1 - e.1).abs() < 1e-12, "{actual:?} {expected:?}");
        }
    }

    #[test]
    fn whatever_the_logits_it_is_a_distribution(
        logits in wild_logits(), config in settings(), temperature in prop::num::f32::POSITIVE, seed: u64
    ) {
        for config in [config, SamplingConfig { temperature, ..config }] {
            let distribution = config.distribution(&logits);
            let possible = logits.iter().any(|&logit| logit > f32::NEG_INFINITY);
            prop_assert_eq!(!distribution.is_empty(), possible);
            let token = Sampler::new(config, seed).unwrap().next_token(&logits);
            if logits.iter().any(|logit| logit.is_nan()) || !possible {
                let is_refused = matches!(token, Err(Error::NonFiniteLogit { .. }));
                prop_assert!(is_refused, "{:?} of {:?}", token, logits);
            } else {
                let token = token.unwrap();
                let sum: f64 = distribution.iter().map(|(_, probability)| probability).sum();
                prop_assert!((sum - 1.0).abs() < 1e-9, "{distribution:?}");
                prop_assert!(distribution.is_sorted_by(|a, b| a.1 >= b.1));
                prop_assert!(distribution.iter().any(|&(t, p)| t == token && p > 0.0));
                for (token, _) in distribution {
                    prop_assert!(logits[token as usize] > f32::NEG_INFINITY);
                }
            }
        }
    }

    #[test]
    fn greedy_is_the_first_maximum(logits in logits(), settings in settings(), seed: u64) {
        let config = SamplingConfig { temperature: 0.0, ..settings };
        let maximum = logits.iter().copied().fold(f32::MIN, f32::max);
        let first = logits.iter().position(|&logit| logit == maximum).unwrap() as u32;
        prop_assert_eq!(config.distribution(&logits), vec![(first, 1.0)]);
        prop_assert_eq!(Sampler::new(config, seed).unwrap().next_token(&logits).unwrap(), first);
    }

    #[test]
    fn k_tokens_remain(logits in logits(), k in 1usize..60) {
        let distribution = config(1.0, Some(k), None).distribution(&logits);
        prop_assert_eq!(distribution.len(), k.min(logits.len()));
    }
}

#[test]
fn ties_at_the_threshold_go_to_the_lower_token() {
    let logits = [1.0, 2.0, 1.0, 1.0, 3.0];
    let kept = |k| tokens(&config(1.0, Some(k), None).distribution(&logits));
    assert_eq!(kept(1), [4]);
    assert_eq!(kept(3), [4, 1, 0]);
    assert_eq!(kept(4), [4, 1, 0, 2]);
    assert_eq!(kept(99), [4, 1, 0, 2, 3]);
    // Negative zero is zero.
    assert_eq!(
        tokens(&config(1.0, Some(1), None).distribution(&[-0.0, 0.0])),
        [0]
    );
}

#[test]
fn the_nucleus_is_the_shortest_prefix_that_reaches_p() {
    // Probabilities 1/8, 1/2, 1/4, 1/8: the partial sums 1/2, 3/4, 7/8 are exact.
    let logits = [1.0f32, 4.0, 2.0, 1.0].map(f32::ln);
    let kept = |p| tokens(&config(1.0, None, Some(p)).distribution(&logits));
    assert_eq!(kept(1e-30), [1]);
    assert_eq!(kept(0.49), [1]);
    assert_eq!(kept(0.51), [1, 2]);
    assert_eq!(kept(0.74), [1, 2]);
    assert_eq!(kept(0.76), [1, 2, 0]);
    assert_eq!(kept(0.99), [1, 2, 0, 3]);
    assert_eq!(kept(1.0), [1, 2, 0, 3]);
    // A sum that equals p reaches it.
    let even = config(1.0, None, Some(0.5)).distribution(&[0.0; 4]);
    assert_eq!(even, [(0, 0.5), (1, 0.5)]);
}

#[test]
fn top_p_counts_in_what_top_k_left() {
    // 1/2, 1/4, 1/8, 1/8; of the first two 2/3 and 1/3, so that 0.6 is reached by the first alone.
    let logits = [4.0f32, 2.0, 1.0, 1.0].map(f32::ln);
    let both = config(1.0, Some(2), Some(0.6)).distribution(&logits);
    assert_eq!(both, [(0, 1.0)]);
    let alone = config(1.0, None, Some(0.6)).distribution(&logits);
    assert_eq!(tokens(&alone), [0, 1]);
}

#[test]
fn extremes_neither_overflow_nor_poison() {
    let (infinity, nan) = (f32::INFINITY, f32::NAN);
    let all = SamplingConfig::default();
    assert_eq!(
        all.distribution(&[f32::MAX, f32::MIN]),
        [(0, 1.0), (1, 0.0)]
    );
    assert_eq!(
        config(1e-45, None, None).distribution(&[f32::MAX, f32::MAX]),
        [(0, 0.5), (1, 0.5)]
    );
    let flat = config(f32::MAX, None, None).distribution(&[5.0, -5.0]);
    assert!(
        flat.iter().all(|(_, p)| (p - 0.5).abs() < 1e-12),
        "{flat:?}"
    );
    assert_eq!(
        all.distribution(&[nan, 1.0, -infinity, 1.0]),
        [(1, 0.5), (3, 0.5)]
    );
    assert_eq!(
        all.distribution(&[7.0, infinity, nan, infinity]),
        [(1, 0.5), (3, 0.5), (0, 0.0)]
    );
    assert!(
        SamplingConfig::GREEDY
            .distribution(&[nan, -infinity])
            .is_empty()
    );
    assert_eq!(
        SamplingConfig::GREEDY.distribution(&[nan, -3.0]),
        [(1, 1.0)]
    );
    let mut sampler = Sampler::new(SamplingConfig::GREEDY, 0).unwrap();
    assert_eq!(sampler.next_token(&[-infinity, infinity]).unwrap(), 1);
    // Nothing is chosen from what a diverged model says.
    for settings in [
        SamplingConfig::GREEDY,
        all,
        config(0.7, Some(2), None),
        config(1.0, None, Some(0.5)),
    ] {
        let mut sampler = Sampler::new(settings, 0).unwrap();
        for logits in [&[nan; 5][..], &[1.0, nan, 2.0], &[-infinity; 3]] {
            let error = sampler.next_token(logits).unwrap_err().to_string();
            assert!(error.starts_with("the logit of token "), "{error}");
        }
    }
}

#[test]
fn draws_follow_the_distribution() {
    let logits = [0.3, 1.7, -0.4, 1.1, 0.0, -2.0];
    let config = config(1.3, Some(5), Some(0.95));
    let distribution = config.distribution(&logits);
    let mut sampler = Sampler::new(config, 11).unwrap();
    let draws = 200_000;
    let mut counts = [0u32; 6];
    for _ in 0..draws {
        counts[sampler.next_token(&logits).unwrap() as usize] += 1;
    }
    // Five standard deviations of each count; tokens that were cut never come.
    for token in 0..6 {
        let entry = distribution.iter().find(|&&(t, _)| t == token);
        let p = entry.map_or(0.0, |&(_, p)| p);
        let (mean, count) = (p * f64::from(draws), f64::from(counts[token as usize]));
        let bound = 5.0 * (mean * (1.0 - p)).sqrt();
        assert!((count - mean).abs() <= bound, "{token}: {count} {mean}");
    }
}

#[test]
fn a_seed_is_a_sequence() {
    let logits: Vec<f32> = (0..27).map(|n| (n as f32).sin()).collect();
    let draw = |seed| {
        let mut sampler = Sampler::new(SamplingConfig::default(), seed).unwrap();
        (0..32)
            .map(|_| sampler.next_token(&logits).unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
}

#[test]
fn absurd_settings_are_refused() {
    for good in [
        SamplingConfig::default(),
        SamplingConfig::GREEDY,
        config(1e-45, Some(1), Some(1.0)),
        config(f32::MAX, Some(usize::MAX), Some(1e-45)),
    ] {
        assert!(good.validate().is_ok(), "{good:?}");
    }
    for (bad, name) in [
        (config(-0.1, None, None), "temperature"),
        (config(f32::NAN, None, None), "temperature"),
        (config(f32::INFINITY, None, None), "temperature"),
        (config(1.0, Some(0), None), "top_k"),
        (config(1.0, None, Some(0.0)), "top_p"),
        (config(1.0, None, Some(1.01)), "top_p"),
        (config(1.0, None, Some(f32::NAN)), "top_p"),
    ] {
        let error = Sampler::new(bad, 0).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}

#[test]
#[should_panic(expected = "no logits")]
fn no_logits_is_a_bug() {
    let _ = SamplingConfig::default().sample(&[], &mut ChaCha8Rng::seed_from_u64(0));
}

#[test]
fn suppressed_tokens_are_never_drawn() {
    for config in [SamplingConfig::GREEDY, SamplingConfig::default()] {
        let sampler = Sampler::new(config, 3).unwrap();
        let mut sampler = sampler.with_suppressed([0, 2, 9]);
        for _ in 0..50 {
            assert_eq!(sampler.next_token(&[9.0, 1.0, 8.0, -90.0]).unwrap(), 1);
        }
    }
    assert!(check_logits(&[1.0, -1e30]).is_ok());
    let error = check_logits(&[1.0, f32::NAN]).unwrap_err().to_string();
    assert!(
        error.starts_with("the logit of token 1 is NaN: "),
        "{error}"
    );
}

#[test]
fn tokens_beyond_the_vocabulary_are_named() {
    assert!(check_tokens(&[0, 26, 3], 27).is_ok());
    let error = check_tokens(&[0, 27, 99], 27).unwrap_err();
    assert_eq!(
        error.to_string(),
        "token 27 is out of range for a vocabulary of 27"
    );
}
