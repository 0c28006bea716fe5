//! How the kernels for GPUs share out work.

use super::parts::Visits;
use super::problem::Problem;
use super::text::Operands;
use crate::gpu::Kernel;

/// Workgroup memory and invocations that every GPU has.
const MOST_BYTES: usize = 16 << 10;
const MOST_INVOCATIONS: usize = 128;

/// Squares of 4 × 4 that an invocation may hold: 128 registers.
const MOST_SQUARES: usize = 8;

/// Contexts up to this length are short: several heads share a workgroup of the usual size. Where few rows meet many,
/// as in decoding, there are only as many heads to a workgroup as make one subgroup busy, so that there are more
/// workgroups.
const SHORT: usize = 64;
const SUBGROUP: usize = 32;

/// What a kernel computes: how many sorts of products along the rows it holds at once, and how many results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Job {
    Forward,
    /// The gradient of queries.
    Queries,
    /// The gradients of keys and values.
    Keys,
}

impl Job {
    /// The rows that workgroups own, those of the other side, and in how many heads.
    pub fn rows(self, problem: &Problem) -> (usize, usize, usize) {
        match self {
            Job::Keys => (problem.keys, problem.queries, problem.kv_heads_in_all()),
            _ => (problem.queries, problem.keys, problem.heads_in_all()),
        }
    }
}

/// The constants of `shaders/attention_squares.wgsl`, and what they are there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tiling {
    pub heads: usize,
    down: usize,
    across: usize,
    row_quads: usize,
    score_quads: usize,
    result_quads: usize,
    chunks: usize,
}

impl Tiling {
    /// For `own` rows in a head, which meet `other` rows.
    pub fn of(job: Job, head_dim: usize, own: usize, other: usize) -> Tiling {
        let (products, results) = match job {
            Job::Forward => (1, 1),
            Job::Queries => (2, 1),
            Job::Keys => (2, 2),
        };
        let chunks = head_dim.div_ceil(4);
        let most_across = if chunks > 32 { 32 } else { 16 };
        let across = chunks.next_power_of_two().min(most_across);
        let result_quads = chunks.div_ceil(across);
        // A tile has 64 rows; more, if rows are so short that few invocations would share each.
        let most = 16.max(64 / across);
        let own_quads = own.div_ceil(4).next_power_of_two().min(most);
        let fits = |&(row_quads, score_quads): &(usize, usize)| {
            let squares = row_quads * (products * score_quads + results * result_quads);
            let has_invocations = row_quads == 1 || own_quads * across >= MOST_INVOCATIONS;
            let has_scores = score_quads == 1 || (across < 16 && other > 4 * across);
            squares <= MOST_SQUARES && has_invocations && has_scores
        };
        let (row_quads, score_quads) = [(2, 2), (2, 1), (1, 2)]
            .into_iter()
            .find(fits)
            .unwrap_or((1, 1));
        let down = (own_quads / row_quads).min(MOST_INVOCATIONS / across);
        let alone = Tiling {
            heads: 1,
            down,
            across,
            row_quads,
            score_quads,
            result_quads,
            chunks,
        };
        if own > alone.rows() {
            return alone;
        }
        let invocations = match other <= SHORT {
            true => MOST_INVOCATIONS,
            false => SUBGROUP,
        };
        let heads = (invocations / (down * across)).min(MOST_BYTES / alone.bytes());
        Tiling {
            heads: 1 << heads.max(1).ilog2(),
            ..alone
        }
    }

    /// Own rows of a tile.
    pub fn rows(&self) -> usize {
        4 * self.down * self.row_quads
    }

    /// The workgroups for `own` rows of each of `all_heads` heads: of one head or group of heads, and in all.
    pub fn workgroups(&self, own: usize, all_heads: usize) -> (usize, usize) {
        let tiles = own.div_ceil(self.rows());
        (tiles, tiles * all_heads.div_ceil(self.heads))
    }

