//! Low-rank adapters: values and gradients against the formula on the host, what frozen weights cost, merging.

use std::ops::Range;

use shadegrad::nn::{
    Encoder, EncoderConfig, Gpt, Linear, LoraConfig, MultiHeadAttention, MultiHeadAttentionConfig,
    ParameterBuilder, Parameters,
};
use shadegrad::ops::CrossEntropy;
use shadegrad::optim::{AdamW, AdamWConfig, Optimizer};
use shadegrad::tape::Precision;
use shadegrad::{DType, Device, Error, Tape};

use super::{small, widen};
use crate::common::{Random, assert_close, device, devices, wide};

/// Random values for adapters, whose second factors are zero at first.
fn fill(adapters: &Parameters, seed: u64) {
    let mut random = Random::new(seed);
    let values = adapters.iter().map(|parameter| {
        let shape = parameter.shape();
        let values = random.values(shape.elements(), -0.5, 0.5);
        (parameter.name(), shape, values)
    });
    adapters.load(values.collect::<Vec<_>>()).unwrap();
}

/// One range, as a list.
fn only(range: Range<usize>) -> [Range<usize>; 1] {
    std::array::from_fn(|_| range.clone())
}

/// `[m, k]·[k, n]`, either factor transposed on request.
fn product(
    a: &[f64],
    b: &[f64],
    [m, k, n]: [usize; 3],
    [a_turned, b_turned]: [bool; 2],
) -> Vec<f64> {
    let a = |i: usize, l: usize| if a_turned { a[l * m + i] } else { a[i * k + l] };
    let b = |l: usize, j: usize| if b_turned { b[j * k + l] } else { b[l * n + j] };
    let cell = |i: usize, j: usize| (0..k).map(|l| a(i, l) * b(l, j)).sum();
    let cells = (0..m).flat_map(|i| (0..n).map(move |j| (i, j)));
    cells.map(|(i, j)| cell(i, j)).collect()
}

/// The second factors with a block of rows for each adapter.
fn in_blocks(b: &[f64], rank: usize, columns: &[Range<usize>], outputs: usize) -> Vec<f64> {
    let width: usize = columns.iter().map(Range::len).sum();
    let mut blocks = vec![0.0; columns.len() * rank * outputs];
    let mut first = 0;
    for (block, columns) in columns.iter().enumerate() {
        for row in 0..rank {
            for (at, column) in columns.clone().enumerate() {
                blocks[(block * rank + row) * outputs + column] = b[row * width + first + at];
            }
        }
        first += columns.len();
    }
    blocks
}

/// The other way.
fn collected(blocks: &[f64], rank: usize, columns: &[Range<usize>], outputs: usize) -> Vec<f64> {
    let rows = (0..rank).flat_map(|row| {
        let blocks = columns.iter().enumerate().map(move |block| (row, block));
        blocks.flat_map(|(row, (block, columns))| {
            columns
                .clone()
                .map(move |column| (block * rank + row, column))
        })
    });
    rows.map(|(row, column)| blocks[row * outputs + column])
        .collect()
}

