//! What the heads of a packed projection go through on their way to attention: RMS norms of queries and of keys, the turn by
//! rotary positions, and the way of keys and values into a cache.
//!
//! ```text
//! h = x/√(mean(x²) + ε)·weight        y = R(t)·h        for every head of queries and keys of the token at position t
//! ```
//!
//! Henry et al. 2020, "Query-Key Normalization for Transformers"; Su et al. 2021, "RoFormer"; see [`Var::rotary`]. One
//! dispatch does all of it, and two its gradient, where slices would copy the projection several times.

use super::rows::Team;
use super::{Operation, Takes, TensorType, require_floats};
use crate::gpu::{DType, Kernel, Tensor};
use crate::shape::Shape;
use crate::tape::{Backward, Dispatch, Lowering, Operand, Var};

/// What is done to the heads of a packed projection `[…, T, (n_heads + 2·n_kv_heads)·D]`, which are those of queries, of
/// keys and of values.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'t> {
    /// Heads of queries.
    pub n_heads: usize,
    /// Heads of keys, and of values.
    pub n_kv_heads: usize,
    /// The weights `[D]` of the norms of queries and of keys, and ε.
    pub norms: Option<([Var<'t>; 2], f32)>,
    /// The angles by which queries and keys turn, a [`rotary_table`](super::rotary_table) `[positions, D]`.
    pub angles: Option<Var<'t>>,
}

/// Inputs: the projection; with `is_cached` the cache, which is overwritten in part, and the starts; with `is_turned` the
/// table; with `epsilon` the two weights. Outputs: the projection, or of a cached one the queries; with `epsilon`, unless
/// cached, `1/σ` of every head.
#[derive(Clone, Debug, Hash)]
pub(super) struct Attributes {
    /// Of the operation, to whom calls it.
    pub name: &'static str,
    pub queries: usize,
    /// Heads of queries and keys: those that are normalised and turned.
    pub turned: usize,
    /// Heads of a row.
    pub slots: usize,
    pub is_turned: bool,
    /// Whether angles count backwards, which undoes the turn: the gradient where there are no norms.
    pub is_inverse: bool,
    /// Its bits.
    pub epsilon: Option<u32>,
    pub is_cached: bool,
}

impl Attributes {
    fn table(&self) -> usize {
        1 + 2 * usize::from(self.is_cached)
    }

    fn weights(&self) -> usize {
        self.table() + usize::from(self.is_turned)
    }

    #[track_caller]
    fn check(&self, inputs: &[TensorType]) {
        let (name, shape) = (self.name, inputs[0].shape);
        let floats = match self.is_cached {
            true => [&inputs[..2], &inputs[3..]].concat(),
            false => inputs.to_vec(),
        };
        require_floats(name, &floats);
        if self.is_turned {
            let table = inputs[self.table()].shape;
            let positions = match shape.rank() {
                0 | 1 => 0,
                rank => shape.dim(rank - 2),
            };
            let fits = shape.rank() >= 2
                && table.rank() == 2
                && (table.dim(0) == positions || self.is_cached && table.dim(0) > 0)
                && table.last().is_multiple_of(2)
                && self.slots * table.last() == shape.last()
                && self.turned <= self.slots;
            assert!(
                fits,
                "{name}: {} heads in {shape} do not go with a table {table} of [positions, even head extent]",
                self.turned
            );
        }
        let slots = self.slots;
        assert!(
            shape.rank() >= 2 && slots > 0 && shape.last().is_multiple_of(slots),
            "{name}: {shape} is not [.., T, (H + 2·Hkv)·D] for {slots} heads in all"
        );
        let width = shape.last() / slots;
        if self.epsilon.is_some() {
            let weights = [0, 1].map(|n| inputs[self.weights() + n].shape);
            assert!(
                weights == [[width].into(); 2],
                "{name}: the norms of heads of {width} have weights of shape {} and {}",
                weights[0],
                weights[1]
            );
        }
        if self.is_cached {
            let (cache, starts) = (inputs[1].shape, inputs[2]);
            let row = shape.last() - self.queries * width;
            let fits = shape.rank() == 3
                && cache == Shape::new(&[shape.dim(0), cache.dim(1), row])
                && shape.dim(1) <= cache.dim(1)
                && starts
                    == TensorType {
                        shape: [shape.dim(0)].into(),
                        dtype: DType::U32,
                    };
            assert!(
                fits,
                "{name}: keys and values of {shape}, from starts {} on, do not fit into {cache}, expected F32 [B, C, {row}] \
                 and U32 [B]",
                starts.shape
            );
        }
    }

    /// The pieces of text that bind what there is beside input and output, from this binding on.
    fn kernel(&self, entry: &'static str, mut binding: usize, vector: bool) -> Kernel {
        let mut kernel = Kernel::builtin(self.name, "heads", entry);
        if vector {
            kernel = kernel.declare(super::VECTORS);
        }
        let has_weights = self.epsilon.is_some() && entry != "weight_gradients";
        let pieces = [
            (self.is_cached, CACHE, 2),
            (self.is_turned, TABLE, 1),
            (has_weights, WEIGHTS, 2),
            (entry == "normed_heads" && !self.is_cached, STATISTICS, 1),
        ];
        for (_, piece, bindings) in pieces.into_iter().filter(|(is_there, ..)| *is_there) {
            let numbered = piece.replace("NEXT", &(binding + 1).to_string());
            kernel = kernel.declare(&numbered.replace("FIRST", &binding.to_string()));
            binding += bindings;
        }
        kernel
    }
}

const CACHE: &str = "\
@group(0) @binding(FIRST) var<storage, read_write> cache: array<T>;
@group(0) @binding(NEXT) var<storage, read> starts: array<u32>;
fn place_of(row: u32, most: u32) -> u32 {
    return min(min(starts[p.starts_offset + row / p.positions], most) + row % p.positions, most);
}
fn position_of(row: u32) -> u32 { return place_of(row, p.table_rows - 1u); }
fn put(row: u32, slot: u32, i: u32, value: T) {
    if (slot < p.queries) {
        output[p.output_offset + (row * p.queries + slot) * p.width + i] = value;
        return;
    }
    let place = place_of(row, p.capacity);
    if (place >= p.capacity) { return; }
    let line = row / p.positions * p.capacity + place;
    cache[p.cache_offset + (line * (p.slots - p.queries) + slot - p.queries) * p.width + i] = value;
}
";

const TABLE: &str = "\
@group(0) @binding(FIRST) var<storage, read> table: array<T>;  // per position: cosines, then sines
fn angle_of(row: u32, pair: u32) -> Pair {
    let at = p.table_offset + position_of(row) * p.table_stride + pair;
    return Pair(table[at], table[at + p.half]);
}
";

const WEIGHTS: &str = "\
@group(0) @binding(FIRST) var<storage, read> query_weight: array<T>;
@group(0) @binding(NEXT) var<storage, read> key_weight: array<T>;
fn weight_of(slot: u32, i: u32) -> T {
    if (slot < p.queries) { return query_weight[p.query_weight_offset + i]; }
    if (slot < p.turned) { return key_weight[p.key_weight_offset + i]; }
    return T(1.0);
}
";

const STATISTICS: &str = "\
@group(0) @binding(FIRST) var<storage, read_write> statistics: array<f32>;
fn keep_statistic(head: u32, rstd: f32) { statistics[p.statistics_offset + head] = rstd; }
";

/// What a kernel works on.
struct Work {
    input: Operand,
    /// The projection, its gradient or the weights' gradients in parts.
    output: Operand,
    gradient: Option<Operand>,
    statistics: Option<Operand>,
    cache: Option<[Operand; 2]>,
    table: Option<Operand>,
    weights: Option<[Operand; 2]>,
    width: usize,
    /// Elements that an invocation takes at once.
    unit: usize,
}

impl Work {
    /// `others` are the inputs behind the projection, as [`Attributes`] says.
    fn new(cx: &mut Lowering<'_>, attributes: &Attributes, others: usize, output: Operand) -> Work {
        let input = cx.contiguous(&cx.input(0));
        let cache = attributes.is_cached.then(|| {
            let starts = cx.contiguous(&cx.input(2));
            [cx.input(1), starts]
        });
        let mut rows = |index: usize| cx.with_dense_rows(&cx.input(others + index));
        let table = attributes.is_turned.then(|| rows(0));
        let weights = attributes.epsilon.map(|_| {
            let first = usize::from(attributes.is_turned);
            [first, first + 1].map(&mut rows)
        });
        Work {
            width: input.shape().last() / attributes.slots,
            input,
            output,
            gradient: None,
            statistics: None,
            cache,
            table,
            weights,
            unit: 1,
        }
        .in_vectors()
    }

    /// Four elements at once where half a head and all places are multiples of four.
    fn in_vectors(mut self) -> Work {
        let operands = [
            Some(self.input),
            Some(self.output),
            self.gradient,
            self.table,
        ];
        let operands = operands
            .into_iter()
            .flatten()
            .chain(self.weights.into_iter().flatten());
        let mut places = operands
            .chain(self.cache.map(|[cache, _]| cache))
            .map(|it| it.layout.offset);
        let stride = self.table.map_or(0, |table| table.layout.strides()[0]);
        let vector = self.width.is_multiple_of(8) && stride.is_multiple_of(4);
        self.unit = match vector && places.all(|place| place.is_multiple_of(4)) {
            true => 4,
            false => 1,
        };
        self
    }

    fn is_vector(&self) -> bool {
        self.unit == 4
    }

    /// Pairs of a head, of units.
    fn half(&self) -> usize {
        (self.width / self.unit).div_ceil(2)
    }

    fn heads(&self) -> usize {
        self.input.elements() / self.width
    }

    fn rows(&self) -> usize {
        self.input.elements() / self.input.shape().last()
    }

    fn params(&self, attributes: &Attributes, count: usize, rows_per_part: usize) -> Vec<u32> {
        let shape = self.input.shape();
        let at = |operand: Option<Operand>| operand.map_or(0, |it| it.layout.offset / self.unit);
        let weights = self.weights.map_or([None; 2], |weights| weights.map(Some));
        let (stride, known) = self.table.map_or((0, 1), |table| {
            (table.layout.strides()[0] / self.unit, table.shape().dim(0))
        });
        let capacity = self.cache.map_or(0, |[cache, _]| cache.shape().dim(1));
        let starts = self.cache.map_or(0, |[_, starts]| starts.layout.offset);
        let sizes = [
            count,
            shape.last() / self.width,
            self.half(),
            self.width / self.unit,
            attributes.queries,
            attributes.turned,
            shape.dim(shape.rank() - 2),
            capacity,
            at(Some(self.input)),
            at(Some(self.output)),
            at(self.gradient),
            self.statistics.map_or(0, |it| it.layout.offset),
            at(self.table),
            stride,
            known,
            at(weights[0]),
            at(weights[1]),
            at(self.cache.map(|[cache, _]| cache)),
            starts,
            self.rows(),
            rows_per_part,
        ];
        let sign = if attributes.is_inverse { -1f32 } else { 1.0 };
        let epsilon = attributes.epsilon.unwrap_or(0);
        let floats = [sign.to_bits(), epsilon, (1.0 / self.width as f32).to_bits()];
        sizes
            .iter()
            .map(|&size| size as u32)
            .chain(floats)
            .collect()
    }

    /// Binds what [`Attributes::kernel`] declares, and is all but the grid.
    fn bind(&self, mut dispatch: Dispatch, has_weights: bool) -> Dispatch {
        if let Some([cache, starts]) = &self.cache {
            dispatch = dispatch.write(cache).read(starts);
        }
        if let Some(table) = &self.table {
            dispatch = dispatch.read(table);
        }
        for weight in self.weights.iter().flatten().filter(|_| has_weights) {
            dispatch = dispatch.read(weight);
        }
        let bytes = 2 * self.input.bytes() + self.gradient.map_or(0, |it| it.bytes());
        dispatch.cost(8 * self.input.elements() as u64, bytes)
    }

    /// A team for every head.
    fn in_teams(&self, cx: &Lowering<'_>, kernel: Kernel) -> (Kernel, usize, usize) {
        let team = Team::of(cx, self.half());
        let groups = self.heads().div_ceil(team.teams);
        // Two passes and an exchange, see team.wgsl.
        let iterations = 2 * self.half().div_ceil(team.lanes) + 10 + team.lanes.div_ceil(8);
        (team.kernel(kernel), groups, iterations)
    }
}

impl Operation for Attributes {
    fn name(&self) -> &'static str {
        self.name
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        self.check(inputs);
        let (ty, shape) = (inputs[0], inputs[0].shape);
        let width = shape.last() / self.slots;
        if self.is_cached {
            return vec![ty.with_shape(shape.with_dim(2, self.queries * width))];
        }
        let statistics = TensorType::f32([shape.elements() / width].into());
        let mut outputs = vec![ty];
        outputs.extend(self.epsilon.map(|_| statistics));
        outputs
    }

    fn takes(&self, _index: usize) -> Takes {
        Takes::Either
    }

    fn mutates(&self) -> &[usize] {
        if self.is_cached { &[1] } else { &[] }
    }

    /// Rotations are orthogonal: the gradient turns back. None flows to the table.
    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        if self.is_cached {
            node.not_differentiable("it changes a tensor, it is not a part of the model");
        }
        if self.epsilon.is_none() {
            let back = Attributes {
                is_inverse: !self.is_inverse,
                ..self.clone()
            };
            let mut inputs = vec![node.gradient(0)];
            inputs.extend(self.is_turned.then(|| node.input(1)));
            return vec![Some(node.tape().record(back, &inputs)), None];
        }
        let mut inputs = vec![node.input(0), node.gradient(0), node.output(1)];
        inputs.extend((1..node.inputs().len()).map(|index| node.input(index)));
        let gradients = node.tape().record_all(Gradient(self.clone()), &inputs);
        let of_weights = gradients[1].sum(&[1]);
        let of_weight = |n: usize| {
            Some(
                of_weights
                    .slice(0, n..n + 1)
                    .reshape([of_weights.shape().last()]),
            )
        };
        let mut all = vec![Some(gradients[0])];
        all.extend(self.is_turned.then_some(None));
        all.extend([of_weight(0), of_weight(1)]);
        all
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        let output = cx.output(0);
        let mut work = Work::new(cx, self, self.table(), output);
        let is_normed = self.epsilon.is_some();
        let entry = if is_normed { "normed_heads" } else { "heads" };
        let kernel = self.kernel(entry, 3, work.is_vector());
        let (kernel, count, groups, iterations) = if is_normed {
            work.statistics = (!self.is_cached).then(|| cx.output(1));
            let (kernel, groups, iterations) = work.in_teams(cx, kernel);
            (kernel, work.heads(), groups, iterations)
        } else {
            let count = work.heads() * work.half();
            (kernel, count, count.div_ceil(64), 0)
        };
        let dispatch = Dispatch::new(kernel).read(&work.input).write(&work.output);
        let mut dispatch = work.bind(dispatch, true);
        if let Some(statistics) = &work.statistics {
            dispatch = dispatch.write(statistics);
        }
        let params = work.params(self, count, 1);
        cx.dispatch(
            dispatch
                .params(&params)
                .groups(groups)
                .iterations(iterations),
        );
    }
}