    /// How an invocation visits `others` rows of the other side, with everything counted that a compiler may leave a loop.
    pub fn visits(&self, job: Job, others: usize) -> Visits {
        let [own, other] = [self.down * self.row_quads, self.across * self.score_quads];
        let (team, depth, lines) = (self.down * self.across, self.chunks.min(4), self.lines());
        let slice = (depth * (own + other)).div_ceil(team);
        let along = 1 + self.chunks.div_ceil(depth) * (3 + slice + depth);
        let line_chunks = (4 * lines * self.across * self.result_quads).div_ceil(team);
        let across = 1 + other / lines * (3 + line_chunks + lines);
        // A mask goes through four columns; dropout too, with ten rounds of random numbers each.
        let squares = self.row_quads * self.score_quads;
        let (products, each) = match job {
            Job::Forward => (along + across + self.across, 60 * squares),
            Job::Queries => (2 * along + across, 60 * squares),
            Job::Keys => (2 * along + 2 * across, 110 * squares),
        };
        Visits {
            own: self.rows(),
            others,
            step: 4 * other,
            iterations: 1 + products + each,
            times: 1,
        }
    }

    /// Invocations of a workgroup.
    pub fn invocations(&self) -> usize {
        self.heads * self.down * self.across
    }

    /// Whether a kernel with this tiling and one with the other can share one workgroup's memory.
    pub fn fits_beside(&self, other: &Tiling) -> bool {
        let (own, others) = (self.tiles(), other.tiles());
        own[0].max(others[0]) + own[1].max(others[1]) <= MOST_BYTES
    }

    /// Quads of other rows in a slice across the rows: fewer, if rows are long.
    fn lines(&self) -> usize {
        let other = self.across * self.score_quads;
        (128 / (self.across * self.result_quads)).min(other).min(4)
    }

    /// Bytes of the two tiles.
    fn tiles(&self) -> [usize; 2] {
        let own = self.down * self.row_quads;
        let other = self.across * self.score_quads;
        let (depth, lines) = (self.chunks.min(4), self.lines());
        let first = 4 * depth.max(lines) * own;
        let second = 4 * (depth * other).max(lines * self.across * self.result_quads);
        [first, second].map(|vectors| 16 * self.heads * vectors)
    }

    /// Workgroup memory, that of the forward kernel: the others need less.
    fn bytes(&self) -> usize {
        let own = self.down * self.row_quads;
        let [first, second] = self.tiles();
        first + second + 16 * self.heads * self.across * own
    }

    /// The kernel with its constants.
    pub fn apply(&self, kernel: Kernel, problem: &Problem) -> Kernel {
        kernel
            .flag("BIASED", problem.mask.is_some() || problem.alibi)
            .constant("HEADS", self.heads)
            .constant("DOWN", self.down)
            .constant("ACROSS", self.across)
            .constant("ROW_QUADS", self.row_quads)
            .constant("SCORE_QUADS", self.score_quads)
            .constant("RESULT_QUADS", self.result_quads)
            .constant("CHUNKS", self.chunks)
    }

    /// The forward kernel, whose invocations combine what they know about rows: by shuffles where all subgroups have
    /// `subgroup` lanes and those that share rows lie in one.
    pub fn with_shuffles(&self, kernel: Kernel, subgroup: Option<usize>) -> Kernel {
        let is_whole = |size: &usize| {
            size.is_multiple_of(self.across) && self.invocations().is_multiple_of(*size)
        };
        match subgroup.filter(is_whole) {
            Some(size) => kernel
                .declare_file("attention_rows_shuffles")
                .constant("SUBGROUP", size)
                .constant("MOST_ACROSS", self.across),
            None => kernel,
        }
    }

    /// Operands whose rows are loaded and stored by chunks.
    pub fn operands(&self, head_dim: usize, is_vector: bool) -> Operands {
        Operands::new(head_dim, Some(self.chunks), is_vector)
    }
}

#[cfg(test)]
#[path = "../../../tests/unit/ops/attention/tiling.rs"]
mod tests;
