//! Cross-entropy: the loss, and with it the gradient of the logits.

use shadegrad::ops::CrossEntropy;
use shadegrad::{Tape, Tensor};

use crate::harness::{Session, Size, random};

pub fn benches(session: &mut Session) {
    let large = session.is_large();
    rows(session, Size::Tiny, 512, 27);
    rows(session, Size::Small, if large { 16384 } else { 4096 }, 65);
    // GPT-2's vocabulary.
    rows(session, Size::Small, if large { 4096 } else { 128 }, 50257);
}

fn rows(session: &mut Session, size: Size, rows: usize, vocabulary: usize) {
    for gradient in [false, true] {
        let what = if gradient {
            "loss_and_gradient"
        } else {
            "loss"
        };
        session.kernels(
            size,
            &format!("cross_entropy/{rows}x{vocabulary}/{what}"),
            |device| {
                let logits = random(device, [rows, vocabulary], 1)?;
                let targets: Vec<u32> = (0..rows)
                    .map(|row| (row * 7919 % vocabulary) as u32)
                    .collect();
                let targets = Tensor::new(device, [rows], &targets)?;
                let loss = random(device, [1], 0)?.part(0, []);
                let stored = random(device, [rows, vocabulary], 0)?;
                Ok(move |tape: &Tape| {
                    let leaf = tape.tensor_variable(&logits);
                    let value = leaf.cross_entropy(tape.tensor(&targets), CrossEntropy::default());
                    tape.assign(&loss, value);
                    if gradient {
                        let found = tape
                            .backward(value)
                            .of(leaf)
                            .expect("the loss depends on it");
                        tape.assign(&stored, found);
                    }
                })
            },
        );
    }
}