fn check(device: &Device, precision: Precision, columns: &[Range<usize>], config: &LoraConfig) {
    let (rows, inputs, outputs, rank) = (7, 12, 21, config.rank);
    let mut random = Random::new(5);
    let mut builder = ParameterBuilder::new(1).frozen();
    let mut linear = Linear::new(&mut builder.enter("layer"), inputs, outputs, true);
    builder.build(device).unwrap();
    let mut builder = ParameterBuilder::new(2);
    linear.add_lora_to(&mut builder, config, columns);
    let adapters = builder.build(device).unwrap();
    let names: Vec<_> = adapters.iter().map(|parameter| parameter.name()).collect();
    assert_eq!(names, ["layer.lora_a", "layer.lora_b"]);
    fill(&adapters, 3);
    let x = random.values(rows * inputs, -1.0, 1.0);
    let weights = random.values(rows * outputs, -1.0, 1.0);

    let tape = Tape::training(device);
    tape.set_precision(precision);
    let input = tape.variable([rows, inputs], &x);
    let y = linear.forward(input);
    let loss = (y * tape.input([rows, outputs], &weights)).sum_all();
    let gradients = tape.backward(loss);
    assert!(gradients.of(linear.weight().on(&tape)).is_none());
    let lora = linear.lora().unwrap();
    let [a, b] = [lora.a(), lora.b()].map(|factor| factor.on(&tape));
    let fetched = [input, a, b].map(|leaf| tape.fetch::<f32>(gradients.of(leaf).unwrap()));
    let y = tape.fetch::<f32>(y.cast(DType::F32));
    tape.run().unwrap();

    let host =
        |parameter: &shadegrad::nn::Parameter| wide(&parameter.tensor().to_vec::<f32>().unwrap());
    let [x, dy] = [&x, &weights].map(|values| wide(values));
    let (w, a) = (host(linear.weight()), host(lora.a()));
    let b = in_blocks(&host(lora.b()), rank, columns, outputs);
    let (low, scale) = (columns.len() * rank, f64::from(config.scale()));
    let plain = [false, false];
    let added = product(
        &product(&x, &a, [rows, inputs, low], plain),
        &b,
        [rows, low, outputs],
        plain,
    );
    let base = product(&x, &w, [rows, inputs, outputs], plain);
    let bias = host(linear.bias().unwrap());
    let expected: Vec<f64> = (0..rows * outputs)
        .map(|i| base[i] + bias[i % outputs] + scale * added[i])
        .collect();
    let (relative, absolute) = match precision {
        Precision::F32 => (1e-5, 1e-5),
        Precision::Mixed => (4e-3, 2e-2),
    };
    let close = |what: &str, actual: &[f32], expected: &[f64]| {
        assert_close(what, actual, expected, relative, absolute);
    };
    close("y", &y.get().unwrap(), &expected);
    let scaled = |values: Vec<f64>| values.into_iter().map(|value| scale * value).collect();
    let dlow: Vec<f64> = scaled(product(&dy, &b, [rows, outputs, low], [false, true]));
    let dx = product(&dy, &w, [rows, outputs, inputs], [false, true]);
    let through = product(&dlow, &a, [rows, low, inputs], [false, true]);
    let dx: Vec<f64> = dx.iter().zip(through).map(|(a, b)| a + b).collect();
    let da = product(&x, &dlow, [inputs, rows, low], [true, false]);
    let h: Vec<f64> = scaled(product(&x, &a, [rows, inputs, low], plain));
    let db = product(&h, &dy, [low, rows, outputs], [true, false]);
    let db = collected(&db, rank, columns, outputs);
    for (what, (fetched, expected)) in ["x", "a", "b"].iter().zip(fetched.iter().zip([dx, da, db]))
    {
        close(what, &fetched.get().unwrap(), &expected);
    }
}

#[test]
fn adapters_add_the_product_of_their_factors_to_their_outputs() {
    let stabilized = LoraConfig {
        rank_stabilized: true,
        ..LoraConfig::new(4)
    };
    for device in devices() {
        for precision in [Precision::F32, Precision::Mixed] {
            check(device, precision, &only(0..21), &LoraConfig::new(2));
            check(device, precision, &[0..12, 15..21], &LoraConfig::new(3));
        }
    }
    let columns = [1..2, 2..9, 12..13, 19..20];
    check(device(), Precision::F32, &columns, &LoraConfig::new(1));
    check(device(), Precision::F32, &only(5..8), &stabilized);
}

/// The ranges of queries and values, or everything.
fn targets(linear: &Linear) -> Vec<Range<usize>> {
    match linear.name().ends_with("qkv") {
        true => vec![0..16, 32..48],
        false => only(0..linear.weight().shape().dim(1)).to_vec(),
    }
}

/// A frozen model with adapters where `wanted` says so.
fn adapted(
    dtype: DType,
    config: &LoraConfig,
    wanted: impl Fn(&str) -> bool,
) -> (Gpt, [Parameters; 2]) {
    let mut builder = ParameterBuilder::new(7).frozen().with_dtype(dtype);
    let mut gpt = Gpt::new(&small(), &mut builder).unwrap();
    let frozen = builder.build(device()).unwrap();
    widen(&frozen);
    let mut builder = ParameterBuilder::new(8);
    for linear in gpt.linears_mut().filter(|linear| wanted(linear.name())) {
        linear.add_lora_to(&mut builder, config, &targets(linear));
    }
    let adapters = builder.build(device()).unwrap();
    (gpt, [frozen, adapters])
}

fn logits(gpt: &Gpt) -> Vec<f32> {
    super::inferred(gpt, &[3, 1, 4, 1, 5, 9, 2, 6], 2)
}

