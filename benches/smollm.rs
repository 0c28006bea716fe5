//! A model of today's size, SmolLM2 with 135 million parameters: what 128 tokens cost forward, forward and backward, and one
//! more with the cache, that one from weights in `f16`, too. `peers/torch_peers.py` has the same from `transformers`.

use shadegrad::nn::{
    FeedForwardKind, Gpt, GptConfig, NormKind, ParameterBuilder, Parameters, PositionKind, Rotary,
};
use shadegrad::ops::CrossEntropy;
use shadegrad::{DType, Device, Result, Tape, Tensor};

use crate::harness::{Session, Size};

const TOKENS: usize = 128;

pub fn benches(session: &mut Session) {
    let size = Size::Large;
    session.steps(size, "smollm/forward", TOKENS, |device| {
        let (gpt, _) = model(device, DType::F32)?;
        Ok(move |tape: &Tape| {
            let tokens = tape.input([1, TOKENS], &ids(0));
            let loss = gpt.loss(
                tokens,
                tape.input([1, TOKENS], &ids(1)),
                CrossEntropy::default(),
            );
            let loss = tape.fetch::<f32>(loss);
            move || loss.get().map(drop)
        })
    });
    session.steps(size, "smollm/forward_backward", TOKENS, |device| {
        let (gpt, parameters) = model(device, DType::F32)?;
        let gradients = parameters
            .iter()
            .map(|parameter| Tensor::zeros(device, parameter.shape(), DType::F32))
            .collect::<Result<Vec<_>>>()?;
        Ok(move |tape: &Tape| {
            let tokens = tape.input([1, TOKENS], &ids(0));
            let loss = gpt.loss(
                tokens,
                tape.input([1, TOKENS], &ids(1)),
                CrossEntropy::default(),
            );
            let all = tape.backward(loss);
            for (parameter, gradient) in parameters.iter().zip(&gradients) {
                let value = all.of(parameter.on(tape)).expect("the loss depends on all");
                tape.assign(gradient, value);
            }
            let loss = tape.fetch::<f32>(loss);
            move || loss.get().map(drop)
        })
    });
    token(session, DType::F32);
    session.mixed(|session| token(session, DType::F16));
}

/// A token with the cache, from weights and a cache of this type.
fn token(session: &mut Session, dtype: DType) {
    session.steps(Size::Large, "smollm/token", 1, |device| {
        let (gpt, _) = model(device, dtype)?;
        let mut cache = gpt.kv_cache(1, 2 * TOKENS)?;
        let tape = Tape::inference(device);
        let text = tape.input([1, TOKENS - 1], &ids(0)[1..]);
        let _hidden = tape.fetch::<f32>(gpt.cached_hidden(text, &mut cache).cast(DType::F32));
        tape.run()?;
        Ok(move |tape: &Tape| {
            cache.truncate(0, TOKENS - 1);
            let logits = gpt.cached_logits(tape.input([1, 1], &[7u32]), &mut cache);
            let logits = tape.fetch::<f32>(logits.cast(DType::F32));
            move || logits.get().map(drop)
        })
    });
}

fn model(device: &Device, dtype: DType) -> Result<(Gpt, Parameters)> {
    let config = GptConfig {
        context: 8192,
        d_model: 576,
        n_heads: 9,
        n_kv_heads: Some(3),
        n_layers: 30,
        d_ff: 1536,
        norm: NormKind::RmsNorm,
        norm_eps: 1e-5,
        ffn: FeedForwardKind::Swiglu,
        positions: PositionKind::Rotary,
        rotary: Rotary {
            base: 100_000.0,
            scaling: None,
        },
        bias: false,
        ..GptConfig::new(49_152)
    };
    let mut builder = ParameterBuilder::new(1).with_dtype(dtype);
    let gpt = Gpt::new(&config, &mut builder)?;
    let parameters = builder.build(device)?;
    Ok((gpt, parameters))
}

fn ids(shift: usize) -> Vec<u32> {
    (0..TOKENS)
        .map(|i| ((i + shift) * 7919 % 49_152) as u32)
        .collect()
}
