//! Steps that must change nothing: those with a loss or a gradient that is not finite.

use shadegrad::optim::{AdamW, Optimizer, Reports, Sgd, SgdConfig};
use shadegrad::{Device, Error, Var};

use super::model::{Batch, Model};
use super::{CLIPPED, state_bits};
use crate::common::{self, Random};

/// Runs a sound step, some that must be refused, and a sound one again.
fn refuse_and_recover(
    optimizer: &mut dyn Optimizer,
    model: &Model,
    what: &str,
    poisons: &[f32],
    spoil: impl for<'t> Fn(Var<'t>, Var<'t>) -> Var<'t>,
) {
    let mut random = Random::new(5);
    let mut step = |poison: f32| {
        let tape = model.tape();
        let loss = model.loss(&tape, &Batch::new(&mut random));
        let loss = spoil(loss, tape.scalar(poison));
        let report = optimizer.step(&tape, loss, 0.01).fetch();
        tape.run().unwrap();
        (report.get(), state_bits(optimizer))
    };
    let (first, before) = step(0.0);
    let first = first.unwrap().step;
    for &poison in poisons {
        let (refused, after) = step(poison);
        match refused {
            Err(Error::NonFinite {
                what: named, value, ..
            }) => {
                assert_eq!(named, what);
                assert!(!value.is_finite());
            }
            other => panic!("{what} with {poison}: {other:?}"),
        }
        assert!(before == after, "{what} with {poison}: there was an update");
    }
    let (last, after) = step(0.0);
    assert_eq!(last.unwrap().step, first + 1 + poisons.len() as u64);
    assert!(before != after);
}

#[test]
fn a_step_that_is_not_finite_changes_nothing_and_says_so() {
    not_finite(common::device());
    not_finite(common::portable_device());
}

fn not_finite(device: &Device) {
    let model = Model::new(device, 13, 512);
    let mut adamw = AdamW::new(&model.parameters, CLIPPED).unwrap();
    let config = SgdConfig {
        momentum: 0.9,
        ..SgdConfig::default()
    };
    let mut momentum = Sgd::new(&model.parameters, config).unwrap();
    let mut plain = Sgd::new(&model.parameters, SgdConfig::default()).unwrap();
    let optimizers: [&mut dyn Optimizer; 3] = [&mut adamw, &mut momentum, &mut plain];
    for optimizer in optimizers {
        // Only the loss is spoilt: its gradient does not see what is added to it.
        let poisons = [f32::INFINITY, f32::NAN, f32::NEG_INFINITY];
        refuse_and_recover(optimizer, &model, "the loss", &poisons, |loss, poison| {
            loss + poison
        });
        // Only the gradient is spoilt: what is added to the loss is zero.
        let what = "the gradient norm";
        refuse_and_recover(optimizer, &model, what, &[1e30], |loss, poison| {
            let bias = model.bias.on(loss.tape());
            loss + ((bias - bias.detach()) * poison).sum_all()
        });
    }
}

/// Every step is reported, in order, however late, also where one of them was refused.
#[test]
fn late_reports_lose_neither_steps_nor_errors() {
    let model = Model::new(common::device(), 13, 512);
    let mut optimizer = AdamW::new(&model.parameters, CLIPPED).unwrap();
    let mut random = Random::new(5);
    let (mut reports, mut seen) = (Reports::default(), Vec::new());
    for step in 1..=9 {
        let tape = model.tape();
        let loss = model.loss(&tape, &Batch::new(&mut random));
        let spoilt = if step == 3 { f32::NAN } else { 0.0 };
        reports.push(
            optimizer
                .step(&tape, loss + tape.scalar(spoilt), 0.01)
                .fetch(),
        );
        tape.run().unwrap();
        let most = if step == 9 { 0 } else { 4 };
        loop {
            match reports.take(most) {
                Ok(Some(metrics)) => seen.push(metrics.step),
                Ok(None) => break,
                Err(Error::NonFinite { step, .. }) => seen.push(100 + step),
                Err(error) => panic!("{error}"),
            }
            assert!(seen.len() <= 9, "{seen:?}");
        }
        assert!(reports.len() <= most);
    }
    assert_eq!(seen, [1, 2, 103, 4, 5, 6, 7, 8, 9]);
}

#[test]
fn a_gradient_that_is_not_a_number_is_refused() {
    let model = Model::new(common::device(), 13, u64::MAX);
    let mut optimizer = AdamW::new(&model.parameters, CLIPPED).unwrap();
    let before = state_bits(&optimizer);
    let tape = model.tape();
    let bias = model.bias.on(&tape);
    // The root's slope at zero is infinite, and infinity times zero is not a number.
    let zero = (bias - bias.detach()).sqrt() * tape.scalar(0.0);
    let loss = model.loss(&tape, &Batch::new(&mut Random::new(5))) + zero.sum_all();
    let report = optimizer.step(&tape, loss, 0.01).fetch();
    tape.run().unwrap();
    let error = report.get().unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("the gradient norm is NaN at step 1"),
        "{error}"
    );
    assert_eq!(before, state_bits(&optimizer));
}
