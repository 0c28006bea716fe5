//! What a device can do at most, measured, so that kernels can be judged by a fraction of it.

use std::time::Duration;

use crate::error::Result;
use crate::gpu::{AdapterClass, DType, Device, Kernel, Tensor};
use crate::ops::{Operation, TensorType};
use crate::tape::{Backward, Cost, Dispatch, Lowering, Tape, Var};

/// The highest rates that simple kernels reach on a device. What [`Tape::profile`] measures, divided by these, says how
/// close a kernel comes to the hardware, or to the software that stands in for it.
///
/// Neither is a bound in the strict sense. A kernel whose operands stay in a cache moves bytes faster than a copy of
/// something that fits none, and matrix units, which WGSL does not reach, are not counted.
///
/// ```
/// # fn main() -> shadegrad::Result<()> {
/// use shadegrad::Device;
/// use shadegrad::profile::Ceiling;
///
/// let ceiling = Ceiling::measure(&Device::new()?)?;
/// println!(
///     "{:.1} GFLOP/s, {:.1} GB/s",
///     ceiling.flops_per_second / 1e9,
///     ceiling.bytes_per_second / 1e9
/// );
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Ceiling {
    /// Single-precision operations a second in a loop of independent multiply-adds, each of which counts as two.
    pub flops_per_second: f64,
    /// Bytes read and written a second by a copy larger than caches are.
    pub bytes_per_second: f64,
}

/// Runs of each form of kernel, of which the fastest counts.
const RUNS: usize = 8;

/// One run takes at least this long, so that starting it doesn't matter.
const LONG_ENOUGH: Duration = Duration::from_millis(10);

impl Ceiling {
    /// Measures both rates, in one or two seconds and with 256 MiB of device memory, which are given back
    /// when the next tape is planned. Nothing else should run on the device meanwhile.
    ///
    /// # Errors
    ///
    /// As [`Tape::run`].
    pub fn measure(device: &Device) -> Result<Ceiling> {
        let mut ceiling = Ceiling {
            flops_per_second: 0.0,
            bytes_per_second: 0.0,
        };
        let groups = match device.class() {
            AdapterClass::Software => 1024,
            AdapterClass::Gpu => 16384,
        };
        let sums = Tensor::zeros(device, [groups * LANES], DType::F32)?;
        for fused in [false, true] {
            let mut rounds = 2;
            let run = |rounds| {
                let tape = Tape::inference(device);
                let load = Load::MultiplyAdd { fused, rounds };
                tape.record_all(load, &[tape.tensor(&sums)]);
                rate(tape, |cost| cost.flops)
            };
            run(rounds)?; // Drivers compile at the first run.
            while run(rounds)?.1 < LONG_ENOUGH && rounds < MOST_ROUNDS {
                rounds *= 2;
            }
            for _ in 0..RUNS {
                ceiling.flops_per_second = ceiling.flops_per_second.max(run(rounds)?.0);
            }
        }
        let elements = device.limits().max_storage_buffer_binding_size / 4;
        let elements = (elements as usize).min(COPIED) / MOST_AT_ONCE * MOST_AT_ONCE;
        let [source, destination] =
            [(), ()].map(|()| Tensor::zeros(device, [elements], DType::F32));
        let (source, destination) = (source?, destination?);
        for [width, lanes] in COPIES {
            for _ in 0..RUNS {
                let tape = Tape::inference(device);
                let operands = [tape.tensor(&source), tape.tensor(&destination)];
                tape.record_all(Load::Copy { width, lanes }, &operands);
                let (rate, _) = rate(tape, |cost| cost.bytes)?;
                ceiling.bytes_per_second = ceiling.bytes_per_second.max(rate);
            }
        }
        Ok(ceiling)
    }
}

/// Invocations of a workgroup of multiply-adds.
const LANES: usize = 64;

/// In a round of one invocation: 12 chains, 32 times.
const MULTIPLY_ADDS: u64 = 12 * 32;

/// Within what llvmpipe lets a loop run.
const MOST_ROUNDS: u32 = 1 << 14;

/// Elements of the copied tensor: 128 MiB.
const COPIED: usize = 32 << 20;

/// Runs a tape of one dispatch: what it did a second, and how long it took.
fn rate(tape: Tape, amount: impl Fn(Cost) -> u64) -> Result<(f64, Duration)> {
    let times = tape.profile()?;
    let [kernel] = &times[..] else {
        unreachable!("the tape holds one dispatch");
    };
    let time = kernel.time.max(Duration::from_nanos(1));
    Ok((amount(kernel.cost) as f64 / time.as_secs_f64(), time))
}

/// A kernel that does little but what is measured. It overwrites the last of its inputs.
#[derive(Clone, Copy, Debug, Hash)]
enum Load {
    /// Sums of many multiply-adds, if `fused` by `fma` rather than by a product and a sum that the driver may or may not fuse.
    MultiplyAdd { fused: bool, rounds: u32 },
    /// A copy by workgroups of so many `lanes`, each of which copies `width` elements, 1 or 4.
    Copy { width: usize, lanes: usize },
}

/// Their widths and lanes.
const COPIES: [[usize; 2]; 3] = [[1, 64], [4, 64], [4, 256]];

/// Elements of the largest of these workgroups.
const MOST_AT_ONCE: usize = 4 * 256;

impl Operation for Load {
    fn name(&self) -> &'static str {
        match self {
            Load::MultiplyAdd { .. } => "ceiling_multiply_add",
            Load::Copy { .. } => "ceiling_copy",
        }
    }

    fn outputs(&self, _inputs: &[TensorType]) -> Vec<TensorType> {
        Vec::new()
    }

    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        node.not_differentiable("it overwrites a tensor")
    }

    fn mutates(&self) -> &[usize] {
        match self {
            Load::MultiplyAdd { .. } => &[0],
            Load::Copy { .. } => &[1],
        }
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        let kernel = |entry| Kernel::builtin(self.name(), "ceiling", entry);
        let first = cx.input(0);
        let (elements, bytes) = (first.elements(), first.bytes());
        let dispatch = match *self {
            Load::MultiplyAdd { fused, rounds } => {
                let mut kernel = kernel("multiply_add");
                if fused {
                    kernel = kernel.declare(FUSED);
                }
                let flops = 2 * MULTIPLY_ADDS * u64::from(rounds) * elements as u64;
                Dispatch::new(kernel)
                    .write(&first)
                    .iterations(rounds as usize + 1)
                    .params(&[rounds, 0.75f32.to_bits(), 0.25f32.to_bits()])
                    .groups(elements / LANES)
                    .cost(flops, bytes)
            }
            Load::Copy { width, lanes } => {
                let entry = if width == 4 { "copy4" } else { "copy" };
                Dispatch::new(kernel(entry).constant("LANES", lanes))
                    .iterations(0)
                    .read(&first)
                    .write(&cx.input(1))
                    .params(&[elements as u32])
                    .groups(elements / width / lanes)
                    .cost(0, 2 * bytes)
            }
        };
        cx.dispatch(dispatch);
    }
}

const FUSED: &str = "fn advance(x: vec4<f32>) -> vec4<f32> { return fma(x, vec4<f32>(p.scale), vec4<f32>(p.shift)); }\n";

#[cfg(test)]
#[path = "../../tests/unit/profile/ceiling.rs"]
mod tests;
