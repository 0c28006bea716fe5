//! What attention refuses.

use shadegrad::Tape;
use shadegrad::ops::attention::{Attention, Mask, attention_with_weights};

use crate::common::device;

#[test]
#[should_panic(expected = "attention: 6 heads cannot share 4 heads of keys and values")]
fn heads_that_do_not_divide() {
    let tape = Tape::training(device());
    tape.full([1, 2, 14 * 8], 0.0)
        .packed_attention(&Attention::causal(6).with_kv_heads(4));
}

#[test]
#[should_panic(expected = "attention: a window of 0 shows no key")]
fn empty_window() {
    let tape = Tape::training(device());
    tape.full([1, 2, 24], 0.0)
        .packed_attention(&Attention::causal(1).with_window(0));
}

#[test]
#[should_panic(
    expected = "packed_attention: [2, 5, 25] is not [B, T, (H + 2·Hkv)·Dh] for 2 heads, 2 of keys and values"
)]
fn packed_shape() {
    let tape = Tape::training(device());
    tape.full([2, 5, 25], 0.0)
        .packed_attention(&Attention::causal(2));
}

#[test]
#[should_panic(expected = "attention: mask [4, 5] does not broadcast to [2, 2, 5, 5]")]
fn mask_shape() {
    let tape = Tape::training(device());
    let mask = Mask::Additive(tape.full([4, 5], 0.0));
    tape.full([2, 5, 24], 0.0)
        .masked_packed_attention(mask, &Attention::causal(2));
}

#[test]
#[should_panic(expected = "attention: head size 257 is larger than 256")]
fn head_size() {
    let tape = Tape::training(device());
    tape.full([2, 5, 3 * 257], 0.0)
        .packed_attention(&Attention::causal(1));
}

#[test]
#[should_panic(expected = "compose attention from matmul and softmax instead")]
fn second_derivative() {
    let tape = Tape::training(device());
    let x = tape.variable([1, 2, 6], &[0.5; 12]);
    let out = x.packed_attention(&Attention::causal(1));
    let gradient = tape.backward(out.sum_all()).of(x).unwrap();
    tape.backward((gradient * gradient).sum_all());
}

#[test]
#[should_panic(expected = "attention_weights: no gradient: the weights are there to be looked at")]
fn gradient_of_weights() {
    let tape = Tape::training(device());
    let x = tape.variable([1, 1, 2, 3], &[0.5; 6]);
    let (_, weights) = attention_with_weights(x, x, x, None, &Attention::full(1));
    tape.backward(weights.sum_all());
}
