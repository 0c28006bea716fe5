//! The passes in order.

use super::analysis::Analysis;
use super::dispatch::Program;
use super::memory::Assignment;
use super::print::Listing;
use super::window::uniform_window;
use super::{groups, horizontal, lowering, memory, uniform};
use crate::error::Result;
use crate::gpu::Device;
use crate::tape::record::Graph;

/// What the passes make of a tape: all that a plan is built from.
pub(super) struct Planned {
    pub program: Program,
    pub assignment: Assignment,
    /// The size of the buffer of inputs.
    pub input_bytes: u64,
}

/// Takes a tape through the passes, and writes down what it is after each, if there is a listing.
pub(super) fn run(
    device: &Device,
    graph: &Graph,
    listing: &mut Option<Listing>,
) -> Result<Planned> {
    let mut list = |write: &dyn Fn(&mut Listing)| listing.iter_mut().for_each(write);
    list(&|listing| listing.recorded(graph));
    let analysis = Analysis::of(graph);
    list(&|listing| listing.live(graph, &analysis));
    let groups = groups::form(graph, &analysis);
    list(&|listing| listing.groups(graph, &analysis, &groups));
    let mut program = lowering::lower(device, graph, &analysis, &groups);
    if let Some(error) = program.refused.take() {
        return Err(error);
    }
    list(&|listing| listing.dispatches("lowering", &program));
    if graph.fusion.horizontal {
        horizontal::fuse(device.class(), &mut program);
        list(&|listing| listing.dispatches("horizontal fusion", &program));
    }
    let assignment = memory::assign(&program);
    list(&|listing| listing.memory(&program, &assignment));
    // Room for the window through which kernels may read the inputs.
    let bytes = graph.input_bytes.len() as u64;
    let input_bytes = uniform_window(device, bytes).unwrap_or(bytes);
    // Which operands these are is measured on the device.
    if graph.fusion.uniform && !device.is_meta() {
        uniform::bind(device, &mut program, &assignment, input_bytes);
        list(&|listing| listing.dispatches("uniform operands", &program));
    }
    Ok(Planned {
        program,
        assignment,
        input_bytes,
    })
}
