//! Whole training steps: recording, forward, backward, clipping, AdamW. `peers/torch_peers.py` has the same models.

use shadegrad::Tape;
use shadegrad::nn::{FeedForwardKind, Gpt, GptConfig, NormKind, ParameterBuilder};
use shadegrad::ops::CrossEntropy;
use shadegrad::optim::{AdamW, AdamWConfig, Optimizer};

use crate::harness::{Session, Size};

pub fn benches(session: &mut Session) {
    models(session);
    session.mixed(models);
}

fn models(session: &mut Session) {
    steps(session, Size::Tiny, "series", 32, &GptConfig::new(27));
    steps(
        session,
        Size::Small,
        "series_aligned",
        32,
        &GptConfig {
            d_ff: 88,
            ..GptConfig::new(27)
        },
    );
    steps(session, Size::Small, "d64", 32, &d64());
    steps(session, Size::Small, "char10m_one_row", 1, &char10m());
    steps(session, Size::Large, "char10m", 64, &char10m());
    steps(session, Size::Large, "gpt2_small", 4, &gpt2_small());
}

/// The names model of twice the width.
fn d64() -> GptConfig {
    GptConfig {
        d_model: 64,
        d_ff: 170,
        ..GptConfig::new(27)
    }
}

/// A character model of ten million parameters: 6 layers, 6 heads of 64, context 256.
fn char10m() -> GptConfig {
    GptConfig {
        context: 256,
        d_model: 384,
        n_heads: 6,
        n_layers: 6,
        norm: NormKind::LayerNorm,
        norm_eps: 1e-5,
        ffn: FeedForwardKind::GeluTanh,
        d_ff: 4 * 384,
        ..GptConfig::new(65)
    }
}

/// GPT-2 with 124 million parameters.
fn gpt2_small() -> GptConfig {
    GptConfig {
        context: 1024,
        d_model: 768,
        n_heads: 12,
        n_layers: 12,
        norm: NormKind::LayerNorm,
        norm_eps: 1e-5,
        ffn: FeedForwardKind::GeluTanh,
        d_ff: 4 * 768,
        bias: true,
        ..GptConfig::new(50257)
    }
}

fn steps(session: &mut Session, size: Size, name: &str, batch: usize, config: &GptConfig) {
    let tokens = batch * config.context;
    session.steps(size, &format!("step/{name}"), tokens, |device| {
        let mut builder = ParameterBuilder::new(1);
        let gpt = Gpt::new(config, &mut builder)?;
        let settings = AdamWConfig {
            clip_norm: Some(1.0),
            ..AdamWConfig::default()
        };
        let mut optimizer = AdamW::new(&builder.build(device)?, settings)?;
        let vocabulary = config.vocab_size;
        let shape = [batch, config.context];
        let mut step = 0;
        Ok(move |tape: &Tape| {
            step += 1;
            let data = |shift: usize| -> Vec<u32> {
                let ids = (0..tokens).map(|i| (i * 7919 + (i + step) * shift) % vocabulary);
                ids.map(|id| id as u32).collect()
            };
            let [inputs, targets] = [31, 17].map(|shift| tape.input(shape, &data(shift)));
            let loss = gpt.loss(inputs, targets, CrossEntropy::default());
            let report = optimizer.step(tape, loss, 1e-4).fetch();
            move || report.get().map(drop)
        })
    });
}
