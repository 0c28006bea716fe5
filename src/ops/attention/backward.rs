//! The backward pass.

use super::blocks::Blocks;
use super::forward::{Family, family, operand_bytes, wide8};
use super::launch::{Launch, packed_rows, result_rows, with_dense_rows};
use super::parts::Visits;
use super::problem::Problem;
use super::text::Operands;
use super::tiling::{Job, Tiling};
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
    let dout = cx.input(first + 2);
    launch.dout = Some(result_rows(with_dense_rows(cx, dout), problem));
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
    let on_units = family(cx, &launch, Job::Queries, problem.queries);
    if is_single && !matches!(on_units, Family::Units(_)) {
        single_backward(cx, &launch, &gradient);
        return;
    }
    let statistics = statistics(cx, &launch);
    for (is_wanted, entry) in [(wants_queries, "queries"), (wants_keys, "keys")] {
        if is_wanted {
            half_backward(cx, &launch, &statistics, &gradient, entry);
        }
    }
}

/// How the kernels for GPUs share out the work for `queries` or `keys`.
fn tiling(problem: &Problem, entry: &str) -> Tiling {
    let (own, others) = match entry {
        "queries" => (problem.queries, problem.keys),
        _ => (problem.keys, problem.queries),
    };
    Tiling::of(job(entry), problem.head_dim, own, others)
}

fn job(entry: &str) -> Job {
    match entry {
        "queries" => Job::Queries,
        _ => Job::Keys,
    }
}

