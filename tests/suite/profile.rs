//! Profiles: what is timed is what ran, tables and traces say so, and a step goes on as if nobody looked.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use shadegrad::nn::{Gpt, GptConfig, ParameterBuilder};
use shadegrad::ops::CrossEntropy;
use shadegrad::optim::{AdamW, AdamWConfig, Optimizer, Report};
use shadegrad::profile::Ceiling;
use shadegrad::profile::{Profile, Profiler, TimedBy};
use shadegrad::tape::MemoryUse;
use shadegrad::{Device, Tape, Tensor};

use crate::common::{Random, device, is_portable, portable_device};

/// A device has one profiler at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Model {
    gpt: Gpt,
    optimizer: AdamW,
    random: Random,
    batch: usize,
    config: GptConfig,
}

impl Model {
    fn new(device: &Device, config: GptConfig, batch: usize) -> Model {
        let mut builder = ParameterBuilder::new(1);
        let gpt = Gpt::new(&config, &mut builder).unwrap();
        let parameters = builder.build(device).unwrap();
        let clipped = AdamWConfig {
            clip_norm: Some(1.0),
            ..AdamWConfig::default()
        };
        Model {
            gpt,
            optimizer: AdamW::new(&parameters, clipped).unwrap(),
            random: Random::new(2),
            batch,
            config,
        }
    }

    fn record(&mut self, tape: &Tape) -> Report {
        let (rows, columns) = (self.batch, self.config.context);
        let mut input = || tape.input([rows, columns], &self.random.indices(rows * columns, 27));
        let (tokens, targets) = (input(), input());
        let loss = self.gpt.loss(tokens, targets, CrossEntropy::default());
        self.optimizer.step(tape, loss, 1e-3).fetch()
    }

    fn step(&mut self, device: &Device) -> f32 {
        let tape = Tape::training(device);
        let report = self.record(&tape);
        tape.run().unwrap();
        report.get().unwrap().loss
    }

    fn memory(&mut self, device: &Device) -> MemoryUse {
        let tape = Tape::training(device);
        self.record(&tape);
        tape.memory().unwrap()
    }
}

fn small() -> GptConfig {
    GptConfig {
        n_layers: 1,
        ..GptConfig::new(27)
    }
}

/// Losses of eight steps, the last six of which are watched, and what was seen.
fn profiled(device: &Device) -> (Vec<f32>, Profile) {
    let mut model = Model::new(device, small(), 4);
    let mut losses = vec![model.step(device), model.step(device)];
    let profiler = Profiler::start(device);
    losses.extend((0..6).map(|_| model.step(device)));
    (losses, profiler.finish().unwrap())
}

fn check(device: &Device, timed_by: TimedBy) -> Profile {
    let mut model = Model::new(device, small(), 4);
    let plain: Vec<f32> = (0..8).map(|_| model.step(device)).collect();
    let before = device.stats();
    model.step(device);
    let dispatches = device.stats().dispatches - before.dispatches;

    let (losses, profile) = profiled(device);
    assert_eq!(losses, plain, "watching changes nothing");
    assert_eq!(profile.timed_by(), timed_by);
    let [tape] = profile.tapes() else {
        panic!("all steps have one structure");
    };
    assert_eq!(tape.runs, 6);
    assert_eq!(tape.kernels.len() as u64, dispatches);
    assert_eq!(tape.dispatches as u64, dispatches);
    assert!((1..=tape.kernels.len()).contains(&tape.pipelines));
    assert!(
        tape.kernels
            .iter()
            .all(|kernel| kernel.time > Duration::ZERO)
    );
    assert!(tape.kernels.iter().any(|kernel| kernel.cost.flops > 0));
    assert!(tape.device_time > Duration::ZERO);
    let host = tape.host;
    for phase in [host.record, host.plan, host.encode, host.submit] {
        assert!(phase > Duration::ZERO, "{host:?}");
    }
    profile
}

/// How devices are timed that have been opened as they are, unless the environment makes them portable.
fn by_default() -> TimedBy {
    match is_portable() {
        true => TimedBy::Waiting,
        false => TimedBy::Timestamps,
    }
}

