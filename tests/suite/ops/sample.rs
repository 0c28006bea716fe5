//! Drawing tokens on the device against the host, whose draws are tested against their definition.

use shadegrad::sampling::{Sampler, SamplingConfig};
use shadegrad::{Device, Error, Tape};

use crate::common::{Random, devices};

fn config(temperature: f32, top_k: Option<usize>, top_p: Option<f32>) -> SamplingConfig {
    SamplingConfig {
        temperature,
        top_k,
        top_p,
    }
}

/// One draw from each row.
fn draw(device: &Device, samplers: &mut [Sampler], logits: &[f32]) -> Vec<Result<u32, Error>> {
    let tape = Tape::inference(device);
    let logits = tape.input([samplers.len(), logits.len() / samplers.len()], logits);
    let drawn = Sampler::draw(samplers, logits).fetch();
    tape.run().unwrap();
    drawn.get().unwrap()
}

/// Draws from all rows on both, and gives how many tokens differ. Where they do, the device's stands next to the host's in the
/// order of rank: rounding has moved the border between the two, or by one token that between what remains and what does not.
fn differing(what: &str, device: &Device, samplers: &mut [Sampler], logits: &[f32]) -> usize {
    let before = samplers.to_vec();
    let drawn = draw(device, samplers, logits);
    let rows = logits.chunks(logits.len() / samplers.len());
    let mut count = 0;
    for (row, (logits, mut sampler)) in rows.zip(before).enumerate() {
        let what = format!("{what}, row {row}, {:?}", sampler.config());
        let (token, expected) = (
            drawn[row].as_ref().unwrap(),
            sampler.next_token(logits).unwrap(),
        );
        if *token != expected {
            count += 1;
            let ranked = config(1.0, None, None).distribution(logits);
            let rank = |token: u32| {
                ranked
                    .iter()
                    .position(|&(other, _)| other == token)
                    .unwrap()
            };
            let apart = rank(*token).abs_diff(rank(expected));
            assert!(
                apart <= 2,
                "{what}: {token} instead of {expected}, {apart} ranks apart"
            );
        }
    }
    count
}

fn settings() -> Vec<SamplingConfig> {
    let mut settings = vec![SamplingConfig::GREEDY];
    for temperature in [0.3, 1.0, 2.5] {
        for top_k in [None, Some(1), Some(5), Some(70), Some(100_000)] {
            for top_p in [None, Some(1e-9), Some(0.5), Some(0.95), Some(1.0)] {
                settings.push(config(temperature, top_k, top_p));
            }
        }
    }
    settings
}

fn samplers(settings: &[SamplingConfig], seed: u64) -> Vec<Sampler> {
    let sampler = |(row, &config): (usize, &SamplingConfig)| {
        Sampler::new(config, 1000 * seed + row as u64).unwrap()
    };
    settings.iter().enumerate().map(sampler).collect()
}

#[test]
fn the_host_draws_the_same() {
    let settings = settings();
    for device in devices() {
        for (n, draws) in [
            (1, 1),
            (2, 2),
            (27, 6),
            (64, 2),
            (65, 3),
            (257, 3),
            (1003, 3),
            (4099, 2),
        ] {
            let mut random = Random::new(n as u64);
            let mut samplers = samplers(&settings, n as u64);
            let mut count = 0;
            for draw in 0..draws {
                let logits: Vec<f32> = match draw % 3 {
                    // Hardly any two alike, then many, then few that matter.
                    0 => random.values(samplers.len() * n, -8.0, 8.0),
                    1 => {
                        let halves = random.values(samplers.len() * n, -4.0, 4.0);
                        halves.iter().map(|x| (2.0 * x).round() / 2.0).collect()
                    }
                    _ => {
                        let even = random.values(samplers.len() * n, -1.0, 1.0);
                        even.iter().map(|x| 40.0 * x * x * x).collect()
                    }
                };
                count += differing(&format!("{n} logits"), device, &mut samplers, &logits);
            }
            println!("{n}: {count} of {} differ", draws * settings.len());
            assert!(
                200 * count <= draws * settings.len() + 200,
                "{n}: {count} differ"
            );
        }
    }
}

