//! From an attention problem to dispatches: where rows lie, which kernels run, their parameters.

use std::ops::Range;

use super::Attention;
use super::text::Operands;
use crate::gpu::{DType, Kernel};
use crate::shape::Shape;
use crate::tape::{Dispatch, Lowering, Operand};

/// An attention problem: everything about it that is not a tensor.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) struct Problem {
    /// Whether q, k and v are one packed operand.
    pub is_packed: bool,
    pub batch: usize,
    pub heads: usize,
    pub queries: usize,
    pub keys: usize,
    pub head_dim: usize,
    pub causal: bool,
    pub scale: Option<u32>,
    pub dropout: Option<Dropout>,
    pub mask: Option<MaskKind>,
}

/// Dropout of the weights: the probability's bits, and the stream of random numbers.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) struct Dropout {
    pub probability: u32,
    pub stream: u32,
}

/// Block `dropout` of `shaders/attention.wgsl`: which weights are kept, from random words, so that forward and backward
/// agree without a mask in memory. `key_word` reads the tape's random key.
const DROPOUT: &str = "\
alias DropoutKey = vec4<u32>;
fn dropout_key() -> DropoutKey {
    return vec4<u32>(key_word(0u), key_word(1u), key_word(2u), key_word(3u));
}
fn kept_weights(key: DropoutKey, head: Head, i: u32, j: u32) -> u32 {
    let block = (head.index * p.queries + i) * ((p.keys + 7u) / 8u * 2u) + j / 4u;
    let threshold = vec4<u32>(p.dropout_threshold);
    let low = vec4<u32>(random_words(key, p.stream, block) >= threshold);
    let high = vec4<u32>(random_words(key, p.stream, block + 1u) >= threshold);
    let bits = low * vec4<u32>(1u, 2u, 4u, 8u) + high * vec4<u32>(16u, 32u, 64u, 128u);
    return bits.x | bits.y | bits.z | bits.w;
}
fn dropped(weight: f32, kept: u32, e: u32) -> f32 {
    return select(0.0, weight * p.dropout_scale, ((kept >> e) & 1u) != 0u);
}
";

/// How a mask's elements are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum MaskKind {
    BooleanF32,
    BooleanU32,
    Additive,
}

impl Problem {
    /// What the attributes say; the extents are still to be filled in.
    pub fn of(config: &Attention) -> Problem {
        Problem {
            is_packed: false,
            batch: 1,
            heads: config.n_heads,
            queries: 1,
            keys: 1,
            head_dim: 1,
            causal: config.causal,
            scale: config.scale.map(f32::to_bits),
            dropout: None,
            mask: None,
        }
    }

    pub fn weights_shape(&self) -> Shape {
        Shape::new(&[self.batch, self.heads, self.queries, self.keys])
    }

    /// How many of the operation's inputs are q, k and v.
    pub fn operand_count(&self) -> usize {
        if self.is_packed { 1 } else { 3 }
    }

    /// Where the gradients of separate q, k and v lie in their flat tensor.
    pub fn gradient_ranges(&self) -> [Range<usize>; 3] {
        let width = self.batch * self.heads * self.head_dim;
        let (q, k) = (width * self.queries, width * self.keys);
        [0..q, q..q + k, q + k..q + 2 * k]
    }

    fn heads_in_all(&self) -> usize {
        self.batch * self.heads
    }

    /// Query `i` sees keys `0..i + reach`.
    fn reach(&self) -> i64 {
        let (queries, keys) = (self.queries as i64, self.keys as i64);
        if self.causal {
            keys - queries + 1
        } else {
            keys
        }
    }

    /// How many pairs of query and key there are to compute.
    fn pairs(&self) -> u64 {
        let seen = |i: i64| (i + self.reach()).clamp(0, self.keys as i64) as u64;
        self.heads_in_all() as u64 * (0..self.queries as i64).map(seen).sum::<u64>()
    }

    /// What scores are multiplied by.
    pub fn scale(&self) -> f32 {
        self.scale
            .map_or_else(|| 1.0 / (self.head_dim as f32).sqrt(), f32::from_bits)
    }

