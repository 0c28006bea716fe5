//! `--profile`: some steps of the training are watched, and what was seen is printed and written as a trace.

use std::path::Path;
use std::time::Instant;

use shadegrad::Device;
use shadegrad::optim::Optimizer;
use shadegrad::profile::Ceiling;
use shadegrad::profile::{Profile, Profiler};

use super::terminal::note;
use super::training::Summary;
use super::words::HumanCount;
use super::{Result, outputs};

/// Steps that are let pass first: they compile the kernels and fill the caches.
const WARM_UP: u64 = 8;

/// Steps that are watched.
const STEPS: u64 = 32;

/// The part of a training that watches its steps.
pub struct Profiling {
    /// The first step to watch; `None` if none is.
    first: Option<u64>,
    profiler: Option<Profiler>,
    profile: Option<Profile>,
}

impl Profiling {
    /// For a training of the steps from `start` to `total`, which may be too short to leave all of the first ones out.
    pub fn new(wanted: bool, start: u64, total: u64) -> Profiling {
        let warm_up = WARM_UP.min((total - start) / 2);
        Profiling {
            first: wanted.then_some(start + warm_up),
            profiler: None,
            profile: None,
        }
    }

    /// To be called before each step.
    ///
    /// # Errors
    ///
    /// Those of the device.
    pub fn before(&mut self, device: &Device, step: u64) -> Result<()> {
        match self.first {
            Some(first) if step == first => self.profiler = Some(Profiler::start(device)),
            Some(first) if step == first + STEPS => self.finish()?,
            _ => {}
        }
        Ok(())
    }

    /// To be called after the last step.
    ///
    /// # Errors
    ///
    /// Those of the device.
    pub fn finish(&mut self) -> Result<()> {
        if let Some(profiler) = self.profiler.take() {
            self.profile = Some(profiler.finish()?);
        }
        Ok(())
    }

    /// What was seen.
    pub fn take(&mut self) -> Option<Profile> {
        self.profile.take()
    }
}

/// Prints what was seen in a training that began at `began`, and writes the trace.
///
/// # Errors
///
/// Those of the device and of the file.
pub fn report(
    path: Option<&Path>,
    summary: &Summary,
    device: &Device,
    optimizer: &dyn Optimizer,
    began: Instant,
) -> Result<()> {
    let Some(path) = path else {
        return Ok(());
    };
    let Some(profile) = &summary.profile else {
        note(format_args!(
            "no step was left to be watched, {} is not written",
            path.display()
        ));
        return Ok(());
    };
    let ceiling = Ceiling::measure(device)?;
    say!("{}", profile.table(Some(ceiling)));
    let count = optimizer.parameters().element_count();
    say!(
        "parameters, gradients and moments: {:.2} bytes for each of {} parameters",
        optimizer.memory() as f64 / count as f64,
        HumanCount(count as u64),
    );
    if let Some(first) = summary.first_step {
        say!(
            "the first step was finished {:.2} s after the program began",
            (first - began).as_secs_f64()
        );
    }
    outputs::replace(path, |temporary| Ok(profile.write_trace(temporary)?))
}
