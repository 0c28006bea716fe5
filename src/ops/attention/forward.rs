//! The forward pass, and the weights on request.

use super::launch::{Launch, Rows, result_rows, separate_rows};
use super::problem::Problem;
use super::text::Operands;
use super::tiling::Job;
use super::variants::run;
use crate::gpu::Kernel;
use crate::tape::{Dispatch, Lowering};

/// Result and log-sum-exps.
pub(super) fn forward(cx: &mut Lowering<'_>, problem: &Problem) {
    let mut launch = Launch::of(cx, problem, 0);
    let out = cx.output(0);
    launch.out = Some(result_rows(out, problem));
    launch.lse = Some(cx.output(1));
    run(cx, &launch, Job::Forward, &out);
}

/// The weights before dropout.
pub(super) fn weights(cx: &mut Lowering<'_>, problem: &Problem) {
    let [q, k] = [0, 1].map(|index| separate_rows(cx.with_dense_rows(&cx.input(index)), [0, 1, 2]));
    let lse = cx.input(2);
    let lse = cx.contiguous(&lse);
    let output = cx.output(0);
    let without_dropout = Problem {
        dropout: None,
        ..*problem
    };
    let launch = Launch {
        out: Some(Rows {
            operand: output,
            at: [output.offset(), 0, 0, 0],
        }),
        lse: Some(lse),
        mask: problem.mask.map(|_| cx.input(3)),
        ..Launch::new(&without_dropout, [q, k, k])
    };
    let operands = Operands::new(problem.head_dim, None, launch.is_vector())
        .read_rows("q", &["q"])
        .read_rows("k", &["k"])
        .buffer("lse", "read", "f32")
        .buffer("weights", "read_write", "f32");
    let kernel = Kernel::builtin("attention_weights", "attention_weights", "weights_of_pairs");
    let dispatch = Dispatch::new(launch.kernel(kernel, operands))
        .read(&q.operand)
        .read(&k.operand)
        .read(&lse)
        .write(&output);
    let elements = output.elements();
    cx.dispatch(
        launch
            .bind(dispatch)
            .iterations(0)
            .params(&launch.params(1, elements, None))
            .groups(elements.div_ceil(64))
            .cost(
                2 * problem.head_dim as u64 * elements as u64,
                q.operand.bytes() + k.operand.bytes() + output.bytes(),
            ),
    );
}
