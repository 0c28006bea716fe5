//! Times what tapes do, and relates it to what the device can do.

use std::cell::Cell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use criterion::{Bencher, Criterion, SamplingMode};
use shadegrad::tape::{Fusion, KernelTime, Precision};
use shadegrad::{AdapterClass, Device, Error, Result, Shape, Tape, Tensor, Var, f16};

use crate::table::{Line, Table, Work};

/// Where a benchmark makes sense.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Size {
    /// Everywhere, also where each benchmark only has to show that it runs (`cargo test --benches`).
    Tiny,
    /// On every adapter.
    Small,
    /// Too large for a software adapter, unless `SHADEGRAD_BENCH=all` asks for it.
    Large,
}

thread_local! {
    /// What benchmarks are recorded in.
    static PRECISION: Cell<Precision> = const { Cell::new(Precision::F32) };
}

/// A tape as benchmarks use them.
fn new_tape(device: &Device) -> Tape {
    let tape = Tape::training(device);
    tape.set_precision(PRECISION.get());
    tape
}

/// A whole run of `cargo bench`.
pub struct Session {
    device: Device,
    criterion: Criterion,
    most: Size,
    table: Table,
}

/// Why a benchmark is impossible on this device: thrown through criterion, which has no other way out.
struct Impossible(Error);

