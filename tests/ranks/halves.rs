//! Gradients that travel as halves.

use shadegrad::nn::{Init, ParameterBuilder};
use shadegrad::optim::{AdamW, AdamWConfig, LossScale, Optimizer};
use shadegrad::parallel::World;
use shadegrad::{DType, Tape, Tensor};

use crate::{device, launch};

/// The loss's slope along each of eight parameters. Scaled by 2¹⁷ each rank's share is one that halves hold, but the sum of
/// two or more is not; scaled by 2¹⁶ it is.
const SLOPE: f32 = 0.75;

pub fn program(world: &World) {
    let device = device();
    for (dtype, skips) in [(DType::F32, [false, false]), (DType::F16, [true, false])] {
        let mut builder = ParameterBuilder::new(1);
        let weights = builder.parameter("w", [8], Init::Ones);
        let parameters = builder.build(&device).unwrap();
        let config = AdamWConfig {
            loss_scale: LossScale::From(131_072.0),
            ..AdamWConfig::default()
        };
        let mut optimizer = AdamW::new(&parameters, config).unwrap();
        let mut scale = 131_072.0;
        for (step, is_skipped) in skips.into_iter().enumerate() {
            let before = parameters.to_host().unwrap().remove(0).2;
            let slope: f32 = before.iter().sum::<f32>() * SLOPE;
            let total = Tensor::zeros(&device, [1], DType::F32).unwrap();
            let tape = Tape::training(&device);
            let share = SLOPE / world.size() as f32;
            let loss = (weights.on(&tape) * share).sum_all();
            tape.assign(&total, loss.reshape([1]));
            optimizer.accumulate(&tape, loss).unwrap();
            tape.run().unwrap();
            let gradient = optimizer.accumulated().unwrap().segments();
            world.sum(gradient, dtype).unwrap();
            world.sum([&total], DType::F32).unwrap();
            let tape = Tape::training(&device);
            let loss = tape.tensor(&total).sum_all();
            let report = optimizer.step_accumulated(&tape, loss, 1e-2).fetch();
            tape.run().unwrap();
            let metrics = report.get().unwrap();
            let after = parameters.to_host().unwrap().remove(0).2;
            assert_eq!(metrics.skipped, is_skipped, "{dtype:?}, step {step}");
            assert_eq!(metrics.loss_scale, Some(scale));
            assert_eq!(
                before == after,
                is_skipped,
                "a skipped step updates nothing"
            );
            assert!(
                (metrics.loss - slope).abs() < 1e-5 * slope,
                "{}",
                metrics.loss
            );
            if is_skipped {
                assert!(!metrics.grad_norm.is_finite());
                scale /= 2.0;
            } else {
                let norm = SLOPE * 8f32.sqrt();
                assert!((metrics.grad_norm - norm).abs() < 1e-5 * norm);
            }
            world.check_identical(&parameters, metrics.step).unwrap();
        }
    }
}

pub fn a_sum_that_halves_do_not_hold_skips_the_step() {
    for ranks in [2, 3] {
        launch::run(ranks, "halves");
    }
}
