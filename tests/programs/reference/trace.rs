//! Traced values against the same model composed of single operations.

use shadegrad::nn::{
    FeedForwardKind, Gpt, GptConfig, NormKind, ParameterBuilder, Parameters, PositionKind,
};
use shadegrad::ops::attention::{Attention, Mask, attention};
use shadegrad::{Tape, Var};

use crate::common::{Random, assert_close_f32, device};

const TOKENS: [u32; 12] = [1, 4, 10, 0, 7, 7, 2, 9, 3, 3, 5, 8];

/// Layer norm, GELU, biases, an own head.
fn layer_norm() -> GptConfig {
    GptConfig {
        context: 8,
        d_model: 16,
        n_heads: 2,
        n_layers: 2,
        norm: NormKind::LayerNorm,
        ffn: FeedForwardKind::Gelu,
        d_ff: 24,
        bias: true,
        tie_weights: false,
        ..GptConfig::new(11)
    }
}

/// RMS norm, SwiGLU, rotary positions, a tied head.
fn rotary() -> GptConfig {
    GptConfig {
        norm: NormKind::RmsNorm,
        ffn: FeedForwardKind::Swiglu,
        positions: PositionKind::Rotary,
        bias: false,
        tie_weights: true,
        ..layer_norm()
    }
}

fn model(config: &GptConfig) -> (Gpt, Parameters) {
    let mut builder = ParameterBuilder::new(7);
    let gpt = Gpt::new(config, &mut builder).unwrap();
    let parameters = builder.build(device()).unwrap();
    // The initial values leave every softmax flat.
    let mut random = Random::new(8);
    let values = parameters.iter().map(|parameter| {
        let shape = parameter.shape();
        (
            parameter.name(),
            shape,
            random.values(shape.elements(), -0.6, 0.6),
        )
    });
    let values: Vec<_> = values.collect();
    parameters.load(values).unwrap();
    (gpt, parameters)
}

/// The model of [`Gpt`], written out: matrix products, softmax over masked scores, sums. Everything by its name.
struct Plain<'a, 't> {
    config: &'a GptConfig,
    parameters: &'a Parameters,
    tape: &'t Tape,
    named: Vec<(String, Var<'t>)>,
}

impl<'t> Plain<'_, 't> {
    fn name(&mut self, name: impl Into<String>, var: Var<'t>) -> Var<'t> {
        self.named.push((name.into(), var));
        var
    }

    fn parameter(&self, name: &str) -> Option<Var<'t>> {
        Some(self.parameters.get(name)?.on(self.tape))
    }

