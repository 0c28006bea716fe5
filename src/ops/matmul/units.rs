//! The matrix product on matrix units, see `shaders/matmul_units.wgsl`: which tiles, and the entry point's text.

use super::cut::Tile;
use super::operands::{Matrices, aligned};
use crate::gpu::{DType, Device, Kernel, MatrixConfiguration};
use crate::ops::unrolled::unrolled;

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
    let along_depth = [a.is_row_major(), !b.is_row_major()];
    let kernel = blocking.kernel(it, along_depth, [a_aligned, b_aligned], device.overlaps());
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
    /// The kernel for operands that lie along the depth or across it, with rows that are whole eights or not.
    fn kernel(
        &self,
        it: MatrixConfiguration,
        along_depth: [bool; 2],
        aligned: [bool; 2],
        overlapped: bool,
    ) -> Kernel {
        it.declared(Kernel::builtin("matmul_units", "matmul_units", "units"))
            .flag("A_ALONG_DEPTH", along_depth[0])
            .flag("B_ALONG_DEPTH", along_depth[1])
            .constant("DOWN", self.subgroups[0])
            .constant("ACROSS", self.subgroups[1])
            .constant("ROWS", self.matrices[0])
            .constant("COLUMNS", self.matrices[1])
            .constant("DEPTH", self.slice)
            .declare(&load("a", 1, aligned[0]))
            .declare(&load("b", 2, aligned[1]))
            .declare(&self.entry(it.size, overlapped))
    }

    /// The entry point. On software adapters nothing is fetched ahead and steps are a loop, as in the other kernels.
    fn entry(&self, size: usize, overlapped: bool) -> String {
        let [rows, columns] = self.matrices;
        let products = |column: usize| PRODUCTS.replace("$c", &column.to_string());
        let step = LEFT.to_owned() + &(0..columns).map(products).collect::<String>();
        let steps = match overlapped {
            true => (0..self.slice / size)
                .map(|n| format!("{{ let at = {n}u * MATRIX_SIZE;\n{step}}}\n"))
                .collect(),
            false => format!("for (var at = 0u; at < DEPTH; at += MATRIX_SIZE) {{\n{step}}}\n"),
        };
        let store = |column: usize| {
            let other = column + columns / 2;
            let text = STORE.replace("$c", &column.to_string());
            text.replace("$o", &other.to_string())
        };
        let stores: String = (0..columns / 2).map(store).collect();
        let text = ENTRY
            .replace("STEPS\n", &steps)
            .replace("STORES\n", &stores);
        let eights = |extent: usize| (extent * self.slice / 8).div_ceil(self.tile.invocations);
        let counts = [
            // Matrices of sums.
            ("$r", rows),
            ("$c", columns),
            // Eights of a slice that an invocation moves.
            ("$a", eights(self.tile.rows)),
            ("$b", eights(self.tile.columns)),
            // Lines of one of the two forms.
            ("$O", usize::from(overlapped)),
            ("$S", usize::from(!overlapped)),
        ];
        unrolled(&text, &counts)
    }
}

const ENTRY: &str = "\
@compute @workgroup_size(INVOCATIONS)
fn units(group: Group, @builtin(local_invocation_index) local: u32) {
    let work = work(index_of(group));
    let owner = local / MATRIX_LANES;
    let row = owner / ACROSS * ROWS * MATRIX_SIZE;
    let column = owner % ACROSS * COLUMNS * MATRIX_SIZE;
    var sum$r$c = Sum();
    var a$a = fetched_a(work, local + $au * INVOCATIONS, work.begin); // $O
    var b$b = fetched_b(work, local + $bu * INVOCATIONS, work.begin); // $O
    for (var k = work.begin; k < work.end; k += DEPTH) {
        let a$a = fetched_a(work, local + $au * INVOCATIONS, k); // $S
        let b$b = fetched_b(work, local + $bu * INVOCATIONS, k); // $S
        workgroupBarrier(); // the slice before has been multiplied
        if (($au + 1u) * INVOCATIONS <= A_EIGHTS || local + $au * INVOCATIONS < A_EIGHTS) { keep_a(local + $au * INVOCATIONS, a$a); }
        if (($bu + 1u) * INVOCATIONS <= B_EIGHTS || local + $bu * INVOCATIONS < B_EIGHTS) { keep_b(local + $bu * INVOCATIONS, b$b); }
        workgroupBarrier();
        a$a = fetched_a(work, local + $au * INVOCATIONS, k + DEPTH); // $O
        b$b = fetched_b(work, local + $bu * INVOCATIONS, k + DEPTH); // $O
STEPS
    }
    let mine = owner * 2u * SUM;
STORES
}
";

/// The products of a step of the depth, all matrices of one side with all of the other, column by column.
const LEFT: &str = "let left$r = left(row + $ru * MATRIX_SIZE, at);\n";
const PRODUCTS: &str = "\
let right$c = right(at, column + $cu * MATRIX_SIZE);
sum$r$c = coopMultiplyAdd(left$r, right$c, sum$r$c);
";

/// Stores two matrices of each row.
const STORE: &str = "coopStoreT(sum$r$c, &sums[mine], SUM_LINE); \
    coopStoreT(sum$r$o, &sums[mine + SUM], SUM_LINE); \
    workgroupBarrier(); \
    store_two(work, mine, row + $ru * MATRIX_SIZE, column + $cu * MATRIX_SIZE, local % MATRIX_LANES); \
    workgroupBarrier();\n";

#[cfg(test)]
#[path = "../../../tests/unit/ops/matmul/units.rs"]
mod tests;