    /// Rows of `heads` heads behind one another, dense, from element `offset`: `[B, rows, H, Dh]`.
    fn dense_rows(&self, rows: usize, offset: usize) -> Strides {
        let row = self.heads * self.head_dim;
        [offset, rows * row, self.head_dim, row].map(|word| word as u32)
    }
}

/// Offset and strides of batch, head and row, in elements.
type Strides = [u32; 4];

/// An operand, and where its rows lie.
#[derive(Clone, Copy)]
struct Rows {
    operand: Operand,
    at: Strides,
}

/// The operand, or a copy of it in which the elements of a row lie in sequence.
fn with_dense_rows(cx: &mut Lowering<'_>, operand: Operand) -> Operand {
    let is_dense = operand.shape().last() == 1 || operand.layout.strides().last() == Some(&1);
    if is_dense {
        operand
    } else {
        cx.contiguous_copy(&operand)
    }
}

/// Rows of an operand `[B, T, parts·H·Dh]`, part number `part`.
fn packed_rows(operand: Operand, problem: &Problem, part: usize) -> Rows {
    let layout = operand.layout;
    let &[batch, row, _] = layout.strides() else {
        unreachable!("packed operands have three axes");
    };
    let offset = layout.offset + part * problem.heads * problem.head_dim;
    let at = [offset, batch, problem.head_dim, row].map(|word| word as u32);
    Rows { operand, at }
}

/// Rows of an operand whose axes are batch, head, row and element, in this order if `axes` is `[0, 1, 2]`.
fn separate_rows(operand: Operand, axes: [usize; 3]) -> Rows {
    let strides = operand.layout.strides();
    let [batch, head, row] = axes.map(|axis| strides[axis] as u32);
    let at = [operand.offset(), batch, head, row];
    Rows { operand, at }
}

/// Rows of a result or of its gradient: `[B, T, D]` or `[B, T, H, Dh]`.
fn result_rows(operand: Operand, problem: &Problem) -> Rows {
    if problem.is_packed {
        packed_rows(operand, problem, 0)
    } else {
        separate_rows(operand, [0, 2, 1])
    }
}

/// What a kernel is made for.
struct Launch<'p> {
    problem: &'p Problem,
    q: Rows,
    k: Rows,
    v: Rows,
    out: Option<Rows>,
    dout: Option<Rows>,
    gradients: [Strides; 3],
    lse: Option<Operand>,
    mask: Option<Operand>,
    key: Option<Operand>,
}

