//! What a plan is made of before buffers are assigned: slots, operands that lie in them, and dispatches over them.

use crate::error::Error;
use crate::gpu::buffer::Buffer;
use crate::gpu::kernel::Access;
use crate::gpu::readback::Fault;
use crate::gpu::{DType, Kernel};
use crate::shape::{Layout, Shape};

/// Where an operand's elements live, before buffers are assigned.
pub(super) enum Slot {
    /// Alive from its first to its last dispatch; gets a pooled buffer.
    Transient { bytes: u64 },
    /// A range of a persistent buffer, in bytes. `first` is where its elements begin: bindings may not start anywhere.
    External {
        buffer: Buffer,
        start: u64,
        bytes: u64,
        first: u64,
    },
    /// The plan's buffer of inputs.
    Inputs,
    /// Where kernels count what they refuse: see [`Fault`].
    Faults,
    /// Another slot from so many bytes on.
    Window { of: usize, start: u64 },
}

impl Slot {
    /// The persistent buffer that it is a range of, if it is.
    pub fn persistent(&self) -> Option<&Buffer> {
        match self {
            Slot::External { buffer, .. } => Some(buffer),
            _ => None,
        }
    }
}

/// Whether two slots are one, or ranges of one buffer.
pub(super) fn is_same_buffer(slots: &[Slot], a: usize, b: usize) -> bool {
    let buffers = [a, b].map(|slot| slots[slot].persistent().map(Buffer::id));
    a == b || (buffers[0].is_some() && buffers[0] == buffers[1])
}

/// A tensor as a kernel sees it: a buffer to bind and where the elements lie in it.
///
/// Kernels must honour the layout's `offset`, for outputs too. Outputs and temporaries are dense; inputs may have any
/// strides unless made dense with [`Lowering::contiguous`](super::Lowering::contiguous).
#[derive(Clone, Copy, Debug)]
pub struct Operand {
    pub(super) slot: usize,
    /// Shape, strides and offset, in elements of the bound buffer.
    pub layout: Layout,
    /// The element type.
    pub dtype: DType,
}

impl Operand {
    /// The shape.
    pub fn shape(&self) -> Shape {
        self.layout.shape
    }

    /// The number of elements.
    pub fn elements(&self) -> usize {
        self.layout.shape.elements()
    }

    /// The first element's index, as kernels take it.
    pub fn offset(&self) -> u32 {
        self.layout.offset as u32
    }

    /// The same buffer seen through another layout, which must stay within it.
    pub fn with_layout(mut self, layout: Layout) -> Operand {
        self.layout = layout;
        self
    }

    /// Whether both lie at the same place of the same buffer.
    pub(crate) fn is_same_place(&self, other: &Operand) -> bool {
        self.slot == other.slot && self.layout.offset == other.layout.offset
    }

    /// The size in bytes, for [`Cost`].
    pub fn bytes(&self) -> u64 {
        (self.dtype.bytes() * self.elements()) as u64
    }
}

/// What a dispatch costs at least, so that profiles and benchmarks can relate time to the hardware's limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Floating-point operations; a multiply-add counts as two.
    pub flops: u64,
    /// Bytes that must be read and written, each tensor once.
    pub bytes: u64,
}

/// One kernel launch being described.
#[derive(Clone, Debug)]
pub struct Dispatch {
    pub(super) kernel: Kernel,
    pub(super) bindings: Vec<(usize, Access)>,
    /// Which of them hold halves.
    pub(super) halves: Vec<usize>,
    pub(super) params: Vec<u32>,
    pub(super) grid: [u32; 3],
    pub(super) cost: Cost,
    /// See [`Dispatch::iterations`].
    pub(super) iterations: Option<usize>,
    /// What it is called beside others of that name, and the invocations of a workgroup.
    pub(super) fusable_as: Option<(&'static str, usize)>,
    /// Whether it may run much later, if nobody reads what it writes until then.
    pub(super) is_deferrable: bool,
    /// Whether those that it may be fused with never write the same elements of a buffer.
    pub(super) disjoint_writes: bool,
}

impl Dispatch {
    /// Starts describing a launch of `kernel`, by default with a single workgroup.
    pub fn new(kernel: Kernel) -> Dispatch {
        Dispatch {
            kernel: kernel.pruned(),
            bindings: Vec::new(),
            halves: Vec::new(),
            params: Vec::new(),
            grid: [1; 3],
            cost: Cost::default(),
            iterations: None,
            fusable_as: None,
            is_deferrable: false,
            disjoint_writes: false,
        }
    }

