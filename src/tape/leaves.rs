//! What a tape begins with: data of this step, persistent tensors, and what random operations draw from.

use std::sync::atomic::Ordering::Relaxed;

use super::record::{Tape, Var};
use crate::gpu::{Element, Tensor};
use crate::shape::Shape;

impl Tape {
    /// Puts data on the tape that may differ every time a tape of this structure is run.
    ///
    /// # Panics
    ///
    /// If `data` has not as many elements as the shape.
    #[track_caller]
    pub fn input<E: Element>(&self, shape: impl Into<Shape>, data: &[E]) -> Var<'_> {
        self.push_input(shape.into(), data, false)
    }

    /// Like [`Tape::input`], but with a gradient: a leaf that [`Tape::backward`] reports on.
    #[track_caller]
    pub fn variable(&self, shape: impl Into<Shape>, data: &[f32]) -> Var<'_> {
        self.push_input(shape.into(), data, true)
    }

    /// A scalar that is data, not part of the tape's structure: learning rates, loss weights, seeds.
    pub fn scalar<E: Element>(&self, value: E) -> Var<'_> {
        self.input(Shape::SCALAR, &[value])
    }

    #[track_caller]
    fn push_input<E: Element>(&self, shape: Shape, data: &[E], variable: bool) -> Var<'_> {
        assert!(
            data.len() == shape.elements(),
            "input: shape {shape} is not filled by {} values",
            data.len()
        );
        let id = self.graph.borrow_mut().push_input(
            shape,
            E::DTYPE,
            bytemuck::cast_slice(data),
            variable,
        );
        self.var(id)
    }

    /// Puts a persistent tensor on the tape. The plan binds its buffer directly; nothing is copied. Operations read it as
    /// it is where they are recorded, before or after an [assignment](Tape::assign).
    ///
    /// # Panics
    ///
    /// If another device holds the tensor.
    #[track_caller]
    pub fn tensor(&self, tensor: &Tensor) -> Var<'_> {
        self.bind(tensor, false)
    }

    /// Like [`Tape::tensor`], but with a gradient. Asking for the same tensor again gives the same leaf.
    ///
    /// # Panics
    ///
    /// As [`Tape::tensor`].
    #[track_caller]
    pub fn tensor_variable(&self, tensor: &Tensor) -> Var<'_> {
        self.bind(tensor, true)
    }

    #[track_caller]
    fn bind(&self, tensor: &Tensor, variable: bool) -> Var<'_> {
        assert!(
            tensor.device().is(&self.device),
            "tensor: it is held by another device than the tape's"
        );
        let id = self.graph.borrow_mut().push_tensor(tensor, variable);
        self.var(id)
    }

    /// A stream number for a random operation: the n-th one on a tape always gets the same.
    pub(crate) fn next_random_stream(&self) -> u32 {
        let mut graph = self.graph.borrow_mut();
        graph.random_streams += 1;
        graph.random_streams
    }

    /// The tape's random key, set by [`Tape::set_seed`].
    pub(crate) fn random_key(&self) -> Var<'_> {
        let key = self.graph.borrow().random_key;
        key.map(|id| self.var(id)).unwrap_or_else(|| {
            let drawing = &self.device.shared.tapes_drawing;
            self.set_seed(0, drawing.fetch_add(1, Relaxed))
        })
    }

    /// Whether a value of this shape has the rows of [`Tape::set_rows`].
    pub(crate) fn is_row_wise(&self, shape: Shape) -> bool {
        let rows = self.graph.borrow().rows;
        rows.is_some_and(|(_, rows)| shape.rank() > 1 && shape.dim(0) == rows)
    }

    /// Says that this tape's batch is `rows` rows of a larger one, those from `first` on: random operations on values
    /// of two axes or more, the first of `rows`, such as dropout and attention's, then draw what they would draw for these rows
    /// of the larger batch. So a batch that several tapes or devices share is dropped as one tape drops it.
    ///
    /// `first` is data, as the [seed](Tape::set_seed) is. Call it before `set_seed`.
    ///
    /// # Panics
    ///
    /// If the random key has been set, or drawn from, before; if `first` is 2³² or more.
    #[track_caller]
    pub fn set_rows(&self, first: usize, rows: usize) {
        let mut graph = self.graph.borrow_mut();
        assert!(
            graph.random_key.is_none(),
            "set_rows: the random key has been set already: call it before Tape::set_seed"
        );
        let Ok(first) = u32::try_from(first) else {
            panic!("set_rows: there are no batches of more than {first} rows");
        };
        graph.rows = Some((first, rows));
    }

    /// Sets what random operations on this tape draw from: a seed and a step number. Both are data.
    ///
    /// Without this call, the seed is zero and the step is how many tapes of the device have drawn without it before: so
    /// successive tapes draw different numbers, and a program that records the same tapes in the same order draws the same
    /// each time it runs. A training loop that is to continue from a checkpoint to the same bits sets both.
    ///
    /// Call it before the first random operation is recorded; later ones only affect what follows.
    pub fn set_seed(&self, seed: u64, step: u64) -> Var<'_> {
        let words = [
            seed as u32,
            (seed >> 32) as u32,
            step as u32,
            (step >> 32) as u32,
            self.graph.borrow().rows.map_or(0, |(first, _)| first),
        ];
        let key = self.input([5], &words);
        self.graph.borrow_mut().random_key = Some(key.id);
        key
    }
}
