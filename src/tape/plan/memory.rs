//! Assigning buffers to transient slots by liveness.

use super::lowering::{Program, Slot};

/// Which pooled buffer each transient slot gets.
pub(super) struct Assignment {
    /// By slot: index into `sizes`.
    pub buffer_of: Vec<Option<usize>>,
    /// Sizes of the pooled buffers, in bytes.
    pub sizes: Vec<u64>,
    /// The most bytes that are alive during one dispatch: no assignment can need less.
    pub lower_bound: u64,
}

/// Best fit over the dispatches in order: a buffer is free again after the last dispatch that uses its slot.
pub(super) fn assign(program: &Program) -> Assignment {
    let count = program.slots.len();
    let mut last_use = vec![None; count];
    for (index, dispatch) in program.dispatches.iter().enumerate() {
        for &(slot, _) in &dispatch.bindings {
            last_use[slot] = Some(index);
        }
    }
    for (operand, _) in &program.fetches {
        last_use[operand.slot] = Some(program.dispatches.len());
    }
    let mut assignment = Assignment {
        buffer_of: vec![None; count],
        sizes: Vec::new(),
        lower_bound: 0,
    };
    let mut free: Vec<usize> = Vec::new();
    let mut alive = 0;
    for (index, dispatch) in program.dispatches.iter().enumerate() {
        for &(slot, _) in &dispatch.bindings {
            if let Slot::Transient { elements } = program.slots[slot]
                && assignment.buffer_of[slot].is_none()
            {
                let bytes = 4 * elements as u64;
                alive += bytes;
                assignment.buffer_of[slot] = Some(pick(&mut assignment.sizes, &mut free, bytes));
            }
        }
        assignment.lower_bound = assignment.lower_bound.max(alive);
        let mut done: Vec<usize> = dispatch.bindings.iter().map(|&(slot, _)| slot).collect();
        done.sort_unstable();
        done.dedup();
        for slot in done {
            if last_use[slot] == Some(index)
                && let Slot::Transient { elements } = program.slots[slot]
            {
                alive -= 4 * elements as u64;
                free.push(assignment.buffer_of[slot].expect("assigned above"));
            }
        }
    }
    assignment
}

/// The smallest free buffer that is large enough; else the largest free one, grown; else a new one.
fn pick(sizes: &mut Vec<u64>, free: &mut Vec<usize>, bytes: u64) -> usize {
    let fitting = (0..free.len())
        .filter(|&position| sizes[free[position]] >= bytes)
        .min_by_key(|&position| sizes[free[position]]);
    let position =
        fitting.or_else(|| (0..free.len()).max_by_key(|&position| sizes[free[position]]));
    match position {
        Some(position) => {
            let buffer = free.swap_remove(position);
            sizes[buffer] = sizes[buffer].max(bytes);
            buffer
        }
        None => {
            sizes.push(bytes);
            sizes.len() - 1
        }
    }
}
