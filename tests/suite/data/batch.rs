//! What a training step is fed with.

use shadegrad::Tape;
use shadegrad::data::{Batch, IGNORE_INDEX};

use crate::common::device;

fn batch() -> Batch {
    Batch {
        inputs: vec![0, 1, 2, 0, 5, 0],
        targets: vec![1, 2, 0, 5, 0, IGNORE_INDEX],
        batch_size: 2,
        context: 3,
    }
}

#[test]
fn only_real_targets_count() {
    assert_eq!(batch().target_count(), 5);
}

#[test]
fn inputs_and_targets_come_to_the_tape() {
    let tape = Tape::inference(device());
    let batch = batch();
    let (inputs, targets) = batch.on(&tape);
    let fetched = [inputs, targets].map(|var| tape.fetch::<u32>(var));
    assert_eq!(inputs.shape(), shadegrad::Shape::new(&[2, 3]));
    tape.run().unwrap();
    let [inputs, targets] = fetched.map(|fetch| fetch.get().unwrap());
    assert_eq!((inputs, targets), (batch.inputs, batch.targets));
}