#[test]
fn timestamps_time_every_dispatch() {
    let _alone = alone();
    let profile = check(device(), by_default());
    // Together they take about as long as when they are timed together, give or take what else the machine does.
    let [tape] = profile.tapes() else {
        unreachable!("checked before");
    };
    let sum: Duration = tape.kernels.iter().map(|kernel| kernel.time).sum();
    let ratio = sum.as_secs_f64() / tape.device_time.as_secs_f64();
    assert!((0.1..10.0).contains(&ratio), "{sum:?}, {tape:?}");
}

#[test]
fn adapters_without_timestamps_are_waited_for() {
    let _alone = alone();
    check(portable_device(), TimedBy::Waiting);
}

/// Indices out of range are told, whoever watches.
#[test]
fn faults_are_not_lost() {
    let _alone = alone();
    for device in [device(), portable_device()] {
        let profiler = Profiler::start(device);
        for (index, is_wrong) in [(5u32, true), (2, false), (9, true), (0, false)] {
            let ids = Tensor::new(device, [1], &[index]).unwrap();
            let tape = Tape::inference(device);
            let table = tape.input([3, 2], &[0.0f32; 6]);
            let rows = tape.fetch::<f32>(table.embedding(tape.tensor(&ids)));
            tape.run().unwrap();
            assert_eq!(rows.get().is_err(), is_wrong, "{index}");
        }
        profiler.finish().unwrap();
    }
}

#[test]
fn the_table_names_every_kernel_and_the_bounds() {
    let _alone = alone();
    let (_, profile) = profiled(device());
    let ceiling = Ceiling::measure(device()).unwrap();
    let (plain, table) = (profile.table(None), profile.table(Some(ceiling)));
    let (plain, table) = (plain.to_string(), table.to_string());
    println!("{table}");
    for kernel in &profile.tapes()[0].kernels {
        let line = table.lines().find(|line| line.starts_with(kernel.name));
        assert!(line.is_some(), "{} is missing", kernel.name);
    }
    let wanted = [
        profile.adapter(),
        "distinct pipelines",
        "of the least possible",
        "of ceiling",
        "all ",
    ];
    for text in wanted {
        assert!(table.contains(text), "`{text}` is missing");
    }
    assert!(!plain.contains("ceiling"));
}

#[test]
fn the_trace_shows_what_happened_when() {
    let _alone = alone();
    let (_, profile) = profiled(device());
    let folder = std::env::temp_dir();
    let path = folder.join(format!("shadegrad-trace-{}.json", std::process::id()));
    profile.write_trace(&path).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let trace: Value = serde_json::from_str(&text).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let on = |process: u64, thread: u64| {
        let spans = events.iter().filter(move |event| {
            event["ph"] == "X" && event["pid"] == process && event["tid"] == thread
        });
        let ends = spans.map(|event| {
            let (start, length) = (&event["ts"], &event["dur"]);
            let (start, length) = (start.as_f64().unwrap(), length.as_f64().unwrap());
            assert!(start >= 0.0 && length >= 0.0, "{event}");
            (start, start + length)
        });
        let mut ends: Vec<(f64, f64)> = ends.collect();
        ends.sort_by(|a, b| a.0.total_cmp(&b.0));
        ends
    };
    // What cannot happen at once does not overlap, up to rounding.
    for (process, thread) in [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2)] {
        let spans = on(process, thread);
        assert!(!spans.is_empty(), "track {process}.{thread} is empty");
        for pair in spans.windows(2) {
            assert!(pair[0].1 <= pair[1].0 + 0.01, "{pair:?} overlap");
        }
    }
    let (submits, runs, kernels) = (on(1, 4), on(2, 1), on(2, 2));
    // Dispatches that are waited for one by one are not submitted together.
    let each = match by_default() {
        TimedBy::Timestamps => 1,
        _ => 2,
    };
    assert_eq!((submits.len(), runs.len()), (6 / each, 6));
    assert_eq!(kernels.len(), 3 * profile.tapes()[0].kernels.len());
    for (submit, run) in submits.iter().zip(runs.iter().step_by(each)) {
        assert!(submit.0 <= run.0 + 0.01, "{run:?} began before {submit:?}");
    }
    for kernel in &kernels {
        let within = runs
            .iter()
            .any(|run| run.0 <= kernel.0 + 0.01 && kernel.1 <= run.1 + 0.01);
        assert!(within, "{kernel:?} is part of no run");
    }

    let error = profile.write_trace("/none/trace.json").unwrap_err();
    assert!(error.to_string().contains("/none/trace.json"), "{error}");
}

