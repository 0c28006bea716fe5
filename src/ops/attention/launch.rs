//! Where the rows of an attention problem lie, and the kernels' parameters, bindings and text that follow from it.

use super::parts::Part;
use super::problem::{MaskKind, Problem};
use super::text::Operands;
use crate::gpu::Kernel;
use crate::tape::{Dispatch, Lowering, Operand};

/// What dropout declares again of `shaders/attention.wgsl`: which weights are kept, from random words, so that forward and
/// backward agree without a mask in memory. `key_word` reads the tape's random key.
const DROPOUT: &str = "\
import shadegrad::philox;
struct DropoutKey { words: vec4<u32>, first_head: u32 }
fn dropout_key() -> DropoutKey {
    let words = vec4<u32>(key_word(0u), key_word(1u), key_word(2u), key_word(3u));
    return DropoutKey(words, key_word(4u) * p.heads_each);
}
fn kept_weights(key: DropoutKey, head: Head, i: u32, j: u32) -> u32 {
    let row = philox_multiply((key.first_head + head.index) * p.queries + i, (p.keys + 7u) / 8u * 2u);
    let block = row.y + j / 4u;
    let beyond = row.x + u32(block < row.y);
    let words = random_words(key.words + vec4<u32>(0u, 0u, 0u, beyond), p.stream, block);
    let bits = vec4<u32>(words >= vec4<u32>(p.dropout_threshold)) * vec4<u32>(1u, 2u, 4u, 8u);
    return bits.x | bits.y | bits.z | bits.w;
}
fn dropped(weight: f32, kept: u32, e: u32) -> f32 {
    return select(0.0, weight * p.dropout_scale, ((kept >> e) & 1u) != 0u);
}
";

/// Slopes of the linear bias, `2^(−8(h+1)/n)` for head `h` of `n`, a power of two. For other numbers of
/// heads the paper takes the slopes of the power of two below, then every other slope of the power of two above.
const SLOPE: &str = "\
fn slope_of(head: u32) -> f32 {
    let whole = 1u << firstLeadingBit(p.heads);
    let step = select(2u * (head - whole) + 1u, 2u * (head + 1u), head < whole);
    return exp2(-4.0 * f32(step) / f32(whole));
}
";

/// Offset and strides of batch, head and row, in elements.
pub(super) type Strides = [u32; 4];

/// An operand, and where its rows lie.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub operand: Operand,
    pub at: Strides,
}

/// Rows of an operand `[B, T, …]` of heads behind one another: q's, k's or v's, as `part` says.
pub(super) fn packed_rows(operand: Operand, problem: &Problem, part: usize) -> Rows {
    let layout = operand.layout;
    let &[batch, row, _] = layout.strides() else {
        unreachable!("packed operands have three axes");
    };
    let heads_before = [0, problem.heads, problem.heads + problem.kv_heads][part];
    let offset = layout.offset + heads_before * problem.head_dim;
    let at = [offset, batch, problem.head_dim, row].map(|word| word as u32);
    Rows { operand, at }
}

/// Rows of an operand whose axes are batch, head, row and element, in this order if `axes` is `[0, 1, 2]`.
pub(super) fn separate_rows(operand: Operand, axes: [usize; 3]) -> Rows {
    let strides = operand.layout.strides();
    let [batch, head, row] = axes.map(|axis| strides[axis] as u32);
    let at = [operand.offset(), batch, head, row];
    Rows { operand, at }
}

/// Rows of a result or of its gradient: `[B, T, D]` or `[B, T, H, Dh]`.
pub(super) fn result_rows(operand: Operand, problem: &Problem) -> Rows {
    if problem.is_packed {
        packed_rows(operand, problem, 0)
    } else {
        separate_rows(operand, [0, 2, 1])
    }
}

/// What a kernel is made for.
pub(super) struct Launch<'p> {
    pub problem: &'p Problem,
    pub q: Rows,
    pub k: Rows,
    pub v: Rows,
    pub out: Option<Rows>,
    pub dout: Option<Rows>,
    pub gradients: [Strides; 3],
    pub lse: Option<Operand>,
    /// What backward kernels know about queries, and the random key.
    pub statistics: Option<Operand>,
    pub mask: Option<Operand>,
    pub key: Option<Operand>,
}