/// Inputs: the projection, what arrives, `1/σ` of every head, the table if any, the weights. Outputs: the projection's
/// gradient, and those of the two weights in parts, `[2, parts, D]`.
#[derive(Clone, Debug, Hash)]
struct Gradient(Attributes);

/// How many rows a part of the weights' gradients has, and how many parts there are at most.
const ROWS_OF_PART: usize = 16;
const MOST_PARTS: usize = 256;

impl Gradient {
    /// The rows of each part, and how many parts there are.
    fn parts(rows: usize) -> (usize, usize) {
        let each = rows.div_ceil(MOST_PARTS).max(ROWS_OF_PART.min(rows)).max(1);
        (each, rows.div_ceil(each))
    }
}

impl Operation for Gradient {
    fn name(&self) -> &'static str {
        "heads_gradient"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let shape = inputs[0].shape;
        let width = shape.last() / self.0.slots;
        let (_, parts) = Gradient::parts(shape.elements() / shape.last());
        vec![inputs[0], TensorType::f32([2, parts, width].into())]
    }

    fn takes(&self, _index: usize) -> Takes {
        Takes::Either
    }

    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        node.not_differentiable("for second derivatives compose Var::rms_norm and Var::rotary")
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        let attributes = &self.0;
        let gradient = cx.contiguous(&cx.input(1));
        let statistics = cx.contiguous(&cx.input(2));
        let output = cx.output(0);
        let mut work = Work::new(cx, attributes, 3, output);
        (work.gradient, work.statistics) = (Some(gradient), Some(statistics));
        let mut work = work.in_vectors();
        for index in 0..2 {
            if !cx.is_needed(index) {
                continue;
            }
            work.output = cx.output(index);
            let is_input = index == 0;
            let entry = ["heads_gradient", "weight_gradients"][index];
            let kernel = attributes.kernel(entry, 5, work.is_vector());
            let (kernel, count, groups, iterations, each) = if is_input {
                let (kernel, groups, iterations) = work.in_teams(cx, kernel);
                (kernel, work.heads(), groups, iterations, 1)
            } else {
                let (each, parts) = Gradient::parts(work.rows());
                let count = 2 * parts * work.half();
                let heads = attributes
                    .queries
                    .max(attributes.turned - attributes.queries);
                (kernel, count, count.div_ceil(64), each * (1 + heads), each)
            };
            let dispatch = Dispatch::new(kernel)
                .read(&work.input)
                .write(&work.output)
                .read(&gradient)
                .read(&statistics);
            let params = work.params(attributes, count, each);
            let dispatch = work.bind(dispatch, is_input).params(&params);
            cx.dispatch(dispatch.groups(groups).iterations(iterations));
        }
    }
}