#[test]
fn vocabularies_of_any_size() {
    let settings = [
        config(1.0, None, None),
        config(0.8, Some(50), Some(0.95)),
        config(1.0, Some(40_000), None),
        SamplingConfig::GREEDY,
    ];
    for device in devices() {
        for n in [50_257, 262_144] {
            let mut samplers = samplers(&settings, n as u64);
            let mut random = Random::new(n as u64);
            let flat = random.values(4 * n, -1.0, 1.0);
            differing("flat", device, &mut samplers, &flat);
            let steep: Vec<f32> = flat.iter().map(|x| 12.0 * x.abs().sqrt()).collect();
            differing("steep", device, &mut samplers, &steep);
            // All alike: the order is that of the tokens, and the uniform numbers tell which it is.
            let equal = vec![-3.5; 4 * n];
            assert_eq!(differing("equal", device, &mut samplers, &equal), 0);
        }
    }
}

#[test]
fn extremes() {
    let (most, least) = (f32::MAX, f32::MIN);
    let all = config(1.0, None, None);
    let rows: [(&str, SamplingConfig, [f32; 4]); 12] = [
        ("far apart", all, [least, 0.0, most, 1.0]),
        ("equal and large", config(1e-45, None, None), [most; 4]),
        (
            "cold",
            config(1e-30, None, None),
            [1.0, 1.000_000_1, 0.5, 1.000_000_1],
        ),
        ("hot", config(f32::MAX, None, None), [5.0, -5.0, 1e30, 2.0]),
        ("zeros", config(1.0, Some(1), None), [-0.0, 0.0, -1.0, 0.0]),
        (
            "greedy zeros",
            SamplingConfig::GREEDY,
            [-1.0, -0.0, 0.0, -2.0],
        ),
        ("negative", all, [-1e10, -1e10 - 2000.0, -3e10, -1e10]),
        ("small", all, [2e-38, -2e-38, 3e-37, 0.0]),
        ("exactly half", config(1.0, None, Some(0.5)), [2.0; 4]),
        (
            "one token",
            config(3.0, None, Some(1e-30)),
            [1.0, 2.0, 2.0, 1.0],
        ),
        ("two", config(1.0, Some(2), Some(1.0)), [1.0, 1.0, 1.0, 1.5]),
        (
            "top-k before top-p",
            config(1.0, Some(2), Some(0.6)),
            [1.386, 0.693, 0.0, 0.0],
        ),
    ];
    for device in devices() {
        for seed in 0..20 {
            for (what, config, logits) in &rows {
                let mut samplers = [Sampler::new(*config, seed).unwrap()];
                assert_eq!(differing(what, device, &mut samplers, logits), 0, "{what}");
            }
        }
    }
}

#[test]
fn rows_have_their_own_settings_wherever_they_lie() {
    let settings = settings();
    let n = 91;
    let logits = Random::new(4).values(settings.len() * n, -5.0, 5.0);
    for device in devices() {
        let mut on_host = samplers(&settings, 3);
        let rows = logits.chunks(n).zip(&mut on_host);
        let expected: Vec<u32> = rows
            .map(|(row, sampler)| sampler.next_token(row).unwrap())
            .collect();
        // A part of longer rows, and columns.
        let longer: Vec<f32> = (logits.chunks(n))
            .flat_map(|row| [&[99.0; 3][..], row, &[99.0; 2]].concat())
            .collect();
        let columns: Vec<f32> = (0..n)
            .flat_map(|k| logits.iter().skip(k).step_by(n).copied())
            .collect();
        let tape = Tape::inference(device);
        let longer = tape
            .input([settings.len(), n + 5], &longer)
            .slice(1, 3..n + 3);
        let columns = tape.input([n, settings.len()], &columns).transpose();
        let drawn = [longer, columns]
            .map(|logits| Sampler::draw(&mut samplers(&settings, 3), logits).fetch());
        tape.run().unwrap();
        for drawn in drawn {
            let tokens: Vec<u32> = drawn
                .get()
                .unwrap()
                .into_iter()
                .map(Result::unwrap)
                .collect();
            assert_eq!(tokens, expected);
        }
    }
}

