//! Memory of intermediate values filled with NaN before every run: nothing may change, to the bit. The tests of single
//! operations run that way too, with `SHADEGRAD_POISON=1`.

use shadegrad::nn::{
    Encoder, EncoderConfig, FeedForwardKind, Gpt, GptConfig, NormKind, ParameterBuilder,
    Parameters, PositionKind,
};
use shadegrad::ops::{CrossEntropy, Operation, TensorType};
use shadegrad::optim::{AdamW, AdamWConfig, Optimizer};
use shadegrad::sampling::{Sampler, SamplingConfig};
use shadegrad::tape::{Backward, Dispatch, Fusion, Lowering};
use shadegrad::{AdapterClass, DType, Device, DeviceOptions, Kernel, Shape, Tape, Var};

use crate::common::Random;

const VOCABULARY: usize = 11;
const BATCH: [usize; 2] = [3, 8];

/// The same kernels on clean memory and on poisoned memory.
fn pair(class: Option<AdapterClass>, portable: bool) -> [Device; 2] {
    [false, true].map(|poison| {
        let options = DeviceOptions {
            class,
            portable,
            poison,
            limits: Some(wgpu::Limits::default()),
            ..DeviceOptions::default()
        };
        Device::with_options(&options).unwrap_or_else(|error| panic!("{error}"))
    })
}

fn bits(values: &[f32]) -> Vec<u32> {
    assert!(values.iter().all(|value| value.is_finite()), "{values:?}");
    values.iter().map(|value| value.to_bits()).collect()
}

/// The losses of four steps and the parameters after them.
fn train(
    device: &Device,
    parameters: &Parameters,
    fusion: Fusion,
    loss: impl for<'t> Fn(Var<'t>, Var<'t>) -> Var<'t>,
) -> Vec<Vec<u32>> {
    let settings = AdamWConfig {
        clip_norm: Some(1.0),
        ..AdamWConfig::default()
    };
    let mut optimizer = AdamW::new(parameters, settings).unwrap();
    let mut random = Random::new(3);
    let losses = (0..4).map(|step| {
        let tape = Tape::training(device);
        tape.set_fusion(fusion);
        tape.set_seed(4, step);
        let [tokens, targets] =
            [0, 1].map(|_| tape.input(BATCH, &random.indices(BATCH[0] * BATCH[1], VOCABULARY)));
        let report = optimizer.step(&tape, loss(tokens, targets), 0.01).fetch();
        tape.run().unwrap();
        report.get().unwrap().loss
    });
    let losses = bits(&losses.collect::<Vec<_>>());
    let values = parameters.to_host().unwrap();
    let values = values.iter().map(|(_, _, values)| bits(values));
    std::iter::once(losses).chain(values).collect()
}

/// What training gives, then texts drawn from what was trained.
fn train_and_generate(
    device: &Device,
    config: &GptConfig,
    checkpointed: bool,
    fusion: Fusion,
) -> (Vec<Vec<u32>>, Vec<Vec<u32>>) {
    let mut builder = ParameterBuilder::new(7);
    let mut gpt = Gpt::new(config, &mut builder).unwrap();
    gpt.set_checkpoint_blocks(checkpointed);
    let parameters = builder.build(device).unwrap();
    let trained = train(device, &parameters, fusion, |tokens, targets| {
        gpt.loss(tokens, targets, CrossEntropy::default())
    });
    let sampler = |seed| Sampler::new(SamplingConfig::default(), seed).unwrap();
    let mut samplers: Vec<Sampler> = (0..3).map(sampler).collect();
    // Prompts of different lengths, and texts beyond the window.
    let prompts: [&[u32]; 3] = [&[0], &[1, 2, 3], &[4; 9]];
    let texts = gpt
        .generate_batch(&prompts, 10, &mut samplers, None)
        .unwrap();
    (trained, texts)
}

fn small() -> GptConfig {
    GptConfig {
        context: BATCH[1],
        d_model: 16,
        n_heads: 2,
        n_layers: 2,
        d_ff: 21,
        ..GptConfig::new(VOCABULARY)
    }
}