impl<'p> Launch<'p> {
    /// From the inputs of an operation: operands, `between` others, mask, random key.
    fn of(cx: &mut Lowering<'_>, problem: &'p Problem, between: usize) -> Launch<'p> {
        let [q, k, v] = if problem.is_packed {
            let input = cx.input(0);
            let packed = with_dense_rows(cx, input);
            [0, 1, 2].map(|part| packed_rows(packed, problem, part))
        } else {
            [0, 1, 2].map(|index| {
                let input = cx.input(index);
                separate_rows(with_dense_rows(cx, input), [0, 1, 2])
            })
        };
        let mut next = problem.operand_count() + between;
        let mut input = |is_there: bool| {
            is_there.then(|| {
                next += 1;
                cx.input(next - 1)
            })
        };
        Launch {
            problem,
            q,
            k,
            v,
            out: None,
            dout: None,
            gradients: [[0; 4]; 3],
            lse: None,
            mask: input(problem.mask.is_some()),
            key: input(problem.dropout.is_some()),
        }
    }

    /// Whether rows of all the operands can be loaded by vec4.
    fn is_vector(&self) -> bool {
        let rows = [
            Some(self.q),
            Some(self.k),
            Some(self.v),
            self.out,
            self.dout,
        ];
        let operands = rows.iter().flatten().map(|rows| &rows.at);
        let strides = operands.chain(&self.gradients).flatten();
        self.problem.head_dim.is_multiple_of(4) && strides.into_iter().all(|n| n.is_multiple_of(4))
    }

    /// The kernels' parameters, for `tiles` workgroups a head, or `groups` of something else in all.
    fn params(&self, tiles: usize, groups: usize) -> Vec<u32> {
        let problem = self.problem;
        let (probability, stream) = problem
            .dropout
            .map_or((0.0, 0), |d| (f32::from_bits(d.probability), d.stream));
        let offset = |operand: Option<Operand>| operand.map_or(0, |operand| operand.offset());
        let mut words = vec![
            problem.queries as u32,
            problem.keys as u32,
            problem.heads as u32,
            problem.reach() as i32 as u32,
            problem.scale().to_bits(),
            tiles as u32,
            groups as u32,
            offset(self.lse),
            offset(self.mask),
            offset(self.key),
            stream,
            (f64::from(probability) * 4_294_967_296.0).round() as u32,
            (1.0 / (1.0 - probability)).to_bits(),
            0,
            0,
            0,
        ];
        let at = |rows: Option<Rows>| rows.map_or([0; 4], |rows| rows.at);
        words.extend([self.q.at, self.k.at, self.v.at].concat());
        words.extend([at(self.out), at(self.dout)].concat());
        words.extend(self.gradients.concat());
        if let Some(mask) = self.mask {
            let weights = problem.weights_shape();
            let layout = mask.layout.broadcast_to(weights);
            let layout = layout.expect("masks broadcast to the weights");
            words.extend(layout.strides().iter().map(|&stride| stride as u32));
        } else {
            words.extend([0; 4]);
        }
        words
    }

    /// The kernel with mask and dropout put in, from `operands` on which both may bind more. The random key is at the
    /// start of the statistics where there are some.
    fn kernel(&self, kernel: Kernel, mut operands: Operands, with_statistics: bool) -> Kernel {
        let mut kernel = kernel.prelude(include_str!("../../../shaders/attention.wgsl"));
        if let Some(kind) = self.problem.mask {
            let (element, value) = match kind {
                MaskKind::Additive => ("f32", "select(score + m, UNSEEN, m <= UNSEEN)"),
                // The sign bit of −0 does not count.
                MaskKind::BooleanF32 => ("u32", "select(UNSEEN, score, (m << 1u) != 0u)"),
                MaskKind::BooleanU32 => ("u32", "select(UNSEEN, score, m != 0u)"),
            };
            operands = operands.buffer("mask", "read", element);
            let text = format!(
                "fn masked(score: f32, seen: bool, head: Head, i: u32, j: u32) -> f32 {{\n    \
                 if (!seen) {{ return UNSEEN; }}\n    \
                 let m = mask[p.mask_offset + row_at(vec4<u32>(0u, p.mask.xyz), head, i) + j * p.mask.w];\n    \
                 return {value};\n}}\n"
            );
            kernel = kernel.block("mask", &text);
        }
        if self.problem.dropout.is_some() {
            operands = if with_statistics {
                operands.text("fn key_word(n: u32) -> u32 { return statistics[n]; }")
            } else {
                operands
                    .buffer("random_key", "read", "u32")
                    .text("fn key_word(n: u32) -> u32 { return random_key[p.key_offset + n]; }")
            };
            kernel = kernel
                .prelude(include_str!("../../../shaders/philox.wgsl"))
                .block("dropout", DROPOUT);
        }
        kernel.block("operands", &operands.finish())
    }

    /// Binds mask and random key behind the rest, as [`Launch::kernel`] declares them.
    fn bind(&self, mut dispatch: Dispatch, with_statistics: bool) -> Dispatch {
        for operand in self
            .mask
            .iter()
            .chain(self.key.iter().filter(|_| !with_statistics))
        {
            dispatch = dispatch.read(operand);
        }
        dispatch
    }
}

/// Which kernels to run.
#[derive(Clone, Copy)]
enum Family {
    Subgroup8,
    Tiled,
}

fn family(cx: &Lowering<'_>) -> Family {
    if cx.device().has_subgroups_of(8) {
        Family::Subgroup8
    } else {
        Family::Tiled
    }
}

