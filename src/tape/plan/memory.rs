//! Assigning buffers to transient slots by liveness.

use std::cmp::Reverse;
use std::collections::HashMap;

use super::dispatch::{Program, Slot};
use crate::error::{self, Error, Result};

/// Which pooled buffer each transient slot gets.
pub(super) struct Assignment {
    /// By slot: index into `sizes`.
    pub buffer_of: Vec<Option<usize>>,
    /// Sizes of the pooled buffers, in bytes.
    pub sizes: Vec<u64>,
    /// The most bytes that are alive during one dispatch: no assignment can need less.
    pub lower_bound: u64,
}

/// The dispatches from the first to the last that use a slot, and its size.
#[derive(Clone, Copy)]
struct LiveRange {
    slot: usize,
    bytes: u64,
    first: usize,
    last: usize,
}

/// The largest slots first, each into the smallest buffer that is large enough and free throughout its range. So no buffer ever
/// grows, and small slots fill the gaps that large ones leave.
pub(super) fn assign(program: &Program) -> Assignment {
    let mut ranges = ranges(program);
    let lower_bound = lower_bound(program.dispatches.len(), &ranges);
    ranges.sort_by_key(|range| (Reverse(range.bytes), range.first));
    let mut assignment = Assignment {
        buffer_of: vec![None; program.slots.len()],
        sizes: Vec::new(),
        lower_bound,
    };
    let mut taken: Vec<Vec<LiveRange>> = Vec::new();
    for range in ranges {
        let is_free = |other: &LiveRange| other.last < range.first || range.last < other.first;
        // Buffers are made in order of size, so the last is the smallest.
        let fitting = taken.iter().rposition(|ranges| ranges.iter().all(is_free));
        let buffer = fitting.unwrap_or_else(|| {
            taken.push(Vec::new());
            assignment.sizes.push(range.bytes);
            taken.len() - 1
        });
        taken[buffer].push(range);
        assignment.buffer_of[range.slot] = Some(buffer);
    }
    assignment
}

fn ranges(program: &Program) -> Vec<LiveRange> {
    let mut ranges: Vec<Option<LiveRange>> = vec![None; program.slots.len()];
    let mut use_slot = |slot: usize, at: usize| {
        if let Slot::Transient { bytes } = program.slots[slot] {
            let range = ranges[slot].get_or_insert(LiveRange {
                slot,
                bytes,
                first: at,
                last: at,
            });
            range.last = at;
        }
    };
    for (index, dispatch) in program.dispatches.iter().enumerate() {
        for &(slot, _) in &dispatch.bindings {
            use_slot(slot, index);
        }
    }
    for (operand, _) in &program.fetches {
        use_slot(operand.slot, program.dispatches.len());
    }
    ranges.into_iter().flatten().collect()
}

/// The most bytes alive at one moment.
fn lower_bound(moments: usize, ranges: &[LiveRange]) -> u64 {
    let alive = |moment: usize| {
        let ranges = ranges.iter();
        let alive = ranges.filter(|range| (range.first..=range.last).contains(&moment));
        alive.map(|range| range.bytes).sum()
    };
    (0..=moments).map(alive).max().unwrap_or(0)
}

/// Device memory that a planned tape works with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryUse {
    /// Bytes of the buffers that the intermediate values share.
    pub intermediate: u64,
    /// The most bytes of intermediate values that are alive during one dispatch: no way to share buffers needs less.
    pub lower_bound: u64,
    /// Bytes of the persistent buffers that it reads or overwrites: parameters, gradients, moments, tables.
    pub persistent: u64,
    /// Bytes of the inputs and of the kernels' parameters.
    pub inputs: u64,
    /// Bytes of the buffers in which results are on their way to the host.
    pub results: u64,
}

impl MemoryUse {
    /// All bytes together: the most that the tape ever needs, since its buffers exist from its first run on.
    pub fn total(&self) -> u64 {
        self.intermediate + self.persistent + self.inputs + self.results
    }

    /// Refuses a tape that needs more than `memory`, if that is known, such as what the device
    /// [has](crate::Device::memory).
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`].
    pub fn check(&self, memory: Option<u64>) -> Result<()> {
        match memory {
            Some(memory) if self.total() > memory => {
                let [all, values, memory] =
                    [self.total(), self.intermediate, memory].map(error::bytes);
                let reason = format!(
                    "it needs {all}, {values} of them for intermediate values; the adapter has {memory}"
                );
                Err(Error::OutOfMemory { reason })
            }
            _ => Ok(()),
        }
    }
}

/// Adds up what a program needs.
pub(super) fn total(
    program: &Program,
    assignment: &Assignment,
    inputs: u64,
    results: u64,
) -> MemoryUse {
    let persistent = program.slots.iter().filter_map(Slot::persistent);
    let persistent: HashMap<_, _> = persistent.map(|b| (b.id(), b.bytes())).collect();
    MemoryUse {
        intermediate: assignment.sizes.iter().sum(),
        lower_bound: assignment.lower_bound,
        persistent: persistent.values().sum(),
        inputs,
        results,
    }
}
