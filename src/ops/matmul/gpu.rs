//! The matrix product on GPUs, see `shaders/matmul.wgsl`: register-blocked tiles, split along the depth where there are
//! few, and a form for products of a matrix and a few vectors.

use super::cut::Tile;
use super::operands::{LEFT_FOR_STORES, Matrices, aligned};
use super::units;
use crate::gpu::{AdapterClass, DType, Kernel, MOST_ITERATIONS};
use crate::tape::{Dispatch, Lowering, Operand};

/// A tile of the output, and how many squares of 4 × 4 each invocation has, down and across.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Blocking {
    tile: Tile,
    row_quads: usize,
    column_quads: usize,
}

impl Blocking {
    const fn new(
        [rows, columns]: [usize; 2],
        [row_quads, column_quads]: [usize; 2],
        teams: usize,
        percent: usize,
    ) -> Blocking {
        Blocking {
            tile: Tile {
                rows,
                columns,
                invocations: teams * rows * columns / (16 * row_quads * column_quads),
                teams,
                slice: SLICE * teams,
                step: 16,
                iterations: ITERATIONS_OF_SLICE,
                percent,
                speed: 1,
            },
            row_quads,
            column_quads,
        }
    }

    /// Invocations of a team, down and across.
    fn team(&self) -> [usize; 2] {
        [
            self.tile.rows / (4 * self.row_quads),
            self.tile.columns / (4 * self.column_quads),
        ]
    }

    /// Whether one invocation has at hand what lies half a row apart.
    const fn gates(&self) -> bool {
        self.column_quads == 2 || self.tile.teams > 1
    }
}

/// The first is measured on an H100, as 8 × 4 elements an invocation are in a square tile, 56 to 58 %; the others are
/// estimates from there, as are the numbers of `cut.rs` (docs/laboratory.md).
const BLOCKINGS: [Blocking; 4] = [
    Blocking::new([64, 64], [2, 2], 1, 64),
    Blocking::new([128, 32], [2, 1], 1, 50),
    Blocking::new([32, 128], [1, 2], 1, 50),
    Blocking::new([32, 32], [1, 1], 4, 40),
];

/// Steps of the depth between two barriers, `DEPTH` in the shader, and how often loops go round for them.
const SLICE: usize = 16;
const ITERATIONS_OF_SLICE: usize = 9;

/// How a product is cut up for workgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// Tiles, and parts of the depth that have workgroups of their own.
    Tiles(Blocking, usize),
    /// At most four rows or, where it is tall, four columns.
    Rows { tall: bool },
}

impl Cut {
    /// The fastest by [`Tile::time`].
    fn of(grid: [usize; 3], depth: usize) -> Cut {
        let [_, rows, columns] = grid;
        if rows <= 4 || columns <= 4 {
            return Cut::Rows {
                tall: columns <= 4 && rows > columns,
            };
        }
        let blockings = BLOCKINGS.iter().map(|&blocking| (blocking, blocking.tile));
        let (blocking, splits) = Tile::fastest(blockings, grid, depth);
        Cut::Tiles(blocking, splits)
    }

    /// The same for a product that ends in a gate; `None` where that would take much longer. Sums are added up in the same
    /// order as without the gate, so that both have the same bits.
    fn gated(grid: [usize; 3], depth: usize) -> Option<Cut> {
        let (best, splits) = match Cut::of(grid, depth) {
            Cut::Tiles(best, splits) => (best, splits),
            cut @ Cut::Rows { tall } => return (!tall).then_some(cut),
        };
        if splits > 1 {
            // Partial sums are stored in quads from the beginning of the row, not of its halves.
            return grid[2]
                .is_multiple_of(8)
                .then_some(Cut::Tiles(best, splits));
        }
        let time = |blocking: &Blocking| blocking.tile.time(grid, depth, 1);
        let blockings = BLOCKINGS.into_iter();
        blockings
            .filter(|other| other.gates() && other.tile.teams == best.tile.teams)
            .filter(|other| other.tile.fewest_splits(depth) == 1)
            .min_by(|a, b| time(a).total_cmp(&time(b)))
            .filter(|other| time(other) <= 1.1 * time(&best))
            .map(|blocking| Cut::Tiles(blocking, 1))
    }
}

/// Whether a product should end in a gate.
pub(super) fn can_gate(grid: [usize; 3], depth: usize) -> bool {
    Cut::gated(grid, depth).is_some()
}

