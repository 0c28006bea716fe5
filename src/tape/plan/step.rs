//! One dispatch of a finished plan.

use std::sync::Arc;

use super::dispatch::Cost;
use crate::gpu::pipeline::Pipeline;

/// One dispatch, ready to be encoded.
pub(crate) struct Step {
    pub name: &'static str,
    pub grid: [u32; 3],
    pub cost: Cost,
    pub pipeline: Arc<Pipeline>,
    pub bind_group: wgpu::BindGroup,
}

impl Step {
    pub fn encode_all(steps: &[Step], pass: &mut wgpu::ComputePass<'_>) {
        let mut current: Option<&Arc<Pipeline>> = None;
        for step in steps {
            let [x, y, z] = step.grid;
            if current.is_none_or(|current| !Arc::ptr_eq(current, &step.pipeline)) {
                pass.set_pipeline(&step.pipeline.raw);
                current = Some(&step.pipeline);
            }
            pass.set_bind_group(0, &step.bind_group, &[]);
            pass.dispatch_workgroups(x, y, z);
        }
    }
}