    /// Binds an operand as the next storage binding, `var<storage, read>`. Kernels read `F16` as if it were `F32`, from an
    /// `array` of `f32` or of a vector of it: the planner changes the declaration, and has what is read there widened. A
    /// kernel that declares an `array` of `f16` is left as it is.
    pub fn read(self, operand: &Operand) -> Dispatch {
        self.bind(operand, Access::Read)
    }

    /// Binds an operand as the next storage binding, `var<storage, read_write>`. What is written to `F16` is rounded.
    pub fn write(self, operand: &Operand) -> Dispatch {
        self.bind(operand, Access::Write)
    }

    fn bind(mut self, operand: &Operand, access: Access) -> Dispatch {
        if operand.dtype == DType::F16 {
            self.halves.push(self.bindings.len());
        }
        self.bindings.push((operand.slot, access));
        self
    }

    /// Appends words to the uniform parameters (binding 0). Floats go in by `f32::to_bits`.
    pub fn params(mut self, words: &[u32]) -> Dispatch {
        self.params.extend_from_slice(words);
        self
    }

    /// The number of workgroups in a grid folded to two dimensions when it passes the limit of 65,535 in one: the
    /// kernel's group index is `workgroup_id.x + workgroup_id.y * num_workgroups.x`, and groups beyond the count must
    /// do nothing.
    pub fn groups(mut self, count: usize) -> Dispatch {
        let most = 65_535;
        let height = count.div_ceil(most).max(1);
        self.grid = [count.div_ceil(height).max(1) as u32, height as u32, 1];
        self
    }

    /// The grid of workgroups, none of which may pass 65,535.
    pub fn grid(mut self, x: usize, y: usize, z: usize) -> Dispatch {
        self.grid = [x, y, z].map(|extent| u32::try_from(extent).unwrap_or(u32::MAX));
        self
    }

    /// States how often one invocation goes round loops at most, all of them together, those of functions that it calls
    /// included. A loop counts once more than its rounds, for the look that ends it, so a loop of `n` rounds over loops of
    /// `m` is `n·(m + 2) + 1`. Loops of a few rounds that no parameter changes need not be counted.
    ///
    /// Every kernel with loops must have it stated. Where a driver would end them earlier (Mesa's llvmpipe does so after
    /// 65,535 iterations, without a word), [`Tape::run`](crate::Tape::run) answers with [`Error::Limit`] and runs nothing:
    /// [`Lowering::most_iterations`](super::Lowering::most_iterations) says how many there may be.
    pub fn iterations(mut self, most: usize) -> Dispatch {
        self.iterations = Some(most);
        self
    }

    /// States the cost.
    pub fn cost(mut self, flops: u64, bytes: u64) -> Dispatch {
        self.cost = Cost { flops, bytes };
        self
    }

    /// Allows the planner to run this beside another dispatch that is fusable under the same name and has workgroups of as
    /// many `invocations`, as one that is called by the name. The grid is that of [`Dispatch::groups`]; the kernel's
    /// entry point takes built-in values only. Arrays in workgroup memory are shared by name if their elements are of a
    /// built-in type: whoever allows it answers for the 16 KiB that there are.
    pub(crate) fn fusable(mut self, name: &'static str, invocations: usize) -> Dispatch {
        self.fusable_as = Some((name, invocations));
        self
    }

    /// Lets this run later, beside up to two others that may be fused with it, if nobody needs its results before, and if
    /// what it reads is small enough to be kept until then.
    pub(crate) fn deferrable(mut self) -> Dispatch {
        self.is_deferrable = true;
        self
    }

    /// States that no other dispatch which this may be fused with writes the same elements, if it does write to the same
    /// buffer.
    pub(crate) fn disjoint_writes(mut self) -> Dispatch {
        self.disjoint_writes = true;
        self
    }
}

/// A planned tape before buffers are assigned.
pub(super) struct Program {
    pub slots: Vec<Slot>,
    pub dispatches: Vec<Dispatch>,
    /// What goes back to the host: the source, and the range of the readback in bytes.
    pub fetches: Vec<(Operand, std::ops::Range<usize>)>,
    /// What kernels count, in the order of the counters.
    pub faults: Vec<Fault>,
    /// Why it must not run.
    pub refused: Option<Error>,
}
