//! Indices that are data: no kernel may read past what they index, and none may hide that it would have.
//!
//! Indices that the host has put on the tape are checked when the operation is recorded, and
//! [`Tape::run`](crate::Tape::run) refuses the tape. Others are counted by the kernel that reads them, and whoever
//! [fetches](crate::Tape::fetch) a value of the tape is told. What such an index stands for is not a number, so that the
//! loss is none, and no optimizer updates.

use crate::error::Error;
use crate::gpu::Kernel;
use crate::tape::{Dispatch, Lowering, Operand, Var};

/// How an operation's indices are kept within bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Bounds {
    /// All indices are below this.
    pub extent: usize,
    /// But for this one.
    pub ignored: Option<u32>,
    /// Whether the kernel has to look.
    counts: bool,
}

impl Bounds {
    /// Checks the indices now if the host has them.
    pub fn check(operation: &str, indices: Var<'_>, extent: usize, ignored: Option<u32>) -> Bounds {
        let is_wrong = |index: u32| index as usize >= extent && Some(index) != ignored;
        let found = indices.tape().host_words(indices, |words| {
            let wrong = words.filter(|&index| is_wrong(index));
            wrong.fold((0, 0), |(count, largest): (u32, u32), index| {
                (count + 1, largest.max(index))
            })
        });
        if let Some((count @ 1.., largest)) = found {
            indices.tape().refuse(Error::IndexOutOfRange {
                operation: operation.to_owned(),
                count,
                largest,
                extent,
            });
        }
        Bounds {
            extent,
            ignored,
            counts: found.is_none(),
        }
    }

    /// How many storage bindings the check adds.
    pub fn bindings(self) -> usize {
        self.counts as usize
    }

    /// Where the kernel counts, if it has to. Its text calls `refuse` with every index that is out of range, once.
    pub fn counter(self, cx: &mut Lowering<'_>, operation: &'static str) -> Counter {
        Counter(
            self.counts
                .then(|| cx.fault_counter(operation, self.extent)),
        )
    }
}

/// Where a kernel counts indices that are out of range.
pub(super) struct Counter(Option<Operand>);

impl Counter {
    /// Has the kernel's `refuse` count; what it binds is storage binding number `binding`.
    pub fn kernel(&self, kernel: Kernel, binding: usize) -> Kernel {
        let Some(counter) = &self.0 else {
            return kernel;
        };
        let (count, largest) = (counter.offset(), counter.offset() + 1);
        kernel.declare(&format!(
            "@group(0) @binding({binding}) var<storage, read_write> faults: array<atomic<u32>>;\n\
                 fn refuse(index: u32) {{\n    \
                     atomicAdd(&faults[{count}u], 1u);\n    \
                     atomicMax(&faults[{largest}u], index);\n\
                 }}\n"
        ))
    }

    /// Binds it next.
    pub fn bind(&self, dispatch: Dispatch) -> Dispatch {
        match &self.0 {
            Some(counter) => dispatch.write(counter),
            None => dispatch,
        }
    }
}
