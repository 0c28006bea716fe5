//! Measures what gradients cost on their way between ranks, and how well a model of it predicts steps.
//!
//! ```sh
//! cargo build --release --features mpi --example rank_costs
//! mpirun -n 4 target/release/examples/rank_costs
//! ```
//!
//! All ranks do everything at the same time; a time is that of the slowest rank, the median of some turns (of one with
//! `--test`, to show that it runs). On a machine that others use, only figures of one run may be compared.

mod model;

use std::time::{Duration, Instant};

use mpi::collective::CommunicatorCollectives;
use mpi::topology::SimpleCommunicator;
use shadegrad::nn::{Gpt, GptConfig, ParameterBuilder, Parameters};
use shadegrad::ops::CrossEntropy;
use shadegrad::optim::{AdamW, AdamWConfig, Optimizer};
use shadegrad::parallel::World;
use shadegrad::{DType, Device, DeviceOptions, Result, Tape, Tensor};

use model::{Line, Rates};

/// Of each time that is measured.
const TURNS: usize = 9;

/// Elements of the sums that lines are fitted to: of one piece.
const FITTED: [usize; 4] = [1 << 14, 1 << 16, 1 << 18, 1 << 20];

/// Elements of the sums that they are to predict: the names model's gradient, and several pieces.
const PREDICTED: [usize; 3] = [52_704, 4 << 20, LARGEST];

const LARGEST: usize = 16 << 20;

const MIB: f64 = (1 << 20) as f64;

fn main() -> Result<()> {
    let world = World::new();
    world.set_patience(Duration::from_secs(600));
    if let Err(error) = run(&world) {
        world.abort(&error.to_string());
    }
    Ok(())
}

fn run(world: &World) -> Result<()> {
    let adapters = Device::list_adapters();
    let best = adapters.iter().map(|adapter| adapter.class).next();
    let alike = adapters
        .iter()
        .take_while(|adapter| Some(adapter.class) == best)
        .count();
    let device = Device::with_options(&DeviceOptions {
        adapter: (alike > 0).then(|| (world.local_rank() % alike).to_string()),
        ..DeviceOptions::default()
    })?;
    if world.is_first() {
        println!("{} ranks on {}", world.size(), device.description());
    }
    let rates = match world.size() {
        1 => None,
        _ => Some([DType::F32, DType::F16].map(|dtype| measure(world, &device, dtype))),
    };
    let rates = rates
        .map(|[f32, f16]| Ok::<_, shadegrad::Error>([f32?, f16?]))
        .transpose()?;
    for shape in SHAPES {
        steps(world, &device, shape, rates)?;
    }
    if world.is_first() {
        model::print_predictions();
    }
    Ok(())
}

/// The median of some turns, of each of several times; of a turn, those of the slowest rank.
fn timed<const N: usize>(
    world: &World,
    mut turn: impl FnMut() -> Result<[f64; N]>,
) -> Result<[f64; N]> {
    let mut turns = [(); N].map(|()| Vec::new());
    let all = match std::env::args().any(|word| word == "--test") {
        true => 1,
        false => TURNS,
    };
    for number in 0..=all {
        world.meet("the next turn");
        let times = turn()?;
        for (times, own) in turns.iter_mut().zip(times) {
            let mut of_ranks = vec![0.0; world.size()];
            of_ranks[world.rank()] = own;
            world.sum_f64(&mut of_ranks);
            // The first turn makes buffers and kernels.
            times.extend((number > 0).then(|| of_ranks.into_iter().fold(0.0, f64::max)));
        }
    }
    Ok(turns.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[all / 2]
    }))
}

/// The times of a sum of so many elements: reading back, waiting for the network, adding up, uploading, and all of it until
/// the device has the sums. The bytes sent at the end.
fn sum(world: &World, whole: &Tensor, elements: usize, dtype: DType) -> Result<[f64; 6]> {
    let mut from = 0;
    timed(world, || {
        // Not what the caches have.
        let tensor = whole.part(from, [elements]);
        from = (from + elements) % (whole.shape().elements() - elements + 1);
        let before = world.sum_times();
        let start = Instant::now();
        world.sum([&tensor], dtype)?;
        // One element, when all that was handed over before has been taken in.
        tensor.part(0, [1]).to_vec::<f32>()?;
        let all = start.elapsed();
        let after = world.sum_times();
        let read_back = after.read_back - before.read_back;
        let network = after.network - before.network;
        let addition = after.addition - before.addition;
        let upload = all - read_back - network - addition;
        Ok([
            read_back.as_secs_f64(),
            network.as_secs_f64(),
            addition.as_secs_f64(),
            upload.as_secs_f64(),
            all.as_secs_f64(),
            (after.sent - before.sent) as f64,
        ])
    })
}

