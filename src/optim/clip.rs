//! The global norm of the gradient, and the factor that clips it.
//!
//! ```text
//! norm = √ Σ g²        scale = min(1, clip / (norm + 10⁻⁶))
//! ```
//!
//! Pascanu, Mikolov and Bengio, *On the difficulty of training recurrent neural networks* (2013), with the constant of
//! PyTorch's `clip_grad_norm_`. The sum runs in a fixed order: the same gradient has the same norm, to the bit.

use crate::gpu::{AdapterClass, DType, Kernel, Tensor};
use crate::ops::{Operation, TensorType};
use crate::shape::Shape;
use crate::tape::{Backward, Dispatch, Lowering, Signature, Tape, Var};

/// How many vec4s a workgroup that sums squares takes, at least.
const CHUNK: usize = 1024;

/// About so many workgroups do it on GPUs, however many gradients there are, so that their sums are soon added up.
const MOST_SUMS: usize = 1024;

/// Norm, scale and loss as the update kernels take them. Inputs: the loss, the clip, the segments.
#[derive(Debug)]
struct GradientNorm;

/// Records the norm of a flat gradient. Gives the norm as a scalar, and the `control` input of [`Gradients::update`](super::gradients::Gradients::update).
pub(super) fn global_norm<'t>(
    tape: &'t Tape,
    segments: &[Tensor],
    loss: Var<'t>,
    clip: Option<f32>,
) -> (Var<'t>, Var<'t>) {
    let mut inputs = vec![loss, tape.scalar(clip.unwrap_or(0.0))];
    inputs.extend(segments.iter().map(|segment| tape.tensor(segment)));
    let control = tape.record(GradientNorm, &inputs);
    (control.slice(0, 0..1).reshape(Shape::SCALAR), control)
}

impl Operation for GradientNorm {
    fn name(&self) -> &'static str {
        "gradient_norm"
    }

    fn identity(&self, _signature: &mut Signature) {}

    fn outputs(&self, _inputs: &[TensorType]) -> Vec<TensorType> {
        vec![TensorType::f32(Shape::from([4]))]
    }

    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        node.not_differentiable("it belongs to the update, not to the model")
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        let (loss, clip, control) = (cx.input(0), cx.input(1), cx.output(0));
        let segments: Vec<_> = (2..cx.input_count()).map(|i| cx.input(i)).collect();
        let (sum_squares, norm) = match cx.class() {
            AdapterClass::Software => ("sum_squares_serial", "norm_serial"),
            AdapterClass::Gpu => ("sum_squares", "norm"),
        };
        let vectors: usize = segments.iter().map(|segment| segment.elements() / 4).sum();
        let most_sums = match cx.class() {
            // One invocation adds them up.
            AdapterClass::Software => cx.most_iterations() / 2,
            AdapterClass::Gpu => MOST_SUMS,
        };
        let chunk = CHUNK * vectors.div_ceil(CHUNK * most_sums);
        let groups = |elements: usize| (elements / 4).div_ceil(chunk);
        let count = segments
            .iter()
            .map(|segment| groups(segment.elements()))
            .sum();
        let partials = cx.temp([count], DType::F32);
        let mut first = 0;
        for segment in &segments {
            let count = groups(segment.elements());
            let params = Params {
                vectors: segment.elements() / 4,
                count,
                first,
                chunk,
                ..Params::default()
            };
            cx.dispatch(
                Dispatch::new(kernel(sum_squares))
                    .read(segment)
                    .write(&partials)
                    .params(&params.words())
                    .groups(count)
                    .iterations(chunk / 2 + 8)
                    .cost(2 * segment.elements() as u64, segment.bytes()),
            );
            first += count;
        }
        let params = Params {
            count,
            loss: loss.offset(),
            clip: clip.offset(),
            control: control.offset(),
            ..Params::default()
        };
        cx.dispatch(
            Dispatch::new(kernel(norm))
                .read(&partials)
                .read(&loss)
                .read(&clip)
                .write(&control)
                .params(&params.words())
                .iterations(count + 8)
                .cost(count as u64, partials.bytes()),
        );
    }
}

/// One of the kernels in `shaders/optim.wgsl`.
fn kernel(entry: &'static str) -> Kernel {
    Kernel::builtin(entry, "optim", entry)
}

/// A launch over a whole segment, of a kernel that takes `WIDTH · EACH` vec4s a workgroup.
pub(super) fn over_segment(class: AdapterClass, entry: &'static str, vectors: usize) -> Dispatch {
    let (width, each) = match class {
        AdapterClass::Software => (8, 32),
        AdapterClass::Gpu => (256, 1),
    };
    let kernel = kernel(entry)
        .constant("WIDTH", width)
        .constant("EACH", each);
    // At most a run of parameters begins with each vec4; runs are found by halving.
    let iterations = each + 3 * width * each + 64;
    Dispatch::new(kernel)
        .groups(vectors.div_ceil(width * each))
        .iterations(iterations)
}

/// The uniform parameters that the kernels in `shaders/optim.wgsl` share.
#[derive(Default)]
pub(super) struct Params {
    pub vectors: usize,
    pub runs: usize,
    /// In elements, as the next; a multiple of four, as inputs start at multiples of 16 bytes.
    pub runs_offset: u32,
    /// Likewise.
    pub values: u32,
    pub control: u32,
    pub count: usize,
    pub first: usize,
    pub loss: u32,
    pub clip: u32,
    pub chunk: usize,
}

impl Params {
    pub fn words(&self) -> [u32; 10] {
        [
            self.vectors as u32,
            self.runs as u32,
            self.runs_offset / 4,
            self.values / 4,
            self.control,
            self.count as u32,
            self.first as u32,
            self.loss,
            self.clip,
            self.chunk as u32,
        ]
    }
}
