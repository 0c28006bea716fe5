//! Random tensors, from the generator that dropout uses: Philox4x32-10, keyed by the tape's seed and step.

use super::dropout::places_each;
use super::{Operation, Role, TensorType, epilogue, row_grid};
use crate::gpu::Kernel;
use crate::shape::Shape;
use crate::tape::{Backward, Dispatch, Lowering, Tape, Var};

/// The tape's random key → independent random numbers.
#[derive(Clone, Debug, Hash)]
struct Random {
    shape: Shape,
    stream: u32,
    /// Whether the first axis is what [`Tape::set_rows`] counts the rows of.
    is_row_wise: bool,
    /// The shader's entry point.
    distribution: &'static str,
}

impl Operation for Random {
    fn name(&self) -> &'static str {
        "random"
    }

    fn outputs(&self, _inputs: &[TensorType]) -> Vec<TensorType> {
        vec![TensorType::f32(self.shape)]
    }

    fn backward<'t>(&self, _node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        vec![None]
    }

    fn role(&self, output: TensorType) -> Role<'_> {
        epilogue(row_grid(output.shape))
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        let key = cx.contiguous(&cx.input(0));
        let [batch, rows, columns] = row_grid(self.shape);
        let words = [
            columns as u32,
            rows as u32,
            (batch * rows) as u32,
            self.stream,
            key.offset(),
            places_each(self.is_row_wise, self.shape, columns),
            0,
            0,
        ];
        let epilogue = cx.epilogue(2);
        let kernel = Kernel::builtin("random", "random", self.distribution).declare(&epilogue.wgsl);
        cx.dispatch(
            Dispatch::new(kernel)
                .read(&key)
                .params(&words)
                .epilogue(&epilogue)
                .iterations(11 + epilogue.iterations)
                .groups((batch * rows * columns.div_ceil(4)).div_ceil(64))
                .cost(0, epilogue.bytes),
        );
    }
}

impl Tape {
    /// Random numbers from `0.0..1.0`, evenly spread, multiples of 2⁻²⁴.
    ///
    /// Which ones depends on [`Tape::set_seed`] and on how many random operations have been recorded before.
    #[track_caller]
    pub fn random_uniform(&self, shape: impl Into<Shape>) -> Var<'_> {
        self.random(shape.into(), "uniform_numbers")
    }

    /// Random numbers from the normal distribution with mean 0 and standard deviation 1. See [`Tape::random_uniform`].
    #[track_caller]
    pub fn random_normal(&self, shape: impl Into<Shape>) -> Var<'_> {
        self.random(shape.into(), "normal_numbers")
    }

    #[track_caller]
    fn random(&self, shape: Shape, distribution: &'static str) -> Var<'_> {
        let random = Random {
            shape,
            stream: self.next_random_stream(),
            is_row_wise: self.is_row_wise(shape),
            distribution,
        };
        self.record(random, &[self.random_key()])
    }
}