fn bits(parameters: &Parameters) -> Vec<u32> {
    let values = parameters.to_host().unwrap().into_iter();
    values
        .flat_map(|(.., values)| values)
        .map(f32::to_bits)
        .collect()
}

#[test]
fn fresh_adapters_change_nothing_and_merged_ones_give_the_same_logits() {
    let (plain, _) = adapted(DType::F32, &LoraConfig::new(2), |_| false);
    for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F16, 2e-2)] {
        let (mut gpt, [frozen, adapters]) = adapted(dtype, &LoraConfig::new(2), |_| true);
        assert_eq!(gpt.linears_mut().count(), 8);
        if dtype == DType::F32 {
            assert_eq!(logits(&gpt), logits(&plain));
        }
        fill(&adapters, 4);
        let (expected, before) = (logits(&gpt), bits(&frozen));
        assert_ne!(expected, logits(&plain));
        gpt.linears_mut()
            .for_each(|linear| linear.merge_lora().unwrap());
        assert!(gpt.linears_mut().all(|linear| linear.lora().is_none()));
        assert_ne!(before, bits(&frozen));
        assert_close("merged", &logits(&gpt), &wide(&expected), 0.0, tolerance);
    }
}

/// Trains some steps; gives the losses and the dispatches of the last step.
fn train(gpt: &Gpt, adapters: &Parameters, precision: Precision) -> (Vec<f32>, u64) {
    let mut optimizer = AdamW::new(adapters, AdamWConfig::default()).unwrap();
    let tokens = Random::new(6).indices(4 * 9, 11);
    let rows = |shift: usize| -> Vec<u32> {
        tokens
            .chunks(9)
            .flat_map(|row| &row[shift..shift + 8])
            .copied()
            .collect()
    };
    let (mut losses, mut dispatches) = (Vec::new(), 0);
    for step in 0..12 {
        let tape = Tape::training(device());
        tape.set_precision(precision);
        tape.set_seed(1, step);
        let [inputs, targets] = [0, 1].map(|shift| tape.input([4, 8], &rows(shift)));
        let loss = gpt.loss(inputs, targets, CrossEntropy::default());
        let report = optimizer.step(&tape, loss, 0.02).fetch();
        let before = device().stats().dispatches;
        tape.run().unwrap();
        dispatches = device().stats().dispatches - before;
        losses.push(report.get().unwrap().loss);
    }
    (losses, dispatches)
}

#[test]
fn only_the_adapters_are_trained() {
    for (dtype, precision) in [
        (DType::F32, Precision::F32),
        (DType::F16, Precision::F32),
        (DType::F16, Precision::Mixed),
    ] {
        let (gpt, [frozen, adapters]) = adapted(dtype, &LoraConfig::new(2), |_| true);
        let before = bits(&frozen);
        let (losses, _) = train(&gpt, &adapters, precision);
        assert!(losses[11] < losses[0] - 0.3, "{losses:?}");
        assert_eq!(before, bits(&frozen));
        assert_eq!(frozen.bytes(), dtype.bytes() as u64 * padded(&frozen));
        let optimizer = AdamW::new(&adapters, AdamWConfig::default()).unwrap();
        // Adapters, their gradient and moments; the loss scale; the copy in halves that mixed tapes have made.
        let halves = if precision == Precision::Mixed { 2 } else { 0 };
        assert_eq!(optimizer.memory(), (16 + halves) * padded(&adapters) + 16);
    }
}

/// Numbers that the flat storage has room for.
fn padded(parameters: &Parameters) -> u64 {
    let segments = parameters.segments().iter();
    segments
        .map(|segment| segment.shape().elements() as u64)
        .sum()
}

