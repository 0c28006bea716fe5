//! Attention on matrix units, see `shaders/attention_units.wgsl`: where they serve, how work is shared out, and the entry
//! points' text.

use super::launch::Launch;
use super::parts::Visits;
use super::problem::Problem;
use super::text::Operands;
use super::tiling::Job;
use crate::gpu::{DType, Kernel, MatrixConfiguration};
use crate::ops::unrolled::unrolled;
use crate::tape::Lowering;

/// Rows that a workgroup owns, and rows of the other side that it visits together: the first that a device has workgroup
/// memory for, and as many subgroups as share them.
const TILES: [[usize; 2]; 3] = [[64, 32], [32, 32], [32, 16]];

/// The longest rows of heads: for longer ones, few devices have the workgroup memory.
const LONGEST_ROW: usize = 128;

/// The most dropout: weights may be e⁸ before they are divided by what is kept, and must be halves then.
const MOST_DROPOUT: f32 = 0.9;

/// How a workgroup shares out its tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Units {
    configuration: MatrixConfiguration,
    job: Job,
    own: usize,
    other: usize,
    /// Subgroups of a workgroup, down and across.
    subgroups: [usize; 2],
    /// Of rows, with the zeros behind them.
    width: usize,
}

impl Units {
    /// If they serve for a problem: its operands are halves, there are as many rows and elements of rows as fill matrices,
    /// and neither tiles nor loops are beyond the device. Else kernels do that compute in `f32`.
    pub fn serve(cx: &Lowering<'_>, launch: &Launch<'_>, job: Job) -> Option<Units> {
        let (device, problem) = (cx.device(), launch.problem);
        let rows = [Some(launch.q), Some(launch.k), Some(launch.v), launch.dout];
        let mut dtypes = rows.iter().flatten().map(|rows| rows.operand.dtype);
        let are_halves = dtypes.all(|dtype| dtype == DType::F16);
        let configuration = are_halves.then(|| device.matrix_configuration())??;
        let size = configuration.size;
        if problem.queries.min(problem.keys) < 2 * size
            || !(size..=LONGEST_ROW).contains(&problem.head_dim)
            || (problem.dropout.as_ref())
                .is_some_and(|it| f32::from_bits(it.probability) > MOST_DROPOUT)
        {
            return None;
        }
        let memory = device.limits().max_compute_workgroup_storage_size as usize;
        let most = cx.most_iterations();
        Units::within(configuration, job, problem.head_dim, memory)
            .filter(|units| units.visits(problem).parts(problem, most).len() == 1)
    }

    /// The first tile that so many bytes of workgroup memory hold.
    fn within(it: MatrixConfiguration, job: Job, head_dim: usize, bytes: usize) -> Option<Units> {
        let mut tiles = TILES
            .into_iter()
            .filter_map(|tile| Units::of(it, job, tile, head_dim));
        tiles.find(|units| units.workgroup_bytes() <= bytes)
    }

    /// `None` if some subgroups would have no part of a tile, or are so large that devices may not have four together.
    fn of(
        configuration: MatrixConfiguration,
        job: Job,
        [own, other]: [usize; 2],
        head_dim: usize,
    ) -> Option<Units> {
        let size = configuration.size;
        // Four, or as many as have 64 invocations.
        let subgroups = [32usize.div_ceil(configuration.lanes).max(2), 2];
        let has_parts = own.is_multiple_of(subgroups[0] * size) && other.is_multiple_of(2 * size);
        (has_parts && configuration.lanes <= 64).then_some(Units {
            configuration,
            job,
            own,
            other,
            subgroups,
            width: head_dim.next_multiple_of(2 * size),
        })
    }

    /// Operands whose rows are loaded and stored by chunks.
    pub fn operands(&self, head_dim: usize, is_vector: bool) -> Operands {
        Operands::new(head_dim, Some(head_dim.div_ceil(4)), is_vector)
    }

    fn invocations(&self) -> usize {
        self.subgroups[0] * self.subgroups[1] * self.configuration.lanes
    }

    fn owns_keys(&self) -> bool {
        matches!(self.job, Job::Keys)
    }

    /// Rows of a tile that are queries and keys.
    fn sides(&self) -> [usize; 2] {
        match self.owns_keys() {
            true => [self.other, self.own],
            false => [self.own, self.other],
        }
    }

    /// Quads that an invocation has of scores, and of a column of matrices of results.
    fn quads(&self) -> [usize; 2] {
        let [queries, keys] = self.sides();
        let team = self.invocations() / queries;
        [keys, self.subgroups[1] * self.configuration.size].map(|columns| columns / 4 / team)
    }

