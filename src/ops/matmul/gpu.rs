//! The matrix product on GPUs, see `shaders/matmul.wgsl`: register-blocked tiles, split along the depth where there are
//! few, and a form for products of a matrix and a few vectors.

use super::operands::{LEFT_FOR_STORES, Matrices};
use crate::gpu::{AdapterClass, DType, Kernel, MOST_ITERATIONS};
use crate::tape::{Dispatch, Lowering, Operand};

/// A workgroup's part of the output, and how many squares of 4 × 4 each invocation has, down and across.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tile {
    rows: usize,
    columns: usize,
    row_quads: usize,
    column_quads: usize,
    /// Teams of invocations that share the depth.
    teams: usize,
    /// The percentage of a GPU's multiply-adds that it reaches where there are enough of them.
    percent: usize,
}

impl Tile {
    const fn new(
        [rows, columns]: [usize; 2],
        [row_quads, column_quads]: [usize; 2],
        teams: usize,
        percent: usize,
    ) -> Tile {
        Tile {
            rows,
            columns,
            row_quads,
            column_quads,
            teams,
            percent,
        }
    }

    /// Invocations of a team, down and across.
    fn team(&self) -> [usize; 2] {
        [
            self.rows / (4 * self.row_quads),
            self.columns / (4 * self.column_quads),
        ]
    }

    /// Invocations of a workgroup.
    fn invocations(&self) -> usize {
        self.teams * self.team().iter().product::<usize>()
    }

    /// Whether one invocation has at hand what lies half a row apart.
    const fn gates(&self) -> bool {
        self.column_quads == 2 || self.teams > 1
    }

    /// Tiles of an output.
    fn count(&self, [batch, rows, columns]: [usize; 3]) -> usize {
        batch * rows.div_ceil(self.rows) * columns.div_ceil(self.columns)
    }

    /// Parts that the depth may be cut into: the larger the tile, the deeper a part must be to be worth its store.
    fn most_splits(&self, [batch, rows, columns]: [usize; 3], depth: usize) -> usize {
        let shallow = depth / (4 * self.rows.max(self.columns) * self.teams);
        let large = MOST_PARTIAL / (4 * batch * rows * columns.next_multiple_of(4));
        shallow.min(large).clamp(1, MOST_SPLITS)
    }

    /// Parts that the depth must be cut into, so that an invocation's loops go round often enough on software adapters.
    fn fewest_splits(&self, depth: usize) -> usize {
        let most = (MOST_ITERATIONS - LEFT_FOR_STORES) / ITERATIONS_OF_SLICE * SLICE * self.teams;
        depth.div_ceil(most)
    }

    fn splits(&self, grid: [usize; 3], depth: usize) -> std::ops::RangeInclusive<usize> {
        let fewest = self.fewest_splits(depth);
        fewest..=self.most_splits(grid, depth).max(fewest)
    }

    /// What a product takes, in units of its multiply-adds at a GPU's full rate: more if there is too little to keep
    /// the GPU busy, if its last round of workgroups is half empty, or if parts have to be added up.
    fn time(&self, grid: [usize; 3], depth: usize, splits: usize) -> f64 {
        let [batch, rows, columns] = grid;
        let tiles = self.count(grid);
        let groups = (tiles * splits) as f64;
        let idle = (BUSY / (groups * self.invocations() as f64)).max(UNITS / groups);
        let last_round = 1.0 + 0.5 * (UNITS / groups).min(1.0);
        let outside = (tiles * self.rows * self.columns) as f64 / (batch * rows * columns) as f64;
        let adding_up = match splits {
            1 => 0.0,
            _ => {
                let partials = (splits * MULTIPLY_ADDS_A_PARTIAL) as f64 / depth as f64;
                let multiply_adds = (batch * rows * columns * depth) as f64;
                partials + MULTIPLY_ADDS_A_DISPATCH / multiply_adds
            }
        };
        100.0 / self.percent as f64 * idle.max(1.0) * last_round * outside + adding_up
    }
}

/// The first is measured on an H100, as 8 × 4 elements an invocation are in a square tile, 56 to 58 %; the others are
/// estimates from there, as are the numbers below (docs/laboratory.md).
const TILES: [Tile; 4] = [
    Tile::new([64, 64], [2, 2], 1, 64),
    Tile::new([128, 32], [2, 1], 1, 50),
    Tile::new([32, 128], [1, 2], 1, 50),
    Tile::new([32, 32], [1, 1], 4, 40),
];

/// Steps of the depth between two barriers, `DEPTH` in the shader, and how often loops go round for them.
const SLICE: usize = 16;
const ITERATIONS_OF_SLICE: usize = 9;

/// Parts of a large GPU that workgroups are dealt out to.
const UNITS: f64 = 128.0;

/// Invocations that keep a large GPU busy.
const BUSY: f64 = 16_384.0;

/// Multiply-adds in the time that it takes to store and to load a partial sum, and in that of one more dispatch.
const MULTIPLY_ADDS_A_PARTIAL: usize = 48;
const MULTIPLY_ADDS_A_DISPATCH: f64 = 1.5e8;