/// `A·B` with `[batch, rows, columns]` and the given depth.
pub(super) struct Product<'a> {
    pub a: &'a Matrices,
    pub b: &'a Matrices,
    pub grid: [usize; 3],
    pub depth: usize,
    /// Whether it ends in a gate.
    pub gated: bool,
}

impl Product<'_> {
    pub fn lower(&self, cx: &mut Lowering<'_>) {
        let &Product { grid, depth, .. } = self;
        if let Some(it) = units::configuration(cx.device(), self.a, self.b, grid) {
            let operands = [self.a, self.b];
            let (kernel, tile, splits) =
                units::kernel(cx.device(), it, operands, grid, depth, self.gated);
            return self.tiled(cx, kernel, tile, splits, "matmul_units_pair");
        }
        let cut = match self.gated {
            true => Cut::gated(grid, depth).expect("the planner asked"),
            false => Cut::of(grid, depth),
        };
        match cut {
            Cut::Rows { tall } => self.rows(cx, tall),
            Cut::Tiles(blocking, splits) => {
                let [down, across] = blocking.team();
                let kernel = self
                    .kernel("tiles")
                    .constant("ROW_QUADS", blocking.row_quads)
                    .constant("COLUMN_QUADS", blocking.column_quads)
                    .constant("DOWN", down)
                    .constant("ACROSS", across)
                    .constant("TEAMS", blocking.tile.teams)
                    .flag("OVERLAPPED", cx.device().overlaps());
                self.tiled(cx, kernel, blocking.tile, splits, "matmul_pair");
            }
        }
    }

    /// At most four rows or columns.
    fn rows(&self, cx: &mut Lowering<'_>, tall: bool) {
        let [_, rows, columns] = self.grid;
        let columns = if self.gated { columns / 2 } else { columns };
        let quads = rows.max(columns).div_ceil(4);
        let (per_group, sharers) = match cx.class() {
            // A vector register, without anything to exchange.
            AdapterClass::Software => (8, 1),
            AdapterClass::Gpu if self.depth > 64 => (8, 32),
            AdapterClass::Gpu => (32, 4),
        };
        let loops = |sharers: usize| self.depth.div_ceil(4 * sharers);
        let (per_group, sharers) = match loops(sharers) > MOST_ITERATIONS - LEFT_FOR_STORES {
            true => (1, 256),
            false => (per_group, sharers),
        };
        let is_single = rows == 1 && self.a.is_row_major();
        // On software adapters, such products wait for memory: an invocation reads a line of the cache from a row of `B`, so that
        // the eight of a vector have as many lines on their way at once.
        let is_alone = is_single && sharers == 1;
        let is_read_by_rows = is_alone && self.b.is_row_major();
        let span = match quads {
            128.. if is_read_by_rows => 4,
            64.. if is_read_by_rows => 2,
            _ => 1,
        };
        let is_whole = is_alone && self.depth.is_multiple_of(4) && columns.is_multiple_of(4 * span);
        let kernel = self
            .kernel("rows")
            .constant("SPAN", span)
            .constant("QUADS", per_group)
            .constant("SHARERS", sharers)
            .flag("WHOLE", is_whole)
            .flag("TALL", tall)
            .flag("SINGLE", is_single);
        let tiles = [quads.div_ceil(per_group * span), 1];
        let dispatch = self.whole(cx, kernel, tiles, loops(sharers));
        cx.dispatch(dispatch);
    }

    /// Tiles, and parts of the depth that have workgroups of their own.
    fn tiled(
        &self,
        cx: &mut Lowering<'_>,
        kernel: Kernel,
        tile: Tile,
        splits: usize,
        fused_as: &'static str,
    ) {
        let ([batch, rows, columns], depth) = (self.grid, self.depth);
        let mut tiles = [rows.div_ceil(tile.rows), columns.div_ceil(tile.columns)];
        if splits == 1 {
            if self.gated {
                tiles[1] = columns.div_ceil(2).div_ceil(tile.columns / 2);
            }
            let dispatch = self.whole(cx, kernel, tiles, tile.loops(depth));
            return cx.dispatch(dispatch.fusable(fused_as, tile.invocations));
        }
        let chunk = depth.div_ceil(splits).next_multiple_of(tile.step);
        let splits = depth.div_ceil(chunk);
        let quads = columns.div_ceil(4);
        let parts = cx.temp([batch * splits, rows, 4 * quads], DType::F32);
        let (mut words, groups) = self.params(splits, chunk, tiles);
        // The store that the shader has by itself: to dense matrices of vec4.
        words.extend([0, rows * quads, quads, 1].map(|word| word as u32));
        words.resize(16 + 4 * 7, 0);
        cx.dispatch(
            Dispatch::new(kernel)
                .read(&self.a.operand)
                .read(&self.b.operand)
                .write(&parts)
                .params(&words)
                .groups(groups)
                .iterations(tile.loops(chunk) + 64)
                .cost(self.flops(), self.bytes() + parts.bytes())
                .fusable(fused_as, tile.invocations),
        );
        add_up(cx, &parts, self.grid, splits);
    }

    /// The dispatch of a kernel that goes through all of the depth and stores through the epilogue.
    fn whole(
        &self,
        cx: &mut Lowering<'_>,
        kernel: Kernel,
        tiles: [usize; 2],
        loops: usize,
    ) -> Dispatch {
        let epilogue = cx.epilogue(3);
        let (params, groups) = self.params(1, self.depth, tiles);
        Dispatch::new(epilogue.applied(kernel))
            .read(&self.a.operand)
            .read(&self.b.operand)
            .params(&params)
            .epilogue(&epilogue)
            .groups(groups)
            .iterations(loops + 64 * (1 + epilogue.iterations))
            .cost(self.flops(), self.bytes() + epilogue.bytes)
    }

    fn flops(&self) -> u64 {
        2 * (self.grid.iter().product::<usize>() * self.depth) as u64
    }

    fn bytes(&self) -> u64 {
        self.a.operand.bytes() + self.b.operand.bytes()
    }

    /// The shader's parameters up to those of the epilogue, and the number of workgroups.
    fn params(&self, splits: usize, chunk: usize, tiles: [usize; 2]) -> (Vec<u32>, usize) {
        let [batch, rows, columns] = self.grid;
        let count = batch * splits * tiles[0] * tiles[1];
        let sizes = [
            rows, columns, self.depth, splits, chunk, tiles[0], tiles[1], count,
        ];
        let [sa, sb] = [self.a, self.b].map(|m| (m.leading(), m.offset(), m.batch));
        let places = [sa.0, sb.0, sa.1, sb.1, sa.2, sb.2, 0, 0];
        let words = [sizes, places].concat().iter().map(|&n| n as u32).collect();
        (words, count)
    }

    /// The kernel with an entry point, by name.
    fn kernel(&self, entry: &'static str) -> Kernel {
        let [a, b] = aligned(self.a, self.b, self.grid, self.depth, self.gated, 4);
        Kernel::builtin("matmul", "matmul", entry)
            .flag("A_ALONG_DEPTH", self.a.is_row_major())
            .flag("B_ALONG_DEPTH", !self.b.is_row_major())
            .declare(&load("a", 1, a))
            .declare(&load("b", 2, b))
    }
}

