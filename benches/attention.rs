//! Fused attention over lengths, the same from single operations, and the ladder that leads from one to the other.

#[path = "../examples/attention_ladder/rungs.rs"]
mod rungs;

use shadegrad::Var;
use shadegrad::ops::attention::Attention;

use crate::harness::{Session, Size};
use rungs::Constants;

pub fn benches(session: &mut Session) {
    lengths(session);
    session.mixed(lengths);
    unfused(session);
    ladder(session);
}

/// Batch, positions, heads and extent of a head.
fn lengths(session: &mut Session) {
    let shapes = [
        (Size::Tiny, [32, 16, 4, 8]),
        (Size::Small, [32, 16, 4, 16]),
        (Size::Small, [4, 64, 6, 64]),
        (Size::Small, [1, 256, 6, 64]),
        (Size::Small, [1, 1024, 6, 64]),
        (Size::Small, [1, 2048, 2, 64]),
        (Size::Large, [64, 256, 6, 64]),
        (Size::Large, [16, 1024, 12, 64]),
        (Size::Large, [8, 2048, 12, 64]),
        (Size::Large, [2, 8192, 12, 64]),
    ];
    for (size, [batch, positions, heads, head_dim]) in shapes {
        let id = format!("attention/fused/{batch}x{positions}x{heads}x{head_dim}");
        let packed: &[usize] = &[batch, positions, 3 * heads * head_dim];
        session.differentiable(size, &id, [packed], |[x]| {
            x.packed_attention(&Attention::causal(heads))
        });
    }
}

/// What the fused kernel is measured against: scores and weights in memory.
fn unfused(session: &mut Session) {
    for (size, [batch, positions, heads, head_dim]) in [
        (Size::Small, [1, 256, 6, 64]),
        (Size::Large, [16, 1024, 12, 64]),
    ] {
        let id = format!("attention/unfused/{batch}x{positions}x{heads}x{head_dim}");
        let d_model = heads * head_dim;
        let packed: &[usize] = &[batch, positions, 3 * d_model];
        let mask: Vec<f32> = (0..positions * positions)
            .map(|i| {
                if i % positions <= i / positions {
                    0.0
                } else {
                    -1e30
                }
            })
            .collect();
        let mask = &mask;
        session.differentiable(size, &id, [packed], |[x]| {
            let [q, k, v] = [0, 1, 2].map(|part| -> Var<'_> {
                let part = x.slice(2, part * d_model..(part + 1) * d_model);
                part.reshape([batch, positions, heads, head_dim])
                    .permute(&[0, 2, 1, 3])
            });
            let scores = q.matmul(k.transpose()) * (head_dim as f32).sqrt().recip();
            let mask = x.tape().input([positions, positions], mask);
            let out = (scores + mask).softmax().matmul(v);
            out.permute(&[0, 2, 1, 3])
                .reshape([batch, positions, d_model])
        });
    }
}

/// The rungs at the size that the reference times them at.
fn ladder(session: &mut Session) {
    let [batch, positions, channels, head_size] = if session.is_tiny() {
        [2, 8, 16, 4]
    } else {
        [32, 256, 384, 16]
    };
    let constants = Constants::new(session.device(), positions, head_size)
        .expect("a small tensor fits every device");
    let constants = &constants;
    let x: &[usize] = &[batch, positions, channels];
    let w: &[usize] = &[channels, 3 * head_size];
    // The loop's gradient is hundreds of tensors of x's size, added up: many seconds on a software adapter.
    let patience = if session.is_tiny() {
        Size::Tiny
    } else {
        Size::Large
    };
    session.forward(Size::Tiny, "ladder/1_looped", [x], |[x]| {
        rungs::looped(constants, x)
    });
    session.gradient(patience, "ladder/1_looped", [x], |[x]| {
        rungs::looped(constants, x)
    });
    session.differentiable(Size::Tiny, "ladder/2_averaged", [x], |[x]| {
        rungs::averaged(constants, x)
    });
    session.differentiable(Size::Tiny, "ladder/3_softmax_averaged", [x], |[x]| {
        rungs::softmax_averaged(constants, x)
    });
    session.differentiable(Size::Tiny, "ladder/4_attended", [x, w], |[x, w]| {
        rungs::attended(constants, x, w)
    });
    session.differentiable(Size::Tiny, "ladder/5_fused", [x, w], |[x, w]| {
        rungs::fused(constants, x, w)
    });
}
