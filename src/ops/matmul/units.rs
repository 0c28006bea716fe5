//! The matrix product on matrix units, see `shaders/matmul_units.wgsl`: which tiles, and the entry point's text.

use std::fmt::Write;

use super::cut::Tile;
use super::operands::{Matrices, aligned};
use crate::gpu::{DType, Device, Kernel, MatrixConfiguration};

/// How many matrices each subgroup has, down and across, and [`Tile::percent`]: estimates. The second is for what has few
/// tiles of the first.
const TILES: [([usize; 2], usize); 2] = [([4, 4], 100), ([2, 2], 60)];

/// How many times as many multiply-adds matrix units do as `f32` arithmetic does: an estimate, too.
const SPEED: usize = 5;

/// Steps of the depth between two barriers, where there is workgroup memory for them.
const SLICES: [usize; 2] = [32, 16];

/// What kernels multiply with, if a product runs on matrix units.
pub(super) fn configuration(
    device: &Device,
    a: &Matrices,
    b: &Matrices,
    grid: [usize; 3],
) -> Option<MatrixConfiguration> {
    let are_halves = [a, b].iter().all(|it| it.operand.dtype == DType::F16);
    // Of a few rows, most of a matrix would be zeros; time goes into reading the other operand.
    let is_thin = grid[1].min(grid[2]) <= 4;
    (are_halves && !is_thin).then(|| device.matrix_configuration())?
}

/// How a workgroup's tile is made of matrices, and how deep the slices are that it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Blocking {
    /// Subgroups of a workgroup, down and across.
    subgroups: [usize; 2],
    /// Matrices of a subgroup, down and across.
    matrices: [usize; 2],
    slice: usize,
    tile: Tile,
}

impl Blocking {
    fn new(
        it: MatrixConfiguration,
        matrices: [usize; 2],
        slice: usize,
        percent: usize,
    ) -> Blocking {
        // Four, or as many as have 64 invocations.
        let subgroups = [2, 32usize.div_ceil(it.lanes).max(2)];
        let extent = |axis: usize| subgroups[axis] * matrices[axis] * it.size;
        Blocking {
            subgroups,
            matrices,
            slice,
            tile: Tile {
                rows: extent(0),
                columns: extent(1),
                invocations: subgroups[0] * subgroups[1] * it.lanes,
                teams: 1,
                slice,
                iterations: slice / it.size + 3,
                step: slice,
                percent,
                speed: SPEED,
            },
        }
    }

    /// Those whose workgroup memory a device has: the deepest slices of each tile.
    fn all(it: MatrixConfiguration, memory: usize) -> impl Iterator<Item = Blocking> {
        TILES.into_iter().filter_map(move |(matrices, percent)| {
            let blockings = SLICES.map(|slice| Blocking::new(it, matrices, slice, percent));
            let fits = |blocking: &Blocking| blocking.workgroup_bytes(it.size) <= memory;
            blockings.into_iter().find(fits)
        })
    }

    /// As the shader declares it: slices of both operands, and two matrices of each subgroup.
    fn workgroup_bytes(&self, size: usize) -> usize {
        let [down, across] = self.subgroups;
        let slices = (self.tile.rows + self.tile.columns) * (self.slice + 8);
        2 * slices + 4 * down * across * 2 * size * (size + 4)
    }
}

/// The kernel for a product, its tile, and into how many parts the depth is cut.
pub(super) fn kernel(
    device: &Device,
    it: MatrixConfiguration,
    [a, b]: [&Matrices; 2],
    grid: [usize; 3],
    depth: usize,
    gated: bool,
) -> (Kernel, Tile, usize) {
    let memory = device.limits().max_compute_workgroup_storage_size as usize;
    let blockings = Blocking::all(it, memory).map(|blocking| (blocking, blocking.tile));
    let (blocking, mut splits) = Tile::fastest(blockings, grid, depth);
    if gated && !grid[2].is_multiple_of(8) {
        // Partial sums are stored in quads from the beginning of the row, not of its halves.
        splits = blocking.tile.fewest_splits(depth);
    }
    let [a_aligned, b_aligned] = aligned(a, b, grid, depth, gated, 8);
    let ([down, across], [rows, columns]) = (blocking.subgroups, blocking.matrices);
    let kernel = Kernel::builtin("matmul_units", "matmul_units", "units");
    let kernel = it
        .declared(kernel)
        .flag("A_ALONG_DEPTH", a.is_row_major())
        .flag("B_ALONG_DEPTH", !b.is_row_major())
        .constant("DOWN", down)
        .constant("ACROSS", across)
        .constant("ROWS", rows)
        .constant("COLUMNS", columns)
        .constant("DEPTH", blocking.slice)
        .declare(&load("a", 1, a_aligned))
        .declare(&load("b", 2, b_aligned))
        .declare(&blocking.entry(it.size, device.overlaps()));
    (kernel, blocking.tile, splits)
}

