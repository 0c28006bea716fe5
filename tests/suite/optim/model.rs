//! A small model whose gradient is known in closed form.

use shadegrad::nn::{Init, Parameter, ParameterBuilder, Parameters};
use shadegrad::{Device, Shape, Tape, Var};

use crate::common::{self, Random};

pub const ROWS: usize = 5;
pub const COLUMNS: usize = 30;

/// `Σ k · (weight + bias · gain)² + ½ · Σ (embedding − target)²`. The gradient of `weight` flows on to `bias` and
/// `gain`; nothing depends on `unused`.
pub struct Model {
    pub weight: Parameter,
    pub bias: Parameter,
    pub gain: Parameter,
    pub embedding: Parameter,
    pub parameters: Parameters,
}

/// One batch: `k` and `target`.
#[derive(Clone)]
pub struct Batch {
    k: Vec<f32>,
    target: Vec<f32>,
}

impl Batch {
    pub fn new(random: &mut Random) -> Batch {
        Batch {
            k: random.values(ROWS * COLUMNS, 0.1, 1.0),
            target: random.values(24, -3.0, 3.0),
        }
    }
}

impl Model {
    pub fn new(device: &Device, seed: u64, segment_limit: u64) -> Model {
        let mut builder = ParameterBuilder::new(seed).with_segment_limit(segment_limit);
        let normal = Init::Normal { std: 1.0 };
        let weight = builder.parameter("linear.weight", [ROWS, COLUMNS], normal);
        let bias = builder.parameter("linear.bias", [COLUMNS], normal);
        builder.parameter("unused.weight", [3, 3], normal);
        let gain = builder.parameter("norm.weight", [COLUMNS], normal);
        let embedding = builder.parameter("embedding.weight", [4, 6], normal);
        let parameters = builder.build(device).unwrap();
        Model {
            weight,
            bias,
            gain,
            embedding,
            parameters,
        }
    }

    /// A tape on the model's device.
    pub fn tape(&self) -> Tape {
        Tape::training(self.parameters.device())
    }

    pub fn loss<'t>(&self, tape: &'t Tape, batch: &Batch) -> Var<'t> {
        let k = tape.input([ROWS, COLUMNS], &batch.k);
        let target = tape.input([4, 6], &batch.target);
        let y = self.weight.on(tape) + self.bias.on(tape) * self.gain.on(tape);
        let off = self.embedding.on(tape) - target;
        (k * y * y).sum_all() + (off * off).sum_all() * 0.5
    }

    pub fn values(&self) -> Vec<(String, Shape, Vec<f32>)> {
        self.parameters.to_host().unwrap()
    }
}

/// The model's parameters in `f64`, in the model's order.
pub type Values = Vec<Vec<f64>>;

pub fn wide(values: &[(String, Shape, Vec<f32>)]) -> Values {
    values.iter().map(|(.., v)| common::wide(v)).collect()
}

/// The loss and its gradient.
pub fn reference(values: &Values, batch: &Batch) -> (f64, Values) {
    let [weight, bias, unused, gain, embedding] = &values[..] else {
        panic!("five parameters");
    };
    let mut loss = 0.0;
    let mut d_weight = vec![0.0; weight.len()];
    let mut d_bias = vec![0.0; COLUMNS];
    let mut d_gain = vec![0.0; COLUMNS];
    for (i, weight) in weight.iter().enumerate() {
        let (k, c) = (f64::from(batch.k[i]), i % COLUMNS);
        let y = weight + bias[c] * gain[c];
        loss += k * y * y;
        d_weight[i] = 2.0 * k * y;
        d_bias[c] += 2.0 * k * y * gain[c];
        d_gain[c] += 2.0 * k * y * bias[c];
    }
    let mut d_embedding = Vec::new();
    for (value, &target) in embedding.iter().zip(&batch.target) {
        let off = value - f64::from(target);
        loss += 0.5 * off * off;
        d_embedding.push(off);
    }
    let gradient = vec![
        d_weight,
        d_bias,
        vec![0.0; unused.len()],
        d_gain,
        d_embedding,
    ];
    (loss, gradient)
}
