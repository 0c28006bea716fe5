//! A run in several processes, ranks, that MPI's launcher has started: `mpirun -n 4 PROGRAM …`, with the feature `mpi`. Each
//! trains on its share of every batch; rank 0 alone prints and writes files.

use std::error::Error;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;
use shadegrad::nn::{GptConfig, Parameters};
use shadegrad::{DType, Device, f16};

use super::Result;
use super::args::EvaluationArgs;
use super::course::Ranks;

/// What launchers tell a process in its environment: Open MPI's, MPICH's and Slurm's. Its rank, and how many there are.
const LAUNCHERS: [[&str; 2]; 3] = [
    ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"],
    ["PMI_RANK", "PMI_SIZE"],
    ["PMIX_RANK", "SLURM_NTASKS"],
];

/// This process's rank and how many there are, if a launcher started several.
fn launched() -> Option<[usize; 2]> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<usize>().ok();
    let launched = LAUNCHERS
        .iter()
        .find_map(|&[rank, size]| Some([number(rank)?, number(size)?]));
    launched.filter(|[_, size]| *size > 1)
}

/// Whether a launcher started several.
pub fn are_several() -> bool {
    launched().is_some()
}

/// Whether what this process has to say is said by rank 0, too.
pub fn is_silent() -> bool {
    launched().is_some_and(|[rank, _]| rank > 0)
}

/// Runs a program as one of several ranks if a launcher started several. What goes wrong on one of them ends all, with
/// a line that names it; what goes wrong on all alike is told by rank 0.
///
/// # Errors
///
/// Those of the program.
pub fn run<T>(program: impl FnOnce(Option<Rc<dyn Ranks>>) -> Result<T>) -> Result<T> {
    match launched() {
        None => program(None),
        Some(launched) => several(launched, program),
    }
}

/// Checks that what only one process does is not started as several ranks.
///
/// # Errors
///
/// If it is.
pub fn require_one(what: &str) -> Result<()> {
    match launched() {
        None => Ok(()),
        Some([_, size]) => Err(format!(
            "{what} runs as one process, and {size} were started: several ranks can only train, by train_names, train_text or lm tune"
        )
        .into()),
    }
}

/// Whether MPI has begun, or was tried to.
static HAS_BEGUN: AtomicBool = AtomicBool::new(false);

/// Lets all ranks hear, and rank 0 tell, that this process has nothing to begin with.
pub fn refuse(reason: String) -> Box<dyn Error> {
    if HAS_BEGUN.load(Ordering::Relaxed) {
        // The others have heard.
        return reason.into();
    }
    if !cfg!(feature = "mpi") {
        stand_back();
        return reason.into();
    }
    let outcome = run(|ranks| settle(ranks.as_deref(), Err::<(), _>(reason.clone().into())));
    outcome.err().unwrap_or_else(|| reason.into())
}

/// Lets rank 0, whose end may be the end of all, say what this process has to say, too.
fn stand_back() {
    if is_silent() {
        super::terminal::silence();
        std::thread::sleep(Duration::from_secs(2));
    }
}

/// Brings what all ranks have been able to begin with; if one has not, all stop here.
///
/// # Errors
///
/// Of that rank.
pub fn settle<T>(ranks: Option<&dyn Ranks>, outcome: Result<T>) -> Result<T> {
    let Some(ranks) = ranks else { return outcome };
    let error = outcome.as_ref().err().map(ToString::to_string);
    ranks.settle(error)?;
    outcome
}

/// Checks that a batch has a row for each rank.
///
/// # Errors
///
/// If it has not.
pub fn require_rows(ranks: Option<&dyn Ranks>, rows: usize) -> Result<()> {
    match ranks.map(|ranks| ranks.size()) {
        Some(size) if rows < size => Err(format!(
            "--batch-size is {rows}, fewer rows than the {size} ranks that share a batch: start fewer ranks, or make it larger"
        )
        .into()),
        _ => Ok(()),
    }
}

