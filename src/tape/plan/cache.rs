//! Finding or making the plan of a tape, and running it.

use std::collections::HashMap;
use std::hash::Hash;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::memory::MemoryUse;
use super::print::Listing;
#[cfg(not(target_family = "wasm"))]
use super::profile::{self, KernelTime};
#[cfg(not(target_family = "wasm"))]
use super::recorder::{Phase, PhaseClock};
use super::replay::Plan;
use super::{passes, replay};
use crate::error::{Error, Result};
use crate::gpu::Device;
#[cfg(all(any(feature = "mpi", test), not(target_family = "wasm")))]
use crate::gpu::Tensor;
use crate::gpu::pool::BufferPool;
use crate::gpu::readback::Landing;
#[cfg(all(any(feature = "mpi", test), not(target_family = "wasm")))]
use crate::gpu::readback::{Readback, Ring};
use crate::tape::fusion::Fusion;
use crate::tape::record::Graph;
use crate::tape::signature::Signature;

/// Plans by the exact structure they were made for.
#[derive(Default)]
struct PlanCache {
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

/// What tapes keep with a device.
#[derive(Default)]
struct Planner {
    plans: Mutex<PlanCache>,
    /// Tapes take turns from writing their inputs to submission: those of one structure share a buffer of inputs, and all
    /// share the buffers of intermediate values.
    turns: Mutex<()>,
}

impl Planner {
    fn take_turn(&self) -> MutexGuard<'_, ()> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs a recorded tape: finds or makes its plan, writes the inputs, submits. `began` is when it was made, if somebody
/// wants to know; in a browser nobody does.
pub(in crate::tape) fn run(
    device: &Device,
    graph: &mut Graph,
    training: bool,
    landing: &Rc<Landing>,
    #[cfg_attr(target_family = "wasm", expect(unused_variables))] began: Option<Instant>,
) -> Result<()> {
    let planner = device.attached::<Planner>();
    #[cfg(not(target_family = "wasm"))]
    if let Some(began) = began {
        let mut clock = PhaseClock::since(began);
        clock.lap(Phase::Record);
        let plan = planner.find(device, graph, training)?;
        clock.lap(Phase::Plan);
        let _turn = planner.take_turn();
        return profile::submit(device, plan, &graph.input_bytes, landing, clock);
    }
    let plan = planner.find(device, graph, training)?;
    let _turn = planner.take_turn();
    plan.submit(device, &graph.input_bytes, landing)
}

/// [`run`] in parts: see [`Plan::submit_in_parts`].
#[cfg(all(any(feature = "mpi", test), not(target_family = "wasm")))]
pub(in crate::tape) fn run_in_parts(
    device: &Device,
    graph: &mut Graph,
    training: bool,
    landing: &Rc<Landing>,
    (ring, pieces): (&Ring, &[&[Tensor]]),
) -> Result<Vec<Readback>> {
    let planner = device.attached::<Planner>();
    let plan = planner.find(device, graph, training)?;
    let _turn = planner.take_turn();
    plan.submit_in_parts(device, &graph.input_bytes, landing, ring, pieces)
}

/// Runs a recorded tape with every dispatch timed.
#[cfg(not(target_family = "wasm"))]
pub(in crate::tape) fn profile(
    device: &Device,
    graph: &mut Graph,
    training: bool,
) -> Result<Vec<KernelTime>> {
    let planner = device.attached::<Planner>();
    let plan = planner.find(device, graph, training)?;
    let _turn = planner.take_turn();
    profile::run(device, &plan, &graph.input_bytes)
}

/// Takes a recorded tape through the passes, and adds up what its plan would need.
pub(in crate::tape) fn memory(device: &Device, graph: &mut Graph) -> Result<MemoryUse> {
    check(device, graph)?;
    let planned = passes::run(device, graph, &mut None)?;
    let storage = |&bytes: &u64| device.meta().create_storage("intermediate", bytes);
    let buffers = planned.assignment.sizes.iter().map(storage);
    buffers.collect::<Result<Vec<_>>>()?;
    replay::memory(device, graph, &planned)
}

/// Plans a recorded tape, and says what it is after each pass.
pub(in crate::tape) fn explain(device: &Device, graph: &mut Graph) -> Result<String> {
    check(device, graph)?;
    let mut listing = Some(Listing::default());
    passes::run(device, graph, &mut listing)?;
    Ok(listing.expect("it was given").text)
}

/// Whether `SHADEGRAD_PLAN=print` is set.
fn is_printed() -> Result<bool> {
    match std::env::var("SHADEGRAD_PLAN").as_deref() {
        Ok("print") => Ok(true),
        Ok("") | Err(_) => Ok(false),
        Ok(other) => Err(Error::invalid(
            "SHADEGRAD_PLAN",
            other,
            "`print`, to print plans",
        )),
    }
}

fn check(device: &Device, graph: &mut Graph) -> Result<()> {
    device.check()?;
    graph.refused.take().map_or(Ok(()), Err)
}

impl Planner {
    fn find(&self, device: &Device, graph: &mut Graph, training: bool) -> Result<Arc<Plan>> {
        check(device, graph)?;
        device.require_values()?;
        (training, graph.fusion).hash(&mut graph.signature);
        let counters = &device.shared.counters;
        let cached = self.plans.lock().unwrap().get(&graph.signature);
        if let Some(plan) = cached {
            counters.count(|stats| stats.replays += 1);
            return Ok(plan);
        }
        counters.count(|stats| stats.plans += 1);
        Fusion::from_environment()?;
        let mut listing = is_printed()?.then(Listing::default);
        let planned = passes::run(device, graph, &mut listing);
        if let Some(Listing { text }) = listing {
            eprintln!("{text}");
        }
        let plan = Arc::new(Plan::build(device, graph, planned?)?);
        let signature = graph.signature.clone();
        self.plans.lock().unwrap().insert(signature, plan.clone());
        let pool = device.attached::<Mutex<BufferPool>>();
        pool.lock().unwrap().trim();
        Ok(plan)
    }
}

#[cfg(test)]
#[path = "../../../tests/unit/tape/plan/cache.rs"]
mod tests;
