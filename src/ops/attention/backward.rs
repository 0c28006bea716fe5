//! The backward pass.

use super::launch::{Launch, packed_rows, result_rows};
use super::problem::Problem;
use super::text::Operands;
use super::tiling::Job;
use super::variants::{Family, family, few_visits, run};
use crate::gpu::{DType, Kernel};
use crate::tape::{Dispatch, Lowering, Operand};

/// Contexts up to this length have their gradient computed in one dispatch by the subgroup kernels, if packed.
const SHORT: usize = 64;
/// Larger heads take too long to compile as one kernel.
const SMALL_HEAD: usize = 32;

/// Gradients of q, k and v.
pub(super) fn backward(
    cx: &mut Lowering<'_>,
    problem: &Problem,
    wants_queries: bool,
    wants_keys: bool,
) {
    let mut launch = Launch::of(cx, problem, 3);
    let first = problem.operand_count();
    launch.out = Some(result_rows(cx.input(first), problem));
    let lse = cx.input(first + 1);
    launch.lse = Some(cx.contiguous(&lse));
    let dout = cx.with_dense_rows(&cx.input(first + 2));
    launch.dout = Some(result_rows(dout, problem));
    let gradient = cx.output(0);
    launch.gradients = if problem.is_packed {
        [0, 1, 2].map(|part| packed_rows(gradient, problem, part).at)
    } else {
        let [_, k, v] = problem.gradient_ranges();
        let offset = gradient.layout.offset;
        let (heads, kv_heads) = (problem.heads, problem.kv_heads);
        [
            problem.dense_rows(heads, problem.queries, offset),
            problem.dense_rows(kv_heads, problem.keys, offset + k.start),
            problem.dense_rows(kv_heads, problem.keys, offset + v.start),
        ]
    };
    let is_short = problem.queries <= SHORT && problem.head_dim <= SMALL_HEAD;
    let is_alone = problem.is_packed && problem.share() == 1;
    let is_single = cx.device().has_subgroups_of(8) && is_alone && is_short;
    let on_units = family(cx, &launch, Job::Queries);
    if is_single && !matches!(on_units, Family::Units(_)) {
        single_backward(cx, &launch, &gradient);
        return;
    }
    launch.statistics = Some(statistics(cx, &launch));
    for (is_wanted, job) in [(wants_queries, Job::Queries), (wants_keys, Job::Keys)] {
        if is_wanted {
            run(cx, &launch, job, &gradient);
        }
    }
}

/// All gradients of a packed operand in one dispatch.
fn single_backward(cx: &mut Lowering<'_>, launch: &Launch<'_>, gradient: &Operand) {
    let problem = launch.problem;
    let (Some(out), Some(lse), Some(dout)) = (launch.out, launch.lse, launch.dout) else {
        unreachable!("backward has them all");
    };
    let kernel = Kernel::builtin(
        "attention_gradient",
        "attention_subgroup8_backward",
        "backward",
    );
    let operands = Operands::new(problem.head_dim, None, launch.is_vector())
        .shuffles()
        .read_rows("qkv", &["q", "k", "v"])
        .read_rows("dout", &["dout"])
        .write_rows("gradient")
        .read_rows("out", &["out"])
        .buffer("lse", "read", "f32")
        .text(
            "fn about_of(head: Head, i: u32, upstream: Row) -> vec2<f32> {\n    \
             let delta = dot_rows(upstream, load_out(row_at(p.out, head, i)));\n    \
             return vec2<f32>(lse[p.lse_offset + head.index * p.queries + i], delta);\n}",
        );
    let tiles = problem.queries.div_ceil(8);
    let groups = tiles * problem.heads_in_all();
    let [part] = few_visits(problem.queries, Job::Queries).parts(problem, cx.most_iterations())[..]
    else {
        unreachable!("short contexts come in one part");
    };
    let dispatch = Dispatch::new(launch.kernel(kernel, operands))
        .read(&launch.q.operand)
        .read(&dout.operand)
        .write(gradient)
        .read(&out.operand)
        .read(&lse);
    let bytes = 2 * gradient.bytes() + out.operand.bytes() + dout.operand.bytes() + lse.bytes();
    cx.dispatch(
        launch
            .bind(dispatch)
            .iterations(2 * part.iterations)
            .params(&launch.params(tiles, groups, Some(&part)))
            .groups(groups)
            .cost(10 * problem.head_dim as u64 * problem.pairs(), bytes),
    );
}

/// The random key, and log-sum-exp and `D` of every query.
fn statistics(cx: &mut Lowering<'_>, launch: &Launch<'_>) -> Operand {
    let problem = launch.problem;
    let (Some(out), Some(lse), Some(dout)) = (launch.out, launch.lse, launch.dout) else {
        unreachable!("backward has them all");
    };
    let rows = problem.heads_in_all() * problem.queries;
    let statistics = cx.temp([6 + 2 * rows], DType::U32);
    let operands = Operands::new(problem.head_dim, None, launch.is_vector())
        .read_rows("out", &["out"])
        .read_rows("dout", &["dout"]);
    let mut kernel = Kernel::builtin(
        "attention_statistics",
        "attention_statistics",
        "statistics_of_rows",
    )
    .declare(&operands.finish());
    if launch.key.is_some() {
        kernel = kernel.declare(
            "@group(0) @binding(5) var<storage, read> random_key: array<u32>;\n\
             fn key_word(n: u32) -> u32 { return random_key[p.key_offset + n]; }\n",
        );
    }
    let mut dispatch = Dispatch::new(kernel)
        .read(&out.operand)
        .read(&dout.operand)
        .read(&lse)
        .write(&statistics);
    if let Some(key) = &launch.key {
        dispatch = dispatch.read(key);
    }
    let bytes = out.operand.bytes() + dout.operand.bytes() + 3 * lse.bytes();
    let flops = 2 * out.operand.elements() as u64;
    cx.dispatch(
        dispatch
            .iterations(0)
            .params(&launch.params(1, rows, None))
            .groups(rows.div_ceil(64))
            .cost(flops, bytes),
    );
    statistics
}
