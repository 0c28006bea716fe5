//! Packed and separate operands, lengths, head sizes, shared heads, windows and linear biases.

use shadegrad::ops::attention::{Attention, attention};
use shadegrad::{DType, Device, Tape};

use super::case::{Case, Layout, TestMask};
use super::reference::Size;
use super::{config, devices};
use crate::common::Random;

#[test]
fn packed_contexts() {
    for (n, context) in [1, 2, 7, 16, 33, 100, 257].into_iter().enumerate() {
        for device in devices() {
            for causal in [true, false] {
                let heads = 1 + n % 3;
                Case {
                    device,
                    size: Size::new(1 + n % 2, heads, context, context, 8),
                    config: config(heads, causal),
                    mask: None,
                    seed: n as u64,
                }
                .check_packed();
            }
        }
    }
}

/// Shared heads of keys and values, windows and linear biases, each alone and all together, packed and separate; with
/// few rows and many, which different kernels take.
#[test]
fn shared_heads_windows_and_linear_biases() {
    let kinds: [fn(usize) -> Attention; 7] = [
        |heads| Attention::causal(heads).with_kv_heads(heads / 3),
        |heads| Attention::full(heads).with_kv_heads(1),
        |heads| Attention::causal(heads).with_window(5),
        |heads| Attention::full(heads).with_window(3),
        |heads| Attention::causal(heads).with_alibi(),
        |heads| Attention::full(heads).with_alibi(),
        |heads| {
            let config = Attention::causal(heads).with_kv_heads(2);
            config.with_window(9).with_alibi()
        },
    ];
    for (n, kind) in kinds.into_iter().enumerate() {
        for device in devices() {
            for (queries, keys) in [(13, 13), (41, 41), (6, 19), (37, 50), (19, 6)] {
                let case = Case {
                    device,
                    size: Size::new(2, 6, queries, keys, 8),
                    config: kind(6),
                    mask: None,
                    seed: 700 + n as u64,
                };
                if queries == keys {
                    case.check_packed();
                } else {
                    case.check_separate(Layout::ALL[n % 4]);
                }
            }
        }
    }
}

/// More workgroups than one dimension of a grid can have.
#[test]
fn packed_large_batch() {
    for device in devices() {
        Case {
            device,
            size: Size::new(22_000, 3, 1, 1, 8),
            config: Attention::causal(3),
            mask: None,
            seed: 50,
        }
        .check_packed();
    }
}

/// Kernels are compiled for each head size, which takes its time: not every size on every device. The other tests have
/// sizes 5, 8 and 24 on both.
#[test]
fn packed_head_sizes() {
    let [own, portable] = devices();
    let sizes: [(usize, &[&'static Device]); 7] = [
        (1, &[portable]),
        (3, &[own]),
        (8, &[own, portable]),
        (16, &[own]),
        (64, &[own, portable]),
        (80, &[portable]),
        (128, &[own, portable]),
    ];
    for (n, (head_dim, devices)) in sizes.into_iter().enumerate() {
        for &device in devices {
            let heads = 1 + n % 6;
            Case {
                device,
                size: Size::new(1 + n % 2, heads, 19, 19, head_dim),
                config: config(heads, n % 3 != 0),
                mask: None,
                seed: 100 + n as u64,
            }
            .check_packed();
        }
    }
}

#[test]
fn separate_operands() {
    let mut random = Random::new(6);
    let lengths = [(7, 7), (5, 18), (18, 5), (1, 33), (33, 1), (40, 41)];
    for (n, (queries, keys)) in lengths.into_iter().enumerate() {
        for device in devices() {
            let size = Size::new(2, 2, queries, keys, [8, 5][n % 2]);
            let mask = (n % 3 == 0).then(|| TestMask::draw(&mut random, size, n == 0, DType::F32));
            Case {
                device,
                size,
                config: config(2, n % 3 != 2),
                mask,
                seed: 300 + n as u64,
            }
            .check_separate(Layout::ALL[n % 4]);
        }
    }
}

/// Only the operands that need a gradient get one, and keys can be shared by all heads.
#[test]
fn partial_gradients_and_shared_heads() {
    let (b, h, t, d) = (2, 3, 6, 8);
    let mut random = Random::new(7);
    let data = [h, 1, h].map(|heads| random.values(b * heads * t * d, -1.0, 1.0));
    for device in devices() {
        let gradient_of = |wanted: usize| -> Vec<Vec<f32>> {
            let tape = Tape::training(device);
            let operands = [0, 1, 2].map(|n| {
                let shape = [b, if n == 1 { 1 } else { h }, t, d];
                match wanted == n || wanted == 3 {
                    true => tape.variable(shape, &data[n]),
                    false => tape.input(shape, &data[n]),
                }
            });
            let [q, k, v] = operands;
            let k = k.broadcast_to([b, h, t, d]);
            let out = attention(q, k, v, None, &Attention::causal(h));
            let gradients = tape.backward((out * out).sum_all());
            let fetches: Vec<_> = operands
                .iter()
                .filter_map(|&operand| gradients.of(operand))
                .map(|gradient| tape.fetch::<f32>(gradient))
                .collect();
            tape.run().unwrap();
            fetches.iter().map(|f| f.get().unwrap()).collect()
        };
        let all = gradient_of(3);
        assert_eq!(all[1].len(), b * t * d);
        for (wanted, expected) in all.iter().enumerate() {
            assert_eq!(gradient_of(wanted), std::slice::from_ref(expected));
        }
    }
}

/// The gradient that arrives may be a view that repeats one element.
#[test]
fn broadcast_upstream_gradient() {
    let data = Random::new(10).values(2 * 5 * 48, -1.0, 1.0);
    for device in devices() {
        let gradient = |has_weights: bool| {
            let tape = Tape::training(device);
            let x = tape.variable([2, 5, 48], &data);
            let mut out = x.packed_attention(&Attention::causal(2));
            if has_weights {
                out = out * tape.input([2, 5, 16], &[1.0f32; 160]);
            }
            let gradient = tape.backward(out.sum_all()).of(x).unwrap();
            let gradient = tape.fetch::<f32>(gradient);
            tape.run().unwrap();
            gradient.get().unwrap()
        };
        assert_eq!(gradient(false), gradient(true));
    }
}
