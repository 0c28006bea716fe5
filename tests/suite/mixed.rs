//! Whole models in mixed precision: against `f32`, and the same bits where the same is computed in another way.

use std::path::Path;

use safetensors::SafeTensors;
use shadegrad::hugging_face::ModelFiles;
use shadegrad::nn::{
    Encoder, EncoderConfig, FeedForwardKind, Gpt, GptConfig, NormKind, ParameterBuilder,
    Parameters, PositionKind,
};
use shadegrad::ops::CrossEntropy;
use shadegrad::tape::{Fusion, Precision};
use shadegrad::{AdapterClass, DType, Device, DeviceOptions, Tape, Var};

use crate::common::{FUSIONS, Random, device, gpu_device, portable_device};

/// So that small gradients are no subnormal halves: a power of two, so that dividing by it rounds nothing.
const LOSS_SCALE: f32 = 4096.0;

/// A loss and every parameter's gradient, by name.
struct Run {
    loss: f32,
    gradients: Vec<(String, Vec<f32>)>,
}

fn run(
    parameters: &Parameters,
    precision: Precision,
    fusion: Fusion,
    loss: &dyn for<'t> Fn(&'t Tape) -> Var<'t>,
) -> Run {
    let tape = Tape::training(parameters.device());
    tape.set_fusion(fusion);
    tape.set_precision(precision);
    tape.set_seed(5, 1);
    let loss = loss(&tape);
    let gradients = tape.backward(loss * LOSS_SCALE);
    let loss = tape.fetch::<f32>(loss);
    let fetched: Vec<_> = parameters
        .iter()
        .map(|parameter| {
            let gradient = gradients.of(parameter.on(&tape));
            let gradient = gradient.expect("the loss depends on every parameter");
            assert_eq!(gradient.dtype(), DType::F32, "{}", parameter.name());
            (parameter.name().to_owned(), tape.fetch::<f32>(gradient))
        })
        .collect();
    tape.run().unwrap();
    let gradients = fetched.into_iter().map(|(name, gradient)| {
        let gradient = gradient.get().unwrap();
        (name, gradient.iter().map(|x| x / LOSS_SCALE).collect())
    });
    Run {
        loss: loss.item().unwrap(),
        gradients: gradients.collect(),
    }
}

/// A closure for tapes of any lifetime, which closures are not by themselves.
fn of_any_tape<F: for<'t> Fn(&'t Tape) -> Var<'t>>(record: F) -> F {
    record
}

/// Panics unless the losses agree to 10⁻³ and every parameter's gradient points the same way: a cosine of 0.9999, and a
/// difference of a hundredth of its length.
///
/// The gradients of what feeds a ReLU have a step: rounding moves its inputs by about 2⁻¹² of their spread, so one in some ten
/// thousand changes sides, and brings or takes its whole term of the sum. Of these models' few thousand terms that are not zero,
/// that may be one or two: `√(2/2000)` of the length.
fn assert_agree(what: &str, ffn: FeedForwardKind, mixed: &Run, expected: &Run) {
    let off = (mixed.loss - expected.loss).abs() / expected.loss.abs();
    assert!(
        off <= 1e-3,
        "{what}: loss {} and {}",
        mixed.loss,
        expected.loss
    );
    for ((name, mixed), (_, expected)) in mixed.gradients.iter().zip(&expected.gradients) {
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            let products = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
            products.sum()
        };
        let length = dot(expected, expected).sqrt();
        assert!(length > 0.0, "{what}: {name} has no gradient");
        let cosine = dot(mixed, expected) / (dot(mixed, mixed).sqrt() * length);
        let difference: Vec<f32> = mixed.iter().zip(expected).map(|(a, b)| a - b).collect();
        let error = dot(&difference, &difference).sqrt() / length;
        println!("{what}: {name}: cosine {cosine:.7}, error {error:.2e}");
        let feeds_relu = ffn == FeedForwardKind::Relu
            && [".ffn.up.", ".norm2."]
                .iter()
                .any(|part| name.contains(part));
        let (least, most) = match feeds_relu {
            true => (0.9995, 0.032),
            false => (0.9999, 0.01),
        };
        // What is not a number passes no comparison.
        assert!(
            cosine >= least && error <= most,
            "{what}: {name}: cosine {cosine}, error {error}"
        );
    }
}

