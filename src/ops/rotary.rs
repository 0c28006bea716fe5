//! Rotary position embedding of the heads of a packed projection.
//!
//! The pair `(xᵢ, xᵢ₊ₕ)`, `h` being half the head's extent, turns by the angle `t·base^(−i/h)` at position `t`. Su et
//! al. 2021, "RoFormer: Enhanced Transformer with Rotary Position Embedding"; the pairs are those of GPT-NeoX.
//!
//! Cosines and sines come from a [table](rotary_table) that the host computes in `f64`: on GPUs, neither `t·base^(−i/h)`
//! nor the sine of a large angle is good enough in `f32`.

use std::hash::Hash;

use super::{Operation, Takes, TensorType, require_floats};
use crate::gpu::Kernel;
use crate::tape::{Backward, Dispatch, Lowering, Signature, Var};

/// `[…, T, heads·D]` and a table `[T, D]` → `[…, T, heads·D]`
#[derive(Clone, Debug, Hash)]
struct Rotary {
    /// How many heads are turned, from the row's start. The others pass unchanged.
    turned: usize,
    /// Whether angles count backwards, which undoes the turn: the gradient.
    inverse: bool,
}

impl Operation for Rotary {
    fn name(&self) -> &'static str {
        "rotary"
    }

    fn identity(&self, signature: &mut Signature) {
        self.hash(signature);
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        require_floats("rotary", inputs);
        let (shape, table) = (inputs[0].shape, inputs[1].shape);
        let fits = shape.rank() >= 2
            && table.rank() == 2
            && table.dim(0) == shape.dim(shape.rank() - 2)
            && table.last().is_multiple_of(2)
            && shape.last().is_multiple_of(table.last())
            && self.turned * table.last() <= shape.last();
        assert!(
            fits,
            "rotary: {} heads in {shape} do not go with a table {table} of [positions, even head extent]",
            self.turned
        );
        vec![TensorType { shape, ..inputs[0] }]
    }

    fn takes(&self, _index: usize) -> Takes {
        Takes::Either
    }

    /// Rotations are orthogonal: the gradient turns back. None flows to the table.
    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        let back = Rotary {
            turned: self.turned,
            inverse: !self.inverse,
        };
        let inputs = [node.gradient(0), node.input(1)];
        vec![Some(node.tape().record(back, &inputs)), None]
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        let input = cx.contiguous(&cx.input(0));
        let mut table = cx.input(1);
        if table.layout.strides()[1] != 1 {
            table = cx.contiguous(&table);
        }
        let output = cx.output(0);
        let half = table.shape().last() / 2;
        let stride = table.layout.strides()[0];
        let places = [input, table, output].map(|operand| operand.layout.offset);
        let vector = [half, stride]
            .iter()
            .chain(&places)
            .all(|extent| extent.is_multiple_of(4));
        let kernel = Kernel::builtin("rotary", "rotary", "rotary");
        let (kernel, width) = match vector {
            true => (kernel.declare("alias T = vec4<f32>;\n"), 4),
            false => (kernel, 1),
        };
        let count = input.elements() / 2 / width;
        let sizes = [
            count,
            input.shape().last() / 2 / width,
            half / width,
            self.turned,
            table.shape().dim(0),
            places[0] / width,
            places[1] / width,
            stride / width,
            places[2] / width,
        ];
        let sign = if self.inverse { -1f32 } else { 1.0 };
        cx.dispatch(
            Dispatch::new(kernel)
                .iterations(0)
                .read(&input)
                .read(&table)
                .write(&output)
                .params(&sizes.map(|size| size as u32))
                .params(&[sign.to_bits()])
                .groups(count.div_ceil(64))
                .cost(
                    3 * input.elements() as u64,
                    input.bytes() + table.bytes() + output.bytes(),
                ),
        );
    }
}

/// The table that [`Var::rotary`] takes, `[positions, head_dim]` in row-major order: for each position `t` the cosines
/// of `t·base^(−2i/head_dim)` for `i` up to half of `head_dim`, then the sines. Computed in `f64`.
///
/// # Panics
///
/// If `head_dim` is odd, or `base` is not a finite number above 0.
#[track_caller]
pub fn rotary_table(positions: usize, head_dim: usize, base: f64) -> Vec<f32> {
    assert!(
        head_dim.is_multiple_of(2),
        "rotary_table: a head of {head_dim} has no pairs"
    );
    assert!(
        base.is_finite() && base > 0.0,
        "rotary_table: the base {base} is not a finite number above 0"
    );
    let frequency = |i: usize| base.powf(-((2 * i) as f64) / head_dim as f64);
    let frequencies: Vec<f64> = (0..head_dim / 2).map(frequency).collect();
    rotary_table_of(positions, &frequencies)
}

/// [`rotary_table`] of any frequencies: the angle of each pair at position 1.
pub fn rotary_table_of(positions: usize, frequencies: &[f64]) -> Vec<f32> {
    let mut table = Vec::with_capacity(positions * frequencies.len() * 2);
    for t in 0..positions {
        let angles = frequencies.iter().map(|frequency| t as f64 * frequency);
        table.extend(angles.clone().map(|angle| angle.cos() as f32));
        table.extend(angles.map(|angle| angle.sin() as f32));
    }
    table
}

impl<'t> Var<'t> {
    /// Rotary position embedding: turns the first `heads` heads of every row `[…, T, heads·D + rest]` by the angles of
    /// `table`, a [`rotary_table`] as a tensor `[T, D]`; the rest of the row passes unchanged. For a packed projection
    /// `[q, k, v]` pass twice the number of heads. No gradient flows to the table.
    ///
    /// # Panics
    ///
    /// If the table's rows are not as many as the positions, or the row is not made of heads of the table's extent.
    #[track_caller]
    pub fn rotary(self, table: Var<'t>, heads: usize) -> Var<'t> {
        let operation = Rotary {
            turned: heads,
            inverse: false,
        };
        self.tape.record(operation, &[self, table])
    }
}
