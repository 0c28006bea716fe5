//! Models whose parameters and caches are halves.

use shadegrad::data::{IGNORE_INDEX, NamesDataset};
use shadegrad::nn::{Gpt, GptConfig, ParameterBuilder, Parameters};
use shadegrad::ops::CrossEntropy;
use shadegrad::optim::{AdamW, AdamWConfig, Optimizer, Sgd, SgdConfig};
use shadegrad::sampling::{Sampler, SamplingConfig};
use shadegrad::tape::Precision;
use shadegrad::{DType, Device, Error, Tape};

use super::{model, small, widen};
use crate::common::{Random, device, devices};

/// With heads, norms and biases of odd sizes, which end within a word of halves.
fn odd() -> GptConfig {
    GptConfig {
        context: 20,
        bias: true,
        head_bias: true,
        tie_weights: false,
        ..small()
    }
}

/// The same model in halves.
fn halved(device: &Device, config: &GptConfig, parameters: &Parameters) -> (Gpt, Parameters) {
    let mut builder = ParameterBuilder::new(0).with_dtype(DType::F16);
    let gpt = Gpt::new(config, &mut builder).unwrap();
    let halves = builder.build_zeroed(device).unwrap();
    halves.load(parameters.to_host().unwrap()).unwrap();
    (gpt, halves)
}

/// A model of names after 150 steps.
fn names() -> (GptConfig, Parameters) {
    let text = include_str!("../../../data/names.txt");
    let names = NamesDataset::new(text, 16, 1).unwrap();
    let config = GptConfig {
        n_layers: 2,
        ..GptConfig::new(names.tokenizer().vocab_size())
    };
    let (gpt, parameters) = model(&config);
    let mut optimizer = AdamW::new(&parameters, AdamWConfig::default()).unwrap();
    for step in 0..150 {
        let tape = Tape::training(device());
        let (tokens, targets) = names.train_batch(32, step).on(&tape);
        let loss = gpt.loss(tokens, targets, CrossEntropy::ignoring(IGNORE_INDEX));
        let _ = optimizer.step(&tape, loss, 6e-3);
        tape.run().unwrap();
    }
    (config, parameters)
}

/// The logits behind every token of a text, computed as the model generates.
fn logits(gpt: &Gpt, tokens: &[u32]) -> Vec<f32> {
    let tape = Tape::inference(gpt.device());
    tape.set_precision(gpt.precision());
    let logits = gpt.logits(tape.input([1, tokens.len()], tokens));
    let logits = tape.fetch::<f32>(logits.cast(DType::F32));
    tape.run().unwrap();
    logits.get().unwrap()
}

/// How far logits may lie apart: of every value on the way, 11 bits are kept, so that each rounding adds up to 2⁻¹¹ of it. A
/// block rounds eight values and four weights one after another, the head and the embeddings five. They do so independently of
/// one another, so that n of them add up to √n times one, of what is no larger than the largest logit.
fn bar(config: &GptConfig, logits: &[f32]) -> f32 {
    let roundings = (12 * config.n_layers + 5) as f32;
    let largest = logits
        .iter()
        .fold(0f32, |most, logit| most.max(logit.abs()));
    roundings.sqrt() * largest / 2048.0
}

fn assert_near(what: &str, actual: &[f32], expected: &[f32], most: f32) {
    let apart = actual.iter().zip(expected).map(|(a, b)| (a - b).abs());
    let apart = apart.fold(0f32, f32::max);
    println!("{what}: {apart} of {most}");
    assert_eq!(actual.len(), expected.len());
    assert!(apart <= most, "{what}: {apart} of {most}");
}

/// Continues texts greedily in both, as far as the largest logit stands out by more than the rounding; gives how many tokens
/// that were.
fn same_text(what: &str, full: &Gpt, half: &Gpt, prompt: &[u32], most: usize) -> usize {
    let greedy = |gpt: &Gpt| {
        let mut sampler = Sampler::new(SamplingConfig::GREEDY, 0).unwrap();
        gpt.generate(prompt, most, &mut sampler, None).unwrap()
    };
    let (expected, actual) = (greedy(full), greedy(half));
    let text = [prompt, &expected].concat();
    let [in_full, in_half] = [full, half].map(|gpt| logits(gpt, &text));
    let most_apart = bar(full.config(), &in_full);
    assert_near(what, &in_half, &in_full, most_apart);
    let rows = in_full.chunks(full.config().vocab_size);
    let mut gaps = rows.skip(prompt.len() - 1).map(|row| {
        let mut row = row.to_vec();
        row.sort_by(|a, b| b.total_cmp(a));
        row[0] - row[1]
    });
    let clear = gaps.position(|gap| gap <= 2.0 * most_apart);
    let clear = clear.unwrap_or(most).min(most);
    assert_eq!(actual[..clear], expected[..clear], "{what}");
    clear
}