/// How the tiled kernels share out work: rows of a workgroup, invocations a row.
struct Tiling {
    rows: usize,
    split: usize,
}

impl Tiling {
    /// At most eight vec4s of each operand's row an invocation, about 64 invocations, and no more rows than there are.
    fn of(head_dim: usize, rows: usize) -> Tiling {
        let chunks = head_dim.div_ceil(4);
        let split = chunks.div_ceil(8);
        let most = (64 / split).next_power_of_two().min(64);
        let most = if most * split > 64 { most / 2 } else { most };
        let rows = rows.next_power_of_two().clamp(8, most);
        // Few rows: share them among more invocations.
        let split = split.max(chunks.min(32 / rows));
        Tiling { rows, split }
    }

    fn apply(&self, kernel: Kernel, head_dim: usize) -> Kernel {
        let slice = head_dim.div_ceil(4).div_ceil(self.split);
        kernel
            .constant("ROWS", self.rows)
            .constant("SPLIT", self.split)
            .constant("SLICE", slice)
    }
}

/// Result and log-sum-exps.
pub(super) fn forward(cx: &mut Lowering<'_>, problem: &Problem) {
    let mut launch = Launch::of(cx, problem, 0);
    let out = result_rows(cx.output(0), problem);
    let lse = cx.output(1);
    launch.out = Some(out);
    launch.lse = Some(lse);
    let head_dim = problem.head_dim;
    let is_vector = launch.is_vector();
    let (kernel, operands, rows) = match family(cx) {
        Family::Subgroup8 => {
            let source = include_str!("../../../shaders/attention_subgroup8.wgsl");
            let kernel = Kernel::builtin("attention", source, "forward");
            (
                kernel,
                Operands::new(head_dim, None, is_vector).shuffles(),
                8,
            )
        }
        Family::Tiled => {
            let tiling = Tiling::of(head_dim, problem.queries);
            let source = include_str!("../../../shaders/attention_tiled.wgsl");
            let kernel = Kernel::builtin("attention", source, "forward");
            let operands = Operands::new(head_dim, Some(tiling.split), is_vector).tiles();
            (tiling.apply(kernel, head_dim), operands, tiling.rows)
        }
    };
    let operands = operands
        .read_rows("q", &["q"])
        .read_rows("k", &["k"])
        .read_rows("v", &["v"])
        .write_rows("out")
        .buffer("lse", "read_write", "f32");
    let tiles = problem.queries.div_ceil(rows);
    let groups = tiles * problem.heads_in_all();
    let bytes = operand_bytes(problem) + out.operand.bytes() + lse.bytes();
    let dispatch = Dispatch::new(launch.kernel(kernel, operands, false))
        .read(&launch.q.operand)
        .read(&launch.k.operand)
        .read(&launch.v.operand)
        .write(&out.operand)
        .write(&lse);
    cx.dispatch(
        launch
            .bind(dispatch, false)
            .params(&launch.params(tiles, groups))
            .groups(groups)
            .cost(4 * problem.head_dim as u64 * problem.pairs(), bytes),
    );
}

/// The bytes of q, k and v.
fn operand_bytes(problem: &Problem) -> u64 {
    let [_, _, values] = problem.gradient_ranges();
    4 * values.end as u64
}

/// Contexts up to this length have their gradient computed in one dispatch by the subgroup kernels, if packed.
const SHORT: usize = 64;
/// Larger heads take too long to compile as one kernel.
const SMALL_HEAD: usize = 32;

