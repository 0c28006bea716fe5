//! Means over batches, and hits.

use shadegrad::{Tape, metrics};

use crate::common::device;

#[test]
fn means_weigh_batches_by_what_counts_in_them() {
    let mean = |batches: &[(f32, usize)]| {
        metrics::mean(device(), batches, |tape, &(value, count)| {
            (tape.input([], &[value]), count)
        })
        .unwrap()
    };
    let many: Vec<_> = (1..=9).map(|i| (i as f32, i)).collect();
    assert_eq!(mean(&many), 285.0 / 45.0);
    // A mean over nothing is no number, here or within a batch, and not a perfect loss.
    assert_eq!(mean(&[(f32::NAN, 0), (5.0, 3)]), 5.0);
    assert!(mean(&[(7.0, 0)]).is_nan() && mean(&[]).is_nan());
    assert!(mean(&[(f32::NAN, 1), (5.0, 3)]).is_nan());
}

#[test]
fn hits_are_counted() {
    let tape = Tape::inference(device());
    let logits = tape.input([2, 2, 2], &[0.0, 1.0, 3.0, 2.0, -1.0, -2.0, 5.0, 5.0f32]);
    let share = |targets: [u32; 4]| {
        let targets = tape.input([2, 2], &targets);
        tape.fetch::<f32>(metrics::accuracy(logits, targets))
    };
    let shares = [[1, 0, 0, 0], [1, 0, 1, u32::MAX], [0, 1, 1, 1]].map(share);
    tape.run().unwrap();
    assert_eq!(shares.map(|share| share.item().unwrap()), [1.0, 0.5, 0.0]);
}