#[test]
fn halves_say_what_floats_say() {
    let (config, trained) = names();
    let config = &config;
    for device in devices() {
        let mut builder = ParameterBuilder::new(0);
        let full = Gpt::new(config, &mut builder).unwrap();
        let parameters = builder.build_zeroed(device).unwrap();
        parameters.load(trained.to_host().unwrap()).unwrap();
        let (half, halves) = halved(device, config, &parameters);
        assert_eq!(half.precision(), Precision::Mixed);
        assert_eq!(2 * halves.bytes(), parameters.bytes());
        let mut compared = 0;
        for first in 1..14 {
            let what = format!("names that begin with {first}");
            compared += same_text(&what, &full, &half, &[0, first], 12);
        }
        assert!(compared > 60, "{compared} tokens");
        // Floats in the same precision: but for the table, products round the weights that way.
        let mut mixed = full.clone();
        mixed.set_precision(Precision::Mixed);
        same_text("floats in mixed precision", &mixed, &half, &[0, 5, 13], 12);
    }
}

/// The logits behind the last of these tokens, of which the cache gets so many at a time.
fn in_chunks(gpt: &Gpt, tokens: &[u32], chunk: usize) -> Vec<f32> {
    let mut cache = gpt.kv_cache(1, tokens.len()).unwrap();
    let mut last = Vec::new();
    for tokens in tokens.chunks(chunk) {
        let tape = Tape::inference(gpt.device());
        tape.set_precision(gpt.precision());
        let logits = gpt.cached_logits(tape.input([1, tokens.len()], tokens), &mut cache);
        let logits = tape.fetch::<f32>(logits.cast(DType::F32));
        tape.run().unwrap();
        last = logits.get().unwrap();
    }
    last.split_off(last.len() - gpt.config().vocab_size)
}

#[test]
fn prompts_at_once_and_token_by_token() {
    for device in devices() {
        let mut builder = ParameterBuilder::new(0);
        let full = Gpt::new(&odd(), &mut builder).unwrap();
        let parameters = builder.build(device).unwrap();
        widen(&parameters);
        let (half, _) = halved(device, &odd(), &parameters);
        let tokens = Random::new(4).indices(18, 11);
        let whole = in_chunks(&full, &tokens, 18);
        let most = bar(&odd(), &whole);
        for chunk in [18, 5, 1] {
            let what = format!("{chunk} at a time");
            let logits = in_chunks(&half, &tokens, chunk);
            assert_near(&what, &logits, &whole, most);
            let again = in_chunks(&half, &tokens, chunk);
            assert_eq!(logits, again, "{what}: the same bits");
        }
        // Halves on a tape that rounds nothing, and floats with a cache of halves.
        let mut half = half;
        half.set_precision(Precision::F32);
        assert_near("as stored", &in_chunks(&half, &tokens, 5), &whole, most);
        let cache = |gpt: &Gpt| gpt.kv_cache(3, 16).unwrap();
        let bytes = cache(&full).bytes();
        assert_eq!(cache(&half).bytes(), bytes);
        half.set_precision(Precision::Mixed);
        let cache = cache(&half);
        assert_eq!((cache.dtype(), 2 * cache.bytes()), (DType::F16, bytes));
    }
}

#[test]
fn generation_follows_the_precision_that_is_set() {
    let (mut gpt, parameters) = model(&small());
    widen(&parameters);
    let mut text = |precision| {
        gpt.set_precision(precision);
        let config = SamplingConfig::default();
        let mut sampler = Sampler::new(config, 5).unwrap();
        // Longer than the window of 8.
        gpt.generate(&[3, 1], 14, &mut sampler, None).unwrap()
    };
    let [full, mixed] = [Precision::F32, Precision::Mixed].map(&mut text);
    assert_eq!(full.len(), mixed.len());
    // The cache that the other one left is of the wrong type.
    assert_eq!(text(Precision::F32), full);
    assert_eq!(text(Precision::Mixed), mixed);
}