impl Session {
    /// Opens the device and reads the command line.
    pub fn new() -> Result<Session> {
        let device = Device::new()?;
        println!("{}", device.description());
        let has = |flag: &str| std::env::args().any(|argument| argument == flag);
        let all = std::env::var("SHADEGRAD_BENCH").is_ok_and(|value| value == "all");
        let most = if !has("--bench") || has("--test") {
            Size::Tiny
        } else if all || device.class() == AdapterClass::Gpu {
            Size::Large
        } else {
            Size::Small
        };
        Ok(Session {
            device,
            criterion: Criterion::default()
                .sample_size(10)
                .warm_up_time(Duration::from_millis(200))
                .measurement_time(Duration::from_millis(800))
                .configure_from_args(),
            most,
            table: Table::default(),
        })
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether each benchmark only has to show that it runs.
    pub fn is_tiny(&self) -> bool {
        self.most == Size::Tiny
    }

    /// Whether the sizes meant for real GPUs are run.
    pub fn is_large(&self) -> bool {
        self.most == Size::Large
    }

    /// Adds benchmarks in mixed precision, whose tensors are of halves. Their names begin with `mixed/`.
    pub fn mixed(&mut self, add: impl FnOnce(&mut Session)) {
        PRECISION.set(Precision::Mixed);
        add(self);
        PRECISION.set(Precision::F32);
    }

    /// Times everything that a tape does on the device. `record` fills the tape.
    pub fn kernels<F: FnMut(&Tape)>(
        &mut self,
        size: Size,
        id: &str,
        setup: impl FnOnce(&Device) -> Result<F>,
    ) {
        self.some_kernels(size, id, |device| Ok((setup(device)?, |_, _: &_| true)));
    }

    /// Like [`Session::kernels`], but of the dispatches only those count which a second function chooses, given their
    /// position.
    pub fn some_kernels<F, S>(
        &mut self,
        size: Size,
        id: &str,
        setup: impl FnOnce(&Device) -> Result<(F, S)>,
    ) where
        F: FnMut(&Tape),
        S: Fn(usize, &KernelTime) -> bool,
    {
        self.bench(size, id, "", |device| {
            let (mut record, counts) = setup(device)?;
            let device = device.clone();
            let mut run = move || -> Result<Vec<KernelTime>> {
                let tape = new_tape(&device);
                record(&tape);
                let kernels = tape.profile()?.into_iter().enumerate();
                Ok(kernels
                    .filter(|(position, kernel)| counts(*position, kernel))
                    .map(|(_, kernel)| kernel)
                    .collect())
            };
            let kernels = run()?;
            let time = move |times: u64| {
                let mut total = Duration::ZERO;
                for _ in 0..times {
                    total += run()?.iter().map(|kernel| kernel.time).sum::<Duration>();
                }
                Ok(total)
            };
            Ok((kernels, time))
        });
    }

    /// [`Session::forward`] and [`Session::gradient`].
    pub fn differentiable<const N: usize, F>(
        &mut self,
        size: Size,
        id: &str,
        shapes: [&[usize]; N],
        function: F,
    ) where
        F: for<'t> Fn([Var<'t>; N]) -> Var<'t> + Copy,
    {
        self.forward(size, id, shapes, function);
        self.gradient(size, id, shapes, function);
    }

    /// Times a function of tensors filled with random numbers, as `id/forward`.
    pub fn forward<const N: usize, F>(
        &mut self,
        size: Size,
        id: &str,
        shapes: [&[usize]; N],
        function: F,
    ) where
        F: for<'t> Fn([Var<'t>; N]) -> Var<'t>,
    {
        self.kernels(size, &format!("{id}/forward"), |device| {
            let problem = Problem::new(device, shapes, function)?;
            Ok(move |tape: &Tape| {
                problem.forward(tape);
            })
        });
    }

    /// Times what the gradient of a function adds to the function, as `id/gradient`.
    pub fn gradient<const N: usize, F>(
        &mut self,
        size: Size,
        id: &str,
        shapes: [&[usize]; N],
        function: F,
    ) where
        F: for<'t> Fn([Var<'t>; N]) -> Var<'t>,
    {
        self.some_kernels(size, &format!("{id}/gradient"), |device| {
            let problem = Problem::new(device, shapes, function)?;
            let upstream = random(device, problem.output.shape(), 0)?;
            let gradients: Result<Vec<Tensor>> = problem
                .inputs
                .iter()
                .map(|input| random(device, input.shape(), 0))
                .collect();
            let gradients = gradients?;
            let tape = new_tape(device);
            problem.forward(&tape);
            let forward = tape.profile()?.len();
            let record = move |tape: &Tape| {
                let (leaves, value) = problem.forward(tape);
                let found = tape.backward((value * tape.tensor(&upstream)).sum_all());
                for (leaf, gradient) in leaves.into_iter().zip(&gradients) {
                    let value = found.of(leaf).expect("the function uses all of its inputs");
                    tape.assign(gradient, value);
                }
            };
            // The forward kernels, which are run for their output, come first.
            Ok((record, move |position, _: &_| position >= forward))
        });
    }

    /// Times training steps as a program runs them: recorded and submitted one after the other, and not waited for.
    /// `record` puts a whole step on the tape, and gives what waits for its result.
    pub fn steps<W: FnOnce() -> Result<()>, F: FnMut(&Tape) -> W>(
        &mut self,
        size: Size,
        id: &str,
        tokens: usize,
        setup: impl FnOnce(&Device) -> Result<F>,
    ) {
        self.bench(size, id, &format!("{tokens} tokens"), |device| {
            let mut record = setup(device)?;
            let device = device.clone();
            let tape = new_tape(&device);
            record(&tape);
            let kernels = tape.profile()?;
            let time = move |times: u64| {
                let mut late: VecDeque<W> = VecDeque::new();
                let start = Instant::now();
                for _ in 0..times {
                    let tape = new_tape(&device);
                    late.push_back(record(&tape));
                    tape.run()?;
                    if late.len() > 3 {
                        late.pop_front().expect("it is longer")()?;
                    }
                }
                for wait in late {
                    wait()?;
                }
                Ok(start.elapsed())
            };
            Ok((kernels, time))
        });
    }

    /// Runs one benchmark. `setup` does the work once, so that nothing remains to be compiled, and gives what it consisted
    /// of, and a function that does it again so many times and says how long that took.
    fn bench<T: FnMut(u64) -> Result<Duration>>(
        &mut self,
        size: Size,
        id: &str,
        note: &str,
        setup: impl FnOnce(&Device) -> Result<(Vec<KernelTime>, T)>,
    ) {
        let id = &match PRECISION.get() {
            Precision::F32 => id.to_owned(),
            Precision::Mixed => format!("mixed/{id}"),
        };
        if size > self.most {
            if self.most == Size::Small {
                self.table.leave_out(id, "too large for a software adapter");
            }
            return;
        }
        let (device, table) = (&self.device, &mut self.table);
        let is_measured = self.most > Size::Tiny;
        let mut setup = Some(setup);
        let mut ready: Option<(Vec<KernelTime>, T)> = None;
        let mut means: Vec<Duration> = Vec::new();
        let (group, name) = id.split_once('/').expect("identifiers are group/name");
        let mut group = self.criterion.benchmark_group(group);
        group.sampling_mode(SamplingMode::Flat);
        // Criterion calls this only if the command line selects the benchmark, and many times then.
        let run = |bencher: &mut Bencher<'_>| {
            if let Some(setup) = setup.take() {
                let ceiling = if is_measured {
                    table.ceiling(device)
                } else {
                    Ok(())
                };
                match ceiling.and_then(|()| setup(device)) {
                    Ok(made) => ready = Some(made),
                    Err(error) => resume_unwind(Box::new(Impossible(error))),
                }
            }
            let (_, time) = ready.as_mut().expect("it has been set up");
            bencher.iter_custom(|times| {
                let total = time(times).unwrap_or_else(|error| panic!("{id}: {error}"));
                means.push(total.div_f64(times as f64));
                total
            });
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            group.bench_function(name, run);
        }));
        drop(group);
        match outcome.map_err(|payload| payload.downcast::<Impossible>()) {
            Ok(()) => {}
            Err(Ok(impossible)) => return self.table.leave_out(id, &impossible.0.to_string()),
            Err(Err(payload)) => resume_unwind(payload),
        }
        if let (Some((kernels, _)), true) = (ready, is_measured) {
            means.sort();
            self.table.add(Line {
                id: id.to_owned(),
                time: means[means.len() / 2],
                work: Work::of(&kernels),
                note: note.to_owned(),
            });
        }
    }

    /// Prints everything that was found.
    pub fn finish(self) -> std::io::Result<()> {
        self.criterion.final_summary();
        self.table.print(&self.device)
    }
}

