//! Columns of a matrix in blocks of rows: the second factor of several low-rank products that are computed as one.
//!
//! ```text
//! [b₀ b₁]  →  [b₀  0  0]        for the ranges of b₀ and b₁ among the columns on the right
//!             [ 0  0 b₁]
//! ```

use std::ops::Range;

use super::{Operation, Takes, TensorType};
use crate::gpu::Kernel;
use crate::tape::{Backward, Dispatch, Lowering, Var};

/// As many blocks as a kernel is told of.
pub(crate) const MOST_BLOCKS: usize = 4;

/// Spreads the columns of a matrix, or collects them again: each is the other's gradient.
#[derive(Clone, Debug, Hash)]
struct Blocks {
    columns: Vec<Range<usize>>,
    /// Columns of the blocks.
    wide: usize,
    collects: bool,
}

impl Blocks {
    /// Columns of the matrix.
    fn narrow(&self) -> usize {
        self.columns.iter().map(Range::len).sum()
    }
}

impl Operation for Blocks {
    fn name(&self) -> &'static str {
        if self.collects { "collect" } else { "spread" }
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let (rows, count) = (inputs[0].shape.dim(0), self.columns.len());
        let shape = match self.collects {
            true => [rows / count, self.narrow()],
            false => [rows * count, self.wide],
        };
        vec![inputs[0].with_shape(shape)]
    }

    fn takes(&self, _index: usize) -> Takes {
        match self.collects {
            true => Takes::Either,
            false => Takes::Half,
        }
    }

    /// It is linear, and its transpose is the other.
    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        let other = Blocks {
            collects: !self.collects,
            ..self.clone()
        };
        vec![Some(node.tape().record(other, &[node.gradient(0)]))]
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        let (input, output) = (cx.contiguous(&cx.input(0)), cx.output(0));
        let matrix = if self.collects { &output } else { &input };
        let rows = matrix.shape().dim(0);
        let mut params = [
            [output.elements() as u32, rows as u32, 0, 0],
            [input.offset(), output.offset(), 0, 0],
            [0; MOST_BLOCKS],
            [0; MOST_BLOCKS],
            [u32::MAX; MOST_BLOCKS],
        ];
        params[0][2..].copy_from_slice(&[self.narrow() as u32, self.wide as u32]);
        let mut first = 0;
        for (block, columns) in self.columns.iter().enumerate() {
            let values = [columns.start, columns.end, first];
            for (params, value) in params[2..].iter_mut().zip(values) {
                params[block] = value as u32;
            }
            first += columns.len();
        }
        let name = self.name();
        cx.dispatch(
            Dispatch::new(Kernel::builtin(name, "blocks", name))
                .iterations(0)
                .read(&input)
                .write(&output)
                .params(params.as_flattened())
                .groups(output.elements().div_ceil(64))
                .cost(0, input.bytes() + output.bytes()),
        );
    }
}

impl<'t> Var<'t> {
    /// The columns of a matrix `[rows, Σ widths]`, spread over blocks of rows `[blocks·rows, wide]`: block `i` has the next
    /// of them at `columns[i]` and zeros elsewhere. There are up to [`MOST_BLOCKS`] ranges that fit the matrix.
    pub(crate) fn in_blocks(self, columns: &[Range<usize>], wide: usize) -> Var<'t> {
        if columns.len() == 1 && columns[0] == (0..wide) {
            return self;
        }
        let blocks = Blocks {
            columns: columns.to_vec(),
            wide,
            collects: false,
        };
        self.tape.record(blocks, &[self])
    }
}