/// Weights in `F32` are rounded before the first token, not again for each: until they change.
#[test]
fn weights_are_rounded_once() {
    for device in devices() {
        let mut builder = ParameterBuilder::new(0);
        let mut full = Gpt::new(&odd(), &mut builder).unwrap();
        let parameters = builder.build(device).unwrap();
        widen(&parameters);
        full.set_precision(Precision::Mixed);
        let (half, _) = halved(device, &odd(), &parameters);
        let run = |gpt: &Gpt| {
            let before = device.stats().dispatches;
            let mut sampler = Sampler::new(SamplingConfig::GREEDY, 5).unwrap();
            let text = gpt.generate(&[3, 1], 9, &mut sampler, None).unwrap();
            (text, device.stats().dispatches - before)
        };
        let _warm = [&full, &half].map(run);
        let [(_, in_full), (_, in_half)] = [&full, &half].map(run);
        assert_eq!(in_full, in_half);
        // And so they are when others are put in their places.
        let (first, _) = run(&full);
        let before = parameters.to_host().unwrap();
        let turned = before.iter().map(|(name, shape, values)| {
            let values = values.iter().map(|x| -x).collect();
            (name.clone(), *shape, values)
        });
        parameters.load(turned.collect::<Vec<_>>()).unwrap();
        let (half, _) = halved(device, &odd(), &parameters);
        let tokens = Random::new(4).indices(9, 11);
        let [of_full, of_half] = [&full, &half].map(|gpt| logits(gpt, &tokens));
        assert_near("other weights", &of_full, &of_half, bar(&odd(), &of_half));
        parameters.load(before).unwrap();
        assert_eq!(run(&full).0, first);
    }
}

#[test]
fn values_are_rounded_or_refused_by_name() {
    let (_, parameters) = model(&odd());
    widen(&parameters);
    let (_, halves) = halved(device(), &odd(), &parameters);
    let pairs = halves.to_host().unwrap();
    for ((name, shape, half), (_, _, full)) in pairs.iter().zip(parameters.to_host().unwrap()) {
        let rounded = full.iter().map(|&x| shadegrad::f16::from_f32(x).to_f32());
        assert_eq!(*half, rounded.collect::<Vec<f32>>(), "{name} {shape}");
    }
    // What rounds to the largest number is one; the next is beyond.
    let mut values = pairs.clone();
    let (last, _, numbers) = values.last_mut().unwrap();
    let last = last.clone();
    numbers[10] = -65_519.0;
    halves.load(values.clone()).unwrap();
    let stored = halves
        .get(&last)
        .unwrap()
        .tensor()
        .to_vec::<shadegrad::f16>();
    assert_eq!(stored.unwrap()[10], shadegrad::f16::MIN);
    values[0].2[3] = 65_520.0;
    let before = halves.to_host().unwrap();
    match halves.load(values).unwrap_err() {
        Error::Parameter { name, reason } => {
            assert_eq!(name, "token_embedding.weight");
            assert!(reason.contains("65520 is beyond F16"), "{reason}");
        }
        other => panic!("{other}"),
    }
    assert_eq!(halves.to_host().unwrap(), before);
}

#[test]
fn optimizers_refuse_halves() {
    let mut builder = ParameterBuilder::new(1).with_dtype(DType::F16);
    Gpt::new(&small(), &mut builder).unwrap();
    let halves = builder.build(device()).unwrap();
    assert_eq!(halves.dtype(), DType::F16);
    let summary = halves.summary().to_string();
    let total = summary.lines().last().unwrap();
    let bytes: u64 = total
        .rsplit(' ')
        .next()
        .unwrap()
        .replace(',', "")
        .parse()
        .unwrap();
    assert_eq!(bytes, 2 * halves.element_count() as u64, "{summary}");
    let errors = [
        AdamW::new(&halves, AdamWConfig::default()).err(),
        Sgd::new(&halves, SgdConfig::default()).err(),
    ];
    for error in errors {
        let error = error.unwrap().to_string();
        assert!(
            error.contains("F16") && error.contains("without ParameterBuilder::with_dtype"),
            "{error}"
        );
    }
}
