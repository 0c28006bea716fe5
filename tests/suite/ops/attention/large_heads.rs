//! Heads of more than 128 elements: their tiles are wider, and lanes of software adapters hold fewer rows.

use shadegrad::{DType, Device};

use super::case::{Case, Layout, TestMask};
use super::masks::check_dropout;
use super::reference::Size;
use super::{config, devices};
use crate::common::Random;

/// Shared heads, windows, linear biases and masks, with contexts of one tile and of several.
fn check(device: &'static Device, head_dim: usize, context: usize, kind: usize) {
    let heads = 4;
    let size = Size::new(1 + kind % 2, heads, context, context, head_dim);
    let settings = config(heads, kind != 1).with_kv_heads([2, 4, 1][kind % 3]);
    let settings = match kind % 4 {
        0 => settings.with_window(9),
        1 => settings.with_alibi(),
        _ => settings,
    };
    let mut random = Random::new(21 + kind as u64);
    let mask = (kind > 1).then(|| TestMask::draw(&mut random, size, kind == 2, DType::F32));
    Case {
        device,
        size,
        config: settings,
        mask,
        seed: 970 + kind as u64,
    }
    .check_packed();
}

#[test]
fn packed() {
    let [own, portable] = devices();
    for (kind, (head_dim, device)) in [
        (129, portable),
        (160, own),
        (192, portable),
        (255, own),
        (256, portable),
        (256, own),
    ]
    .into_iter()
    .enumerate()
    {
        check(device, head_dim, [19, 70, 150][kind % 3], kind);
    }
}

/// Few queries over many keys, as in decoding, and the weights.
#[test]
fn different_lengths() {
    for device in devices() {
        Case {
            device,
            size: Size::new(2, 4, 1, 150, 256),
            config: config(4, false).with_kv_heads(2).with_scale(0.05),
            mask: None,
            seed: 980,
        }
        .check_separate(Layout::Heads);
    }
}

#[test]
fn dropout() {
    check_dropout(&devices(), 40, 192);
}
