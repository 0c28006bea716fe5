//! After which of a plan's dispatches a tensor has the values that the plan leaves there.

use std::ops::Range;

use super::dispatch::{Program, Slot};
use crate::gpu::Tensor;
use crate::gpu::kernel::Access;

/// What a plan writes to buffers that persist: which buffer, which bytes, and how many dispatches that takes.
pub(super) struct Writes(Vec<(u64, Range<u64>, usize)>);

impl Writes {
    pub fn of(program: &Program) -> Writes {
        let ended = program.dispatches.iter().zip(1..);
        let bindings = ended.flat_map(|(dispatch, end)| {
            let bindings = dispatch.bindings.iter();
            let written = bindings.filter(|(_, access)| *access == Access::Write);
            written.map(move |(slot, _)| (&program.slots[*slot], end))
        });
        let writes = bindings.filter_map(|(slot, end)| match slot {
            Slot::External {
                buffer,
                start,
                bytes,
                ..
            } => Some((buffer.id(), *start..start + bytes, end)),
            _ => None,
        });
        Writes(writes.collect())
    }

    /// How many dispatches it takes until nothing is written any more to where tensors lie.
    pub fn end(&self, tensors: &[Tensor]) -> usize {
        let is_written = |(buffer, written, _): &&(u64, Range<u64>, usize)| {
            tensors.iter().any(|tensor| {
                let bytes = tensor.place();
                tensor.buffer.id() == *buffer
                    && bytes.start < written.end
                    && written.start < bytes.end
            })
        };
        let ends = self.0.iter().filter(is_written).map(|&(.., end)| end);
        ends.max().unwrap_or(0)
    }
}
