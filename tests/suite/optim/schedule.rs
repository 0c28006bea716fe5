//! Learning rates over the steps of a training.

use proptest::prelude::*;

use shadegrad::optim::Schedule;

const COSINE: Schedule = Schedule::WarmupCosine {
    warmup: 10,
    total: 110,
    min_ratio: 0.1,
};
const LINEAR: Schedule = Schedule::Linear {
    warmup: 10,
    total: 110,
    end_ratio: 0.2,
};

fn check(schedule: Schedule, points: &[(u64, f32)]) {
    for &(step, expected) in points {
        let actual = schedule.lr(2.0, step);
        assert!(
            (actual - expected).abs() < 1e-6,
            "{schedule:?} at {step}: {actual}, expected {expected}"
        );
    }
}

#[test]
fn constant_is_the_base_rate_to_the_bit() {
    for step in [0, 1, 1_000_000, u64::MAX] {
        assert_eq!(Schedule::default().lr(3e-4, step), 3e-4);
    }
    check(
        Schedule::Constant { warmup: 3 },
        &[(0, 0.5), (1, 1.0), (2, 1.5), (3, 2.0), (u64::MAX, 2.0)],
    );
}

#[test]
fn cosine_warms_up_and_falls() {
    check(
        COSINE,
        &[
            (0, 2.0 / 11.0),
            (9, 20.0 / 11.0),
            (10, 2.0),
            // A quarter of the way: (1 + cos 45°) / 2 = 0.853_553_4.
            (35, 2.0 * (0.1 + 0.9 * 0.853_553_4)),
            (60, 2.0 * 0.55),
            (110, 0.2),
            (u64::MAX, 0.2),
        ],
    );
}

#[test]
fn linear_warms_up_and_falls() {
    check(
        LINEAR,
        &[
            (0, 2.0 / 11.0),
            (10, 2.0),
            (35, 2.0 * 0.8),
            (60, 2.0 * 0.6),
            (110, 0.4),
            (u64::MAX, 0.4),
        ],
    );
}

#[test]
fn a_run_of_no_steps_and_a_run_of_warm_up_only_are_defined() {
    for (warmup, total) in [(0, 0), (5, 5), (5, 3)] {
        let schedule = Schedule::WarmupCosine {
            warmup,
            total,
            min_ratio: 0.5,
        };
        check(schedule, &[(total.max(warmup), 1.0), (u64::MAX, 1.0)]);
        if warmup > 0 {
            check(schedule, &[(0, 2.0 / 6.0), (4, 10.0 / 6.0)]);
        }
    }
}

#[test]
fn absurd_settings_are_refused() {
    assert!(COSINE.validate().is_ok() && LINEAR.validate().is_ok());
    assert!(Schedule::Constant { warmup: u64::MAX }.validate().is_ok());
    for ratio in [-0.1, 1.1, f32::NAN, f32::INFINITY] {
        let cosine = Schedule::WarmupCosine {
            warmup: 0,
            total: 10,
            min_ratio: ratio,
        };
        let linear = Schedule::Linear {
            warmup: 0,
            total: 10,
            end_ratio: ratio,
        };
        assert!(cosine.validate().is_err() && linear.validate().is_err());
    }
    let long = Schedule::Linear {
        warmup: 11,
        total: 10,
        end_ratio: 0.0,
    };
    assert!(long.validate().unwrap_err().to_string().contains("11"));
}

proptest! {
    #[test]
    fn rates_rise_then_fall_within_their_bounds(
        warmup in 0u64..50, decay in 0u64..200, ratio in 0f32..=1.0, step in 0u64..300
    ) {
        let total = warmup + decay;
        for schedule in [
            Schedule::WarmupCosine { warmup, total, min_ratio: ratio },
            Schedule::Linear { warmup, total, end_ratio: ratio },
        ] {
            prop_assert!(schedule.validate().is_ok());
            let (now, next) = (schedule.lr(1.0, step), schedule.lr(1.0, step + 1));
            prop_assert!((0.0..=1.0).contains(&now));
            if step + 1 < warmup {
                prop_assert!(now < next);
            } else if step >= warmup {
                prop_assert!(next <= now);
                prop_assert!(now >= ratio - 1e-6);
            }
        }
    }
}
