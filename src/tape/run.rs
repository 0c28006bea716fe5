//! Asking for values, and running a tape.

use std::marker::PhantomData;

use super::plan::{self, MemoryUse};
use super::record::{Tape, Var};
use super::role::TensorType;
use crate::error::Result;
#[cfg(all(any(feature = "mpi", test), not(target_family = "wasm")))]
use crate::gpu::Tensor;
#[cfg(all(any(feature = "mpi", test), not(target_family = "wasm")))]
use crate::gpu::readback::{Readback, Ring};
use crate::gpu::{Element, Fetch};

impl Tape {
    /// Asks for a value: it is on its way to the host once the tape has run. A persistent tensor arrives as it is at the
    /// end of the tape, also where an assignment was recorded after this call.
    ///
    /// # Panics
    ///
    /// If the value has another element type, or was recorded on another tape.
    #[track_caller]
    pub fn fetch<E: Element>(&self, var: Var<'_>) -> Fetch<E> {
        self.require_own("fetch", var);
        let TensorType { shape, dtype } = var.tensor_type();
        assert!(
            dtype == E::DTYPE,
            "fetch: the value has another element type: {dtype:?}, not {:?}",
            E::DTYPE
        );
        let range = self
            .graph
            .borrow_mut()
            .push_fetch(var.id, dtype.bytes() * shape.elements());
        Fetch {
            landing: self.landing.clone(),
            range,
            shape,
            element: PhantomData,
        }
    }

    /// Plans the tape, or finds its plan, and submits it once. Does not wait for the device, unless that is eight submissions
    /// behind: in a browser it never does, and a loop awaits its results so that it doesn't run ahead of the device.
    ///
    /// # Errors
    ///
    /// [`IndexOutOfRange`](crate::Error::IndexOutOfRange) if an operation was given such indices as host data; then nothing
    /// runs. Anything the device reports: [`DeviceLost`](crate::Error::DeviceLost),
    /// [`OutOfMemory`](crate::Error::OutOfMemory), [`Limit`](crate::Error::Limit), or [`Kernel`](crate::Error::Kernel) for
    /// a kernel that does not compile.
    pub fn run(self) -> Result<()> {
        self.copy_outdated()?;
        let outcome = plan::run(
            &self.device,
            &mut self.graph.borrow_mut(),
            self.training,
            &self.landing,
            self.began,
        );
        self.note_writes();
        outcome
    }

    /// Runs the tape like [`Tape::run`], but in a few submissions, after which pieces of what it writes are copied for the host
    /// as soon as they have their final values. Gives the copies of the first pieces, in their order: what is final only at
    /// the end is not copied, and nothing while a profile is made.
    #[cfg(all(any(feature = "mpi", test), not(target_family = "wasm")))]
    pub(crate) fn run_in_parts(self, ring: &Ring, pieces: &[&[Tensor]]) -> Result<Vec<Readback>> {
        if self.began.is_some() {
            return self.run().map(|()| Vec::new());
        }
        self.copy_outdated()?;
        let copies = plan::run_in_parts(
            &self.device,
            &mut self.graph.borrow_mut(),
            self.training,
            &self.landing,
            (ring, pieces),
        );
        self.note_writes();
        copies
    }

    /// Runs the tape once like [`Tape::run`], with every dispatch timed by itself, and waits for it. Values asked for
    /// with [`Tape::fetch`] do not arrive.
    ///
    /// # Errors
    ///
    /// As [`Tape::run`].
    #[cfg(not(target_family = "wasm"))]
    pub fn profile(self) -> Result<Vec<plan::KernelTime>> {
        self.copy_outdated()?;
        let times = plan::profile(&self.device, &mut self.graph.borrow_mut(), self.training);
        self.note_writes();
        times
    }

    /// Plans the tape without running it or making anything for it, and says how much device memory it works with: also on a
    /// [meta device](crate::Device::meta), where not even its parameters have any.
    ///
    /// # Errors
    ///
    /// As [`Tape::run`].
    pub fn memory(self) -> Result<MemoryUse> {
        plan::memory(&self.device, &mut self.graph.borrow_mut())
    }

    /// Plans the tape without running it, and gives what it is after each pass of the planner as text: nodes, fusion groups,
    /// dispatches, buffers. For people to read; its form may change.
    ///
    /// ```
    /// # fn main() -> shadegrad::Result<()> {
    /// use shadegrad::{Device, Tape};
    ///
    /// let device = Device::new()?;
    /// let tape = Tape::inference(&device);
    /// let x = tape.input([2, 2], &[1.0, 2.0, 3.0, 4.0f32]);
    /// let _y = tape.fetch::<f32>(x.matmul(x).relu());
    /// let plan = tape.explain()?;
    /// assert!(plan.contains("matmul %1 then relu %2: reads %0, stores %2"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Tape::run`].
    pub fn explain(self) -> Result<String> {
        plan::explain(&self.device, &mut self.graph.borrow_mut())
    }
}
