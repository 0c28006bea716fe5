//! A plan that is submitted in a few parts, so that what persists is on its way to the host before the plan has ended.

use std::rc::Rc;

use super::replay::Plan;
use super::step::Step;
use crate::error::Result;
use crate::gpu::readback::{Landing, Readback, Ring};
use crate::gpu::{Device, Tensor};

/// How many there are at most: each costs the host a submission, and the device a pause.
const PARTS: usize = 4;

impl Plan {
    /// [`Plan::submit`], in parts that end where some of the pieces have their final values. These are copied for the host
    /// then, into buffers of the ring's. Gives the copies of the first pieces, in their order; the last ones are not final before
    /// the plan ends, or almost, and not copied.
    pub fn submit_in_parts(
        &self,
        device: &Device,
        inputs: &[u8],
        landing: &Rc<Landing>,
        ring: &Ring,
        pieces: &[&[Tensor]],
    ) -> Result<Vec<Readback>> {
        let ends = self.ends(pieces);
        let early = ends.iter().filter(|end| Some(*end) != ends.last()).count();
        let cut = |part: usize| {
            ends.get((part * early / (PARTS - 1)).checked_sub(1)?)
                .copied()
        };
        let cuts = (1..PARTS).filter_map(cut);
        let mut cuts: Vec<usize> = cuts.filter(|&cut| cut > 0).collect();
        cuts.dedup();
        self.write_inputs(device, inputs);
        let (mut from, mut copies) = (0, Vec::new());
        for &cut in &cuts {
            let mut encoder = device
                .shared
                .wgpu
                .create_command_encoder(&Default::default());
            if from == 0 {
                self.clear_faults(&mut encoder);
            }
            let steps = &self.steps[from..cut];
            Step::encode_all(steps, &mut encoder.begin_compute_pass(&Default::default()));
            let left = pieces.iter().zip(&ends).skip(copies.len());
            let ready = left.take_while(|&(_, end)| *end <= cut);
            let ready =
                ready.map(|(piece, _)| Tensor::encode_copies(device, ring, piece, &mut encoder));
            let mut ready = ready.collect::<Result<Vec<Readback>>>()?;
            let submission = device.submit(encoder.finish())?;
            for copy in &mut ready {
                copy.map(submission.clone());
            }
            copies.extend(ready);
            from = cut;
        }
        self.submit_from(device, from, landing)?;
        Ok(copies)
    }

    /// Of each piece, after how many steps it and all before it are final.
    fn ends(&self, pieces: &[&[Tensor]]) -> Vec<usize> {
        let mut end = 0;
        let ends = pieces.iter().map(|piece| {
            end = end.max(self.writes.end(piece));
            end
        });
        ends.collect()
    }
}

#[cfg(test)]
#[path = "../../../tests/unit/tape/plan/parts.rs"]
mod tests;
