//! Operands as batches of matrices.

use crate::shape::{Layout, Shape};
use crate::tape::{Lowering, Operand};

/// Iterations of an invocation's loops that a product leaves to those of its epilogue.
pub(super) const LEFT_FOR_STORES: usize = 1 << 13;

/// An operand as a batch of matrices: strides of batch, row and column.
pub(super) struct Matrices {
    pub operand: Operand,
    pub batch: usize,
    pub row: usize,
    pub column: usize,
}

impl Matrices {
    /// Whether rows lie one after the other, rather than columns.
    pub fn is_row_major(&self) -> bool {
        self.column == 1
    }

    /// The distance between rows, or columns, whichever are apart.
    pub fn leading(&self) -> usize {
        if self.is_row_major() {
            self.row
        } else {
            self.column
        }
    }

    pub fn offset(&self) -> usize {
        self.operand.layout.offset
    }
}

/// Sees input `index` as `[batch, rows, columns]`, one of rows and columns with stride 1. Copies where strides don't
/// allow that.
pub(super) fn matrices(
    cx: &mut Lowering<'_>,
    index: usize,
    output: Shape,
    extents: [usize; 3],
) -> Matrices {
    // Broadcast the batch axes, unless they are part of the rows.
    let full = |operand: Operand| -> Operand {
        let layout = operand.layout;
        let rank = layout.shape.rank();
        if extents[0] == 1 {
            return operand;
        }
        let mut dims = output.dims()[..output.rank() - 2].to_vec();
        dims.extend(&layout.shape.dims()[rank - 2..]);
        let layout = layout.broadcast_to(Shape::new(&dims));
        operand.with_layout(layout.expect("recorded as the batches broadcast"))
    };
    let view = |operand: Operand| -> Option<Matrices> {
        let layout = operand.layout;
        let grid = layout.reshape(Shape::new(&extents))?;
        let &[batch, mut row, mut column] = grid.strides() else {
            unreachable!("the shape has three axes");
        };
        // The stride of an axis of extent one is free: choose what makes the matrix dense.
        let [_, rows, columns] = extents;
        if columns == 1 && row != 1 {
            column = 1;
        } else if rows == 1 && column != 1 {
            row = 1;
        }
        if rows == 1 && column == 1 {
            row = columns;
        }
        if columns == 1 && row == 1 {
            column = rows;
        }
        let is_matrix = (column == 1 && (row >= columns || rows == 1))
            || (row == 1 && (column >= rows || columns == 1));
        is_matrix.then_some(Matrices {
            operand: operand.with_layout(Layout::strided(
                Shape::new(&extents),
                layout.offset,
                &[batch, row, column],
            )),
            batch,
            row,
            column,
        })
    };
    let input = cx.input(index);
    // One stride takes a kernel through a batch. A copy repeats what is broadcast only where no stride can.
    if let Some(matrices) = view(full(input)) {
        return matrices;
    }
    let dense = input.with_layout(Layout::contiguous(input.shape(), 0));
    let copied = match view(full(dense)) {
        Some(_) => input,
        None => full(input),
    };
    let copy = cx.contiguous_copy(&copied);
    view(full(copy)).expect("dense operands are matrices")
}

/// Whether each operand of a product can be loaded in vectors of so many elements, which are none of two lines.
pub(super) fn aligned(
    a: &Matrices,
    b: &Matrices,
    [_, rows, columns]: [usize; 3],
    depth: usize,
    gated: bool,
    width: usize,
) -> [bool; 2] {
    // What a vector of columns may begin at.
    let columns = if gated { columns / 2 } else { columns };
    let inner = |matrices: &Matrices, row_length: usize, column_length: usize| match matrices
        .is_row_major()
    {
        true => row_length,
        false => column_length,
    };
    [(a, inner(a, depth, rows)), (b, inner(b, columns, depth))].map(|(matrices, inner)| {
        let steps = [inner, matrices.leading(), matrices.offset(), matrices.batch];
        steps.iter().all(|n| n.is_multiple_of(width))
    })
}