    /// As the shader declares it.
    fn workgroup_bytes(&self) -> usize {
        let [queries, keys] = self.sides();
        let (rows, words) = match self.job {
            Job::Forward => (queries + 2 * keys, self.invocations() + 1),
            Job::Queries | Job::Keys => (2 * (queries + keys), 0),
        };
        let sums = (keys * (queries + 4)).max(2 * self.configuration.size * (self.own + 4));
        2 * rows * (self.width + 8) + 2 * queries * (keys + 8) + 4 * (sums + words)
    }

    /// The workgroups for `own` rows of each of `heads` heads: of one, and in all.
    pub fn workgroups(&self, own: usize, heads: usize) -> (usize, usize) {
        let tiles = own.div_ceil(self.own);
        (tiles, tiles * heads)
    }

    /// How an invocation visits the other side's rows.
    pub fn visits(&self, problem: &Problem) -> Visits {
        let staged = (self.own + self.other) * self.width / 4 / self.invocations();
        let size = self.configuration.size;
        let (others, times) = match self.owns_keys() {
            true => (problem.queries, problem.share()),
            false => (problem.keys, 1),
        };
        Visits {
            own: self.own,
            others,
            step: self.other,
            iterations: 2 * (staged + 2) + 2 * self.width / size + 2 * self.other / size + 16,
            times,
        }
    }

    /// The kernel, and operands to which it adds how they are staged.
    pub fn kernel(&self, problem: &Problem, mut operands: Operands) -> (Kernel, Operands) {
        let is_forward = matches!(self.job, Job::Forward);
        let (name, entry) = match is_forward {
            true => ("attention", "forward"),
            false => ("attention_gradient", "backward"),
        };
        for (operand, tile, rows, row_at) in [
            ("q", "QUERY_ROWS", "queries", "row_at"),
            ("k", "KEY_ROWS", "keys", "key_row_at"),
            ("v", "KEY_ROWS", "keys", "key_row_at"),
            ("dout", "QUERY_ROWS", "queries", "row_at"),
        ] {
            let words = [
                ("NAME", operand),
                ("TILE", tile),
                ("END", rows),
                ("PLACE", row_at),
            ];
            operands = operands.text(&replaced(STAGE, &words));
        }
        let text = match is_forward {
            true => [SCORES, &FORWARD.replace("COLUMNS", &self.by_columns(FLUSH))].concat(),
            false => {
                let stores = BACKWARD.replace("COLUMNS", &self.by_columns(STORE));
                let words = [
                    ("q_tile", "dout_tile"),
                    ("k_tile", "v_tile"),
                    ("scores", "upstream"),
                ];
                [SCORES, &replaced(SCORES, &words), &stores].concat()
            }
        };
        let operands = operands.text(&unrolled(&text, &self.counts()));
        let kernel = Kernel::builtin(name, "attention_units", entry);
        let kernel = self
            .configuration
            .declared(kernel)
            .flag("BIASED", problem.mask.is_some() || problem.alibi)
            .flag("OWNS_KEYS", self.owns_keys())
            .constant("DOWN", self.subgroups[0])
            .constant("ACROSS", self.subgroups[1])
            .constant("OWN", self.own)
            .constant("OTHER", self.other)
            .constant("WIDTH", self.width)
            .constant("CHUNKS", problem.head_dim.div_ceil(4));
        (kernel, operands)
    }

    /// Columns of matrices of results that a subgroup has.
    fn columns(&self) -> usize {
        self.width / self.configuration.size / self.subgroups[1]
    }

    /// The text for one column after the other.
    fn by_columns(&self, text: &str) -> String {
        (0..self.columns())
            .map(|column| text.replace("$c", &column.to_string()))
            .collect()
    }

    /// How many numbers stand for the marks of a text.
    fn counts(&self) -> [(&'static str, usize); 8] {
        let size = self.configuration.size;
        let matrices = |rows: usize, axis: usize| rows / size / self.subgroups[axis];
        let (own, other) = (matrices(self.own, 0), matrices(self.other, 1));
        let [scores, results] = self.quads();
        let owns_keys = self.owns_keys();
        [
            // Matrices of scores: queries and keys.
            ("$q", if owns_keys { other } else { own }),
            ("$k", if owns_keys { own } else { other }),
            // Matrices of results: rows and columns.
            ("$r", own),
            ("$c", self.columns()),
            // Quads that an invocation has of scores, and of a column of results.
            ("$s", scores),
            ("$n", results),
            // Lines of one of the two backward kernels.
            ("$Q", usize::from(!owns_keys)),
            ("$K", usize::from(owns_keys)),
        ]
    }
}

/// The text with other words in the places of some.
fn replaced(text: &str, words: &[(&str, &str)]) -> String {
    let replace = |text: String, (from, to): &(&str, &str)| text.replace(from, to);
    words.iter().fold(text.to_owned(), replace)
}

const STAGE: &str = "\
fn stage_NAME(head: Head, first: u32, local: u32) {
    for (var n = local; n < TILE * WIDTH / 4u; n += INVOCATIONS) {
        let row = n / (WIDTH / 4u);
        let chunk = n % (WIDTH / 4u);
        var four = vec4<f32>();
        if (first + row < p.END && chunk < CHUNKS) { four = chunk_NAME(PLACE(p.NAME, head, first + row), chunk); }
        let at = (row * LINE + 4u * chunk) / PART;
        for (var e = 0u; e < 4u / PART; e++) { NAME_tile[at + e] = part(vec4<f16>(four), e); }
    }
}
";