impl<'p> Launch<'p> {
    /// From the inputs of an operation: operands, `between` others, mask, random key.
    pub fn of(cx: &mut Lowering<'_>, problem: &'p Problem, between: usize) -> Launch<'p> {
        let [q, k, v] = if problem.is_packed {
            let packed = cx.with_dense_rows(&cx.input(0));
            [0, 1, 2].map(|part| packed_rows(packed, problem, part))
        } else {
            [0, 1, 2].map(|index| separate_rows(cx.with_dense_rows(&cx.input(index)), [0, 1, 2]))
        };
        let mut next = problem.operand_count() + between;
        let mut input = |is_there: bool| {
            is_there.then(|| {
                next += 1;
                cx.input(next - 1)
            })
        };
        Launch {
            mask: input(problem.mask.is_some()),
            key: input(problem.dropout.is_some()),
            ..Launch::new(problem, [q, k, v])
        }
    }

    /// Of operands alone.
    pub fn new(problem: &'p Problem, [q, k, v]: [Rows; 3]) -> Launch<'p> {
        Launch {
            problem,
            q,
            k,
            v,
            out: None,
            dout: None,
            gradients: [[0; 4]; 3],
            lse: None,
            statistics: None,
            mask: None,
            key: None,
        }
    }

    /// Whether rows of all the operands can be loaded by vec4.
    pub fn is_vector(&self) -> bool {
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

    /// The kernels' parameters, for `tiles` workgroups a head, or `groups` of something else in all, which visit a part of
    /// the other side's rows.
    pub fn params(&self, tiles: usize, groups: usize, part: Option<&Part>) -> Vec<u32> {
        let problem = self.problem;
        let (probability, stream, is_row_wise) = problem.dropout.map_or((0.0, 0, false), |d| {
            (f32::from_bits(d.probability), d.stream, d.is_row_wise)
        });
        let offset = |operand: Option<Operand>| operand.map_or(0, |operand| operand.offset());
        let mut words = vec![
            problem.queries as u32,
            problem.keys as u32,
            problem.heads as u32,
            problem.reach() as i32 as u32,
            problem.span() as u32,
            problem.ahead() as i32 as u32,
            problem.share() as u32,
            problem.scale().to_bits(),
            tiles as u32,
            groups as u32,
            offset(self.lse),
            offset(self.mask),
            offset(self.key),
            stream,
            (f64::from(probability) * 4_294_967_296.0).round() as u32,
            (1.0 / (1.0 - probability)).to_bits(),
            problem.heads_in_all() as u32,
            part.map_or(0, |part| part.begin as u32),
            part.map_or(0, |part| part.end as u32),
            if is_row_wise { problem.heads as u32 } else { 0 },
        ];
        let at = |rows: Option<Rows>| rows.map_or([0; 4], |rows| rows.at);
        words.extend([self.q.at, self.k.at, self.v.at].concat());
        words.extend([at(self.out), at(self.dout)].concat());
        words.extend(self.gradients.concat());
        if let Some(mask) = self.mask {
            // Not by the shape of the weights: they may be more than a tensor can have.
            let (dims, strides) = (mask.layout.shape.dims(), mask.layout.strides());
            let own = dims.iter().zip(strides);
            let own = own.map(|(&n, &stride)| if n == 1 { 0 } else { stride as u32 });
            words.extend(std::iter::repeat_n(0, 4 - dims.len()).chain(own));
        } else {
            words.extend([0; 4]);
        }
        words
    }

    /// The kernel with mask, bias and dropout put in, from `operands` on which they may bind more. The random key is
    /// at the start of the statistics where there are some.
    pub fn kernel(&self, mut kernel: Kernel, mut operands: Operands) -> Kernel {
        let problem = self.problem;
        let score = if problem.alibi {
            kernel = kernel.declare(SLOPE);
            "score - head.slope * f32(abs(i32(i) + p.reach - 1 - p.ahead - i32(j)))"
        } else {
            "score"
        };
        if let Some(kind) = problem.mask {
            let (element, value) = match kind {
                MaskKind::Additive => ("f32", "select(biased + m, UNSEEN, m <= UNSEEN)"),
                // The sign bit of −0 does not count.
                MaskKind::BooleanF32 => ("u32", "select(UNSEEN, biased, (m << 1u) != 0u)"),
                MaskKind::BooleanU32 => ("u32", "select(UNSEEN, biased, m != 0u)"),
            };
            operands = operands.buffer("mask", "read", element);
            let text = format!(
                "fn masked(score: f32, seen: bool, head: Head, i: u32, j: u32) -> f32 {{\n    \
                 if (!seen) {{ return UNSEEN; }}\n    \
                 let biased = {score};\n    \
                 let m = mask[p.mask_offset + row_at(vec4<u32>(0u, p.mask.xyz), head, i) + j * p.mask.w];\n    \
                 return {value};\n}}\n"
            );
            kernel = kernel.declare(&text);
        } else if problem.alibi {
            let text = format!(
                "fn masked(score: f32, seen: bool, head: Head, i: u32, j: u32) -> f32 {{\n    \
                 return select(UNSEEN, {score}, seen);\n}}\n"
            );
            kernel = kernel.declare(&text);
        }
        if self.problem.dropout.is_some() {
            operands = if self.statistics.is_some() {
                operands.text("fn key_word(n: u32) -> u32 { return statistics[n]; }")
            } else {
                operands
                    .buffer("random_key", "read", "u32")
                    .text("fn key_word(n: u32) -> u32 { return random_key[p.key_offset + n]; }")
            };
            kernel = kernel.declare(DROPOUT);
        }
        kernel.declare(&operands.finish())
    }

    /// The kernel for one of the dispatches that visit some of the other side's rows each.
    pub fn kernel_of_part(&self, kernel: &Kernel, part: &Part) -> Kernel {
        let kernel = kernel.clone();
        let kernel = kernel.flag("CONTINUED", !part.is_first);
        kernel.flag("UNFINISHED", !part.is_last)
    }

    /// Binds mask and random key behind the rest, as [`Launch::kernel`] declares them.
    pub fn bind(&self, mut dispatch: Dispatch) -> Dispatch {
        let key = self.key.iter().filter(|_| self.statistics.is_none());
        for operand in self.mask.iter().chain(key) {
            dispatch = dispatch.read(operand);
        }
        dispatch
    }
}