/// Gradients of q, k and v.
pub(super) fn backward(
    cx: &mut Lowering<'_>,
    problem: &Problem,
    wants_queries: bool,
    wants_keys: bool,
) {
    let mut launch = Launch::of(cx, problem, 3);
    let first = problem.operand_count();
    launch.out = Some(result_rows(cx.input(first), problem));
    let lse = cx.input(first + 1);
    launch.lse = Some(cx.contiguous(&lse));
    let dout = cx.input(first + 2);
    launch.dout = Some(result_rows(with_dense_rows(cx, dout), problem));
    let gradient = cx.output(0);
    launch.gradients = if problem.is_packed {
        [0, 1, 2].map(|part| packed_rows(gradient, problem, part).at)
    } else {
        let [_, k, v] = problem.gradient_ranges();
        let offset = gradient.layout.offset;
        [
            problem.dense_rows(problem.queries, offset),
            problem.dense_rows(problem.keys, offset + k.start),
            problem.dense_rows(problem.keys, offset + v.start),
        ]
    };
    let family = family(cx);
    let is_short = problem.queries <= SHORT && problem.head_dim <= SMALL_HEAD;
    let is_single = matches!(family, Family::Subgroup8) && problem.is_packed && is_short;
    if is_single {
        single_backward(cx, &launch, &gradient);
        return;
    }
    let statistics = statistics(cx, &launch);
    for (is_wanted, entry, rows) in [
        (wants_queries, "queries", problem.queries),
        (wants_keys, "keys", problem.keys),
    ] {
        if is_wanted {
            half_backward(cx, &launch, family, &statistics, &gradient, entry, rows);
        }
    }
}

/// All gradients of a packed operand in one dispatch.
fn single_backward(cx: &mut Lowering<'_>, launch: &Launch<'_>, gradient: &Operand) {
    let problem = launch.problem;
    let (Some(out), Some(lse), Some(dout)) = (launch.out, launch.lse, launch.dout) else {
        unreachable!("backward has them all");
    };
    let source = include_str!("../../../shaders/attention_subgroup8_backward.wgsl");
    let kernel = Kernel::builtin("attention_gradient", source, "backward");
    let operands = Operands::new(problem.head_dim, None, launch.is_vector())
        .shuffles()
        .read_rows("qkv", &["q", "k", "v"])
        .read_rows("dout", &["dout"])
        .write_rows("gradient")
        .read_rows("out", &["out"])
        .buffer("lse", "read", "f32")
        .text(
            "fn statistics_of(head: Head, i: u32, upstream: Row) -> vec2<f32> {\n    \
             let delta = dot_rows(upstream, load_out(row_at(p.out, head, i)));\n    \
             return vec2<f32>(lse[p.lse_offset + head.index * p.queries + i], delta);\n}",
        );
    let tiles = problem.queries.div_ceil(8);
    let groups = tiles * problem.heads_in_all();
    let dispatch = Dispatch::new(launch.kernel(kernel, operands, false))
        .read(&launch.q.operand)
        .read(&dout.operand)
        .write(gradient)
        .read(&out.operand)
        .read(&lse);
    let bytes = 2 * gradient.bytes() + out.operand.bytes() + dout.operand.bytes() + lse.bytes();
    cx.dispatch(
        launch
            .bind(dispatch, false)
            .params(&launch.params(tiles, groups))
            .groups(groups)
            .cost(10 * problem.head_dim as u64 * problem.pairs(), bytes),
    );
}

/// The random key, and log-sum-exp and `D` of every query.
fn statistics(cx: &mut Lowering<'_>, launch: &Launch<'_>) -> Operand {
    let problem = launch.problem;
    let (Some(out), Some(lse), Some(dout)) = (launch.out, launch.lse, launch.dout) else {
        unreachable!("backward has them all");
    };
    let rows = problem.heads_in_all() * problem.queries;
    let statistics = cx.temp([4 + 2 * rows], DType::U32);
    let source = include_str!("../../../shaders/attention_statistics.wgsl");
    let operands = Operands::new(problem.head_dim, None, launch.is_vector())
        .read_rows("out", &["out"])
        .read_rows("dout", &["dout"]);
    let mut kernel = Kernel::builtin("attention_statistics", source, "statistics_of_rows")
        .prelude(include_str!("../../../shaders/attention.wgsl"))
        .block("operands", &operands.finish());
    let mut dispatch_key = None;
    if let Some(key) = &launch.key {
        kernel = kernel.block(
            "key",
            "@group(0) @binding(5) var<storage, read> random_key: array<u32>;\n\
             fn key_word(n: u32) -> u32 { return random_key[p.key_offset + n]; }\n",
        );
        dispatch_key = Some(key);
    }
    let mut dispatch = Dispatch::new(kernel)
        .read(&out.operand)
        .read(&dout.operand)
        .read(&lse)
        .write(&statistics);
    if let Some(key) = dispatch_key {
        dispatch = dispatch.read(key);
    }
    let bytes = out.operand.bytes() + dout.operand.bytes() + 3 * lse.bytes();
    let flops = 2 * out.operand.elements() as u64;
    cx.dispatch(
        dispatch
            .params(&launch.params(1, rows))
            .groups(rows.div_ceil(64))
            .cost(flops, bytes),
    );
    statistics
}

