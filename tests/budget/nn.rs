//! What a step of the whole model costs the host.

use std::collections::BTreeMap;

use shadegrad::nn::{
    FeedForwardKind, Gpt, GptConfig, LoraConfig, NormKind, ParameterBuilder, Parameters,
    PositionKind,
};
use shadegrad::ops::CrossEntropy;
use shadegrad::optim::{AdamW, AdamWConfig, Optimizer, Report};
use shadegrad::sampling::{Sampler, SamplingConfig};
use shadegrad::tape::Precision;
use shadegrad::{DType, Device, Tape, Var};

use crate::common::{Random, device, gpu_device};

/// Of random tokens at the settings that the budget is stated for: batch 32, window 16.
fn loss<'t>(gpt: &Gpt, tape: &'t Tape, random: &mut Random) -> Var<'t> {
    let [tokens, targets] = [0, 1].map(|_| tape.input([32, 16], &random.indices(32 * 16, 27)));
    gpt.loss(tokens, targets, CrossEntropy::default())
}

/// Trains twelve steps and gives the kernels of one, once from the third on nothing is made.
fn train(
    device: &Device,
    precision: Precision,
    gpt: &Gpt,
    parameters: &Parameters,
) -> BTreeMap<&'static str, usize> {
    let config = AdamWConfig {
        clip_norm: Some(1.0),
        ..AdamWConfig::default()
    };
    let mut optimizer = AdamW::new(parameters, config).unwrap();
    let mut random = Random::new(2);
    let mut reports: Vec<Report> = Vec::new();
    let mut step = |step: u32| {
        let tape = Tape::training(device);
        tape.set_precision(precision);
        let loss = loss(gpt, &tape, &mut random);
        reports.push(optimizer.step(&tape, loss, 1e-4 * step as f32).fetch());
        tape.run().unwrap();
        // Taken a step later, when it has arrived: so two are under way at most.
        if reports.len() > 1 {
            let oldest = reports.remove(0);
            while !oldest.is_ready().unwrap() {
                std::thread::yield_now();
            }
            oldest.get().unwrap();
        }
    };
    (1..=2).for_each(&mut step);
    let before = device.stats();
    (3..=12).for_each(&mut step);
    let after = device.stats();
    assert_eq!(after.pipelines, before.pipelines);
    assert_eq!(after.bind_groups, before.bind_groups);
    assert_eq!(after.buffers, before.buffers);
    assert_eq!(after.buffer_bytes, before.buffer_bytes);
    assert_eq!(after.plans, before.plans);
    assert_eq!(after.waits, before.waits);
    assert_eq!(after.submits - before.submits, 10);
    let dispatches = (after.dispatches - before.dispatches) / 10;

    // Which kernels they are.
    let tape = Tape::training(device);
    tape.set_precision(precision);
    let loss = loss(gpt, &tape, &mut random);
    let _report = optimizer.step(&tape, loss, 1e-4).fetch();
    let mut kernels: BTreeMap<&str, usize> = BTreeMap::new();
    for kernel in tape.profile().unwrap() {
        *kernels.entry(kernel.name).or_default() += 1;
    }
    println!("{dispatches} dispatches per step: {kernels:?}");
    println!("{} pipelines so far", device.stats().pipelines);
    assert_eq!(kernels.values().sum::<usize>() as u64, dispatches);
    kernels
}

/// The least bytes that the intermediate values of a training step need.
fn least_bytes(device: &Device, gpt: &Gpt, parameters: &Parameters) -> u64 {
    let mut optimizer = AdamW::new(parameters, AdamWConfig::default()).unwrap();
    let tape = Tape::training(device);
    let loss = loss(gpt, &tape, &mut Random::new(3));
    let _report = optimizer.step(&tape, loss, 1e-4).fetch();
    tape.memory().unwrap().lower_bound
}

#[test]
fn steps_make_nothing_new_and_stay_within_the_budget_of_dispatches() {
    check(device());
}

#[test]
fn so_they_do_with_kernels_for_gpus() {
    check(gpu_device());
}

