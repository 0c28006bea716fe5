//! From a list of nodes to one command submission, planned once per structure and replayed.
//!
//! The passes, in order: [`live`](analysis) (what is needed), [`units`](units) (which nodes share a kernel, in which
//! order), [`lowering`](lowering) (dispatches over virtual slots), [`side_by_side`](side_by_side) (several of them as one),
//! [`memory`](memory) (slots to buffers), [`uniform`](uniform) (what is read from uniform buffers), and
//! [`replay`](replay) (pipelines, bind groups, submission).

mod analysis;
mod dispatch;
mod emit;
mod ends;
mod epilogue;
mod lowering;
mod memory;
mod pointwise;
mod profile;
mod replay;
mod side_by_side;
mod uniform;
mod units;

use std::collections::HashMap;
use std::hash::Hash;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

pub use dispatch::{Cost, Dispatch, Operand};
pub use emit::Lowering;
pub(crate) use epilogue::Epilogue;
pub use memory::MemoryUse;
pub use profile::KernelTime;
pub(crate) use profile::{DeviceTimes, Stretches, kernel_times, length};
pub(crate) use replay::Plan;

use super::graph::Graph;
use super::signature::Signature;
use crate::error::Result;
use crate::gpu::Device;
use crate::gpu::readback::Landing;
use crate::gpu::stats::count;
use crate::profile::{Laps, Phase};

/// Which fusions the planner may use. All are on by default; `SHADEGRAD_FUSE=off` in the environment turns all off, and
/// a list such as `SHADEGRAD_FUSE=pointwise,epilogue` all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fusion {
    /// Chains of pointwise operations run as one generated kernel.
    pub pointwise: bool,
    /// Pointwise operations that follow a kernel with an epilogue (matrix products, norms, softmax, …) run in it.
    pub epilogue: bool,
    /// SwiGLU runs at the end of the matrix product whose rows it reads, and its gradient at the end of the one that
    /// computes the gradient of its result.
    pub gate: bool,
    /// A value that is only assigned to a persistent tensor is computed in place there.
    pub forward_assign: bool,
    /// Small dispatches of one kind that don't depend on one another, such as the gradients of a product's two factors, run
    /// as one.
    pub side_by_side: bool,
    /// On software adapters, kernels read operands from uniform buffers: those of at most 64 KiB, and larger ones as far as
    /// that is faster on the machine at hand.
    pub uniform: bool,
}

impl Fusion {
    /// Every fusion off.
    pub const OFF: Fusion = Fusion {
        pointwise: false,
        epilogue: false,
        gate: false,
        forward_assign: false,
        side_by_side: false,
        uniform: false,
    };
    /// Every fusion on.
    pub const ON: Fusion = Fusion {
        pointwise: true,
        epilogue: true,
        gate: true,
        forward_assign: true,
        side_by_side: true,
        uniform: true,
    };
}

impl Fusion {
    /// The fusions by name: all of them for `on`, none for `off`, else those of a list with commas between.
    fn named(names: &str) -> std::result::Result<Fusion, String> {
        match names.trim() {
            "on" | "" => return Ok(Fusion::ON),
            "off" => return Ok(Fusion::OFF),
            _ => {}
        }
        let mut fusion = Fusion::OFF;
        for name in names.split(',').map(str::trim) {
            match name {
                "pointwise" => fusion.pointwise = true,
                "epilogue" => fusion.epilogue = true,
                "gate" => fusion.gate = true,
                "forward_assign" => fusion.forward_assign = true,
                "side_by_side" => fusion.side_by_side = true,
                "uniform" => fusion.uniform = true,
                unknown => return Err(unknown.to_owned()),
            }
        }
        Ok(fusion)
    }
}

impl Default for Fusion {
    /// What `SHADEGRAD_FUSE` says in the environment: `on` (as without it), `off`, or the fusions to use, such as
    /// `pointwise,epilogue`.
    ///
    /// # Panics
    ///
    /// If it names a fusion that there isn't.
    fn default() -> Fusion {
        static CHOSEN: std::sync::OnceLock<Fusion> = std::sync::OnceLock::new();
        *CHOSEN.get_or_init(|| {
            let names = std::env::var("SHADEGRAD_FUSE").unwrap_or_default();
            Fusion::named(&names).unwrap_or_else(|unknown| {
                panic!(
                    "SHADEGRAD_FUSE: there is no fusion `{unknown}`; there are pointwise, epilogue, gate, \
                     forward_assign, side_by_side and uniform, or on and off"
                )
            })
        })
    }
}

