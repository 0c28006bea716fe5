//! What a kernel with an epilogue is given: the functions through which it stores, with their bindings and parameters.

use super::dispatch::{Dispatch, Operand};
use crate::gpu::Kernel;

/// Most operands that an epilogue may have; the size of the `operands` array in the kernels' parameters.
pub(crate) const MOST_OPERANDS: usize = 7;

/// The text and bindings through which a kernel stores its output.
///
/// The kernel's parameters are called `p`; they hold the number of columns as `n` and end in
/// `operands: array<vec4<u32>, 7>` (offset and strides of batch, row and column for each operand). Its file imports
/// `shaders/epilogue.wgsl`, whose functions [`Epilogue::wgsl`] declares again. `store4(batch, row, column, value)` stores
/// columns `column` to `column + 3`, leaving out those past the end; `column` is a multiple of four and in range, and so is
/// the row.
///
/// With a gate, `column` is a multiple of four behind the beginning of the left or right half of a row, and what is past
/// the end of that half is left out.
pub(crate) struct Epilogue {
    pub wgsl: String,
    /// The same for kernels that store rows one after the other, through `cursor(batch, row, column)` and
    /// `store_next(&cursor, column, value)` instead of `store4`. Places are kept from row to row: llvmpipe gathers a
    /// parameter anew wherever one is read. With a gate, lanes 0 to 3 of a subgroup of eight have columns of the left half,
    /// the others the same of the right.
    pub wgsl_by_rows: String,
    /// If there is a gate: `store_gate(batch, row, column, gate, up)`, which stores columns `column` to `column + 3` of its
    /// output from what `store4` was given for these columns of both halves.
    pub gate: Option<String>,
    /// How often loops go round in one store of four columns, at most.
    pub iterations: usize,
    /// Bytes that the epilogue reads and writes.
    pub bytes: u64,
    pub(super) leaves: Vec<Operand>,
    /// That of the end comes last.
    pub(super) outputs: Vec<Operand>,
    /// Offset and strides of each operand.
    pub(super) params: Vec<u32>,
}

impl Epilogue {
    /// The kernel with this epilogue declared; if there is a gate, also its `store_gate`, and its flag `GATED` set.
    pub fn applied(&self, kernel: Kernel) -> Kernel {
        let kernel = kernel.declare(&self.wgsl);
        match &self.gate {
            Some(gate) => kernel.flag("GATED", true).declare(gate),
            None => kernel,
        }
    }
}

impl Dispatch {
    /// Binds everything that a generated epilogue reads and writes, and appends its parameters.
    pub(crate) fn epilogue(mut self, epilogue: &Epilogue) -> Dispatch {
        for leaf in &epilogue.leaves {
            self = self.read(leaf);
        }
        for output in &epilogue.outputs {
            self = self.write(output);
        }
        let missing = 4 * MOST_OPERANDS - epilogue.params.len();
        self.params(&epilogue.params).params(&vec![0; missing])
    }
}