#[test]
fn frozen_weights_cost_no_dispatch() {
    let dispatches = |wanted: &dyn Fn(&str) -> bool| {
        let (gpt, [_, adapters]) = adapted(DType::F32, &LoraConfig::new(2), wanted);
        train(&gpt, &adapters, Precision::F32).1
    };
    // What lies before the first adapter has no gradient at all.
    let last = dispatches(&|name| name == "blocks.1.ffn.down");
    let (gpt, parameters) = super::model(&small());
    let full = train(&gpt, &parameters, Precision::F32).1;
    let tape = Tape::inference(device());
    let tokens = tape.input([4, 8], &[0u32; 32]);
    let _loss = tape.fetch::<f32>(gpt.loss(tokens, tokens, CrossEntropy::default()));
    let forward = tape.profile().unwrap().len() as u64;
    println!(
        "{forward} dispatches forward, {last} with an adapter on the last layer, {full} with all weights"
    );
    // Two products forward; the gradients of the logits, the final norm and the two factors; norm, scale and update.
    assert!(last <= forward + 12, "{last} dispatches, {forward} forward");
    // One more packed layer costs its two products, the blocks of its second factor, and four gradients.
    let first = dispatches(&|name| name == "blocks.0.attention.qkv");
    let both = dispatches(&|name| name.ends_with("attention.qkv"));
    println!("{first} with queries and values of the first layer, {both} with those of both");
    assert!(both - first <= 8, "{both} dispatches, {first} with one");
}

#[test]
fn adapters_drop_inputs_in_training_only_and_the_same_ones_again() {
    let config = LoraConfig {
        dropout: 0.5,
        ..LoraConfig::new(2)
    };
    let losses = |config: &LoraConfig, checkpoints: bool| {
        let (mut gpt, [_, adapters]) = adapted(DType::F32, config, |_| true);
        gpt.set_checkpoint_blocks(checkpoints);
        fill(&adapters, 4);
        (logits(&gpt), train(&gpt, &adapters, Precision::F32).0)
    };
    let (plain, trained) = losses(&LoraConfig::new(2), false);
    let (same, dropped) = losses(&config, false);
    assert_eq!(plain, same);
    assert_ne!(trained, dropped);
    assert_eq!(losses(&config, true).1, dropped);
}

/// Queries of one text and keys of another take the packed projection apart.
#[test]
fn other_models_get_adapters_too() {
    let mut builder = ParameterBuilder::new(1);
    let mut attention = MultiHeadAttention::new(&mut builder, &MultiHeadAttentionConfig::new(8, 2));
    builder.build(device()).unwrap();
    let mut builder = ParameterBuilder::new(2);
    for linear in attention.linears_mut() {
        let outputs = linear.weight().shape().dim(1);
        linear.add_lora_to(&mut builder, &LoraConfig::new(2), &[1..5, 6..outputs]);
    }
    fill(&builder.build(device()).unwrap(), 3);
    let tape = Tape::inference(device());
    let x = tape.input([1, 3, 8], &Random::new(4).values(24, -1.0, 1.0));
    let both = [
        attention.self_attention(x, None),
        attention.forward(x, x, x, None),
    ];
    let [packed, apart] = both.map(|y| tape.fetch::<f32>(y));
    tape.run().unwrap();
    assert_close(
        "apart",
        &apart.get().unwrap(),
        &wide(&packed.get().unwrap()),
        1e-5,
        1e-6,
    );

    let mut builder = ParameterBuilder::new(1);
    let mut encoder = Encoder::new(&EncoderConfig::new(27), &mut builder).unwrap();
    let names: Vec<_> = encoder
        .linears_mut()
        .map(|linear| linear.name().to_owned())
        .collect();
    let of_block = ["attention.qkv", "attention.out", "ffn.up", "ffn.down"];
    assert_eq!(names[..4], of_block.map(|name| format!("blocks.0.{name}")));
    assert_eq!(names.len(), 8);
}

#[test]
fn what_is_frozen_is_refused_by_optimizers() {
    let (_, [frozen, _]) = adapted(DType::F32, &LoraConfig::new(2), |_| true);
    let error = AdamW::new(&frozen, AdamWConfig::default()).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("`token_embedding.weight` = frozen by its builder"),
        "{error}"
    );
    assert!(
        frozen
            .summary()
            .to_string()
            .ends_with("trained 0, frozen 4,448"),
        "{}",
        frozen.summary()
    );
}

#[test]
fn impossible_adapters_are_refused() {
    let possible = LoraConfig::new(2);
    for (config, name) in [
        (LoraConfig::new(0), "rank"),
        (
            LoraConfig {
                alpha: f32::NAN,
                ..possible.clone()
            },
            "alpha",
        ),
        (
            LoraConfig {
                dropout: 1.0,
                ..possible
            },
            "dropout",
        ),
    ] {
        let error = config.validate().unwrap_err();
        assert!(matches!(error, Error::InvalidArgument { name: ref given, .. } if given == name));
    }
}
