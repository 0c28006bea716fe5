//! Operands that kernels read as uniform buffers instead of storage buffers.
//!
//! On llvmpipe, a storage load is a loop over the lanes that goes through memory for every element; a load from a uniform
//! buffer is straight-line code. `docs/laboratory.md` has both times. So wherever an operand is small enough, the kernel
//! is changed to read it from there: through one binding of up to 64 KiB, or through several, where loads from storage
//! are so slow that reading all of them and picking one is still faster.

#[cfg(not(target_family = "wasm"))]
mod cost;
mod windows;

use super::dispatch::{Program, Slot};
use super::memory::Assignment;
use super::window::{SIZES, WINDOW, is_possible, uniform_window};
use crate::gpu::Device;
use crate::gpu::kernel::Access;

/// No operand is read through more windows than this.
const MOST_WINDOWS: u64 = 11;

/// How many windows an operand may be read through. All are read, and all but one in vain.
#[cfg(not(target_family = "wasm"))]
fn most_windows(device: &Device) -> u64 {
    let most = device.shared.most_windows.get_or_init(|| {
        // Picking costs something, too. A device that has failed says so at the next opportunity.
        let loads = cost::uniform_loads_per_storage_load(device);
        loads.map_or(1, |loads| (0.7 * loads) as u64)
    });
    (*most).max(1)
}

/// Nothing can be measured where nobody can wait.
#[cfg(target_family = "wasm")]
fn most_windows(_: &Device) -> u64 {
    1
}

/// Turns the operands that fit into uniform ones, and changes the kernels. `inputs` is the size of the buffer of
/// the tape's inputs.
pub(super) fn bind(device: &Device, program: &mut Program, assignment: &Assignment, inputs: u64) {
    if !is_possible(device) {
        return;
    }
    let most = device.limits().max_uniform_buffers_per_shader_stage as usize;
    let Program {
        slots, dispatches, ..
    } = program;
    for dispatch in dispatches.iter_mut().filter(|d| d.kernel.trusted) {
        // A single lane loads from storage as fast: the loop over the lanes leaves the others out.
        if dispatch.kernel.module.is_serial(dispatch.kernel.entry) {
            continue;
        }
        // The parameters are one.
        let mut uniforms = 1;
        for index in 0..dispatch.bindings.len() {
            let (slot, access) = dispatch.bindings[index];
            if access != Access::Read {
                continue;
            }
            let pooled = assignment.buffer_of[slot].map(|buffer| assignment.sizes[buffer]);
            let present = pooled.unwrap_or(inputs);
            let windows = windows(device, &slots[slot], present);
            if windows.is_empty() || uniforms + windows.len() > most {
                continue;
            }
            let next = Access::window_binding(dispatch.bindings.len());
            let kernel = &mut dispatch.kernel.module;
            let Some(new) = windows::rewritten(kernel, index as u32 + 1, next, &windows) else {
                continue;
            };
            *kernel = new;
            uniforms += windows.len();
            dispatch.bindings[index].1 = Access::Uniform { bytes: windows[0] };
            for (number, &bytes) in (1..).zip(&windows[1..]) {
                let start = number * WINDOW;
                slots.push(Slot::Window { of: slot, start });
                let access = Access::Window { bytes };
                dispatch.bindings.push((slots.len() - 1, access));
            }
        }
    }
}

/// The sizes of the windows through which a slot can be read, one after the other; none where that cannot be. `present` is
/// the size of the buffer that holds an intermediate value or the inputs.
fn windows(device: &Device, slot: &Slot, present: u64) -> Vec<u64> {
    let (bytes, present) = match slot {
        Slot::Transient { bytes } => (*bytes, present),
        Slot::Inputs => (present, present),
        Slot::External {
            buffer,
            start,
            bytes,
            ..
        } => (*bytes, buffer.bytes() - start),
        Slot::Faults | Slot::Window { .. } => return Vec::new(),
    };
    if let Some(size) = uniform_window(device, bytes).filter(|&size| size <= present) {
        return vec![size];
    }
    if bytes <= SIZES[1] {
        return Vec::new();
    }
    let count = bytes.div_ceil(WINDOW);
    // The last window is as long as what is left, so that it does not reach beyond the buffer: a text for every size, but
    // there are not many so large.
    let last = (bytes - (count - 1) * WINDOW).next_multiple_of(16);
    let is_inside = (count - 1) * WINDOW + last <= present;
    if !is_inside || count > MOST_WINDOWS || (count > 1 && count > most_windows(device)) {
        return Vec::new();
    }
    let mut windows = vec![WINDOW; count as usize];
    windows[count as usize - 1] = last;
    windows
}

#[cfg(test)]
#[path = "../../../../tests/unit/tape/plan/uniform.rs"]
mod tests;