/// The decoder that learns names, in all its kinds.
fn decoders() -> [GptConfig; 3] {
    let names = GptConfig {
        context: 16,
        d_model: 32,
        n_heads: 4,
        n_layers: 2,
        d_ff: 85,
        ..GptConfig::new(27)
    };
    let published = GptConfig {
        norm: NormKind::LayerNorm,
        ffn: FeedForwardKind::GeluTanh,
        positions: PositionKind::Learned,
        bias: true,
        tie_weights: true,
        dropout: 0.1,
        ..names.clone()
    };
    let gated = GptConfig {
        norm: NormKind::RmsNorm,
        ffn: FeedForwardKind::Swiglu,
        positions: PositionKind::Rotary,
        tie_weights: false,
        ..names.clone()
    };
    [names, published, gated]
}

const BATCH: [usize; 2] = [5, 16];

/// A decoder with weights that are not as small as the initial ones, which leave every softmax flat.
fn decoder(config: &GptConfig, device: &Device) -> (Gpt, Parameters) {
    let mut builder = ParameterBuilder::new(7);
    let gpt = Gpt::new(config, &mut builder).unwrap();
    let parameters = builder.build(device).unwrap();
    let mut random = Random::new(3);
    let values = parameters.to_host().unwrap().into_iter();
    let values = values.map(|(name, shape, values)| {
        let wider = values.iter().map(|x| x + random.between(-0.1, 0.1));
        (name, shape, wider.collect())
    });
    parameters.load(values.collect::<Vec<_>>()).unwrap();
    (gpt, parameters)
}

/// The loss of a drawn batch.
fn loss_of(gpt: &Gpt) -> impl for<'t> Fn(&'t Tape) -> Var<'t> + '_ {
    |tape| {
        let mut random = Random::new(9);
        let vocabulary = gpt.config().vocab_size;
        let [tokens, targets] =
            [0, 1].map(|_| tape.input(BATCH, &random.indices(BATCH[0] * BATCH[1], vocabulary)));
        gpt.loss(tokens, targets, CrossEntropy::default())
    }
}

#[test]
fn decoders_agree_with_f32() {
    let [names, _, gated] = decoders();
    // Fusions are tried on portable kernels.
    for (device, config) in [
        (device(), &names),
        (gpu_device(), &names),
        (gpu_device(), &gated),
    ] {
        let (gpt, parameters) = decoder(config, device);
        let loss = loss_of(&gpt);
        let [mixed, expected] = [Precision::Mixed, Precision::F32]
            .map(|precision| run(&parameters, precision, Fusion::ON, &loss));
        let what = format!("{:?} on {:?}", config.ffn, device.class());
        assert_agree(&what, config.ffn, &mixed, &expected);
    }
}

/// Of a decoder as GPT-2. Which values are rounded depends on what is fused, within the same bounds.
#[test]
fn every_fusion_agrees_with_f32() {
    let config = &decoders()[1];
    let some = [Fusion::OFF];
    let all = [&FUSIONS[..], &some].concat();
    for (device, fusions) in [(device(), &all[..]), (portable_device(), &some)] {
        let (gpt, parameters) = decoder(config, device);
        let loss = loss_of(&gpt);
        let expected = run(&parameters, Precision::F32, Fusion::ON, &loss);
        for fusion in fusions {
            let mixed = run(&parameters, Precision::Mixed, *fusion, &loss);
            assert_agree(&format!("{fusion:?}"), config.ffn, &mixed, &expected);
        }
    }
}