/// Plans by the exact structure they were made for.
#[derive(Default)]
pub(crate) struct PlanCache {
    plans: HashMap<Signature, Cached>,
    clock: u64,
}

struct Cached {
    plan: Arc<Plan>,
    used: u64,
}

/// Enough for training, evaluation and every prompt length of a small window; older plans give their buffers back.
const MOST_PLANS: usize = 128;

impl PlanCache {
    fn get(&mut self, signature: &Signature) -> Option<Arc<Plan>> {
        self.clock += 1;
        let cached = self.plans.get_mut(signature)?;
        cached.used = self.clock;
        Some(cached.plan.clone())
    }

    /// Forgets plans of tensors that have been dropped.
    fn tidy(&mut self) {
        self.plans.retain(|_, cached| !cached.plan.is_obsolete());
    }

    fn insert(&mut self, signature: Signature, plan: Arc<Plan>) {
        self.tidy();
        if self.plans.len() >= MOST_PLANS
            && let Some(oldest) = self
                .plans
                .iter()
                .min_by_key(|(_, cached)| cached.used)
                .map(|(signature, _)| signature.clone())
        {
            self.plans.remove(&oldest);
        }
        let used = self.clock;
        self.plans.insert(signature, Cached { plan, used });
    }
}

/// Runs a recorded tape: finds or makes its plan, uploads the inputs, submits. `began` is when it was made, if somebody
/// wants to know.
pub(super) fn run(
    device: &Device,
    graph: &mut Graph,
    training: bool,
    landing: &Rc<Landing>,
    began: Option<Instant>,
) -> Result<()> {
    let mut laps = began.map(Laps::since);
    let mut lap = |phase| laps.iter_mut().for_each(|laps| laps.lap(phase));
    lap(Phase::Record);
    let plan = find(device, graph, training)?;
    lap(Phase::Plan);
    match laps {
        None => plan.submit(device, &graph.upload, landing),
        Some(laps) => profile::submit(device, plan, &graph.upload, landing, laps),
    }
}

/// Runs a recorded tape with every dispatch timed.
pub(super) fn profile(
    device: &Device,
    graph: &mut Graph,
    training: bool,
) -> Result<Vec<KernelTime>> {
    let plan = find(device, graph, training)?;
    profile::run(device, &plan, &graph.upload)
}

/// Plans a recorded tape, and adds up what it needs.
pub(super) fn memory(device: &Device, graph: &mut Graph, training: bool) -> Result<MemoryUse> {
    Ok(find(device, graph, training)?.memory)
}

fn find(device: &Device, graph: &mut Graph, training: bool) -> Result<Arc<Plan>> {
    device.check()?;
    if let Some(error) = graph.refused.take() {
        return Err(error);
    }
    (training, graph.fusion).hash(&mut graph.signature);
    let shared = &device.shared;
    let cached = shared.plans.lock().unwrap().get(&graph.signature);
    if let Some(plan) = cached {
        count(&shared.counters.replays, 1);
        return Ok(plan);
    }
    count(&shared.counters.plans, 1);
    let plan = Arc::new(make(device, graph)?);
    let signature = graph.signature.clone();
    shared.plans.lock().unwrap().insert(signature, plan.clone());
    shared.arena.lock().unwrap().trim();
    Ok(plan)
}

fn make(device: &Device, graph: &Graph) -> Result<Plan> {
    let analysis = analysis::Analysis::of(graph);
    let units = units::form(graph, &analysis);
    let mut program = lowering::lower(device, graph, &analysis, &units);
    if let Some(error) = program.refused.take() {
        return Err(error);
    }
    Plan::build(device, graph, program)
}

#[cfg(test)]
mod tests {
    use super::Fusion;

    #[test]
    fn fusions_by_name() {
        assert_eq!(Fusion::named(""), Ok(Fusion::ON));
        assert_eq!(Fusion::named("on"), Ok(Fusion::ON));
        assert_eq!(Fusion::named("off"), Ok(Fusion::OFF));
        let all = "pointwise, epilogue,gate,forward_assign,side_by_side,uniform";
        assert_eq!(Fusion::named(all), Ok(Fusion::ON));
        let one = Fusion {
            epilogue: true,
            ..Fusion::OFF
        };
        assert_eq!(Fusion::named("epilogue"), Ok(one));
        assert_eq!(Fusion::named("epilog"), Err("epilog".to_owned()));
    }
}