/// A function with everything that it reads and writes.
struct Problem<const N: usize, F> {
    inputs: [Tensor; N],
    output: Tensor,
    function: F,
}

impl<const N: usize, F: for<'t> Fn([Var<'t>; N]) -> Var<'t>> Problem<N, F> {
    fn new(device: &Device, shapes: [&[usize]; N], function: F) -> Result<Problem<N, F>> {
        let mut seed = 0;
        let inputs = shapes.map(|shape| {
            seed += 1;
            random(device, shape, seed)
        });
        let inputs: Vec<Tensor> = inputs.into_iter().collect::<Result<_>>()?;
        let inputs = <[Tensor; N]>::try_from(inputs).expect("one for each shape");
        let shape = {
            let tape = new_tape(device);
            function(std::array::from_fn(|index| tape.tensor(&inputs[index]))).shape()
        };
        let output = random(device, shape, 0)?;
        Ok(Problem {
            inputs,
            output,
            function,
        })
    }

    fn forward<'t>(&self, tape: &'t Tape) -> ([Var<'t>; N], Var<'t>) {
        // A product and its gradient could share a dispatch here, and then nothing would tell them apart.
        tape.set_fusion(Fusion {
            horizontal: false,
            ..Fusion::default()
        });
        let leaves = std::array::from_fn(|index| tape.tensor_variable(&self.inputs[index]));
        let value = (self.function)(leaves);
        tape.assign(&self.output, value);
        (leaves, value)
    }
}

/// A tensor of numbers from −1 to 1 that look random.
pub fn random(device: &Device, shape: impl Into<Shape>, seed: u64) -> Result<Tensor> {
    let shape = shape.into();
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let values: Vec<f32> = (0..shape.elements())
        .map(|_| {
            // xorshift64*
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            let word = state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40;
            word as f32 / (1u32 << 23) as f32 - 1.0
        })
        .collect();
    match PRECISION.get() {
        Precision::F32 => Tensor::new(device, shape, &values),
        Precision::Mixed => {
            let halves: Vec<f16> = values.into_iter().map(f16::from_f32).collect();
            Tensor::new(device, shape, &halves)
        }
    }
}
