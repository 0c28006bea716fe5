//! Dropout with a mask that is never stored.
//!
//! ```text
//! out = x · mask / (1 − p)        mask = 0 with probability p, else 1, for each element by itself
//! dx = dout · mask / (1 − p)
//! ```
//!
//! Srivastava et al. 2014, "Dropout: A Simple Way to Prevent Neural Networks from Overfitting". The mask comes from a
//! counter-based generator, so the gradient draws it again: seed, step, the operation's position among the tape's random
//! operations and the element's position determine it.

use super::{Operation, Role, Takes, TensorType, epilogue, row_grid, scalar_loads};
use crate::gpu::{AdapterClass, Kernel};
use crate::shape::Shape;
use crate::tape::{Backward, Dispatch, Lowering, Var};

/// `x`, the tape's random key → `x` with some elements zero.
#[derive(Clone, Debug, Hash)]
struct Dropout {
    /// The bits of `p`.
    probability: u32,
    stream: u32,
    /// Whether the first axis is what [`Tape::set_rows`](crate::Tape::set_rows) counts the rows of.
    is_row_wise: bool,
}

impl Operation for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        vec![inputs[0]]
    }

    fn takes(&self, _index: usize) -> Takes {
        Takes::Either
    }

    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        let inputs = [node.gradient(0), node.input(1)];
        vec![Some(node.tape().record(self.clone(), &inputs)), None]
    }

    fn role(&self, output: TensorType) -> Role<'_> {
        epilogue(row_grid(output.shape))
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        let grid = row_grid(cx.input(0).shape());
        let input = cx.reshaped(&cx.input(0), Shape::new(&grid));
        let key = cx.contiguous(&cx.input(1));
        let [batch, rows, columns] = grid;
        let &[batch_stride, row_stride, column_stride] = input.layout.strides() else {
            unreachable!("the grid has three axes");
        };
        let steps = [columns, batch_stride, row_stride, input.layout.offset];
        let quads = column_stride == 1 && steps.iter().all(|step| step.is_multiple_of(4));
        let unit = if quads { 4 } else { 1 };
        let probability = f64::from(f32::from_bits(self.probability));
        let words = [
            columns as u32,
            rows as u32,
            (batch * rows) as u32,
            self.stream,
            (probability * 2f64.powi(32)).round() as u32,
            ((1.0 / (1.0 - probability)) as f32).to_bits(),
            key.offset(),
            (input.layout.offset / unit) as u32,
            (batch_stride / unit) as u32,
            (row_stride / unit) as u32,
            column_stride as u32,
            places_each(self.is_row_wise, cx.input(0).shape(), columns),
        ];
        let epilogue = cx.epilogue(3);
        let (lanes, rows_each) = match cx.class() {
            AdapterClass::Software => (8, 16),
            AdapterClass::Gpu => (32, 1),
        };
        let mut kernel = Kernel::builtin("dropout", "dropout", "dropout")
            .constant("LANES", lanes)
            .constant("ROWS", rows_each)
            .declare(&epilogue.wgsl);
        if !quads {
            kernel = kernel.declare(&scalar_loads("input"));
        }
        let groups = (batch * rows).div_ceil(rows_each) * columns.div_ceil(4 * lanes);
        cx.dispatch(
            Dispatch::new(kernel)
                .read(&input)
                .read(&key)
                .params(&words)
                .epilogue(&epilogue)
                // Ten rounds of the generator.
                .iterations(rows_each * (12 + epilogue.iterations) + 1)
                .groups(groups)
                .cost(input.elements() as u64, input.bytes() + epilogue.bytes),
        );
    }
}

/// How many runs of `columns` elements a row of the batch has that the random key counts rows of; none if the value has
/// other rows.
pub(super) fn places_each(is_row_wise: bool, shape: Shape, columns: usize) -> u32 {
    match is_row_wise {
        true => (shape.elements() / shape.dim(0) / columns) as u32,
        false => 0,
    }
}

impl<'t> Var<'t> {
    /// Zeros each element with the given probability and scales the others by `1/(1 − probability)`. On an
    /// [inference](crate::Tape::inference) tape, and for probability zero, this is the value itself.
    ///
    /// What is dropped depends on [`Tape::set_seed`](crate::Tape::set_seed) and on how many random operations the tape
    /// has recorded before; nothing else, so a step can be repeated.
    ///
    /// # Panics
    ///
    /// If the probability is not in `0.0..1.0`, or the element type is not `F32`.
    #[track_caller]
    pub fn dropout(self, probability: f32) -> Var<'t> {
        assert!(
            (0.0..1.0).contains(&probability),
            "dropout: probability {probability} is not in 0.0..1.0"
        );
        assert!(
            self.dtype().is_float(),
            "dropout: the input is {:?} {}, expected F32 or F16",
            self.dtype(),
            self.shape()
        );
        let tape = self.tape;
        if probability == 0.0 || !tape.is_training() {
            return self;
        }
        let dropout = Dropout {
            probability: probability.to_bits(),
            stream: tape.next_random_stream(),
            is_row_wise: tape.is_row_wise(self.shape()),
        };
        tape.record(dropout, &[self, tape.random_key()])
    }
}
