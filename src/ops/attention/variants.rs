//! Which kernel computes a result or a gradient, how its workgroups share out the work, and its dispatches.

use super::blocks::Blocks;
use super::launch::Launch;
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

/// For a job that owns so many rows.
pub(super) fn family(cx: &Lowering<'_>, launch: &Launch<'_>, job: Job) -> Family {
    if let Some(units) = Units::serve(cx, launch, job) {
        return Family::Units(units);
    }
    let (rows, ..) = job.rows(launch.problem);
    let is_wide = rows > FEW_ROWS || launch.problem.head_dim > LONGEST_ROW;
    match (cx.device().has_subgroups_of(8), is_wide) {
        (true, false) => Family::Subgroup8,
        (true, true) => Family::Wide8,
        (false, _) => Family::Tiled,
    }
}

/// How the wide kernels for subgroups of eight share out work.
fn wide8(head_dim: usize, job: Job) -> Blocks {
    // That an invocation holds.
    let blocks = [2, 3, 4][job as usize];
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

/// How the kernels of few rows visit `others`: a turn, a loop of eight within and, backward, one of at most one.
pub(super) fn few_visits(others: usize, job: Job) -> Visits {
    Visits {
        own: 8,
        others,
        step: 8,
        iterations: if job == Job::Forward { 10 } else { 12 },
        times: 1,
    }
}

/// What reads the statistics that backward kernels bind.
const STATISTICS_OF: &str = "\
fn statistics_of(head: Head, i: u32) -> vec2<f32> {
    let at = 6u + 2u * (head.index * p.queries + i);
    return vec2<f32>(bitcast<f32>(statistics[at]), bitcast<f32>(statistics[at + 1u]));
}
";

/// What kernels that load and store chunks of rows bind.
pub(super) fn in_chunks(job: Job, operands: Operands) -> Operands {
    let operands = reads(job, operands).write_chunks("result");
    with_statistics(job, operands)
}

fn reads(job: Job, mut operands: Operands) -> Operands {
    let names = ["q", "k", "v", "dout"];
    for name in &names[..if job == Job::Forward { 3 } else { 4 }] {
        operands = operands.read_rows(name, &[name]);
    }
    operands
}

/// The last binding: what a forward kernel finds out of rows, and a backward kernel is told.
fn with_statistics(job: Job, operands: Operands) -> Operands {
    match job {
        Job::Forward => operands.buffer("lse", "read_write", "f32"),
        _ => operands
            .buffer("statistics", "read", "u32")
            .text(STATISTICS_OF),
    }
}

/// Records the dispatches of a job: one or, for more rows of the other side than loops may go through, several. `result` is
/// what they write.
pub(super) fn run(cx: &mut Lowering<'_>, launch: &Launch<'_>, job: Job, result: &Operand) {
    let problem = launch.problem;
    let (head_dim, is_vector) = (problem.head_dim, launch.is_vector());
    let (own, others, heads) = job.rows(problem);
    let owns_keys = job == Job::Keys;
    let name = match job {
        Job::Forward => "attention",
        _ => "attention_gradient",
    };
    let builtin = |files: [&str; 2]| match job {
        Job::Forward => Kernel::builtin(name, files[0], "forward"),
        _ => Kernel::builtin(name, files[1], "backward").flag("OWNS_KEYS", owns_keys),
    };
    let in_tiles = |tile: usize| (own.div_ceil(tile), own.div_ceil(tile) * heads);
    let mut beside = None;
    let (kernel, operands, (tiles, groups), mut visits) = match family(cx, launch, job) {
        Family::Units(units) => {
            let operands = in_chunks(job, units.operands(head_dim, is_vector));
            let (kernel, operands) = units.kernel(problem, operands);
            let workgroups = units.workgroups(own, heads);
            (kernel, operands, workgroups, units.visits(problem))
        }
        Family::Wide8 => {
            let blocks = wide8(head_dim, job);
            let operands = reads(job, blocks.operands(head_dim, is_vector));
            let operands = match job {
                Job::Forward => blocks.forward(operands),
                _ => blocks.backward(operands, owns_keys),
            };
            let operands = with_statistics(job, operands);
            let kernel = builtin(["attention_wide8", "attention_wide8_backward"]);
            let workgroups = in_tiles(8 * blocks.rows);
            (
                blocks.apply(kernel),
                operands,
                workgroups,
                blocks.visits(others),
            )
        }
        Family::Subgroup8 => {
            let operands = reads(job, Operands::new(head_dim, None, is_vector).shuffles());
            let (file, entry, result) = match job {
                Job::Forward => ("attention_subgroup8", "forward", "out"),
                Job::Queries => ("attention_subgroup8_backward", "queries", "gradient"),
                Job::Keys => ("attention_subgroup8_backward", "keys", "gradient"),
            };
            let operands = with_statistics(job, operands.write_rows(result));
            let kernel = Kernel::builtin(name, file, entry);
            (kernel, operands, in_tiles(8), few_visits(others, job))
        }
        Family::Tiled => {
            let tiling = Tiling::of(job, head_dim, own, others);
            let kernel = tiling.apply(
                builtin(["attention_tiled", "attention_tiled_backward"]),
                problem,
            );
            let kernel = match job {
                Job::Forward => tiling.with_shuffles(kernel, cx.device().subgroup_size()),
                _ => kernel,
            };
            let operands = in_chunks(job, tiling.operands(head_dim, is_vector));
            let other = if owns_keys { Job::Queries } else { Job::Keys };
            if job != Job::Forward && tiling.fits_beside(&Tiling::of(other, head_dim, others, own))
            {
                beside = Some(tiling.invocations());
            }
            let kernel = kernel.flag("OVERLAPPED", cx.device().overlaps());
            let workgroups = tiling.workgroups(own, heads);
            (kernel, operands, workgroups, tiling.visits(job, others))
        }
    };
    if owns_keys {
        visits.times = problem.share();
    }
    let kernel = launch.kernel(kernel, operands);
    let last = launch.statistics.or(launch.lse);
    let last = last.expect("rows have log-sum-exps");
    let bytes = operand_bytes(problem)
        + match &launch.dout {
            Some(dout) => dout.operand.bytes() + 4 * (own * head_dim) as u64,
            None => result.bytes() + last.bytes(),
        };
    let products = [4, 6, 8][job as usize];
    let flops = products * head_dim as u64 * problem.pairs();
    let parts = visits.parts(problem, cx.most_iterations());
    let count = parts.len() as u64;
    for part in &parts {
        let mut dispatch = Dispatch::new(launch.kernel_of_part(&kernel, part));
        let rows = [Some(launch.q), Some(launch.k), Some(launch.v), launch.dout];
        for rows in rows.iter().flatten() {
            dispatch = dispatch.read(&rows.operand);
        }
        dispatch = match job {
            Job::Forward => dispatch.write(result).write(&last),
            _ => dispatch.write(result).read(&last),
        };
        // Parts write the same elements, one after the other.
        if let Some(invocations) = beside.filter(|_| count == 1) {
            dispatch = dispatch.fusable(name, invocations).disjoint_writes();
        }
        cx.dispatch(
            launch
                .bind(dispatch)
                .iterations(part.iterations)
                .params(&launch.params(tiles, groups, Some(part)))
                .groups(groups)
                .cost(flops / count, bytes / count),
        );
    }
}

/// The bytes of q, k and v.
fn operand_bytes(problem: &Problem) -> u64 {
    let [_, _, values] = problem.gradient_ranges();
    4 * values.end as u64
}