/// Declares an operand, and how to load eight elements of it.
fn load(name: &str, binding: usize, vector: bool) -> String {
    let declared = format!("@group(0) @binding({binding}) var<storage, read> {name}");
    if vector {
        return format!(
            "{declared}: array<mat2x4<f16>>;\n\
             fn {name}8(at: u32, left: u32) -> Eight {{ return {name}[at / 8u]; }}\n"
        );
    }
    format!(
        "{declared}: array<f16>;\n\
         fn {name}4(at: u32, first: u32, left: u32) -> vec4<f16> {{\n    \
         let next = first + vec4<u32>(0u, 1u, 2u, 3u);\n    \
         let i = at + min(next, vec4<u32>(left - 1u));\n    \
         return select(vec4<f16>(), vec4<f16>({name}[i.x], {name}[i.y], {name}[i.z], {name}[i.w]), \
         next < vec4<u32>(left));\n}}\n\
         fn {name}8(at: u32, left: u32) -> Eight {{\n    \
         return Eight({name}4(at, 0u, left), {name}4(at, 4u, left));\n}}\n"
    )
}

impl Blocking {
    /// The entry point. On software adapters nothing is fetched ahead and steps are a loop, as in the other kernels.
    fn entry(&self, size: usize, overlapped: bool) -> String {
        let [rows, columns] = self.matrices;
        let places: Vec<[usize; 2]> = (0..rows)
            .flat_map(|row| (0..columns).map(move |column| [row, column]))
            .collect();
        let mut text = "\
            @compute @workgroup_size(INVOCATIONS)\n\
            fn units(group: Group, @builtin(local_invocation_index) local: u32) {\n    \
            let work = work(index_of(group));\n    \
            let owner = local / MATRIX_LANES;\n    \
            let row = owner / ACROSS * ROWS * MATRIX_SIZE;\n    \
            let column = owner % ACROSS * COLUMNS * MATRIX_SIZE;\n"
            .to_owned();
        let mut line = |line: String| writeln!(text, "    {line}").expect("texts can be written");
        for [row, column] in &places {
            line(format!("var sum{row}{column} = Sum();"));
        }
        // Which eights of a slice an invocation moves.
        let mut moved = Vec::new();
        for (operand, extent) in [("a", self.tile.rows), ("b", self.tile.columns)] {
            let (all, each) = (extent * self.slice / 8, self.tile.invocations);
            for i in 0..all.div_ceil(each) {
                let is_there = match (i + 1) * each <= all {
                    true => String::new(),
                    false => format!("if (local < {}u) ", all - i * each),
                };
                moved.push((operand, i, format!("local + {}u", i * each), is_there));
            }
        }
        if overlapped {
            for (operand, i, eight, _) in &moved {
                line(format!(
                    "var {operand}{i} = fetched_{operand}(work, {eight}, work.begin);"
                ));
            }
        }
        line("for (var k = work.begin; k < work.end; k += DEPTH) {".to_owned());
        line("workgroupBarrier();  // the slice before has been multiplied".to_owned());
        for (operand, i, eight, is_there) in &moved {
            let value = match overlapped {
                true => format!("{operand}{i}"),
                false => format!("fetched_{operand}(work, {eight}, k)"),
            };
            line(format!("{is_there}{{ keep_{operand}({eight}, {value}); }}"));
        }
        line("workgroupBarrier();".to_owned());
        if overlapped {
            for (operand, i, eight, _) in &moved {
                line(format!(
                    "{operand}{i} = fetched_{operand}(work, {eight}, k + DEPTH);"
                ));
            }
            for step in 0..self.slice / size {
                line(format!(
                    "{{ {} }}",
                    self.step(&format!("{step}u * MATRIX_SIZE"))
                ));
            }
        } else {
            line("for (var step = 0u; step < DEPTH; step += MATRIX_SIZE) {".to_owned());
            line(self.step("step") + " }");
        }
        line("}".to_owned());
        line("let mine = owner * 2u * SUM;".to_owned());
        for [row, column] in places.iter().filter(|[_, column]| column < &(columns / 2)) {
            let other = column + columns / 2;
            line(format!(
                "coopStoreT(sum{row}{column}, &sums[mine], SUM_LINE); \
                 coopStoreT(sum{row}{other}, &sums[mine + SUM], SUM_LINE); \
                 workgroupBarrier(); \
                 store_two(work, mine, row + {row}u * MATRIX_SIZE, column + {column}u * MATRIX_SIZE, local % MATRIX_LANES); \
                 workgroupBarrier();"
            ));
        }
        text + "}\n"
    }

    /// The products of a step of the depth, all matrices of one side with all of the other.
    fn step(&self, k: &str) -> String {
        let [rows, columns] = self.matrices;
        let mut text = String::new();
        for row in 0..rows {
            write!(
                text,
                "let left{row} = left(row + {row}u * MATRIX_SIZE, {k}); "
            )
            .expect("as above");
        }
        for column in 0..columns {
            write!(
                text,
                "let right{column} = right({k}, column + {column}u * MATRIX_SIZE); "
            )
            .expect("as above");
            for row in 0..rows {
                let sum = format!("sum{row}{column}");
                write!(
                    text,
                    "{sum} = coopMultiplyAdd(left{row}, right{column}, {sum}); "
                )
                .expect("as above");
            }
        }
        text
    }
}

#[cfg(test)]
#[path = "../../../tests/unit/ops/matmul/units.rs"]
mod tests;