/// Measures, prints and gives the rates of sums that travel so.
fn measure(world: &World, device: &Device, dtype: DType) -> Result<Rates> {
    let (ranks, width) = (world.size(), dtype.bytes());
    let comm = SimpleCommunicator::world();
    let mut points = [(); 4].map(|()| Vec::new());
    let whole = Tensor::zeros(device, [LARGEST], DType::F32)?;
    // Memory is there once it has been touched.
    world.sum([&whole], dtype)?;
    for elements in FITTED {
        let [read_back, _, addition, upload, ..] = sum(world, &whole, elements, dtype)?;
        // What MPI takes alone.
        let share = elements.div_ceil(ranks) * width;
        let all = ranks * share;
        let (sent, mut received) = (vec![1u8; 8 * all], vec![2u8; 8 * all]);
        let mut turn = 0;
        let [network] = timed(world, || {
            let now = turn % 8 * all..(turn % 8 + 1) * all;
            turn += 1;
            let start = Instant::now();
            comm.all_to_all_into(&sent[now.clone()], &mut received[now.clone()]);
            comm.all_gather_into(&sent[now.start..][..share], &mut received[now]);
            Ok([start.elapsed().as_secs_f64()])
        })?;
        let bytes = 4.0 * elements as f64;
        for (points, time) in points
            .iter_mut()
            .zip([read_back, addition, upload, network])
        {
            points.push([bytes, time]);
        }
    }
    let [read_back, addition, upload, network] = points.map(|points| Line::fit(&points));
    let others = (ranks - 1) as f64;
    let rates = Rates {
        read_back,
        addition,
        upload,
        latency: network.fixed / (2.0 * others),
        per_byte: network.per_byte * 4.0 / width as f64 * ranks as f64 / (2.0 * others),
        width: width as f64,
        overlaps: false,
    };
    if world.is_first() {
        println!("\nGradients as {dtype:?}: for a sum, and for each MiB of f32 in it");
        for (what, line) in [
            ("reading back", read_back),
            ("adding up", addition),
            ("uploading, to the device", upload),
            ("all-to-all and all-gather", network),
        ] {
            println!(
                "  {what:25} {:7.3} ms + {:6.3} ms/MiB",
                1e3 * line.fixed,
                1e3 * MIB * line.per_byte
            );
        }
        println!(
            "  a message {:.1} µs, the network {:.2} GB/s in and out of each rank",
            1e6 * rates.latency,
            1e-9 / rates.per_byte
        );
    }
    for elements in PREDICTED {
        let [read_back, network, addition, upload, all, sent] =
            sum(world, &whole, elements, dtype)?;
        if world.is_first() {
            let bytes = 4.0 * elements as f64;
            let ms = |seconds: f64| format!("{:.2}", 1e3 * seconds);
            println!(
                "  sum of {:6.2} MiB, {:6.2} MiB out of each rank: {} ms ({} ms/MiB): reading back {}, waiting for the network {}, \
                 adding up {}, uploading {}; predicted {} ms",
                bytes / MIB,
                sent / MIB,
                ms(all),
                ms(all / bytes * MIB),
                ms(read_back),
                ms(network),
                ms(addition),
                ms(upload),
                ms(rates.sum(ranks as f64, bytes)),
            );
        }
    }
    Ok(rates)
}

/// A model and the batch of its steps.
#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    width: usize,
    vocabulary: usize,
    rows: usize,
    context: usize,
}

/// The programs' model of names, and one whose gradient is larger than what it takes to compute it.
const SHAPES: [Shape; 2] = [
    Shape {
        name: "names model",
        width: 32,
        vocabulary: 27,
        rows: 32,
        context: 16,
    },
    Shape {
        name: "wide model",
        width: 256,
        vocabulary: 1000,
        rows: 4,
        context: 4,
    },
];