    fn linear(&self, name: &str, x: Var<'t>) -> Var<'t> {
        let y = x.matmul(self.parameter(&format!("{name}.weight")).unwrap());
        match self.parameter(&format!("{name}.bias")) {
            Some(bias) => y + bias,
            None => y,
        }
    }

    fn norm(&mut self, name: String, x: Var<'t>) -> Var<'t> {
        let last = [x.shape().rank() - 1];
        let centred = match self.config.norm {
            NormKind::LayerNorm => x - x.mean_keep(&last),
            NormKind::RmsNorm => x,
        };
        let mean_square = (centred * centred).mean_keep(&last);
        let weight = self.parameter(&format!("{name}.weight")).unwrap();
        let y = centred / (mean_square + self.config.norm_eps).sqrt() * weight;
        let y = match self.parameter(&format!("{name}.bias")) {
            Some(bias) => y + bias,
            None => y,
        };
        self.name(name, y)
    }

    fn attention(&mut self, name: String, x: Var<'t>, table: Option<Var<'t>>) -> Var<'t> {
        let [batch, length, width] = [0, 1, 2].map(|axis| x.shape().dim(axis));
        let heads = self.config.n_heads;
        let mut qkv = self.linear(&format!("{name}.qkv"), x);
        if let Some(table) = table {
            qkv = qkv.rotary(table, 2 * heads);
        }
        let [q, k, v] = [0, 1, 2].map(|part| {
            let part = qkv.slice(2, part * width..(part + 1) * width);
            let part = part.reshape([batch, length, heads, width / heads]);
            part.permute(&[0, 2, 1, 3])
        });
        let scores = q.matmul(k.transpose()) / ((width / heads) as f32).sqrt();
        let scores = self.name(format!("{name}.scores"), scores);
        let later: Vec<f32> = (0..length * length)
            .map(|at| match at % length > at / length {
                true => f32::NEG_INFINITY,
                false => 0.0,
            })
            .collect();
        let later = self.tape.input([length, length], &later);
        let weights = (scores + later).softmax();
        let weights = self.name(format!("{name}.weights"), weights);
        let mixed = weights.matmul(v).permute(&[0, 2, 1, 3]);
        let mixed = mixed.reshape([batch, length, width]);
        let mixed = self.name(format!("{name}.heads"), mixed);
        let out = self.linear(&format!("{name}.out"), mixed);
        self.name(name, out)
    }

    fn feed_forward(&mut self, name: String, x: Var<'t>) -> Var<'t> {
        let hidden = if self.config.ffn == FeedForwardKind::Swiglu {
            let up = self.linear(&format!("{name}.gate_up"), x);
            let up = self.name(format!("{name}.gate_up"), up);
            let d_ff = self.config.d_ff;
            up.slice(2, 0..d_ff).silu() * up.slice(2, d_ff..2 * d_ff)
        } else {
            let up = self.linear(&format!("{name}.up"), x);
            self.name(format!("{name}.up"), up).gelu()
        };
        let hidden = self.name(format!("{name}.hidden"), hidden);
        let out = self.linear(&format!("{name}.down"), hidden);
        self.name(name, out)
    }

    fn logits(&mut self, tokens: Var<'t>) {
        let length = tokens.shape().dim(1);
        let embedding = self.parameter("token_embedding.weight").unwrap();
        let mut x = self.name("token_embedding", embedding.embedding(tokens));
        let mut table = None;
        if let Some(positions) = self.parameter("position_embedding.weight") {
            let positions = self.name("position_embedding", positions.slice(0, 0..length));
            x = x + positions;
        } else {
            let head_dim = self.config.d_model / self.config.n_heads;
            let values = shadegrad::ops::rotary_table(length, head_dim, 10_000.0);
            table = Some(self.tape.input([length, head_dim], &values));
        }
        x = self.name("embedded", x);
        for i in 0..self.config.n_layers {
            let normed = self.norm(format!("blocks.{i}.norm1"), x);
            let attended = self.attention(format!("blocks.{i}.attention"), normed, table);
            x = self.name(format!("blocks.{i}.attended"), x + attended);
            let normed = self.norm(format!("blocks.{i}.norm2"), x);
            let update = self.feed_forward(format!("blocks.{i}.ffn"), normed);
            x = self.name(format!("blocks.{i}"), x + update);
        }
        let normed = self.norm("norm".to_owned(), x);
        let head = match self.parameter("head.weight") {
            Some(head) => head,
            None => embedding.transpose(),
        };
        self.name("logits", normed.matmul(head));
    }
}

#[test]
fn traced_values_are_those_of_the_model_written_out() {
    for config in [layer_norm(), rotary()] {
        let (gpt, parameters) = model(&config);
        let tape = Tape::inference(device());
        let tokens = tape.input([2, 6], &TOKENS);
        let (_, trace) = tape.trace(|| gpt.logits(tokens));
        let mut plain = Plain {
            config: &config,
            parameters: &parameters,
            tape: &tape,
            named: Vec::new(),
        };
        plain.logits(tokens);
        let fetched: Vec<_> = trace
            .iter()
            .zip(&plain.named)
            .map(|((name, traced), (plain_name, plain))| {
                // The same names in the same order, of the same shapes.
                assert_eq!(name, plain_name);
                assert_eq!(traced.shape(), plain.shape(), "{name}");
                let [traced, plain] = [traced, *plain].map(|var| tape.fetch::<f32>(var));
                (name.to_owned(), traced, plain)
            })
            .collect();
        assert_eq!(trace.iter().count(), plain.named.len());
        tape.run().unwrap();
        for (name, traced, plain) in fetched {
            let plain = plain.get().unwrap();
            assert_close_f32(&name, &traced.get().unwrap(), &plain, 2e-5, 2e-5);
        }
    }
}

#[test]
fn what_is_not_traced_is_not_recorded_and_what_is_not_fetched_does_not_run() {
    let (gpt, _parameters) = model(&rotary());
    let kernels = |traced: bool| {
        let tape = Tape::inference(device());
        let tokens = tape.input([2, 6], &TOKENS);
        let logits = if traced {
            tape.trace(|| gpt.logits(tokens)).0
        } else {
            gpt.logits(tokens)
        };
        assert!(!tape.is_tracing());
        let recorded = tape.len();
        let _logits = tape.fetch::<f32>(logits);
        let kernels = tape.profile().unwrap().into_iter();
        (
            recorded,
            kernels.map(|kernel| kernel.name).collect::<Vec<_>>(),
        )
    };
    let (recorded, untraced) = kernels(false);
    let (recorded_with_trace, traced) = kernels(true);
    assert!(recorded < recorded_with_trace);
    assert_eq!(untraced, traced);
    assert!(!untraced.contains(&"attention_weights"));
}

#[test]
fn attention_to_other_keys_under_a_mask_is_traced_too() {
    let tape = Tape::inference(device());
    let mut random = Random::new(3);
    let shapes = [[1, 2, 3, 4], [1, 2, 5, 4], [1, 2, 5, 4]];
    let [q, k, v] = shapes.map(|shape| {
        let values = random.values(shape.iter().product(), -1.0, 1.0);
        tape.input(shape, &values)
    });
    let mask = [1u32, 0, 1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1, 1];
    let mask = Mask::Boolean(tape.input([3, 5], &mask));
    let config = Attention::full(2).with_scale(0.7);
    let (out, trace) =
        tape.trace(|| tape.scope("cross", || attention(q, k, v, Some(mask), &config)));
    let names: Vec<&str> = trace.iter().map(|(name, _)| name).collect();
    assert_eq!(
        names,
        ["cross.scores", "cross.weights", "cross.heads", "cross"]
    );
    let [scores, weights] =
        ["scores", "weights"].map(|name| trace.get(&format!("cross.{name}")).unwrap());
    let expected = q.matmul(k.transpose()) * 0.7;
    let fetched = [weights.matmul(v), out, scores, expected].map(|var| tape.fetch::<f32>(var));
    tape.run().unwrap();
    let [mixed, out, scores, expected] = fetched.map(|value| value.get().unwrap());
    assert_close_f32("weights times values", &mixed, &out, 1e-5, 1e-6);
    assert_close_f32("scores", &scores, &expected, 1e-5, 1e-6);
}

#[test]
fn names_nest_and_the_last_of_equals_is_found() {
    let tape = Tape::inference(device());
    let x = tape.input([2], &[1.0f32, 2.0]);
    let record = || {
        let y = tape.scope("outer", || {
            x.tap("first");
            tape.scope(7, || x * 2.0).tap("first")
        });
        y.tap("last");
    };
    record(); // Nobody looks.
    let ((), trace) = tape.trace(record);
    let names: Vec<&str> = trace.iter().map(|(name, _)| name).collect();
    assert_eq!(
        names,
        ["outer.first", "outer.7", "outer.first", "outer", "last"]
    );
    let doubled = tape.fetch::<f32>(trace.get("outer.first").unwrap());
    assert!(trace.get("first").is_none());
    tape.run().unwrap();
    assert_eq!(doubled.get().unwrap(), [2.0, 4.0]);
}
