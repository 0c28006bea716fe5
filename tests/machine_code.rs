//! What has been compiled stays compiled: from the third step on, neither shadegrad nor the driver makes anything new.
//!
//! shadegrad's part is counted by the device: pipelines. A driver's isn't, but code that runs on the CPU lies in executable
//! memory, which Linux lists. Mesa's llvmpipe compiles a kernel again at every dispatch where it finds that worth while
//! (`src/gpu/opaque.rs`). One test, as the list is the process's.

mod common;

use common::{Random, device, gpu_device};
use shadegrad::nn::{
    Encoder, EncoderConfig, FeedForwardKind, Gpt, GptConfig, NormKind, ParameterBuilder,
    PositionKind,
};
use shadegrad::ops::CrossEntropy;
use shadegrad::optim::{AdamW, AdamWConfig, Optimizer};
use shadegrad::sampling::{Sampler, SamplingConfig};
use shadegrad::{Device, Tape};

/// Pieces of executable memory that belong to no file; `None` where the system doesn't tell.
fn pieces_of_code() -> Option<usize> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let is_code = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields[1].contains('x') && fields.len() == 5
    };
    Some(maps.lines().filter(is_code).count())
}

/// Runs something three times, then again and again, which makes nothing new.
fn check(device: &Device, what: &str, times: usize, mut run: impl FnMut()) {
    (0..3).for_each(|_| run());
    let (pipelines, code) = (device.stats().pipelines, pieces_of_code());
    (0..times).for_each(|_| run());
    assert_eq!(device.stats().pipelines, pipelines, "{what}: pipelines");
    assert_eq!(pieces_of_code(), code, "{what}: pieces of machine code");
}

fn base() -> GptConfig {
    GptConfig {
        n_layers: 1,
        d_model: 16,
        n_heads: 2,
        d_ff: 12,
        positions: PositionKind::Rotary,
        ..GptConfig::new(11)
    }
}

/// Trains on batches of `batch` rows with and without checkpointed blocks, then writes texts.
fn train(device: &Device, config: &GptConfig, batch: usize, is_checkpointed: bool) {
    let what = format!("{batch} rows, {is_checkpointed}, {config:?}");
    let mut builder = ParameterBuilder::new(1);
    let mut gpt = Gpt::new(config, &mut builder).unwrap();
    gpt.set_checkpoint_blocks(is_checkpointed);
    let parameters = builder.build(device).unwrap();
    let mut optimizer = AdamW::new(
        &parameters,
        AdamWConfig {
            clip_norm: Some(1.0),
            ..AdamWConfig::default()
        },
    )
    .unwrap();
    let mut random = Random::new(2);
    let n = batch * config.context;
    check(device, &what, 100, || {
        let tape = Tape::training(device);
        let [tokens, targets] =
            [0, 1].map(|_| tape.input([batch, config.context], &random.indices(n, 11)));
        let loss = gpt.loss(tokens, targets, CrossEntropy::default());
        let report = optimizer.step(&tape, loss, 1e-3).fetch();
        tape.run().unwrap();
        report.get().unwrap();
    });
    check(device, &what, 3, || {
        let sampler = |seed| Sampler::new(SamplingConfig::default(), seed).unwrap();
        let mut samplers: Vec<Sampler> = (0..2).map(sampler).collect();
        let texts = gpt.generate_batch(&[[0]; 2], 20, &mut samplers, None);
        assert_eq!(texts.unwrap()[1].len(), 20);
    });
}

#[test]
fn nothing_is_compiled_twice() {
    // The driver's own counts are only there on Linux; elsewhere the device's have to do, and the line says so.
    println!(
        "{:?} pieces of machine code to begin with",
        pieces_of_code()
    );
    assert_eq!(pieces_of_code().is_some(), cfg!(target_os = "linux"));
    let own = device();
    for context in [16, 63, 64, 65, 128, 512, 1024] {
        let config = GptConfig { context, ..base() };
        train(own, &config, 1, false);
    }
    for (head_dim, context) in [(4, 64), (16, 64), (32, 64), (64, 64), (32, 512)] {
        let config = GptConfig {
            context,
            d_model: 2 * head_dim,
            ..base()
        };
        train(own, &config, 2, false);
    }
    // What `train_text` starts with.
    let wide = GptConfig {
        context: 64,
        d_model: 64,
        n_heads: 4,
        n_layers: 2,
        d_ff: 172,
        ..base()
    };
    train(own, &wide, 16, false);
    let others = [
        GptConfig {
            dropout: 0.1,
            norm: NormKind::LayerNorm,
            ffn: FeedForwardKind::Gelu,
            positions: PositionKind::Learned,
            bias: true,
            ..base()
        },
        GptConfig {
            norm: NormKind::LayerNorm,
            ffn: FeedForwardKind::Relu,
            positions: PositionKind::Sinusoidal,
            tie_weights: false,
            head_bias: true,
            ..base()
        },
    ];
    for config in others {
        for context in [16, 64] {
            let config = GptConfig {
                context,
                ..config.clone()
            };
            train(own, &config, 3, true);
        }
    }
    train(
        gpu_device(),
        &GptConfig {
            context: 64,
            ..base()
        },
        2,
        false,
    );
    encode(own);
}

/// Masked attention, and a mean over some of the places.
fn encode(device: &Device) {
    let config = EncoderConfig {
        context: 64,
        n_layers: 1,
        ..EncoderConfig::new(11)
    };
    let mut builder = ParameterBuilder::new(1);
    let encoder = Encoder::new(&config, &mut builder).unwrap();
    let parameters = builder.build(device).unwrap();
    let mut optimizer = AdamW::new(&parameters, AdamWConfig::default()).unwrap();
    let mut random = Random::new(3);
    check(device, "encoder", 100, || {
        let tape = Tape::training(device);
        let tokens = tape.input([2, 64], &random.indices(128, 11));
        let is_token = tape.input([2, 64], &random.indices(128, 2));
        let out = encoder.forward(tokens, Some(is_token));
        let loss = (out * out).mean_all();
        let report = optimizer.step(&tape, loss, 1e-3).fetch();
        tape.run().unwrap();
        report.get().unwrap();
    });
}
