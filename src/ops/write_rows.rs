//! Rows written into a persistent tensor at places that are data: how caches grow.

use super::{Operation, Takes, TensorType};
use crate::gpu::{DType, Kernel, Tensor};
use crate::shape::Shape;
use crate::tape::{Backward, Dispatch, Lowering, Tape, Var};

/// Inputs: a persistent tensor `[B, C, W]`, which is overwritten in part, rows `[B, T, W]`, and starts `[B]`.
#[derive(Debug, Hash)]
struct WriteRows;

impl Operation for WriteRows {
    fn name(&self) -> &'static str {
        "write_rows"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let [to, rows, starts] = [0, 1, 2].map(|index| inputs[index].shape);
        let fits = to.rank() == 3
            && rows == to.with_dim(1, rows.dim(rows.rank().saturating_sub(2)))
            && rows.dim(1) <= to.dim(1)
            && starts == Shape::new(&[to.dim(0)]);
        let types = [0, 1, 2].map(|index| inputs[index].dtype);
        assert!(
            fits && types[0].is_float() && types[1] == types[0] && types[2] == DType::U32,
            "write_rows: rows {rows} from starts {starts} on do not fit into {to}, expected {:?} [B, T, W] and U32 [B] for \
             [B, C, W] of F32 or F16",
            types[0]
        );
        Vec::new()
    }

    fn takes(&self, _index: usize) -> Takes {
        Takes::Either
    }

    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        node.not_differentiable("it changes a tensor, it is not a part of the model")
    }

    fn mutates(&self) -> &[usize] {
        &[0]
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        let to = cx.input(0);
        let rows = cx.with_dense_rows(&cx.input(1));
        let starts = cx.contiguous(&cx.input(2));
        let [batch_stride, row_stride, _] = [0, 1, 2].map(|axis| rows.layout.strides()[axis]);
        let params = [
            rows.elements() as u32,
            rows.shape().last() as u32,
            rows.shape().dim(1) as u32,
            to.shape().dim(1) as u32,
            to.offset(),
            rows.offset(),
            batch_stride as u32,
            row_stride as u32,
            starts.offset(),
        ];
        cx.dispatch(
            Dispatch::new(Kernel::builtin("write_rows", "write_rows", "write_rows"))
                .iterations(0)
                .write(&to)
                .read(&rows)
                .read(&starts)
                .params(&params)
                .groups(rows.elements().div_ceil(64))
                .cost(0, 2 * rows.bytes() + starts.bytes()),
        );
    }
}

impl Tape {
    /// Overwrites rows of a persistent tensor when the tape runs, after everything recorded so far that reads it:
    /// `destination[b, starts[b] + t, :] = rows[b, t, :]` for a destination `[B, C, W]`, `rows` `[B, T, W]` and `starts`
    /// `U32 [B]`. Rows that would lie beyond the destination are not written.
    ///
    /// Where the rows go is data: the same plan serves every place.
    ///
    /// ```
    /// # fn main() -> shadegrad::Result<()> {
    /// use shadegrad::{DType, Device, Tape, Tensor};
    ///
    /// let device = Device::new()?;
    /// let cache = Tensor::zeros(&device, [2, 3, 1], DType::F32)?;
    /// let tape = Tape::inference(&device);
    /// let rows = tape.input([2, 1, 1], &[5.0, 6.0]);
    /// tape.write_rows(&cache, rows, tape.input([2], &[2, 0]));
    /// tape.run()?;
    /// assert_eq!(cache.to_vec::<f32>()?, [0.0, 0.0, 5.0, 6.0, 0.0, 0.0]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// If shapes or element types do not fit, or another device holds the destination.
    #[track_caller]
    pub fn write_rows(&self, destination: &Tensor, rows: Var<'_>, starts: Var<'_>) {
        let destination = self.tensor(destination);
        self.record_all(
            WriteRows,
            &[destination, rows.cast(destination.dtype()), starts],
        );
    }
}