/// Every kind of norm, activation and positions, with dropout and without.
fn configurations() -> [(GptConfig, bool); 3] {
    let second = GptConfig {
        norm: NormKind::LayerNorm,
        ffn: FeedForwardKind::Gelu,
        positions: PositionKind::Rotary,
        bias: true,
        dropout: 0.2,
        ..small()
    };
    let third = GptConfig {
        positions: PositionKind::Sinusoidal,
        ffn: FeedForwardKind::Swiglu,
        tie_weights: false,
        ..small()
    };
    [(small(), false), (second, true), (third, false)]
}

fn same_with_poison(class: Option<AdapterClass>, portable: bool, fusion: Fusion) {
    let [clean, poisoned] = pair(class, portable);
    for (config, checkpointed) in configurations() {
        let expected = train_and_generate(&clean, &config, checkpointed, fusion);
        let found = train_and_generate(&poisoned, &config, checkpointed, fusion);
        assert!(found == expected, "{config:?}");
    }
}

#[test]
fn training_and_decoding() {
    same_with_poison(None, false, Fusion::ON);
}

#[test]
fn without_fusion() {
    same_with_poison(None, false, Fusion::OFF);
}

#[test]
fn with_kernels_for_gpus() {
    same_with_poison(Some(AdapterClass::Gpu), false, Fusion::ON);
}

#[test]
fn with_portable_kernels() {
    same_with_poison(Some(AdapterClass::Gpu), true, Fusion::ON);
}

#[test]
fn encoders_with_padded_texts() {
    let config = EncoderConfig {
        context: BATCH[1],
        d_model: 16,
        n_heads: 2,
        d_ff: 21,
        dropout: 0.1,
        ..EncoderConfig::new(VOCABULARY)
    };
    let results = pair(None, false).map(|device| {
        let mut builder = ParameterBuilder::new(7);
        let encoder = Encoder::new(&config, &mut builder).unwrap();
        let parameters = builder.build(&device).unwrap();
        train(&device, &parameters, Fusion::ON, |tokens, _| {
            let is_token: Vec<u32> = (0..BATCH[0])
                .flat_map(|text| (0..BATCH[1]).map(move |at| u32::from(at < 8 - 3 * text)))
                .collect();
            let is_token = tokens.tape().input(BATCH, &is_token);
            let out = encoder.forward(tokens, Some(is_token));
            (out * out).mean_all()
        })
    });
    assert_eq!(results[0], results[1]);
}

/// A copy of memory that nobody has written.
#[derive(Debug, Hash)]
struct Unwritten;

impl Operation for Unwritten {
    fn name(&self) -> &'static str {
        "unwritten"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        inputs.to_vec()
    }

    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        node.not_differentiable("it is noise")
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        let output = cx.output(0);
        let unwritten = cx.temp(Shape::from([output.elements()]), DType::F32);
        let text = "@group(0) @binding(1) var<storage, read> x: array<f32>;\n\
                    @group(0) @binding(2) var<storage, read_write> y: array<f32>;\n\
                    @compute @workgroup_size(8)\n\
                    fn main(@builtin(local_invocation_index) i: u32) { y[i] = x[i]; }\n";
        cx.dispatch(
            Dispatch::new(Kernel::new("unwritten", text, "main"))
                .read(&unwritten)
                .write(&output)
                .groups(1),
        );
    }
}

#[test]
fn a_kernel_that_reads_what_nobody_has_written_gives_itself_away() {
    let [_, poisoned] = pair(None, false);
    // In the first run and in later ones, whose memory holds what came before.
    for _ in 0..3 {
        let tape = Tape::inference(&poisoned);
        let ones = tape.input([8], &[1.0f32; 8]);
        let unwritten = tape.fetch::<f32>(tape.record(Unwritten, &[ones]) + 1.0);
        tape.run().unwrap();
        let unwritten = unwritten.get().unwrap();
        assert!(
            unwritten.iter().all(|value| value.is_nan()),
            "{unwritten:?}"
        );
    }
}
