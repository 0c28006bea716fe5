//! What is computed again on the way back gives the same.

use shadegrad::nn::{
    FeedForwardKind, Gpt, GptConfig, NormKind, Parameter, Parameters, PositionKind,
};
use shadegrad::ops::CrossEntropy;
use shadegrad::{Tape, Var};

use super::{model, small, widen};
use crate::common::{Random, assert_close_f32, device};

/// The loss and the gradient of every parameter, as bits.
fn differentiated(gpt: &Gpt, parameters: &Parameters) -> Vec<Vec<u32>> {
    let tape = Tape::training(device());
    tape.set_seed(5, 3);
    let mut random = Random::new(9);
    let [tokens, targets] = [0, 1].map(|_| tape.input([2, 8], &random.indices(16, 11)));
    let loss = gpt.loss(tokens, targets, CrossEntropy::default());
    let gradients = tape.backward(loss);
    let gradient_of = |parameter: &Parameter| gradients.of(parameter.on(&tape)).unwrap();
    let mut fetches = vec![tape.fetch::<f32>(loss)];
    fetches.extend(
        parameters
            .iter()
            .map(|parameter| tape.fetch(gradient_of(parameter))),
    );
    tape.run().unwrap();
    let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect();
    fetches
        .into_iter()
        .map(|fetch| bits(fetch.get().unwrap()))
        .collect()
}

#[test]
fn checkpointed_blocks_change_no_bit() {
    for config in [
        small(),
        GptConfig {
            dropout: 0.2,
            norm: NormKind::LayerNorm,
            ffn: FeedForwardKind::Gelu,
            positions: PositionKind::Rotary,
            bias: true,
            ..small()
        },
    ] {
        let (mut gpt, parameters) = model(&config);
        widen(&parameters);
        let kept = differentiated(&gpt, &parameters);
        gpt.set_checkpoint_blocks(true);
        assert_eq!(differentiated(&gpt, &parameters), kept, "{config:?}");
        assert!(kept.iter().flatten().any(|&bits| bits != kept[0][0]));
    }
}

/// Differentiates `Σ f(x)` and `Σ (d/dx Σ f(x))²`, and gives what both gradients are.
fn twice_differentiated(f: impl for<'t> Fn(&'t Tape, Var<'t>) -> Var<'t>) -> [Vec<f32>; 2] {
    let tape = Tape::training(device());
    let x = tape.variable([2, 2], &[0.3, -0.7, 1.1, 0.2]);
    let first = tape.backward(f(&tape, x).sum_all()).of(x).unwrap();
    let second = tape.backward((first * first).sum_all()).of(x).unwrap();
    let fetches = [first, second].map(|gradient| tape.fetch::<f32>(gradient));
    tape.run().unwrap();
    fetches.map(|fetch| fetch.get().unwrap())
}

#[test]
fn checkpoints_nest_skip_and_are_differentiated_twice() {
    fn inner<'t>(x: Var<'t>) -> Var<'t> {
        x.matmul(x).sin()
    }
    // The parts read each other's results and what is between them; some of what they record nobody reads.
    let plain = twice_differentiated(|_, x| {
        let (y, z) = (inner(x), x.exp());
        let w = y * z + inner(y);
        w.matmul(y) * z
    });
    let checkpointed = twice_differentiated(|tape, x| {
        let (y, z) = tape.checkpoint(|tape| {
            let y = tape.checkpoint(|_| inner(x));
            let _nobody_reads = y.exp();
            (y, x.exp())
        });
        let w = y * z + tape.checkpoint(|_| inner(y));
        tape.checkpoint(|_| w.matmul(y) * z)
    });
    assert_eq!(checkpointed[0], plain[0]);
    // On the way back through the first gradient, contributions come in another order.
    assert_close_f32("second", &checkpointed[1], &plain[1], 1e-6, 0.0);
    assert!(plain.iter().flatten().all(|value| value.abs() > 1e-4));
}
