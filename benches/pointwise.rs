//! Chains of pointwise operations, each fused into one kernel.

use crate::harness::{Session, Size};

pub fn benches(session: &mut Session) {
    let (rows, columns) = if session.is_large() {
        (16384, 1536)
    } else {
        (1024, 1536)
    };
    let (full, row): (&[usize], &[usize]) = (&[rows, columns], &[columns]);
    session.differentiable(
        Size::Tiny,
        "pointwise/add",
        [&[512, 32], &[512, 32]],
        |[x, y]| x + y,
    );
    // A copy, as far as memory is concerned: what kernels of these sizes can reach, with what it costs to start one.
    let sizes: &[usize] = if session.is_large() {
        &[16, 32, 64, 128]
    } else {
        &[4]
    };
    for mib in sizes {
        let id = format!("pointwise/scale_{mib}_mib");
        session.forward(Size::Small, &id, [&[mib * 256, 1024]], |[x]| x * 1.5);
    }
    session.differentiable(Size::Small, "pointwise/residual", [full, full], |[x, y]| {
        x + y
    });
    session.differentiable(
        Size::Small,
        "pointwise/bias_gelu",
        [full, row],
        |[x, bias]| (x + bias).gelu_tanh(),
    );
    session.differentiable(
        Size::Small,
        "pointwise/swiglu",
        [&[rows, 2 * columns]],
        |[x]| x.swiglu(),
    );
    session.differentiable(
        Size::Small,
        "pointwise/chain_of_eight",
        [full, full, row],
        |[x, y, z]| ((x * y + z).tanh() * x + y).sigmoid() * z - x,
    );
}