/// Times steps on all ranks with and without the sum, and prints what was predicted.
fn steps(world: &World, device: &Device, shape: Shape, rates: Option<[Rates; 2]>) -> Result<()> {
    let config = GptConfig {
        context: shape.context,
        d_model: shape.width,
        n_heads: 4,
        n_layers: 4,
        d_ff: (8 * shape.width / 3).next_multiple_of(4),
        ..GptConfig::new(shape.vocabulary)
    };
    let mut builder = ParameterBuilder::new(5);
    let gpt = Gpt::new(&config, &mut builder)?;
    let parameters = builder.build(device)?;
    let mut optimizer = AdamW::new(&parameters, AdamWConfig::default())?;
    let total = Tensor::zeros(device, [1], DType::F32)?;
    let times = timed(world, || {
        let mut step = |sum| {
            world.meet("the next step");
            step(world, shape, &gpt, &parameters, &mut optimizer, &total, sum)
        };
        Ok([
            step(None)?,
            step(Some((DType::F32, false)))?,
            step(Some((DType::F16, false)))?,
            step(Some((DType::F32, true)))?,
        ])
    })?;
    if !world.is_first() {
        return Ok(());
    }
    let [alone, floats, halves, overlapping] = times;
    println!(
        "\n{}, {} parameters, {} × {} tokens: a step takes {:.2} ms without a sum",
        shape.name,
        parameters.element_count(),
        shape.rows,
        shape.context,
        1e3 * alone
    );
    let bytes = 4.0 * parameters.element_count() as f64;
    for (rates, whole) in rates.iter().flatten().zip([floats, halves]) {
        let predicted = alone + rates.sum(world.size() as f64, bytes);
        println!(
            "  gradients as {}: {:.2} ms, predicted {:.2} ms ({:+.0} %)",
            if rates.width == 4.0 { "F32" } else { "F16" },
            1e3 * whole,
            1e3 * predicted,
            100.0 * (predicted / whole - 1.0)
        );
    }
    println!(
        "  as F32, sums beginning during the backward pass: {:.2} ms",
        1e3 * overlapping
    );
    Ok(())
}

/// Makes a step on this rank's rows of a batch. Gradients travel as `sum` says, if at all, and then perhaps from within the
/// backward pass on. Gives its seconds.
fn step(
    world: &World,
    shape: Shape,
    gpt: &Gpt,
    parameters: &Parameters,
    optimizer: &mut AdamW,
    total: &Tensor,
    sum: Option<(DType, bool)>,
) -> Result<f64> {
    let start = Instant::now();
    let rows = world.share(shape.rows);
    let tokens: Vec<u32> = (rows.start..rows.end + 1)
        .flat_map(|row| (0..shape.context).map(move |at| (row * 7 + at * 3) as u32 % 27))
        .collect();
    let device = parameters.device();
    let tape = Tape::training(device);
    tape.set_rows(rows.start, rows.len());
    let [inputs, targets] = [0, 1].map(|shift| {
        let tokens = &tokens[shift..][..rows.len() * shape.context];
        tape.input([rows.len(), shape.context], tokens)
    });
    let share = rows.len() as f32 / shape.rows as f32;
    let loss = gpt.loss(inputs, targets, CrossEntropy::default()) * tape.scalar(share);
    tape.assign(total, loss.reshape([1]));
    optimizer.accumulate(&tape, loss)?;
    let gradient = optimizer.accumulated().map(|flat| flat.segments());
    let gradient = gradient.unwrap_or_default();
    match sum {
        None => tape.run()?,
        Some((dtype, false)) => {
            tape.run()?;
            world.sum(gradient, dtype)?;
        }
        Some((dtype, true)) => world.run_and_sum(tape, gradient, dtype)?,
    }
    if sum.is_some() {
        world.sum([total], DType::F32)?;
    }
    let tape = Tape::training(device);
    let loss = tape.tensor(total).sum_all();
    let report = optimizer.step_accumulated(&tape, loss, 1e-3).fetch();
    tape.run()?;
    report.get()?;
    Ok(start.elapsed().as_secs_f64())
}
