//! From averages over what came before to fused attention in five steps, timed, and why scores are scaled.
//!
//! ```sh
//! cargo run --release --example attention_ladder
//! cargo run --release --example attention_ladder -- --batch 8 --positions 128
//! ```

mod agreement;
mod rungs;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use rungs::Constants;
use shadegrad::{Device, Error, Result, Tape, Tensor, Var};

/// Times five ways to let every position look at those before it, and shows why scores are scaled.
#[derive(Parser)]
struct Cli {
    /// Sequences in a batch.
    #[arg(long, default_value_t = 32, value_parser = at_least_one())]
    batch: u32,
    /// Positions of a sequence.
    #[arg(long, default_value_t = 256, value_parser = at_least_one())]
    positions: u32,
    /// Channels of a position.
    #[arg(long, default_value_t = 384, value_parser = at_least_one())]
    channels: u32,
    /// Extent of the attention head.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=128))]
    head_size: u32,
    /// Runs of each rung, of which the median counts. What takes seconds is run once.
    #[arg(long, default_value_t = 5, value_parser = at_least_one())]
    runs: u32,
    /// What the random numbers start from.
    #[arg(long, default_value_t = 42)]
    seed: u64,
}

fn at_least_one() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..)
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::new()?;
    println!("adapter: {}", device.description());
    let [batch, positions, channels, head_size] =
        [cli.batch, cli.positions, cli.channels, cli.head_size].map(|extent| extent as usize);
    let elements = [batch, positions, channels]
        .iter()
        .try_fold(1usize, |n, &extent| n.checked_mul(extent));
    let limit = device.limits().max_storage_buffer_binding_size;
    if elements.is_none_or(|elements| 4 * elements as u64 > limit) {
        return Err(Error::InvalidArgument {
            name: "--batch, --positions, --channels".to_owned(),
            value: format!("{batch} × {positions} × {channels}"),
            expected: format!("a tensor of at most {limit} bytes, which this device can bind"),
        }
        .into());
    }
    let x = normal(&device, &[batch, positions, channels], 1.0, cli.seed)?;
    let std = (channels as f32).sqrt().recip();
    let w = normal(&device, &[channels, 3 * head_size], std, cli.seed + 1)?;
    let constants = Constants::new(&device, positions, head_size)?;

    println!(
        "\n({batch}, {positions}, {channels}), head size {head_size}: median of {} runs, or one of many seconds",
        cli.runs
    );
    println!("| rung | forward | forward and backward |\n| --- | ---: | ---: |");
    let (c, x, w) = (&constants, &x, &w);
    rung(cli, &device, "1 a loop over positions", x, None, |x, _| {
        rungs::looped(c, x)
    })?;
    rung(cli, &device, "2 a matrix product", x, None, |x, _| {
        rungs::averaged(c, x)
    })?;
    rung(cli, &device, "3 weights by softmax", x, None, |x, _| {
        rungs::softmax_averaged(c, x)
    })?;
    rung(cli, &device, "4 self-attention", x, Some(w), |x, w| {
        rungs::attended(c, x, w.expect("it is given"))
    })?;
    rung(cli, &device, "5 the same, fused", x, Some(w), |x, w| {
        rungs::fused(c, x, w.expect("it is given"))
    })?;
    let agreed = agree(&device, c, x, w)?;
    scaling(cli, &device)?;
    agreed.map_err(Into::into)
}

/// A rung that takes so long is run once.
const LONG: Duration = Duration::from_secs(3);

/// Times one rung and prints its row.
fn rung(
    cli: &Cli,
    device: &Device,
    name: &str,
    x: &Tensor,
    w: Option<&Tensor>,
    function: impl for<'t> Fn(Var<'t>, Option<Var<'t>>) -> Var<'t>,
) -> Result<()> {
    let step = |backward: bool| -> Result<()> {
        let tape = Tape::training(device);
        let (x, w) = (tape.tensor_variable(x), w.map(|w| tape.tensor_variable(w)));
        let sum = function(x, w).sum_all();
        // What is not fetched is not computed.
        let gradient = backward.then(|| {
            let gradient = tape.backward(sum).of(x).expect("the sum depends on x");
            tape.fetch::<f32>(gradient.sum_all())
        });
        let sum = tape.fetch::<f32>(sum);
        tape.run()?;
        gradient.map_or(Ok(0.0), |gradient| gradient.item())?;
        sum.item().map(drop)
    };
    let median = |backward: bool| -> Result<Duration> {
        // The first run plans and compiles, which may take seconds; the second one makes what is used again and again.
        let start = Instant::now();
        step(backward)?;
        if start.elapsed() < LONG {
            step(backward)?;
        }
        let mut times = Vec::new();
        while times.len() < cli.runs as usize {
            let start = Instant::now();
            step(backward)?;
            times.push(start.elapsed());
            if start.elapsed() > LONG {
                break;
            }
        }
        times.sort();
        Ok(times[times.len() / 2])
    };
    let milliseconds = |time: Duration| 1e3 * time.as_secs_f64();
    let (forward, both) = (median(false)?, median(true)?);
    println!(
        "| {name} | {:.2} ms | {:.2} ms |",
        milliseconds(forward),
        milliseconds(both)
    );
    Ok(())
}