/// The most bytes of partial products, and the most parts.
const MOST_PARTIAL: usize = 64 << 20;
const MOST_SPLITS: usize = 32;

/// How a product is cut up for workgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// Tiles, and parts of the depth that have workgroups of their own.
    Tiles(Tile, usize),
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
        let cuts = TILES
            .iter()
            .flat_map(|&tile| tile.splits(grid, depth).map(move |n| (tile, n)));
        let time = |(tile, splits): &(Tile, usize)| tile.time(grid, depth, *splits);
        let (tile, splits) = cuts
            .min_by(|a, b| time(a).total_cmp(&time(b)))
            .expect("every tile may stay whole");
        Cut::Tiles(tile, splits)
    }

    /// The same for a product that ends in a gate; `None` where that would take much longer. Sums are added up in the same
    /// order as without the gate, so that both have the same bits.
    fn gated(grid: [usize; 3], depth: usize) -> Option<Cut> {
        let Cut::Tiles(tile, splits) = Cut::of(grid, depth) else {
            return None;
        };
        if splits > 1 {
            // Partial sums are stored in quads from the beginning of the row, not of its halves.
            return grid[2]
                .is_multiple_of(8)
                .then_some(Cut::Tiles(tile, splits));
        }
        let time = |tile: &Tile| tile.time(grid, depth, 1);
        let tiles = TILES.into_iter();
        tiles
            .filter(|other| other.gates() && other.teams == tile.teams)
            .filter(|other| other.fewest_splits(depth) == 1)
            .min_by(|a, b| time(a).total_cmp(&time(b)))
            .filter(|other| time(other) <= 1.1 * time(&tile))
            .map(|tile| Cut::Tiles(tile, 1))
    }
}

/// Whether a product should end in a gate.
pub(super) fn can_gate(grid: [usize; 3], depth: usize) -> bool {
    Cut::gated(grid, depth).is_some()
}

