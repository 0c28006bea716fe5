//! The forward pass: which kernel runs, how work is shared out, and the weights on request.

use super::blocks::Blocks;
use super::launch::{Launch, Rows, result_rows, separate_rows, with_dense_rows};
use super::parts::Visits;
use super::problem::Problem;
use super::text::Operands;
use super::tiling::{Job, Tiling};
use super::units::Units;
use crate::gpu::Kernel;
use crate::tape::{Dispatch, Lowering, Operand};

/// Which kernels to run: those on matrix units, where they serve; for software adapters with subgroups of eight lanes, few
/// rows or many; or those for GPUs, which run anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Units(Units),
    Subgroup8,
    Wide8,
    Tiled,
}

/// More rows than this are taken in blocks.
const FEW_ROWS: usize = 32;

/// Longer rows take too long to compile for lanes that hold a whole one of each side.
const LONGEST_ROW: usize = 128;

/// For a problem and how many rows the workgroups own together.
pub(super) fn family(cx: &Lowering<'_>, launch: &Launch<'_>, job: Job, rows: usize) -> Family {
    if let Some(units) = Units::serve(cx, launch, job) {
        return Family::Units(units);
    }
    let is_wide = rows > FEW_ROWS || launch.problem.head_dim > LONGEST_ROW;
    match (cx.device().has_subgroups_of(8), is_wide) {
        (true, false) => Family::Subgroup8,
        (true, true) => Family::Wide8,
        (false, _) => Family::Tiled,
    }
}

/// How the wide kernels for subgroups of eight share out work: `most` is how many vec4s the blocks of an invocation may
/// have in all, of which there are `blocks`.
pub(super) fn wide8(head_dim: usize, blocks: usize) -> Blocks {
    let chunks = head_dim.div_ceil(4);
    let rows = if 4 * chunks * blocks <= MOST_REGISTERS {
        4
    } else {
        2
    };
    let parts = chunks.div_ceil(8).next_power_of_two();
    Blocks {
        rows,
        chunks,
        slice: chunks.div_ceil(parts),
        step: 8 / parts,
        parts,
    }
}

/// vec4s a lane may hold in blocks. With three times as many, heads of 64 run as fast, and take 5 s to compile instead
/// of 3.
const MOST_REGISTERS: usize = 64;

/// Result and log-sum-exps.
pub(super) fn forward(cx: &mut Lowering<'_>, problem: &Problem) {
    let mut launch = Launch::of(cx, problem, 0);
    let out = result_rows(cx.output(0), problem);
    let lse = cx.output(1);
    launch.out = Some(out);
    launch.lse = Some(lse);
    match family(cx, &launch, Job::Forward, problem.queries) {
        Family::Units(units) => units_forward(cx, &launch, &units, out, lse),
        Family::Wide8 => wide_forward(cx, &launch, out, lse),
        Family::Subgroup8 => few_forward(cx, &launch, out, lse),
        Family::Tiled => tiled_forward(cx, &launch, out, lse),
    }
}

/// Runs a kernel with `tiles` workgroups for one head, or a group of heads, and `groups` in all. It comes once or, for more
/// keys than its loops may go through, several times.
fn dispatch_forward(
    cx: &mut Lowering<'_>,
    launch: &Launch<'_>,
    kernel: Kernel,
    out: Rows,
    lse: Operand,
    (tiles, groups): (usize, usize),
    visits: Visits,
) {
    let problem = launch.problem;
    let bytes = operand_bytes(problem) + out.operand.bytes() + lse.bytes();
    let parts = visits.parts(problem, cx.most_iterations());
    let flops = 4 * problem.head_dim as u64 * problem.pairs();
    let count = parts.len() as u64;
    for part in &parts {
        let dispatch = Dispatch::new(launch.kernel_of_part(&kernel, part))
            .read(&launch.q.operand)
            .read(&launch.k.operand)
            .read(&launch.v.operand)
            .write(&out.operand)
            .write(&lse);
        cx.dispatch(
            launch
                .bind(dispatch, false)
                .iterations(part.iterations)
                .params(&launch.params(tiles, groups, Some(part)))
                .groups(groups)
                .cost(flops / count, bytes / count),
        );
    }
}

/// What kernels that load and store chunks of rows bind.
pub(super) fn tiled_operands(operands: Operands) -> Operands {
    operands
        .read_rows("q", &["q"])
        .read_rows("k", &["k"])
        .read_rows("v", &["v"])
        .write_chunks("result")
        .buffer("lse", "read_write", "f32")
}

/// For any device.
fn tiled_forward(cx: &mut Lowering<'_>, launch: &Launch<'_>, out: Rows, lse: Operand) {
    let problem = launch.problem;
    let &Problem {
        head_dim,
        queries,
        keys,
        ..
    } = problem;
    let tiling = Tiling::of(Job::Forward, head_dim, queries, keys);
    let kernel = Kernel::builtin("attention", "attention_tiled", "forward");
    let kernel = tiling
        .apply_to_forward(kernel, problem, cx.device().subgroup_size())
        .flag("OVERLAPPED", cx.device().overlaps());
    let operands = tiled_operands(tiling.operands(head_dim, launch.is_vector()));
    let kernel = launch.kernel(kernel, operands, false);
    let workgroups = tiling.workgroups(queries, problem.heads_in_all());
    let visits = tiling.visits(Job::Forward, keys);
    dispatch_forward(cx, launch, kernel, out, lse, workgroups, visits);
}