/// Prints how far apart the rungs are that compute the same; the inner error is that of [`agreement::check`].
fn agree(
    device: &Device,
    constants: &Constants,
    x: &Tensor,
    w: &Tensor,
) -> Result<Result<(), String>> {
    let tape = Tape::inference(device);
    let (x, w) = (tape.tensor(x), tape.tensor(w));
    let looped = rungs::looped(constants, x);
    let pairs = [
        ("1 and 2", looped, rungs::averaged(constants, x)),
        ("1 and 3", looped, rungs::softmax_averaged(constants, x)),
        (
            "4 and 5",
            rungs::attended(constants, x, w),
            rungs::fused(constants, x, w),
        ),
    ];
    let pairs = pairs.map(|(rungs, a, b)| {
        let largest = |x: Var<'_>| x.tape().fetch::<f32>(x.abs().max(&[0, 1, 2]));
        (rungs, largest(a - b), largest(a))
    });
    tape.run()?;
    println!();
    let mut compared = Vec::new();
    for (rungs, difference, size) in pairs {
        let (difference, size) = (difference.item()?, size.item()?);
        println!("largest difference between rungs {rungs}: {difference:.1e}");
        compared.push((rungs, difference, size));
    }
    Ok(agreement::check(&compared))
}

/// Variances of scores with and without scaling, and what softmax makes of one row of each.
fn scaling(cli: &Cli, device: &Device) -> Result<()> {
    /// In the rows that are printed.
    const KEYS: usize = 8;
    let head_size = cli.head_size as usize;
    let positions = (cli.positions as usize).max(KEYS);
    let shape = [cli.batch as usize, positions, head_size];
    let [q, k] = [2, 3].map(|stream| normal(device, &shape, 1.0, cli.seed + stream));
    let (q, k) = (q?, k?);
    let tape = Tape::inference(device);
    let (q, k) = (tape.tensor(&q), tape.tensor(&k));
    let raw = q.matmul(k.transpose());
    let scaled = raw * (head_size as f32).sqrt().recip();
    let variances = [q, k, raw, scaled].map(|x| tape.fetch::<f32>(x.var(&[0, 1, 2])));
    let rows = [raw, scaled].map(|x| {
        let row = x.slice(0, 0..1).slice(1, 0..1).slice(2, 0..KEYS);
        tape.fetch::<f32>(row.softmax())
    });
    tape.run()?;
    println!("\nqueries and keys of standard normal numbers, head size {head_size}:");
    let names = ["queries", "keys", "scores", "scores / √head size"];
    for (name, value) in names.iter().zip(&variances) {
        println!("  variance of {name}: {:.4}", value.item()?);
    }
    for (name, row) in ["scores", "scaled scores"].iter().zip(&rows) {
        let row = row.get()?;
        let row: Vec<String> = row.iter().map(|weight| format!("{weight:.4}")).collect();
        println!("  softmax of the first {KEYS} {name}: [{}]", row.join(", "));
    }
    Ok(())
}

/// A tensor of normally distributed numbers, drawn on the device.
fn normal(device: &Device, shape: &[usize], std: f32, seed: u64) -> Result<Tensor> {
    let count: usize = shape.iter().product();
    let tensor = Tensor::new(device, shadegrad::Shape::new(shape), &vec![0.0f32; count])?;
    let tape = Tape::inference(device);
    tape.set_seed(seed, 0);
    let drawn = tape.random_normal(shadegrad::Shape::new(shape)) * std;
    tape.assign(&tensor, drawn);
    tape.run()?;
    Ok(tensor)
}