const SCORES: &str = "\
fn scores(place: Place) {
    var s$q$k = Sum();
    for (var e = 0u; e < WIDTH; e += MATRIX_SIZE) {
        let a$q = coopLoadT<Left>(&q_tile[((place.query + $qu * MATRIX_SIZE) * LINE + e) / PART], LINE / PART);
        let b$k = coopLoad<Right>(&k_tile[((place.key + $ku * MATRIX_SIZE) * LINE + e) / PART], LINE / PART);
        s$q$k = coopMultiplyAdd(a$q, b$k, s$q$k);
    }
    coopStore(s$q$k, &sums[(place.key + $ku * MATRIX_SIZE) * SCORE_LINE + place.query + $qu * MATRIX_SIZE], SCORE_LINE);
}
";

const FORWARD: &str = "\
@compute @workgroup_size(INVOCATIONS)
fn forward(group: Group, @builtin(local_invocation_index) local: u32) {
    let index = index_of(group);
    let item = min(index, p.groups - 1u);
    let head = head_at(item / p.tiles, p.tiles - 1u - item % p.tiles);
    let first = head.tile * OWN;
    let keys = end_key(head, min(first + OWN, p.queries) - 1u);
    let place = place_of(local);
    let mine = place.part * QUERY_ROWS + place.row;
    let i = first + place.row;
    let dropout = dropout_key();
    var top = LOWEST;
    var sum = 0.0;
    var own$c$n = vec4<f32>();
    var o$r$c = Sum();
    let quad$s = place.part + $su * TEAM;
    var j0 = first_key(head, first) / OTHER * OTHER;
    if (local == 0u) { atomicStore(&rises, 0u); }
    stage_q(head, first, local);
    stage_k(head, j0, local);
    workgroupBarrier();
    for (; j0 < keys; j0 += OTHER) {
        scores(place);
        workgroupBarrier();
        stage_v(head, j0, local);
        let masks = needs_masks(head, first, j0);
        let s$s = scores_at(head, i, j0 + 4u * quad$s, quad$s, place, masks);
        var largest = UNSEEN;
        largest = max(largest, largest_of(s$s));
        of_rows[mine] = largest;
        if (largest > top + MOST_RISE) { atomicStore(&rises, 1u); }
        if (workgroupUniformLoad(&rises) == 1u) {
COLUMNS
            o$r$c = Sum();
            let next = max(top, largest_of_row(place));
            let shrink = exp(top - next);
            top = next;
            sum *= shrink;
            own$c$n *= shrink;
        }
        if (local == 0u) { atomicStore(&rises, 0u); }
        let w$s = exp(s$s - top);
        sum += sum_of(w$s);
        keep_weights(place.row, quad$s, dropped_at(w$s, dropout, head, i, j0 + 4u * quad$s));
        if (j0 + OTHER < keys) { stage_k(head, j0 + OTHER, local); }
        workgroupBarrier();
        for (var other = 0u; other < OTHER; other += MATRIX_SIZE) {
            let a$r = weights_at(place.own + $ru * MATRIX_SIZE, other);
            let b$c = coopLoadT<Right>(&v_tile[(other * LINE + ($cu * ACROSS + place.across) * MATRIX_SIZE) / PART], LINE / PART);
            o$r$c = coopMultiplyAdd(a$r, b$c, o$r$c);
        }
    }
COLUMNS
    of_rows[mine] = sum;
    workgroupBarrier();
    sum = sum_of_row(place);
    let factor = select(1.0 / sum, 0.0, sum == 0.0);
    if (index >= p.groups || i >= p.queries) { return; }
    let at = row_at(p.out, head, i);
    let chunk$n = place.part + $nu * TEAM;
    if ($cu * (ACROSS * MATRIX_SIZE / 4u) + chunk$n < CHUNKS) { store_chunk_result(at, $cu * (ACROSS * MATRIX_SIZE / 4u) + chunk$n, factor * own$c$n); }
    if (place.part == 0u) { lse[p.lse_offset + head.index * p.queries + i] = lse_of(top, sum); }
}
";

/// Adds what the units have of a column to what invocations have.
const FLUSH: &str = "\
            coopStore(o$r$c, &sums[place.across * MATRIX_SIZE * RESULT_LINE + place.own + $ru * MATRIX_SIZE], RESULT_LINE);
            workgroupBarrier();
            own$c$n += sums_at(place.part + $nu * TEAM, RESULT_LINE, place.row);
            workgroupBarrier();