/// Checks that all ranks are about to make the same run. Where its files lie may differ between machines.
///
/// # Errors
///
/// What differs, where, and both values.
pub fn agree(
    ranks: Option<&dyn Ranks>,
    settings: &impl Serialize,
    (evaluation, intervals): (&EvaluationArgs, &[(&str, u64)]),
    device: &Device,
    start: u64,
    text_digest: &str,
) -> Result<()> {
    let Some(ranks) = ranks else { return Ok(()) };
    ranks.agree("the version", env!("CARGO_PKG_VERSION"))?;
    ranks.agree("the class of the adapter", &format!("{:?}", device.class()))?;
    let settings = serde_json::to_value(settings)?;
    for (name, value) in settings.as_object().into_iter().flatten() {
        if !["filename", "tokenizer"].contains(&&name[..]) {
            let flag = format!("--{}", name.replace('_', "-"));
            ranks.agree(&flag, &value.to_string())?;
        }
    }
    ranks.agree("the evaluation", &format!("{evaluation:?}"))?;
    for (flag, interval) in intervals {
        ranks.agree(flag, &interval.to_string())?;
    }
    ranks.agree("the step to begin with", &start.to_string())?;
    ranks.agree("the text's fingerprint", text_digest)
}

/// Checks that all ranks have the same model to begin with: as it lies on their devices, whatever files it came from, so that
/// none of these is read twice.
///
/// # Errors
///
/// What differs, where, and both values; what the device reports.
pub fn agree_on_model<'p>(
    ranks: Option<&dyn Ranks>,
    config: &GptConfig,
    parameters: impl IntoIterator<Item = &'p Parameters>,
) -> Result<()> {
    let Some(ranks) = ranks else { return Ok(()) };
    let config = serde_json::to_value(config)?;
    for (name, value) in config.as_object().into_iter().flatten() {
        ranks.agree(&format!("the model's {name}"), &value.to_string())?;
    }
    for parameters in parameters {
        ranks.agree("the number of weights", &parameters.len().to_string())?;
        for parameter in parameters.iter() {
            let tensor = parameter.tensor();
            let own = match tensor.dtype() {
                DType::F16 => {
                    let values = tensor.to_vec::<f16>()?;
                    fingerprint(values.into_iter().map(|value| value.to_bits().into()))
                }
                _ => fingerprint(tensor.to_vec::<f32>()?.into_iter().map(f32::to_bits)),
            };
            let what = format!("the fingerprint of weight `{}`", parameter.name());
            ranks.agree(&what, &format!("{own} of {}", tensor.shape()))?;
        }
    }
    Ok(())
}