#[test]
fn one_profiler_at_a_time() {
    let _alone = alone();
    let first = Profiler::start(device());
    let second = std::panic::catch_unwind(|| drop(Profiler::start(device())));
    assert!(second.is_err());
    assert!(first.finish().unwrap().tapes().is_empty());
    // One that is dropped leaves the device to the next.
    drop(Profiler::start(device()));
    drop(Profiler::start(device()));
}

/// A tape that was recorded under one profiler and runs after it belongs to no other.
#[test]
fn runs_between_two_profilers_are_nobodys() {
    let _alone = alone();
    let device = device();
    let profiler = Profiler::start(device);
    let tape = Tape::inference(device);
    let sum = tape.fetch::<f32>(tape.input([3], &[1.0f32, 2.0, 3.0]).sum_all());
    drop(profiler);
    tape.run().unwrap();
    assert_eq!(sum.item().unwrap(), 6.0);
    let profile = Profiler::start(device).finish().unwrap();
    assert!(profile.tapes().is_empty());
}

#[test]
fn intermediate_values_take_little_more_than_the_least_possible() {
    let _alone = alone();
    let names = GptConfig::new(27);
    let wide = GptConfig {
        d_model: 64,
        d_ff: 172,
        ..names.clone()
    };
    let character = GptConfig {
        d_model: 384,
        n_heads: 6,
        n_layers: 6,
        d_ff: 1024,
        context: 256,
        ..names.clone()
    };
    for (what, config, batch) in [
        ("names", names, 32),
        ("names, d_model 64", wide, 32),
        ("character model", character, 2),
    ] {
        for device in [device(), portable_device()] {
            let mut model = Model::new(device, config.clone(), batch);
            let before = device.stats();
            let memory = model.memory(device);
            assert_eq!(device.stats().buffers, before.buffers, "{what}");
            let on_meta = Model::new(&device.meta(), config.clone(), batch).memory(&device.meta());
            assert_eq!(on_meta, memory, "{what}");
            model.step(device);
            let ratio = memory.intermediate as f64 / memory.lower_bound as f64;
            println!("{what}: {ratio:.3}, {memory:?}");
            assert!((1.0..=1.3).contains(&ratio), "{what}: {memory:?}");
            // That is what was allocated; some of it may have been there before.
            let made = device.stats().buffer_bytes as i64 - before.buffer_bytes as i64;
            assert!(
                made <= (memory.intermediate + memory.inputs + memory.results) as i64,
                "{what}: {made} bytes made, {memory:?}"
            );
            // Loss and gradient norm, for each of the 8 steps that may be under way and the one being encoded.
            assert_eq!(memory.results, (8 + 1) * 8);
            // Parameters, gradients and two moments, four bytes each, and padding: at most 3 elements behind each
            // tensor, 4 behind each segment.
            let parameters = model.optimizer.parameters();
            let count = parameters.element_count();
            let padded = count + 3 * parameters.len() + 4 * parameters.segments().len();
            let bytes = model.optimizer.memory();
            let each = bytes as f64 / count as f64;
            println!("{what}: {each:.4} bytes a parameter");
            assert!(
                (16 * count as u64..=16 * padded as u64).contains(&bytes),
                "{what}: {each} bytes a parameter"
            );
            // But for the state of the loss scale, four numbers that a tape of `f32` doesn't read.
            assert!(memory.persistent + 16 >= bytes);
        }
    }
}