";

/// The gradient of queries, x; or those of keys, x, and of values, y.
const BACKWARD: &str = "\
@compute @workgroup_size(INVOCATIONS)
fn backward(group: Group, @builtin(local_invocation_index) local: u32) {
    let index = index_of(group);
    let item = min(index, p.groups - 1u);
    let tile = select(p.tiles - 1u - item % p.tiles, item % p.tiles, OWNS_KEYS);
    let owner = select(item / p.tiles, first_sharing(item), OWNS_KEYS);
    let first = tile * OWN;
    let last = min(first + OWN, select(p.queries, p.keys, OWNS_KEYS)) - 1u;
    var head = head_at(owner, tile);
    let place = place_of(local);
    let dropout = dropout_key();
    let factor = gradient_factor();
    var x$r$c = Sum();
    var y$r$c = Sum(); // $K
    let quad$s = place.part + $su * TEAM;
    stage_q(head, first, local); // $Q
    stage_dout(head, first, local); // $Q
    stage_k(head, first, local); // $K
    stage_v(head, first, local); // $K
    let begin = select(first_key(head, first), first_query(head, first), OWNS_KEYS) / OTHER * OTHER;
    let end = select(end_key(head, last), end_query(head, last), OWNS_KEYS);
    for (var n = 0u; n < select(1u, p.share, OWNS_KEYS); n++) {
        head = head_at(owner + n, tile);
        for (var at = begin; at < end; at += OTHER) {
            let i0 = select(first, at, OWNS_KEYS);
            let j0 = select(at, first, OWNS_KEYS);
            stage_k(head, at, local); // $Q
            stage_v(head, at, local); // $Q
            stage_q(head, at, local); // $K
            stage_dout(head, at, local); // $K
            workgroupBarrier();
            scores(place);
            workgroupBarrier();
            let i = i0 + place.row;
            let about = statistics_of(head, min(i, p.queries - 1u));
            let masks = needs_masks(head, i0, j0);
            let w$s = weights_below(scores_at(head, i, j0 + 4u * quad$s, quad$s, place, masks), about.x);
            keep_weights(place.row, quad$s, dropped_at(w$s, dropout, head, i, j0 + 4u * quad$s)); // $K
            workgroupBarrier();
            upstream(place);
            for (var other = 0u; other < OTHER; other += MATRIX_SIZE) { // $K
                let a$r = weights_at(place.own + $ru * MATRIX_SIZE, other); // $K
                let b$c = coopLoadT<Right>(&dout_tile[(other * LINE + ($cu * ACROSS + place.across) * MATRIX_SIZE) / PART], LINE / PART); // $K
                y$r$c = coopMultiplyAdd(a$r, b$c, y$r$c); // $K
            } // $K
            workgroupBarrier();
            let d$s = dropped_at(sums_at(quad$s, SCORE_LINE, place.row), dropout, head, i, j0 + 4u * quad$s) - about.y;
            keep_weights(place.row, quad$s, factor * shared_by(w$s) * d$s);
            workgroupBarrier();
            for (var other = 0u; other < OTHER; other += MATRIX_SIZE) {
                let a$r = weights_at(place.own + $ru * MATRIX_SIZE, other);
                let b$c = coopLoadT<Right>(&k_tile[(other * LINE + ($cu * ACROSS + place.across) * MATRIX_SIZE) / PART], LINE / PART); // $Q
                let b$c = coopLoadT<Right>(&q_tile[(other * LINE + ($cu * ACROSS + place.across) * MATRIX_SIZE) / PART], LINE / PART); // $K
                x$r$c = coopMultiplyAdd(a$r, b$c, x$r$c);
            }
            workgroupBarrier();
        }
    }
COLUMNS
}
";

/// Stores a column.
const STORE: &str = "\
    coopStore(x$r$c, &sums[place.across * MATRIX_SIZE * RESULT_LINE + place.own + $ru * MATRIX_SIZE], RESULT_LINE);
    workgroupBarrier();
    if (index < p.groups) { store_results(p.dq, head, first, $cu, p.scale / factor, local); } // $Q
    if (index < p.groups) { store_results(p.dk, head, first, $cu, p.scale / factor, local); } // $K
    workgroupBarrier();
    coopStore(y$r$c, &sums[place.across * MATRIX_SIZE * RESULT_LINE + place.own + $ru * MATRIX_SIZE], RESULT_LINE); // $K
    workgroupBarrier(); // $K
    if (index < p.groups) { store_results(p.dv, head, first, $cu, 1.0, local); } // $K
    workgroupBarrier(); // $K
";

#[cfg(test)]
#[path = "../../../tests/unit/ops/attention/units.rs"]
mod tests;