fn check(device: &Device) {
    // Four layers.
    let mut builder = ParameterBuilder::new(1);
    let mut gpt = Gpt::new(&GptConfig::new(27), &mut builder).unwrap();
    let parameters = builder.build(device).unwrap();
    let dispatches = train(device, Precision::F32, &gpt, &parameters)
        .values()
        .sum::<usize>();
    println!("{dispatches} dispatches");
    assert!(dispatches <= 90, "{dispatches} dispatches");
    // What the loss is scaled by, and the logits' gradient times that. Products on matrix units share their depth among
    // workgroups sooner, and add up in one more dispatch each.
    let mixed = train(device, Precision::Mixed, &gpt, &parameters);
    let mixed = mixed.values().sum::<usize>();
    println!("{mixed} in mixed precision");
    let sums = if device.matrix_units().is_some() {
        18
    } else {
        0
    };
    assert!(mixed <= dispatches + 2 + sums, "{mixed} dispatches");
    let kept = least_bytes(device, &gpt, &parameters);

    // Computing the blocks again saves memory, and costs no more than their forward pass.
    gpt.set_checkpoint_blocks(true);
    let with_blocks_again = train(device, Precision::F32, &gpt, &parameters)
        .values()
        .sum::<usize>();
    let checkpointed = least_bytes(device, &gpt, &parameters);
    println!("{kept} bytes, with checkpointed blocks {checkpointed}");
    assert!(checkpointed * 2 < kept, "{checkpointed} of {kept} bytes");
    assert!(
        (1..=10 * 4).contains(&(with_blocks_again - dispatches)),
        "{with_blocks_again} dispatches instead of {dispatches}"
    );

    // Texts of all lengths within the window run from one plan, those beyond it from another.
    assert_eq!(generate(&gpt)[0], 2);
    // The next texts run from the same ones.
    assert_eq!(generate(&gpt), [0, 0]);
    // So do those in halves; the weights are rounded on the device.
    // (Once more, in a submission of its own, as they were trained in `F32` meanwhile.)
    let tape = Tape::inference(device);
    tape.set_precision(Precision::Mixed);
    let _loss = tape.fetch::<f32>(loss(&gpt, &tape, &mut Random::new(3)));
    let before = device.stats().submits;
    tape.run().unwrap();
    assert_eq!(device.stats().submits - before, 2);
    gpt.set_precision(Precision::Mixed);
    assert_eq!(generate(&gpt)[0], 2);
    assert_eq!(generate(&gpt), [0, 0]);
    drop(gpt);

    // Stored as halves they need no kernel more than floats.
    let mut builder = ParameterBuilder::new(1).with_dtype(DType::F16);
    let gpt = Gpt::new(&GptConfig::new(27), &mut builder).unwrap();
    let halves = builder.build(device).unwrap();
    assert_eq!(2 * halves.bytes(), parameters.bytes());
    assert_eq!(generate(&gpt)[0], 2);
    let before = device.stats();
    assert_eq!(generate(&gpt), [0, 0]);
    let in_halves = device.stats().dispatches - before.dispatches;
    let mut builder = ParameterBuilder::new(1);
    let gpt = Gpt::new(&GptConfig::new(27), &mut builder).unwrap();
    builder.build(device).unwrap();
    generate(&gpt);
    let before = device.stats();
    generate(&gpt);
    assert_eq!(in_halves, device.stats().dispatches - before.dispatches);
}

/// Twenty tokens of twenty texts: how many plans and buffers that made.
fn generate(gpt: &Gpt) -> [u64; 2] {
    let before = gpt.device().stats();
    let sampler = |seed| Sampler::new(SamplingConfig::default(), seed).unwrap();
    let mut samplers: Vec<Sampler> = (0..20).map(sampler).collect();
    let names = gpt
        .generate_batch(&[[0]; 20], 20, &mut samplers, None)
        .unwrap();
    assert!(names.iter().all(|name| name.len() == 20));
    let after = gpt.device().stats();
    let runs = (after.plans + after.replays) - (before.plans + before.replays);
    assert_eq!(runs, 20);
    [after.plans - before.plans, after.buffers - before.buffers]
}

/// GPT-2 small on four texts of 1,024 tokens, by the planner's own figures, which nothing has to run for. The vocabulary is as
/// large as WebGPU's default limit on a binding allows in one piece.
#[test]
fn mixed_precision_takes_six_tenths_of_the_memory() {
    let device = device();
    let config = GptConfig {
        context: 1024,
        d_model: 768,
        n_heads: 12,
        n_layers: 12,
        norm: NormKind::LayerNorm,
        ffn: FeedForwardKind::GeluTanh,
        d_ff: 4 * 768,
        bias: true,
        ..GptConfig::new(43_000)
    };
    let mut builder = ParameterBuilder::new(1);
    let gpt = Gpt::new(&config, &mut builder).unwrap();
    let parameters = builder.build_zeroed(device).unwrap();
    let activations = |precision| {
        let tape = Tape::training(device);
        tape.set_precision(precision);
        let tokens = tape.input([4, 1024], &[0u32; 4096]);
        let loss = gpt.loss(tokens, tokens, CrossEntropy::default());
        let gradients = tape.backward(loss);
        let fetched: Vec<_> = (parameters.iter())
            .map(|parameter| gradients.of(parameter.on(&tape)).unwrap().sum_all())
            .map(|sum| tape.fetch::<f32>(sum))
            .collect();
        let plan = tape.explain().unwrap();
        drop(fetched);
        let (_, memory) = plan.split_once("== memory: ").unwrap();
        let (_, bytes) = memory.split_once(" buffers of ").unwrap();
        let (bytes, _) = bytes.split_once(" B,").unwrap();
        bytes.parse::<f64>().unwrap()
    };
    // The weights as halves are counted with the parameters.
    let is_multiplied = |name: &str| name.ends_with("weight") && !name.starts_with("position");
    let matrices = parameters
        .iter()
        .filter(|it| it.shape().rank() == 2 && is_multiplied(it.name()));
    let halves: usize = matrices
        .map(|it| DType::F16.bytes() * it.shape().elements())
        .sum();
    let [full, mixed] = [Precision::F32, Precision::Mixed].map(activations);
    let share = (mixed - halves as f64) / full;
    println!("{full} B, mixed {mixed} B of which {halves} B are weights: {share:.3}");
    assert!(share <= 0.6, "{share}");
}