/// Of numbers in their order, in hexadecimal.
pub fn fingerprint(numbers: impl Iterator<Item = u32>) -> String {
    let hash = numbers.fold(0xcbf2_9ce4_8422_2325_u64, |hash, number| {
        let mixed = (hash ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed.rotate_left(29)
    });
    format!("{hash:016x}")
}

#[cfg(not(feature = "mpi"))]
fn several<T>(
    [_, size]: [usize; 2],
    _program: impl FnOnce(Option<Rc<dyn Ranks>>) -> Result<T>,
) -> Result<T> {
    Err(format!(
        "started as {size} ranks, but built for one: build with --features mpi to train with several"
    )
    .into())
}

#[cfg(feature = "mpi")]
fn several<T>(
    [_, size]: [usize; 2],
    program: impl FnOnce(Option<Rc<dyn Ranks>>) -> Result<T>,
) -> Result<T> {
    HAS_BEGUN.store(true, Ordering::Relaxed);
    let process = Rc::new(mpi::Process::begin());
    if process.size() == 1 {
        stand_back();
        return Err(format!(
            "started as {size} ranks, but each of them is alone: the launcher is of another MPI library than the one that this \
             program was built with"
        )
        .into());
    }
    if process.rank() > 0 {
        super::terminal::silence();
    }
    let outcome = program(Some(process.clone()));
    if let Err(error) = &outcome {
        if !mpi::is_common(&**error) {
            process.abort(&error.to_string());
        }
        // The launcher ends all as soon as one has ended: so this is said before they part.
        super::terminal::error(&**error);
        super::terminal::silence();
    }
    outcome
}

#[cfg(feature = "mpi")]
mod mpi {
    use std::any::Any;
    use std::cell::{Cell, OnceCell};
    use std::ops::Range;
    use std::time::Duration;

    use shadegrad::nn::Parameters;
    use shadegrad::optim::AdamW;
    use shadegrad::parallel::{DiLoCo, DiLoCoConfig, World};
    use shadegrad::{DType, Device, Error, Tape, Tensor};

    use crate::common::args::SyncArgs;
    use crate::common::course::{Ranks, Trainer};
    use crate::common::steps::Diverged;
    use crate::common::{Result, interrupt};

    /// How long ranks wait for others that compile kernels, or write files.
    const LONG: Duration = Duration::from_secs(600);

    /// This process.
    pub struct Process {
        world: World,
        loss: OnceCell<Tensor>,
        /// Whether a step has been made, for which kernels had to be compiled.
        has_stepped: Cell<bool>,
    }

    impl Process {
        pub fn begin() -> Process {
            let world = World::new();
            world.set_patience(LONG);
            interrupt::share();
            Process {
                world,
                loss: OnceCell::new(),
                has_stepped: Cell::new(false),
            }
        }

        pub fn abort(&self, message: &str) -> ! {
            self.world.abort(message)
        }

        /// Lets what may take long on another rank go on.
        fn patiently<T>(&self, work: impl FnOnce() -> T) -> T {
            let before = self.world.set_patience(LONG);
            let result = work();
            self.world.set_patience(before);
            result
        }
    }

    /// Whether an error is one that all ranks have, at the same point of the run.
    pub fn is_common(error: &(dyn std::error::Error + 'static)) -> bool {
        error.is::<Diverged>()
            || matches!(
                error.downcast_ref(),
                Some(Error::Ranks { .. } | Error::NonFinite { .. })
            )
    }

    impl Ranks for Process {
        fn rank(&self) -> usize {
            self.world.rank()
        }

        fn local_rank(&self) -> usize {
            self.world.local_rank()
        }

        fn size(&self) -> usize {
            self.world.size()
        }

        fn share(&self, rows: usize) -> Range<usize> {
            self.world.share(rows)
        }

        fn settle(&self, error: Option<String>) -> Result<()> {
            Ok(self.patiently(|| self.world.settle(error.map_or(Ok(()), Err)))?)
        }

        fn agree(&self, what: &str, value: &str) -> Result<()> {
            Ok(self.world.agree(what, value)?)
        }

        fn loss(&self, device: &Device) -> Result<Tensor> {
            if let Some(loss) = self.loss.get() {
                return Ok(loss.clone());
            }
            let loss = Tensor::zeros(device, [1], DType::F32)?;
            Ok(self.loss.get_or_init(|| loss).clone())
        }

        fn run_and_sum(
            &self,
            tape: Tape,
            gradient: &[Tensor],
            loss: &Tensor,
            dtype: DType,
        ) -> shadegrad::Result<()> {
            match dtype {
                DType::F32 => {
                    let all = gradient.iter().chain([loss]);
                    self.world.run_and_sum(tape, all, dtype)?;
                }
                // The loss is to be told as it is.
                _ => {
                    self.world.run_and_sum(tape, gradient, dtype)?;
                    self.world.sum([loss], DType::F32)?;
                }
            }
            if !self.has_stepped.replace(true) {
                self.world.set_patience(World::PATIENCE);
            }
            Ok(())
        }

        fn sum_numbers(&self, values: &mut [f64]) {
            self.patiently(|| self.world.sum_f64(values));
        }

        fn apart(&self, inner: AdamW, sync: &SyncArgs) -> Result<Box<dyn Trainer>> {
            let config = DiLoCoConfig {
                learning_rate: sync.outer_lr,
                momentum: sync.outer_momentum,
            };
            Ok(Box::new(DiLoCo::new(inner, config)?))
        }

        fn synchronise(
            &self,
            optimizer: &mut (dyn Trainer + 'static),
            losses: &mut [f64],
            took: Duration,
        ) -> Result<()> {
            let optimizer: &mut dyn Any = optimizer;
            let optimizer = optimizer.downcast_mut::<DiLoCo<AdamW>>();
            let optimizer = optimizer.expect("Ranks::apart made it");
            // The others may take twice as long.
            let patience = match self.has_stepped.replace(true) {
                true => World::PATIENCE,
                false => LONG,
            };
            self.world.set_patience(patience + took);
            optimizer.synchronise(&self.world)?;
            self.world.set_patience(World::PATIENCE);
            self.world.sum_f64(losses);
            Ok(())
        }

        fn check(&self, parameters: &Parameters, step: u64) -> Result<()> {
            Ok(self.world.check_identical(parameters, step)?)
        }

        fn share_interruption(&self) {
            let mut requested = [f64::from(u8::from(interrupt::has_come()))];
            self.world.sum_f64(&mut requested);
            if requested[0] > 0.0 {
                interrupt::request();
            }
        }
    }
}
