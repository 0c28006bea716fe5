//! Reports of steps that the device is working on.

use std::collections::VecDeque;

use super::{Metrics, Report};
use crate::error::Result;

/// The reports of steps that have been submitted, the oldest first. A loop that takes them a few steps late never waits for
/// the device, unless that is further behind.
///
/// ```
/// # fn main() -> shadegrad::Result<()> {
/// use shadegrad::nn::{Init, ParameterBuilder};
/// use shadegrad::optim::{AdamW, AdamWConfig, Optimizer, Reports};
/// use shadegrad::{Device, Tape};
///
/// let device = Device::new()?;
/// let mut builder = ParameterBuilder::new(1);
/// let x = builder.parameter("x", [2], Init::Ones);
/// let parameters = builder.build(&device)?;
/// let mut optimizer = AdamW::new(&parameters, AdamWConfig::default())?;
///
/// let (mut reports, mut losses) = (Reports::default(), Vec::new());
/// for step in 1..=20 {
///     let tape = Tape::training(&device);
///     let loss = x.on(&tape).powi(2.0).sum_all();
///     reports.push(optimizer.step(&tape, loss, 0.1).fetch());
///     tape.run()?;
///     // In the end, all; until then, up to four steps may be under way.
///     while let Some(metrics) = reports.take(if step == 20 { 0 } else { 4 })? {
///         losses.push(metrics.loss);
///     }
/// }
/// assert_eq!(losses.len(), 20);
/// # Ok(())
/// # }
/// ```
#[derive(Default)]
pub struct Reports(VecDeque<Report>);

impl Reports {
    /// Adds the report of the step that is submitted next.
    pub fn push(&mut self, report: Report) {
        self.0.push_back(report);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes the oldest step's metrics if they have arrived, or if there are more than `most` reports: then this waits.
    ///
    /// # Errors
    ///
    /// As [`Reports::take_async`].
    #[cfg(not(target_family = "wasm"))]
    pub fn take(&mut self, most: usize) -> Result<Option<Metrics>> {
        crate::gpu::block_on(self.take_async(most))
    }

    /// [`Reports::take`] where nothing can block.
    ///
    /// # Errors
    ///
    /// As [`Report::ready`]. The report of that step is gone then, so that a loop which puts up with a skipped step goes on.
    pub async fn take_async(&mut self, most: usize) -> Result<Option<Metrics>> {
        let Some(oldest) = self.0.front() else {
            return Ok(None);
        };
        if self.0.len() <= most && matches!(oldest.is_ready(), Ok(false)) {
            return Ok(None);
        }
        match self.0.pop_front() {
            Some(oldest) => oldest.ready().await.map(Some),
            None => Ok(None),
        }
    }
}
