//! The global norm of the gradient, and the factor that clips it.
//!
//! ```text
//! norm = √ Σ g²        scale = min(1, clip / (norm + 10⁻⁶))
//! ```
//!
//! Pascanu, Mikolov and Bengio, *On the difficulty of training recurrent neural networks* (2013), with the constant of
//! PyTorch's `clip_grad_norm_`. The sum runs in a fixed order: the same gradient has the same norm, to the bit.

use bytemuck::NoUninit;

use crate::gpu::{AdapterClass, DType, Kernel, Tensor};
use crate::ops::{Operation, TensorType};
use crate::shape::Shape;
use crate::tape::{Backward, Dispatch, Lowering, Tape, Var};

/// How many vec4s a workgroup that sums squares takes, at least.
const CHUNK: usize = 1024;

/// About so many workgroups do it on GPUs, however many gradients there are, so that their sums are soon added up.
const MOST_SUMS: usize = 1024;

/// Norm, scale and loss as the update kernels take them. Inputs: the loss, the clip, the state of the loss scale if there is
/// one, the segments.
#[derive(Debug, Hash)]
struct GradientNorm {
    is_scaled: bool,
}

/// Records the norm of a flat gradient. Gives the `control` input of [`Gradients::update`](super::gradients::Gradients::update):
/// the norm, the factor on the gradient, the loss, and what that was scaled by.
pub(super) fn global_norm<'t>(
    tape: &'t Tape,
    segments: &[Tensor],
    loss: Var<'t>,
    clip: Option<f32>,
    scale: Option<Var<'t>>,
) -> Var<'t> {
    let mut inputs = vec![loss, tape.scalar(clip.unwrap_or(0.0))];
    inputs.extend(scale);
    inputs.extend(segments.iter().map(|segment| tape.tensor(segment)));
    let is_scaled = scale.is_some();
    tape.record(GradientNorm { is_scaled }, &inputs)
}

impl Operation for GradientNorm {
    fn name(&self) -> &'static str {
        "gradient_norm"
    }

    fn outputs(&self, _inputs: &[TensorType]) -> Vec<TensorType> {
        vec![TensorType::f32(Shape::from([4]))]
    }

    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        node.not_differentiable("it belongs to the update, not to the model")
    }

    fn mutates(&self) -> &[usize] {
        if self.is_scaled { &[2] } else { &[] }
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        let (loss, clip, control) = (cx.input(0), cx.input(1), cx.output(0));
        let state = self.is_scaled.then(|| cx.input(2));
        let first = 2 + usize::from(self.is_scaled);
        let segments: Vec<_> = (first..cx.input_count()).map(|i| cx.input(i)).collect();
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
        let counts = segments.iter().map(|segment| groups(segment.elements()));
        let count = counts.sum();
        let partials = cx.temp([count], DType::F32);
        let mut first = 0;
        for segment in &segments {
            let count = groups(segment.elements());
            let params = Params {
                vectors: segment.elements() as u32 / 4,
                count: count as u32,
                first,
                chunk: chunk as u32,
                ..Params::default()
            };
            cx.dispatch(
                Dispatch::new(kernel(sum_squares))
                    .read(segment)
                    .write(&partials)
                    .params(params.words())
                    .groups(count)
                    .iterations(chunk / 2 + 8)
                    .cost(2 * segment.elements() as u64, segment.bytes()),
            );
            first += count as u32;
        }
        let params = Params {
            count: count as u32,
            loss: loss.offset(),
            clip: clip.offset(),
            control: control.offset(),
            state: state.map_or(0, |state| state.offset()),
            ..Params::default()
        };
        let kernel = match state {
            Some(_) => kernel(norm).declare(SCALED),
            None => kernel(norm),
        };
        let mut dispatch = Dispatch::new(kernel)
            .read(&partials)
            .read(&loss)
            .read(&clip)
            .write(&control);
        if let Some(state) = &state {
            dispatch = dispatch.write(state);
        }
        cx.dispatch(
            dispatch
                .params(params.words())
                .iterations(count + 8)
                .cost(count as u64, partials.bytes()),
        );
    }
}

/// The state of the loss scale, with a new one.
const SCALED: &str = "\
@group(0) @binding(5) var<storage, read_write> state: array<f32>;
fn loss_scale() -> f32 { return state[p.state_offset]; }
fn keep_scale(bits: u32) {
    let scale = loss_scale();
    var good = state[p.state_offset + 1u] + 1.0;
    var next = scale;
    if (!is_sound(bits)) {
        next = max(0.5 * scale, 1.0);
        good = 0.0;
        state[p.state_offset + 2u] += 1.0;
    } else if (good >= 2000.0) {
        next = min(2.0 * scale, 16777216.0);
        good = 0.0;
    }
    state[p.state_offset] = next;
    state[p.state_offset + 1u] = good;
}
";

/// One of the kernels in `shaders/optim.wgsl`.
pub(super) fn kernel(entry: &'static str) -> Kernel {
    Kernel::builtin(entry, "optim", entry)
}

/// A launch over a whole segment, of a kernel that takes `WIDTH · EACH` vec4s a workgroup.
pub(super) fn over_segment(class: AdapterClass, kernel: Kernel, vectors: usize) -> Dispatch {
    let (width, each) = match class {
        AdapterClass::Software => (8, 32),
        AdapterClass::Gpu => (256, 1),
    };
    let kernel = kernel.constant("WIDTH", width).constant("EACH", each);
    // At most a run of parameters begins with each vec4; runs are found by halving.
    let iterations = each + 3 * width * each + 64;
    Dispatch::new(kernel)
        .groups(vectors.div_ceil(width * each))
        .iterations(iterations)
}

/// The uniform parameters that the kernels in `shaders/optim.wgsl` share.
#[repr(C)]
#[derive(Clone, Copy, Default, NoUninit)]
pub(super) struct Params {
    pub vectors: u32,
    pub runs: u32,
    /// In vec4s, as the next: inputs start at multiples of 16 bytes.
    pub runs_offset: u32,
    pub values: u32,
    pub control: u32,
    pub count: u32,
    pub first: u32,
    pub loss: u32,
    pub clip: u32,
    pub chunk: u32,
    pub state: u32,
}

impl Params {
    pub fn words(&self) -> &[u32] {
        bytemuck::cast_slice(std::slice::from_ref(self))
    }
}
