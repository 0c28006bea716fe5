//! The attention layers of the walkthrough, on the crate's attention kernels.

use shadegrad::nn::{Init, Linear, Parameter, ParameterBuilder};
use shadegrad::ops::attention::{Attention, attention_with_weights};
use shadegrad::{Tape, Var};

/// Attention of `[B, T, width]` vectors in several heads: the context vectors `[B, T, width]` and the weights
/// `[B, heads, T, T]`.
fn attend<'t>(qkv: [Var<'t>; 3], config: &Attention) -> (Var<'t>, Var<'t>) {
    let [batch, length, width] = [0, 1, 2].map(|axis| qkv[0].shape().dim(axis));
    let heads = config.n_heads;
    let split = [batch, length, heads, width / heads];
    let [q, k, v] = qkv.map(|x| x.reshape(split).permute(&[0, 2, 1, 3]));
    let (context, weights) = attention_with_weights(q, k, v, None, config);
    let merged = context.permute(&[0, 2, 1, 3]);
    (merged.reshape([batch, length, width]), weights)
}

/// The first of the walkthrough's layers: its weights are bare matrices.
pub struct SelfAttentionV1 {
    pub query: Parameter,
    pub key: Parameter,
    pub value: Parameter,
}

impl SelfAttentionV1 {
    pub fn new(b: &mut ParameterBuilder, inputs: usize, outputs: usize) -> SelfAttentionV1 {
        let mut matrix = |name: &str| b.parameter(name, [inputs, outputs], Init::Zeros);
        SelfAttentionV1 {
            query: matrix("query"),
            key: matrix("key"),
            value: matrix("value"),
        }
    }

    /// `[…, inputs] → […, outputs]` three times.
    pub fn project<'t>(&self, x: Var<'t>) -> [Var<'t>; 3] {
        [&self.query, &self.key, &self.value].map(|matrix| x.matmul(matrix.on(x.tape())))
    }

    /// `[B, T, inputs] → [B, T, outputs]`
    pub fn forward<'t>(&self, x: Var<'t>) -> Var<'t> {
        attend(self.project(x), &Attention::full(1)).0
    }
}

/// The second: linear layers, with or without biases; causal or not, over batches.
pub struct SelfAttention {
    pub query: Linear,
    pub key: Linear,
    pub value: Linear,
}

impl SelfAttention {
    pub fn new(b: &mut ParameterBuilder, inputs: usize, outputs: usize, bias: bool) -> Self {
        let mut linear = |name: &str| b.scope(name, |b| Linear::new(b, inputs, outputs, bias));
        SelfAttention {
            query: linear("query"),
            key: linear("key"),
            value: linear("value"),
        }
    }

    /// `[…, inputs] → […, outputs]` three times.
    pub fn project<'t>(&self, x: Var<'t>) -> [Var<'t>; 3] {
        [&self.query, &self.key, &self.value].map(|linear| linear.forward(x))
    }

    /// `[B, T, inputs] → [B, T, outputs]`, and the weights `[B, heads, T, T]`.
    pub fn forward<'t>(&self, x: Var<'t>, config: &Attention) -> (Var<'t>, Var<'t>) {
        attend(self.project(x), config)
    }
}

/// Several causal layers side by side, their results concatenated.
pub struct StackedHeads {
    pub heads: Vec<SelfAttention>,
}

impl StackedHeads {
    pub fn new(b: &mut ParameterBuilder, inputs: usize, outputs: usize, heads: usize) -> Self {
        let mut head = |i: usize| {
            b.scope(i.to_string(), |b| {
                SelfAttention::new(b, inputs, outputs, false)
            })
        };
        StackedHeads {
            heads: (0..heads).map(&mut head).collect(),
        }
    }

    /// `[B, T, inputs] → [B, T, heads · outputs]`
    pub fn forward<'t>(&self, x: Var<'t>) -> Var<'t> {
        let heads = self.heads.iter();
        let contexts = heads.map(|head| head.forward(x, &Attention::causal(1)).0);
        Var::concat(&contexts.collect::<Vec<_>>(), 2)
    }
}

/// One causal layer whose vectors are split into heads, mixed by a last linear layer.
pub struct SplitHeads {
    projections: SelfAttention,
    out: Linear,
    heads: usize,
}

impl SplitHeads {
    pub fn new(
        b: &mut ParameterBuilder,
        inputs: usize,
        outputs: usize,
        heads: usize,
        qkv_bias: bool,
    ) -> SplitHeads {
        SplitHeads {
            projections: SelfAttention::new(b, inputs, outputs, qkv_bias),
            out: b.scope("out", |b| Linear::new(b, outputs, outputs, true)),
            heads,
        }
    }

    /// `[B, T, inputs] → [B, T, outputs]`
    pub fn forward<'t>(&self, x: Var<'t>) -> Var<'t> {
        let config = Attention::causal(self.heads);
        self.out.forward(self.projections.forward(x, &config).0)
    }
}

/// `[T, T]`: `allowed` where a query may see a key (its own position and earlier ones), `hidden` elsewhere.
pub fn causal_mask(tape: &Tape, length: usize, allowed: f32, hidden: f32) -> Var<'_> {
    let value = |at: usize| match at % length > at / length {
        true => hidden,
        false => allowed,
    };
    let values: Vec<f32> = (0..length * length).map(value).collect();
    tape.input([length, length], &values)
}