/// `A·B` with `[batch, rows, columns]` and the given depth.
pub(super) fn lower(
    cx: &mut Lowering<'_>,
    a: &Matrices,
    b: &Matrices,
    grid: [usize; 3],
    depth: usize,
) {
    let [batch, rows, columns] = grid;
    let gated = cx.has_gate();
    let cut = match gated {
        true => Cut::gated(grid, depth).expect("the planner asked"),
        false => Cut::of(grid, depth),
    };
    let kernel = kernel(a, b, grid, depth, gated);
    let flops = 2 * (batch * rows * columns * depth) as u64;
    let operands = a.operand.bytes() + b.operand.bytes();
    let params = |splits: usize, chunk: usize, tiles: [usize; 2]| {
        let count = batch * splits * tiles[0] * tiles[1];
        let sizes = [
            rows, columns, depth, splits, chunk, tiles[0], tiles[1], count,
        ];
        let [sa, sb] = [a, b].map(|m| (m.leading(), m.offset(), m.batch));
        let places = [sa.0, sb.0, sa.1, sb.1, sa.2, sb.2, 0, 0];
        let words: Vec<u32> = [sizes, places].concat().iter().map(|&n| n as u32).collect();
        (words, count)
    };
    let whole = |cx: &mut Lowering<'_>,
                 kernel: Kernel,
                 tiles: [usize; 2],
                 invocations: Option<usize>,
                 loops: usize| {
        let epilogue = cx.epilogue(3);
        let (params, groups) = params(1, depth, tiles);
        let dispatch = Dispatch::new(epilogue.applied(kernel))
            .read(&a.operand)
            .read(&b.operand)
            .params(&params)
            .epilogue(&epilogue)
            .groups(groups)
            .iterations(loops + 64 * (1 + epilogue.iterations))
            .cost(flops, operands + epilogue.bytes);
        cx.dispatch(match invocations {
            Some(invocations) => dispatch.fusable("matmul_pair", invocations),
            None => dispatch,
        });
    };
    match cut {
        Cut::Rows { tall } => {
            let quads = rows.max(columns).div_ceil(4);
            let (per_group, sharers) = match cx.class() {
                // A vector register, without anything to exchange.
                AdapterClass::Software => (8, 1),
                AdapterClass::Gpu if depth > 64 => (8, 32),
                AdapterClass::Gpu => (32, 4),
            };
            let loops = |sharers: usize| depth.div_ceil(4 * sharers);
            let (per_group, sharers) = match loops(sharers) > MOST_ITERATIONS - LEFT_FOR_STORES {
                true => (1, 256),
                false => (per_group, sharers),
            };
            let kernel = kernel("rows")
                .constant("QUADS", per_group)
                .constant("SHARERS", sharers)
                .flag("TALL", tall)
                .flag("SINGLE", rows == 1 && a.is_row_major());
            let tiles = [quads.div_ceil(per_group), 1];
            whole(cx, kernel, tiles, None, loops(sharers));
        }
        Cut::Tiles(tile, splits) => {
            let [down, across] = tile.team();
            let kernel = kernel("tiles")
                .constant("ROW_QUADS", tile.row_quads)
                .constant("COLUMN_QUADS", tile.column_quads)
                .constant("DOWN", down)
                .constant("ACROSS", across)
                .constant("TEAMS", tile.teams)
                .flag("OVERLAPPED", cx.device().overlaps());
            let loops = |depth: usize| depth.div_ceil(SLICE * tile.teams) * ITERATIONS_OF_SLICE;
            let mut tiles = [rows.div_ceil(tile.rows), columns.div_ceil(tile.columns)];
            if splits == 1 {
                if gated {
                    tiles[1] = columns.div_ceil(2).div_ceil(tile.columns / 2);
                }
                return whole(cx, kernel, tiles, Some(tile.invocations()), loops(depth));
            }
            let chunk = depth.div_ceil(splits).next_multiple_of(16);
            let splits = depth.div_ceil(chunk);
            let quads = columns.div_ceil(4);
            let parts = cx.temp([batch * splits, rows, 4 * quads], DType::F32);
            let (mut words, groups) = params(splits, chunk, tiles);
            // The store that the shader has by itself: to dense matrices of vec4.
            words.extend([0, rows * quads, quads, 1].map(|word| word as u32));
            words.resize(16 + 4 * 7, 0);
            cx.dispatch(
                Dispatch::new(kernel)
                    .read(&a.operand)
                    .read(&b.operand)
                    .write(&parts)
                    .params(&words)
                    .groups(groups)
                    .iterations(loops(chunk) + 64)
                    .cost(flops, operands + parts.bytes())
                    .fusable("matmul_pair", tile.invocations()),
            );
            add_up(cx, &parts, grid, splits);
        }
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

/// Makes the kernel with an entry point, by name.
fn kernel(
    a: &Matrices,
    b: &Matrices,
    [_, rows, columns]: [usize; 3],
    depth: usize,
    gated: bool,
) -> impl Fn(&'static str) -> Kernel {
    let [a_along, b_along] = [a.is_row_major(), !b.is_row_major()];
    let load = |name: &str, binding: usize, matrices: &Matrices, inner: usize| {
        let steps = [inner, matrices.leading(), matrices.offset(), matrices.batch];
        load(name, binding, steps.iter().all(|n| n.is_multiple_of(4)))
    };
    let loads_a = load("a", 1, a, if a_along { depth } else { rows });
    // What a quad of columns may begin at.
    let columns = if gated { columns / 2 } else { columns };
    let loads_b = load("b", 2, b, if b_along { depth } else { columns });
    move |entry| {
        Kernel::builtin("matmul", "matmul", entry)
            .flag("A_ALONG_DEPTH", a_along)
            .flag("B_ALONG_DEPTH", b_along)
            .declare(&loads_a)
            .declare(&loads_b)
    }
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
mod tests {
    use super::{Cut, TILES};

    #[test]
    fn cuts() {
        let [square, tall, wide, small] = TILES;
        let table = [
            // Large squares; the layers of a model of 768 columns, and their weights' gradients.
            ([1, 4096, 4096], 4096, square, 1),
            ([1, 4096, 2304], 768, square, 1),
            ([1, 768, 2304], 4096, square, 4),
            ([1, 1024, 1024], 1024, square, 1),
            ([1, 384, 384], 16_384, square, 31),
            // Batches of small matrices.
            ([96, 256, 64], 256, square, 1),
            // Thin outputs with many rows or columns.
            ([1, 65_536, 32], 128, tall, 1),
            ([1, 27, 65_536], 128, wide, 1),
            // Little to do: as many invocations as there are, and no second dispatch.
            ([1, 512, 512], 512, small, 1),
            ([1, 512, 96], 32, small, 1),
            ([1, 32, 96], 512, small, 1),
            ([1, 5, 5], 7, small, 1),
            // Unless one workgroup would go on for long.
            ([1, 32, 96], 16_384, small, 32),
        ];
        for (grid, depth, tile, splits) in table {
            let cut = Cut::of(grid, depth);
            assert_eq!(cut, Cut::Tiles(tile, splits), "{grid:?}, depth {depth}");
        }
        let token = Cut::of([1, 1, 50_257], 768);
        assert_eq!(token, Cut::Rows { tall: false });
        assert_eq!(Cut::of([3, 9, 1], 768), Cut::Rows { tall: true });
    }

    #[test]
    fn cuts_with_gates() {
        let [square, _, wide, small] = TILES;
        let table = [
            ([1, 16_384, 2048], 384, Some((square, 1))),
            ([1, 512, 176], 32, Some((small, 1))),
            ([1, 512, 170], 32, Some((small, 1))),
            ([1, 27, 65_536], 128, Some((wide, 1))),
            ([1, 32, 96], 16_384, Some((small, 32))),
            // Halves that are no quads, where the depth is better cut; half of each tile empty; no tiles.
            ([1, 32, 90], 16_384, None),
            ([1, 65_536, 32], 128, None),
            ([1, 1, 2048], 384, None),
        ];
        for (grid, depth, expected) in table {
            let expected = expected.map(|(tile, splits)| Cut::Tiles(tile, splits));
            assert_eq!(Cut::gated(grid, depth), expected, "{grid:?}, depth {depth}");
        }
    }
}
