//! The kernels for GPUs: tiles, squares and teams, with extents around their borders.

use shadegrad::DType;
use shadegrad::ops::attention::Attention;

use super::case::{Case, Layout, TestMask};
use super::config;
use super::masks::check_dropout;
use super::reference::Size;
use crate::common::{Random, gpu_device, portable_device};

fn case(size: Size, config: Attention, seed: u64) -> Case {
    Case {
        device: portable_device(),
        size,
        config,
        mask: None,
        seed,
    }
}

/// Batches and heads so that the last workgroup has teams without a head, where there are several to a workgroup.
fn check_contexts(head_dim: usize, contexts: &[usize]) {
    for &context in contexts {
        for causal in [true, false] {
            let (batch, heads) = if context > 64 { (1, 2) } else { (3, 3) };
            let size = Size::new(batch, heads, context, context, head_dim);
            let case = case(size, config(heads, causal), 900 + context as u64);
            case.check_packed();
            // Where invocations that share rows lie in one subgroup, shuffles join what they know.
            Case {
                device: gpu_device(),
                ..case
            }
            .check_packed();
        }
    }
}

#[test]
fn heads_of_8() {
    check_contexts(8, &[1, 15, 16, 17, 63, 64, 65, 200]);
}

#[test]
fn heads_of_20() {
    check_contexts(20, &[63, 65]);
}

#[test]
fn heads_of_64() {
    check_contexts(64, &[17, 63, 64, 65, 200]);
}

#[test]
fn heads_of_128() {
    check_contexts(128, &[16, 64, 200]);
}

/// Few queries over many keys, as in decoding, and the other way round; shared heads of keys and values.
#[test]
fn different_lengths() {
    let lengths = [(1, 200), (16, 129), (130, 65), (200, 1)];
    for (n, (queries, keys)) in lengths.into_iter().enumerate() {
        let config = config(6, n % 2 == 0).with_kv_heads([6, 2, 1][n % 3]);
        let size = Size::new(1, 6, queries, keys, 20);
        case(size, config, 920 + n as u64).check_separate(Layout::ALL[n % 4]);
    }
}

/// Windows whose borders lie within tiles, with whole tiles between and beyond.
#[test]
fn windows_over_several_tiles() {
    for (n, window) in [3, 70, 150].into_iter().enumerate() {
        for causal in [true, false] {
            let size = Size::new(1, 2, 200, 200, 8);
            case(size, config(2, causal).with_window(window), 930 + n as u64).check_packed();
        }
    }
}

#[test]
fn masks_and_linear_biases_over_several_tiles() {
    let mut random = Random::new(12);
    for (n, context) in [64, 200].into_iter().enumerate() {
        let size = Size::new(1, 4, context, context, 20);
        let mut case = case(size, config(4, n == 1).with_alibi(), 940 + n as u64);
        case.mask = Some(TestMask::draw(&mut random, size, n == 0, DType::F32));
        case.check_packed();
    }
}

#[test]
fn dropout_over_several_tiles() {
    check_dropout(&[portable_device()], 100, 128);
}

#[test]
fn the_same_bits_in_every_run() {
    let sizes = [(16, 8), (200, 64)];
    for (context, head_dim) in sizes {
        let size = Size::new(2, 3, context, context, head_dim);
        let case = case(size, Attention::causal(3).with_dropout(0.2), 950);
        let operands = case.operands();
        let bits = || -> Vec<u32> {
            let (out, dx) = case.run_packed(&operands);
            out.iter().chain(&dx).map(|x| x.to_bits()).collect()
        };
        let first = bits();
        for _ in 0..2 {
            assert_eq!(first, bits());
        }
    }
}

/// Heads that share a workgroup have nothing to do with one another: what the others hold changes no bit.
#[test]
fn teams_keep_to_themselves() {
    let (context, head_dim, heads) = (16, 8, 11);
    let size = Size::new(1, heads, context, context, head_dim);
    let case = case(size, Attention::causal(heads), 960);
    let mut operands = case.operands();
    let row = heads * head_dim;
    let own = |(out, dx): (Vec<f32>, Vec<f32>), head: usize| -> Vec<u32> {
        let part = move |x: &[f32]| x[head * head_dim..(head + 1) * head_dim].to_vec();
        out.chunks(row)
            .chain(dx.chunks(row))
            .flat_map(part)
            .map(f32::to_bits)
            .collect()
    };
    let before = case.run_packed(&operands);
    // Another head 4 of all operands.
    let head = context * head_dim;
    for x in &mut operands {
        x[4 * head..5 * head].fill(3.0);
    }
    let after = case.run_packed(&operands);
    for head in 0..heads {
        let is_same = own(before.clone(), head) == own(after.clone(), head);
        assert_eq!(is_same, head != 4, "head {head}");
    }
}