/// The fixture of `tests/golden/gpt2_tiny`.
#[test]
fn gpt2_agrees_with_f32() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gpt2_tiny");
    let bytes = std::fs::read(directory.join("expected.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let words = file.tensor("tokens").unwrap();
    let (words, _) = words.data().as_chunks();
    let tokens: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
    let length = tokens.len() - 1;
    for device in [device(), gpu_device()] {
        let files = ModelFiles::open(&directory).unwrap();
        let (gpt, parameters) = files.load_with_dropout(0.0, device).unwrap();
        let loss = of_any_tape(|tape| {
            let ids = [&tokens[..length], &tokens[1..]];
            let [inputs, targets] = ids.map(|ids| tape.input([1, length], ids));
            gpt.loss(inputs, targets, CrossEntropy::default())
        });
        let [mixed, expected] = [Precision::Mixed, Precision::F32]
            .map(|precision| run(&parameters, precision, Fusion::ON, &loss));
        assert_agree("GPT-2", gpt.config().ffn, &mixed, &expected);
    }
}

/// Texts of different lengths, so that attention has a mask.
#[test]
fn encoders_agree_with_f32() {
    let config = EncoderConfig {
        d_model: 24,
        n_heads: 3,
        d_ff: 53,
        dropout: 0.1,
        ..EncoderConfig::new(27)
    };
    let places = [
        (device(), FeedForwardKind::Relu),
        (portable_device(), FeedForwardKind::Gelu),
    ];
    for (device, ffn) in places {
        let config = EncoderConfig {
            ffn,
            ..config.clone()
        };
        let mut builder = ParameterBuilder::new(7);
        let encoder = Encoder::new(&config, &mut builder).unwrap();
        let parameters = builder.build(device).unwrap();
        let loss = of_any_tape(|tape| {
            let mut random = Random::new(9);
            let count = BATCH[0] * BATCH[1];
            let tokens = tape.input(BATCH, &random.indices(count, 27));
            let is_token: Vec<u32> = (0..count)
                .map(|at| u32::from(at % BATCH[1] < BATCH[1] - 3 * (at / BATCH[1])))
                .collect();
            let encoded = encoder.forward(tokens, Some(tape.input(BATCH, &is_token)));
            let wanted = random.values(count * config.d_model, -1.0, 1.0);
            encoded.mse(tape.input([BATCH[0], BATCH[1], config.d_model], &wanted))
        });
        let [mixed, expected] = [Precision::Mixed, Precision::F32]
            .map(|precision| run(&parameters, precision, Fusion::ON, &loss));
        let what = format!("encoder with {ffn:?}");
        assert_agree(&what, ffn, &mixed, &expected);
    }
}

fn bits(run: &Run) -> Vec<u32> {
    let values = run.gradients.iter().flat_map(|(_, values)| values);
    let all = std::iter::once(&run.loss).chain(values);
    assert!(all.clone().all(|value| value.is_finite()));
    all.map(|value| value.to_bits()).collect()
}

/// Casts in checkpointed blocks are recorded again like everything else.
#[test]
fn checkpointed_blocks_give_the_same_bits() {
    let [_, published, gated] = decoders();
    for (device, config) in [(device(), published), (gpu_device(), gated)] {
        let (mut gpt, parameters) = decoder(&config, device);
        let [plain, again] = [false, true].map(|is_checkpointed| {
            gpt.set_checkpoint_blocks(is_checkpointed);
            run(&parameters, Precision::Mixed, Fusion::ON, &loss_of(&gpt))
        });
        assert_eq!(bits(&plain), bits(&again), "{config:?}");
    }
}

/// Nothing reads what was not written, such as the second half of the last word of an odd count.
#[test]
fn the_same_bits_on_poisoned_memory() {
    for (portable, fusion) in [
        (false, Fusion::OFF),
        (true, Fusion::ON),
        (true, Fusion::OFF),
    ] {
        let odd = GptConfig {
            context: 5,
            d_model: 9,
            n_heads: 3,
            d_ff: 7,
            ..GptConfig::new(11)
        };
        let [clean, poisoned] = [false, true].map(|poison| {
            let device = Device::with_options(&DeviceOptions {
                class: portable.then_some(AdapterClass::Gpu),
                portable,
                poison,
                limits: Some(wgpu::Limits::default()),
                ..DeviceOptions::default()
            });
            let (gpt, parameters) = decoder(&odd, &device.unwrap());
            let loss = of_any_tape(|tape| {
                let mut random = Random::new(9);
                let [tokens, targets] = [0, 1].map(|_| tape.input([3, 5], &random.indices(15, 11)));
                gpt.loss(tokens, targets, CrossEntropy::default())
            });
            bits(&run(&parameters, Precision::Mixed, fusion, &loss))
        });
        assert_eq!(clean, poisoned, "portable {portable}, {fusion:?}");
    }
}
