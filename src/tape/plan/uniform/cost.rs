//! How much faster a device loads from uniform buffers.

use std::time::Duration;

use crate::error::Result;
use crate::gpu::{DType, Device, Kernel, Tensor};
use crate::ops::{Operation, TensorType};
use crate::shape::Shape;
use crate::tape::{Backward, Dispatch, Fusion, Lowering, Signature, Tape, Var};

/// Loads of each lane in a run: a few milliseconds at most.
const ROUNDS: u32 = 8192;

/// Runs of each kind, of which the fastest counts.
const RUNS: usize = 3;

/// How many loads from uniform buffers take as long as one from a storage buffer, measured. It has been 2 on one CPU and
/// 20 on another.
pub(super) fn uniform_loads_per_storage_load(device: &Device) -> Result<f64> {
    let source = Tensor::zeros(device, [4 * VECTORS], DType::F32)?;
    let time = |uniform: bool| -> Result<Duration> {
        let mut least = Duration::MAX;
        for _ in 0..RUNS {
            let tape = Tape::inference(device);
            tape.set_fusion(Fusion {
                uniform,
                ..Fusion::OFF
            });
            tape.fetch::<f32>(tape.record(Loads, &[tape.tensor(&source)]));
            least = tape
                .profile()?
                .iter()
                .fold(least, |least, kernel| least.min(kernel.time));
        }
        Ok(least)
    };
    let (storage, uniform) = (time(false)?, time(true)?);
    Ok(storage.as_secs_f64() / uniform.as_secs_f64().max(1e-9))
}

/// Vectors that the kernel goes round in.
const VECTORS: usize = 256;

#[derive(Debug)]
struct Loads;

impl Operation for Loads {
    fn name(&self) -> &'static str {
        "load_cost"
    }

    fn identity(&self, _signature: &mut Signature) {}

    fn outputs(&self, _inputs: &[TensorType]) -> Vec<TensorType> {
        vec![Tape::f32(Shape::new(&[32]))]
    }

    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        node.not_differentiable("it measures time")
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        let (source, sums) = (cx.input(0), cx.output(0));
        let text = include_str!("../../../../shaders/load_cost.wgsl");
        cx.dispatch(
            Dispatch::new(Kernel::builtin("load_cost", text, "load_cost"))
                .read(&source)
                .write(&sums)
                .iterations(ROUNDS as usize + 1)
                .params(&[ROUNDS, 8]),
        );
    }
}