/// The sum of `[batch, splits, rows, columns]` over the splits, through the epilogue.
fn add_up(
    cx: &mut Lowering<'_>,
    parts: &Operand,
    [batch, rows, columns]: [usize; 3],
    splits: usize,
) {
    let epilogue = cx.epilogue(2);
    let quads = columns.div_ceil(4);
    let count = batch * rows * quads;
    let words = [rows, columns, quads, splits, count, 0, 0, 0];
    let kernel = Kernel::builtin("matmul_sum", "matmul_sum", "add_up");
    cx.dispatch(
        Dispatch::new(epilogue.applied(kernel))
            .read(parts)
            .params(&words.map(|word| word as u32))
            .epilogue(&epilogue)
            .iterations(splits + 1 + epilogue.iterations)
            .groups(count.div_ceil(64))
            .cost(parts.elements() as u64, parts.bytes() + epilogue.bytes),
    );
}

/// Declares an operand, and how to load four elements of it.
fn load(name: &str, binding: usize, vector: bool) -> String {
    if vector {
        return format!(
            "@group(0) @binding({binding}) var<storage, read> {name}: array<vec4<f32>>;\n\
             fn {name}4(at: u32, left: u32) -> vec4<f32> {{ return {name}[at / 4u]; }}\n"
        );
    }
    format!(
        "@group(0) @binding({binding}) var<storage, read> {name}: array<f32>;\n\
         fn {name}4(at: u32, left: u32) -> vec4<f32> {{\n    \
         let next = vec4<u32>(0u, 1u, 2u, 3u);\n    \
         let i = at + min(next, vec4<u32>(left - 1u));\n    \
         return select(vec4<f32>(0.0), vec4<f32>({name}[i.x], {name}[i.y], {name}[i.z], {name}[i.w]), \
         next < vec4<u32>(left));\n}}\n"
    )
}

#[cfg(test)]
#[path = "../../../tests/unit/ops/matmul/gpu.rs"]
mod tests;