/// The gradient of q (`entry` is `queries`), or of k and v (`keys`).
fn half_backward(
    cx: &mut Lowering<'_>,
    launch: &Launch<'_>,
    family: Family,
    statistics: &Operand,
    gradient: &Operand,
    entry: &'static str,
    rows: usize,
) {
    let problem = launch.problem;
    let head_dim = problem.head_dim;
    let dout = launch.dout.expect("backward has it");
    let is_vector = launch.is_vector();
    let (kernel, operands, tile) = match family {
        Family::Subgroup8 => {
            let source = include_str!("../../../shaders/attention_subgroup8_backward.wgsl");
            let kernel = Kernel::builtin("attention_gradient", source, entry);
            let operands = Operands::new(head_dim, None, is_vector).shuffles().text(
                "fn statistics_of(head: Head, i: u32, upstream: Row) -> vec2<f32> {\n    \
                 let at = 4u + 2u * (head.index * p.queries + i);\n    \
                 return vec2<f32>(bitcast<f32>(statistics[at]), bitcast<f32>(statistics[at + 1u]));\n}",
            );
            (kernel, operands, 8)
        }
        Family::Tiled => {
            let tiling = Tiling::of(head_dim, rows);
            let source = include_str!("../../../shaders/attention_tiled_backward.wgsl");
            let kernel = Kernel::builtin("attention_gradient", source, entry);
            let operands = Operands::new(head_dim, Some(tiling.split), is_vector).tiles();
            (tiling.apply(kernel, head_dim), operands, tiling.rows)
        }
    };
    let operands = operands
        .read_rows("q", &["q"])
        .read_rows("k", &["k"])
        .read_rows("v", &["v"])
        .read_rows("dout", &["dout"])
        .write_rows("gradient")
        .buffer("statistics", "read", "u32");
    let tiles = rows.div_ceil(tile);
    let groups = tiles * problem.heads_in_all();
    let dispatch = Dispatch::new(launch.kernel(kernel, operands, true))
        .read(&launch.q.operand)
        .read(&launch.k.operand)
        .read(&launch.v.operand)
        .read(&dout.operand)
        .write(gradient)
        .read(statistics);
    let products = if entry == "queries" { 6 } else { 8 };
    let bytes = operand_bytes(problem) + dout.operand.bytes() + 4 * (rows * head_dim) as u64;
    cx.dispatch(
        launch
            .bind(dispatch, true)
            .params(&launch.params(tiles, groups))
            .groups(groups)
            .cost(products * head_dim as u64 * problem.pairs(), bytes),
    );
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
    let source = include_str!("../../../shaders/attention_weights.wgsl");
    let operands = Operands::new(problem.head_dim, None, launch.is_vector())
        .read_rows("q", &["q"])
        .read_rows("k", &["k"])
        .buffer("lse", "read", "f32")
        .buffer("weights", "read_write", "f32");
    let kernel = Kernel::builtin("attention_weights", source, "weights_of_pairs");
    let dispatch = Dispatch::new(launch.kernel(kernel, operands, false))
        .read(&q.operand)
        .read(&k.operand)
        .read(&lse)
        .write(&output);
    let elements = output.elements();
    cx.dispatch(
        launch
            .bind(dispatch, false)
            .params(&launch.params(1, elements))
            .groups(elements.div_ceil(64))
            .cost(
                2 * problem.head_dim as u64 * elements as u64,
                q.operand.bytes() + k.operand.bytes() + output.bytes(),
            ),
    );
}