/// On matrix units.
fn units_forward(
    cx: &mut Lowering<'_>,
    launch: &Launch<'_>,
    units: &Units,
    out: Rows,
    lse: Operand,
) {
    let problem = launch.problem;
    let operands = tiled_operands(units.operands(problem.head_dim, launch.is_vector()));
    let (kernel, operands) = units.kernel(problem, operands);
    let kernel = launch.kernel(kernel, operands, false);
    let workgroups = units.workgroups(problem.queries, problem.heads_in_all());
    let visits = units.visits(problem);
    dispatch_forward(cx, launch, kernel, out, lse, workgroups, visits);
}

/// For few queries, on subgroups of eight.
fn few_forward(cx: &mut Lowering<'_>, launch: &Launch<'_>, out: Rows, lse: Operand) {
    let problem = launch.problem;
    let operands = Operands::new(problem.head_dim, None, launch.is_vector())
        .shuffles()
        .read_rows("q", &["q"])
        .read_rows("k", &["k"])
        .read_rows("v", &["v"])
        .write_rows("out")
        .buffer("lse", "read_write", "f32");
    let kernel = Kernel::builtin("attention", "attention_subgroup8", "forward");
    let kernel = launch.kernel(kernel, operands, false);
    let tiles = problem.queries.div_ceil(8);
    let workgroups = (tiles, tiles * problem.heads_in_all());
    // A turn, and a loop of eight within.
    let visits = Visits {
        own: 8,
        others: problem.keys,
        step: 8,
        iterations: 10,
        times: 1,
    };
    dispatch_forward(cx, launch, kernel, out, lse, workgroups, visits);
}

/// For many queries, on subgroups of eight.
fn wide_forward(cx: &mut Lowering<'_>, launch: &Launch<'_>, out: Rows, lse: Operand) {
    let problem = launch.problem;
    let blocks = wide8(problem.head_dim, 2);
    let kernel = Kernel::builtin("attention", "attention_wide8", "forward");
    let operands = blocks.operands(problem.head_dim, launch.is_vector());
    let operands = operands.read_rows("q", &["q"]);
    let operands = blocks
        .load(operands, "q", "row_at", "p.queries")
        .read_rows("k", &["k"])
        .read_rows("v", &["v"])
        .write_chunks("out");
    let operands = blocks.load(operands, "out", "row_at", "p.queries");
    let operands = blocks
        .store(operands, "out", "out", "row_at", "p.queries")
        .buffer("lse", "read_write", "f32");
    let operands = blocks.lse(operands);
    let kernel = launch.kernel(blocks.apply(kernel), operands, false);
    let tiles = problem.queries.div_ceil(8 * blocks.rows);
    let workgroups = (tiles, tiles * problem.heads_in_all());
    let visits = blocks.visits(problem.keys);
    dispatch_forward(cx, launch, kernel, out, lse, workgroups, visits);
}

/// The bytes of q, k and v.
pub(super) fn operand_bytes(problem: &Problem) -> u64 {
    let [_, _, values] = problem.gradient_ranges();
    4 * values.end as u64
}

/// The weights before dropout.
pub(super) fn weights(cx: &mut Lowering<'_>, problem: &Problem) {
    let [q, k] = [0, 1].map(|index| {
        let input = cx.input(index);
        separate_rows(with_dense_rows(cx, input), [0, 1, 2])
    });
    let lse = cx.input(2);
    let lse = cx.contiguous(&lse);
    let output = cx.output(0);
    let without_dropout = Problem {
        dropout: None,
        ..*problem
    };
    let launch = Launch {
        problem: &without_dropout,
        q,
        k,
        v: k,
        out: Some(Rows {
            operand: output,
            at: [output.offset(), 0, 0, 0],
        }),
        dout: None,
        gradients: [[0; 4]; 3],
        lse: Some(lse),
        mask: problem.mask.map(|_| cx.input(3)),
        key: None,
    };
    let operands = Operands::new(problem.head_dim, None, launch.is_vector())
        .read_rows("q", &["q"])
        .read_rows("k", &["k"])
        .buffer("lse", "read", "f32")
        .buffer("weights", "read_write", "f32");
    let kernel = Kernel::builtin("attention_weights", "attention_weights", "weights_of_pairs");
    let dispatch = Dispatch::new(launch.kernel(kernel, operands, false))
        .read(&q.operand)
        .read(&k.operand)
        .read(&lse)
        .write(&output);
    let elements = output.elements();
    cx.dispatch(
        launch
            .bind(dispatch, false)
            .iterations(0)
            .params(&launch.params(1, elements, None))
            .groups(elements.div_ceil(64))
            .cost(
                2 * problem.head_dim as u64 * elements as u64,
                q.operand.bytes() + k.operand.bytes() + output.bytes(),
            ),
    );
}
