//! The passes in order.

use super::analysis::Analysis;
use super::replay::Plan;
use super::{lowering, side_by_side, units};
use crate::error::Result;
use crate::gpu::Device;
use crate::tape::record::Graph;

/// Plans a tape.
pub(super) fn run(device: &Device, graph: &Graph) -> Result<Plan> {
    let analysis = Analysis::of(graph);
    let units = units::form(graph, &analysis);
    let mut program = lowering::lower(device, graph, &analysis, &units);
    if let Some(error) = program.refused.take() {
        return Err(error);
    }
    if graph.fusion.side_by_side {
        side_by_side::pair(device.class(), &mut program);
    }
    Plan::build(device, graph, program)
}