/// How the kernels of few rows visit `others`: a turn, a loop of at most one and one of eight within.
fn few_visits(others: usize) -> Visits {
    Visits {
        own: 8,
        others,
        step: 8,
        iterations: 12,
        times: 1,
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
            "fn statistics_of(head: Head, i: u32, upstream: Row) -> vec2<f32> {\n    \
             let delta = dot_rows(upstream, load_out(row_at(p.out, head, i)));\n    \
             return vec2<f32>(lse[p.lse_offset + head.index * p.queries + i], delta);\n}",
        );
    let tiles = problem.queries.div_ceil(8);
    let groups = tiles * problem.heads_in_all();
    let [part] = few_visits(problem.queries).parts(problem, cx.most_iterations())[..] else {
        unreachable!("short contexts come in one part");
    };
    let dispatch = Dispatch::new(launch.kernel(kernel, operands, false))
        .read(&launch.q.operand)
        .read(&dout.operand)
        .write(gradient)
        .read(&out.operand)
        .read(&lse);
    let bytes = 2 * gradient.bytes() + out.operand.bytes() + dout.operand.bytes() + lse.bytes();
    cx.dispatch(
        launch
            .bind(dispatch, false)
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
    let mut dispatch_key = None;
    if let Some(key) = &launch.key {
        kernel = kernel.declare(
            "@group(0) @binding(5) var<storage, read> random_key: array<u32>;\n\
             fn key_word(n: u32) -> u32 { return random_key[p.key_offset + n]; }\n",
        );
        dispatch_key = Some(key);
    }
    let mut dispatch = Dispatch::new(kernel)
        .read(&out.operand)
        .read(&dout.operand)
        .read(&lse)
        .write(&statistics);
    if let Some(key) = dispatch_key {
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

/// The gradient of q (`entry` is `queries`), or of k and v (`keys`).
fn half_backward(
    cx: &mut Lowering<'_>,
    launch: &Launch<'_>,
    statistics: &Operand,
    gradient: &Operand,
    entry: &'static str,
) {
    let problem = launch.problem;
    let head_dim = problem.head_dim;
    let dout = launch.dout.expect("backward has it");
    let (rows, others, heads, other) = match entry {
        "queries" => (
            problem.queries,
            problem.keys,
            problem.heads_in_all(),
            "keys",
        ),
        _ => (
            problem.keys,
            problem.queries,
            problem.kv_heads_in_all(),
            "queries",
        ),
    };
    let mut beside = None;
    let in_tiles = |tile: usize| (rows.div_ceil(tile), rows.div_ceil(tile) * heads);
    let (kernel, operands, (tiles, groups), mut visits) = match family(cx, launch, job(entry), rows)
    {
        Family::Units(units) => {
            let operands = tiled_operands(units.operands(head_dim, launch.is_vector()));
            let (kernel, operands) = units.kernel(problem, operands);
            (
                kernel,
                operands,
                units.workgroups(rows, heads),
                units.visits(problem),
            )
        }
        Family::Wide8 => {
            let (kernel, operands, blocks) = wide_half(launch, entry);
            let workgroups = in_tiles(8 * blocks.rows);
            (kernel, operands, workgroups, blocks.visits(others))
        }
        Family::Subgroup8 => {
            let kernel =
                Kernel::builtin("attention_gradient", "attention_subgroup8_backward", entry);
            let operands = Operands::new(head_dim, None, launch.is_vector())
                .shuffles()
                .read_rows("q", &["q"])
                .read_rows("k", &["k"])
                .read_rows("v", &["v"])
                .read_rows("dout", &["dout"])
                .write_rows("gradient")
                .buffer("statistics", "read", "u32")
                .text(&STATISTICS_OF.replace("i: u32", "i: u32, upstream: Row"));
            (kernel, operands, in_tiles(8), few_visits(others))
        }
        Family::Tiled => {
            let own = tiling(problem, entry);
            if own.fits_beside(&tiling(problem, other)) {
                beside = Some(own.invocations());
            }
            let (kernel, operands) = tiled_half(launch, entry, &own);
            let kernel = kernel.flag("OVERLAPPED", cx.device().overlaps());
            let visits = own.visits(job(entry), others);
            (kernel, operands, own.workgroups(rows, heads), visits)
        }
    };
    if entry == "keys" {
        visits.times = problem.share();
    }
    let kernel = launch.kernel(kernel, operands, true);
    let parts = visits.parts(problem, cx.most_iterations());
    let count = parts.len() as u64;
    let products = if entry == "queries" { 6 } else { 8 };
    let bytes = operand_bytes(problem) + dout.operand.bytes() + 4 * (rows * head_dim) as u64;
    let flops = products * head_dim as u64 * problem.pairs();
    for part in &parts {
        let mut dispatch = Dispatch::new(launch.kernel_of_part(&kernel, part))
            .read(&launch.q.operand)
            .read(&launch.k.operand)
            .read(&launch.v.operand)
            .read(&dout.operand)
            .write(gradient)
            .read(statistics);
        // Parts write the same elements, one after the other.
        if let Some(invocations) = beside.filter(|_| count == 1) {
            dispatch = dispatch
                .fusable("attention_gradient", invocations)
                .disjoint_writes();
        }
        cx.dispatch(
            launch
                .bind(dispatch, true)
                .iterations(part.iterations)
                .params(&launch.params(tiles, groups, Some(part)))
                .groups(groups)
                .cost(flops / count, bytes / count),
        );
    }
}

const STATISTICS_OF: &str = "\
fn statistics_of(head: Head, i: u32) -> vec2<f32> {
    let at = 6u + 2u * (head.index * p.queries + i);
    return vec2<f32>(bitcast<f32>(statistics[at]), bitcast<f32>(statistics[at + 1u]));
}
";

/// Kernel and operands for any device.
fn tiled_half(launch: &Launch<'_>, entry: &'static str, tiling: &Tiling) -> (Kernel, Operands) {
    let problem = launch.problem;
    let kernel = Kernel::builtin("attention_gradient", "attention_tiled_backward", entry);
    let operands = tiled_operands(tiling.operands(problem.head_dim, launch.is_vector()));
    (tiling.apply(kernel, problem), operands)
}

/// What kernels that load and store chunks of rows bind.
pub(super) fn tiled_operands(operands: Operands) -> Operands {
    operands
        .read_rows("q", &["q"])
        .read_rows("k", &["k"])
        .read_rows("v", &["v"])
        .read_rows("dout", &["dout"])
        .write_chunks("gradient")
        .buffer("statistics", "read", "u32")
        .text(STATISTICS_OF)
}

/// Kernel, operands and how they are shared out for many rows, on subgroups of eight.
fn wide_half(launch: &Launch<'_>, entry: &'static str) -> (Kernel, Operands, Blocks) {
    let head_dim = launch.problem.head_dim;
    let blocks = wide8(head_dim, if entry == "queries" { 3 } else { 4 });
    let kernel = Kernel::builtin("attention_gradient", "attention_wide8_backward", entry);
    let operands = blocks.operands(head_dim, launch.is_vector());
    let operands = blocks
        .gradients(operands)
        .buffer("statistics", "read", "u32")
        .text(STATISTICS_OF);
    let operands = blocks.key_side(blocks.about_queries(operands));
    (blocks.apply(kernel), operands, blocks)
}
