//! How products are cut up for a GPU's workgroups: into tiles of the output, and the depth into parts, by what they would
//! take.

use super::operands::LEFT_FOR_STORES;
use crate::gpu::MOST_ITERATIONS;

/// A workgroup's part of the output, and what computing it costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tile {
    pub rows: usize,
    pub columns: usize,
    /// Of a workgroup.
    pub invocations: usize,
    /// Teams of invocations that share the depth.
    pub teams: usize,
    /// Steps of the depth between two barriers, and how often loops go round for them.
    pub slice: usize,
    pub iterations: usize,
    /// What parts of the depth are multiples of.
    pub step: usize,
    /// The percentage of a GPU's multiply-adds that it reaches where there are enough of them.
    pub percent: usize,
    /// How many times as many multiply-adds as `f32` arithmetic has the units that it runs on do.
    pub speed: usize,
}

impl Tile {
    /// Tiles of an output.
    pub fn count(&self, [batch, rows, columns]: [usize; 3]) -> usize {
        batch * rows.div_ceil(self.rows) * columns.div_ceil(self.columns)
    }

    /// Parts that the depth may be cut into: the larger the tile, the deeper a part must be to be worth its store.
    fn most_splits(&self, [batch, rows, columns]: [usize; 3], depth: usize) -> usize {
        let shallow = depth / (4 * self.rows.max(self.columns) * self.teams);
        let large = MOST_PARTIAL / (4 * batch * rows * columns.next_multiple_of(4));
        shallow.min(large).clamp(1, MOST_SPLITS)
    }

    /// Parts that the depth must be cut into, so that an invocation's loops go round often enough on software adapters.
    pub fn fewest_splits(&self, depth: usize) -> usize {
        depth.div_ceil((MOST_ITERATIONS - LEFT_FOR_STORES) / self.iterations * self.slice)
    }

    pub fn splits(&self, grid: [usize; 3], depth: usize) -> std::ops::RangeInclusive<usize> {
        let fewest = self.fewest_splits(depth);
        fewest..=self.most_splits(grid, depth).max(fewest)
    }

    /// How often an invocation's loops go round for so much depth.
    pub fn loops(&self, depth: usize) -> usize {
        depth.div_ceil(self.slice) * self.iterations
    }

    /// What a product takes, in units of its multiply-adds at a GPU's full rate: more if there is too little to keep
    /// the GPU busy, if its last round of workgroups is half empty, or if parts have to be added up.
    pub fn time(&self, grid: [usize; 3], depth: usize, splits: usize) -> f64 {
        let [batch, rows, columns] = grid;
        let tiles = self.count(grid);
        let groups = (tiles * splits) as f64;
        let idle = (BUSY / (groups * self.invocations as f64)).max(UNITS / groups);
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
        100.0 / self.percent as f64 * idle.max(1.0) * last_round * outside
            + self.speed as f64 * adding_up
    }

    /// The fastest of several, and into how many parts the depth is best cut for it.
    pub fn fastest<T: Copy>(
        tiles: impl Iterator<Item = (T, Tile)>,
        grid: [usize; 3],
        depth: usize,
    ) -> (T, usize) {
        let cuts = tiles.flat_map(|it| it.1.splits(grid, depth).map(move |splits| (it, splits)));
        let time = |&((_, tile), splits): &((T, Tile), usize)| tile.time(grid, depth, splits);
        let ((tile, _), splits) = cuts
            .min_by(|a, b| time(a).total_cmp(&time(b)))
            .expect("every tile may stay whole");
        (tile, splits)
    }
}

/// Parts of a large GPU that workgroups are dealt out to.
const UNITS: f64 = 128.0;

/// Invocations that keep a large GPU busy.
const BUSY: f64 = 16_384.0;

/// Multiply-adds of `f32` arithmetic in the time that it takes to store and to load a partial sum, and in that of one more
/// dispatch.
const MULTIPLY_ADDS_A_PARTIAL: usize = 48;
const MULTIPLY_ADDS_A_DISPATCH: f64 = 1.5e8;

/// The most bytes of partial products, and the most parts.
const MOST_PARTIAL: usize = 64 << 20;
const MOST_SPLITS: usize = 32;