impl<'t> Var<'t> {
    /// A packed projection `[…, T, (H + 2·Hkv)·D]` whose queries and keys are normalised and turned, as far as `heads` says.
    /// The table of angles has `T` rows.
    ///
    /// With norms, the gradient cannot be differentiated again; for second derivatives compose [`Var::rms_norm`] and
    /// [`Var::rotary`].
    ///
    /// # Panics
    ///
    /// If the shapes do not fit together.
    #[track_caller]
    pub fn heads(self, heads: &Heads<'t>) -> Var<'t> {
        if heads.norms.is_none() && heads.angles.is_none() {
            return self;
        }
        self.through(heads, None)
    }

    /// [`Var::heads`] of `[B, T, …]`, of which keys and values go into `cache` `[B, C, 2·Hkv·D]` when the tape runs, and the
    /// queries `[B, T, H·D]` remain. Token `t` of text `b` stands at position `starts[b] + t`, in the cache and in the table of
    /// angles, which has a row for every position; what would lie beyond the cache is not written.
    ///
    /// # Panics
    ///
    /// As [`Var::heads`], and if another device holds the cache.
    #[track_caller]
    pub fn cached_heads(self, heads: &Heads<'t>, cache: &Tensor, starts: Var<'t>) -> Var<'t> {
        self.through(heads, Some((self.tape.tensor(cache), starts)))
    }

    #[track_caller]
    fn through(self, heads: &Heads<'t>, cache: Option<(Var<'t>, Var<'t>)>) -> Var<'t> {
        let turned = heads.n_heads + heads.n_kv_heads;
        let attributes = Attributes {
            name: "heads",
            queries: heads.n_heads,
            turned,
            slots: turned + heads.n_kv_heads,
            is_turned: heads.angles.is_some(),
            is_inverse: false,
            epsilon: heads.norms.map(|(_, epsilon)| epsilon.to_bits()),
            is_cached: cache.is_some(),
        };
        let mut inputs = vec![self];
        inputs.extend(cache.iter().flat_map(|&(cache, starts)| [cache, starts]));
        inputs.extend(heads.angles);
        inputs.extend(heads.norms.iter().flat_map(|(weights, _)| *weights));
        self.tape.record_all(attributes, &inputs)[0]
    }
}