/// A token is a submission, makes nothing from the third of its length class on, and waits for nothing but the token before.
#[test]
fn a_token_is_one_submission() {
    for device in [device(), gpu_device()] {
        let mut builder = ParameterBuilder::new(1);
        let config = GptConfig {
            context: 128,
            ..GptConfig::new(27)
        };
        let gpt = Gpt::new(&config, &mut builder).unwrap();
        builder.build(device).unwrap();
        let made = || {
            let stats = device.stats();
            [
                stats.pipelines,
                stats.bind_groups,
                stats.buffers,
                stats.plans,
            ]
        };
        for sampling in [SamplingConfig::default(), SamplingConfig::GREEDY] {
            let mut samplers = [
                Sampler::new(sampling, 3).unwrap(),
                Sampler::new(sampling, 4).unwrap(),
            ];
            let prompts = [&[0u32][..], &[5, 13, 1]];
            let mut generation = gpt.generation(&prompts, 100, &mut samplers, None).unwrap();
            // The first brings two submissions with it, the last none.
            let mut submits = device.stats().submits;
            for step in 0..100 {
                let (waits, all_made) = (device.stats().waits, made());
                assert_eq!(generation.next().unwrap().unwrap().text, 0);
                assert_eq!(generation.next().unwrap().unwrap().text, 1);
                let after = device.stats();
                let expected = match step {
                    0 => 2,
                    99 => 0,
                    _ => 1,
                };
                assert_eq!(after.submits - submits, expected, "token {step}");
                assert!(after.waits - waits <= 1, "token {step}");
                submits = after.submits;
                // The texts have 3 + step tokens and two more are under way: what is new comes with 17, 33 and 65.
                let is_new = step < 2
                    || [14, 30, 62]
                        .iter()
                        .any(|&first| (first - 2..first).contains(&step));
                if !is_new {
                    assert_eq!(made(), all_made, "token {step}");
                }
            }
            assert!(generation.next().is_none());
            assert_eq!(device.stats().submits, submits);
        }
    }
}

/// Adapters of rank 8 on queries and values of SmolLM2's smallest model, on a text of 128 tokens, by the planner's own
/// figures, which nothing has to run for.
#[test]
fn adapters_take_little_more_than_the_frozen_weights() {
    let device = device();
    let config = GptConfig {
        context: 2048,
        d_model: 576,
        n_heads: 9,
        n_kv_heads: Some(3),
        n_layers: 30,
        d_ff: 1536,
        positions: PositionKind::Rotary,
        ..GptConfig::new(49_152)
    };
    assert_eq!(config.parameter_count(), 134_515_008);
    for (precision, bytes) in [(Precision::F32, 4), (Precision::Mixed, 2)] {
        let before = device.stats().buffer_bytes;
        let builder = ParameterBuilder::new(1).with_dtype(precision.dtype());
        let mut builder = builder.frozen();
        let mut gpt = Gpt::new(&config, &mut builder).unwrap();
        let frozen = builder.build_zeroed(device).unwrap();
        let mut builder = ParameterBuilder::new(2);
        let projections = gpt.linears_mut().filter(|it| it.name().ends_with("qkv"));
        for qkv in projections {
            let values = 576 + 192..576 + 2 * 192;
            qkv.add_lora_to(&mut builder, &LoraConfig::new(8), &[0..576, values]);
        }
        let adapters = builder.build(device).unwrap();
        assert_eq!(adapters.element_count(), 30 * 8 * (2 * 576 + 576 + 192));
        let mut optimizer = AdamW::new(&adapters, AdamWConfig::default()).unwrap();
        let tape = Tape::training(device);
        tape.set_precision(precision);
        let tokens = tape.input([1, 128], &[0u32; 128]);
        let loss = gpt.loss(tokens, tokens, CrossEntropy::default());
        let _report = optimizer.step(&tape, loss, 1e-4).fetch();
        // With what mixed tapes keep of the adapters.
        let held = device.stats().buffer_bytes - before;
        let memory = tape.memory().unwrap();
        let weights = frozen.bytes();
        println!(
            "{precision}: weights {weights} B, held {held} B, activations {} B, all {} B",
            memory.intermediate,
            held + memory.intermediate
        );
        assert_eq!(weights, bytes * 134_515_008);
        assert!(held as f64 <= 1.06 * weights as f64, "{held} B");
        // No weight has a gradient or a copy of another type: the largest value is the logits, and what is kept of a layer
        // for its gradient is less than 60 vectors of the stream a token.
        let activations = 2 * 128 * 4 * 49_152 + 30 * 128 * 4 * 60 * 576;
        assert!(memory.intermediate < activations, "{memory:?}");
        assert!(memory.persistent <= held, "{memory:?}");
    }
}