#[test]
fn suppressed_tokens_are_not_drawn() {
    for device in devices() {
        for config in [
            SamplingConfig::GREEDY,
            config(1.0, None, None),
            config(1.0, Some(2), Some(0.9)),
        ] {
            let sampler = |tokens: &[u32]| {
                let sampler = Sampler::new(config, 3).unwrap();
                sampler.with_suppressed(tokens.iter().copied())
            };
            // Every one but 40; none; some, and some that there are not.
            let but_one: Vec<u32> = (0..70).filter(|&token| token != 40).collect();
            let mut samplers = [
                sampler(&but_one),
                sampler(&[]),
                sampler(&[0, 33, 69, 70, 5000]),
            ];
            let logits: Vec<f32> = (0..3 * 70)
                .map(|i| if i % 70 == 69 { 9.0 } else { (i % 7) as f32 })
                .collect();
            for _ in 0..20 {
                assert_eq!(differing("suppressed", device, &mut samplers, &logits), 0);
            }
            let drawn = draw(device, &mut samplers, &logits);
            assert_eq!(*drawn[0].as_ref().unwrap(), 40);
        }
    }
}

#[test]
fn logits_that_are_not_finite_are_named() {
    let (infinity, nan) = (f32::INFINITY, f32::NAN);
    let cases: [(&[f32], usize, f32); 5] = [
        (&[1.0, nan, -infinity], 1, nan),
        (&[1.0, -infinity, nan], 1, -infinity),
        (&[infinity, 1.0, 2.0], 0, infinity),
        (&[-infinity; 3], 0, -infinity),
        (&[nan; 3], 0, nan),
    ];
    for device in devices() {
        for config in [SamplingConfig::GREEDY, config(1.0, None, Some(0.9))] {
            for (logits, at, bad) in cases {
                // The other row is sound.
                let mut samplers = samplers(&[config; 2], 1);
                let rows = [logits, &[0.0, 50.0, 0.0]].concat();
                let drawn = draw(device, &mut samplers, &rows);
                assert_eq!(*drawn[1].as_ref().unwrap(), 1);
                match drawn[0] {
                    Err(Error::NonFiniteLogit { token, value }) => {
                        assert_eq!((token, value.to_bits()), (at, bad.to_bits()));
                    }
                    ref other => panic!("{other:?}"),
                }
            }
            let sampler = Sampler::new(config, 0).unwrap().with_suppressed(0..3);
            let drawn = draw(device, &mut [sampler], &[1.0, 2.0, 3.0]);
            assert!(matches!(
                drawn[0],
                Err(Error::NonFiniteLogit { token: 0, .. })
            ));
        }
    }
}

#[test]
fn it_is_one_dispatch_for_all_settings() {
    for device in devices() {
        let mut before = device.stats();
        for (round, settings) in [
            [config(1.0, None, None); 2],
            [config(0.5, Some(3), None), SamplingConfig::GREEDY],
        ]
        .iter()
        .enumerate()
        {
            draw(device, &mut samplers(settings, 5), &[0.5; 2 * 300])
                .remove(0)
                .unwrap();
            let after = device.stats();
            assert_eq!(after.dispatches - before.dispatches, 1);
            if round > 0 {
                assert_eq!(after.plans, before.plans);
            }
            before = after;
        }
    }
}

#[test]
#[should_panic(expected = "sample: logits [2, 5] are not [3, V], a row for each sampler")]
fn a_row_for_each_sampler() {
    let tape = Tape::inference(devices()[0]);
    let logits = tape.input([2, 5], &[0.0; 10]);
    Sampler::draw(&mut samplers(&[SamplingConfig::GREEDY; 3], 0), logits);
}
