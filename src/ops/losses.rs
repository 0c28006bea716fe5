//! Losses that other operations make up. [`Var::cross_entropy`] has kernels of its own.

use crate::gpu::DType;
use crate::tape::Var;

impl<'t> Var<'t> {
    /// The mean squared error `mean((x − target)²)`, a scalar.
    ///
    /// ```
    /// # fn main() -> shadegrad::Result<()> {
    /// use shadegrad::{Device, Tape};
    ///
    /// let device = Device::new()?;
    /// let tape = Tape::training(&device);
    /// let x = tape.variable([2], &[1.0, 5.0]);
    /// let loss = tape.fetch::<f32>(x.mse(tape.input([2], &[0.0f32, 3.0])));
    /// tape.run()?;
    /// assert_eq!(loss.item()?, 2.5);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// If the shapes differ: nothing is broadcast, so that `[N]` against `[N, 1]` is no mean over `N²` pairs.
    #[track_caller]
    pub fn mse(self, target: Var<'t>) -> Var<'t> {
        require_equal_shapes("mse", self, target);
        // Halves don't hold the squares of what they hold.
        let error = self.cast(DType::F32) - target;
        (error * error).mean_all()
    }

    /// The mean binary cross-entropy of independent yes-or-no answers, a scalar: `x` are logits, whose
    /// [`sigmoid`](Var::sigmoid) `p` is the probability of a yes, and `target` is 1 for a yes and 0 for a no, or between:
    ///
    /// ```text
    /// −mean(t·ln p + (1 − t)·ln(1 − p)) = mean(t·ln(1 + e⁻ˣ) + (1 − t)·ln(1 + eˣ))
    /// ```
    ///
    /// The right side, which is computed, neither overflows nor loses what is small; PyTorch calls it
    /// `binary_cross_entropy_with_logits`. The gradient is `(p − t)/N`.
    ///
    /// # Panics
    ///
    /// If the shapes differ.
    #[track_caller]
    pub fn binary_cross_entropy(self, target: Var<'t>) -> Var<'t> {
        require_equal_shapes("binary_cross_entropy", self, target);
        let x = self.cast(DType::F32);
        (target * (-x).softplus() + (1.0 - target) * x.softplus()).mean_all()
    }
}

#[track_caller]
fn require_equal_shapes(operation: &str, x: Var<'_>, target: Var<'_>) {
    let (shape, other) = (x.shape(), target.shape());
    assert!(
        shape == other,
        "{operation}: values of shape {shape} and targets of shape {other}, expected equal ones"
    );
}
