//! The names GPT (context 16, batch 32, d_model 32, 4 heads, 4 layers, RMSNorm, SwiGLU of 85, tied head) in burn, on its
//! wgpu backend with autodiff, fusion and autotuning: a peer to time against. Tokens are a made-up sequence, not names:
//! what a step costs does not depend on them.
//!
//! ```sh
//! cargo run --release            # 30 steps
//! cargo run --release -- 300
//! ```
//!
//! Prints one line of JSON: the first step, which compiles and tunes kernels; the median of the steps after it, each
//! waited for; and the mean of as many more that are waited for once, as a training program does it.
//!
//! Burn's own clipping takes a norm per parameter, not one of all; the sums are the same.

use std::time::Instant;

use burn::grad_clipping::GradientClippingConfig;
use burn::module::{Initializer, Module};
use burn::nn::loss::{CrossEntropyLoss, CrossEntropyLossConfig};
use burn::nn::{Embedding, EmbeddingConfig, Linear, LinearConfig, RmsNorm, RmsNormConfig};
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::activation::{silu, softmax};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

const VOCABULARY: usize = 27;
const CONTEXT: usize = 16;
const BATCH: usize = 32;
const D_MODEL: usize = 32;
const HEADS: usize = 4;
const LAYERS: usize = 4;
const D_FF: usize = 85;

fn initializer() -> Initializer {
    Initializer::Normal {
        mean: 0.0,
        std: 0.02,
    }
}

fn linear(inputs: usize, outputs: usize, device: &Device) -> Linear {
    LinearConfig::new(inputs, outputs)
        .with_bias(false)
        .with_initializer(initializer())
        .init(device)
}

#[derive(Module, Debug)]
struct Block {
    norm1: RmsNorm,
    qkv: Linear,
    out: Linear,
    norm2: RmsNorm,
    up: Linear,
    down: Linear,
}

impl Block {
    fn new(device: &Device) -> Block {
        let norm = || RmsNormConfig::new(D_MODEL).with_epsilon(1e-6).init(device);
        Block {
            norm1: norm(),
            qkv: linear(D_MODEL, 3 * D_MODEL, device),
            out: linear(D_MODEL, D_MODEL, device),
            norm2: norm(),
            up: linear(D_MODEL, 2 * D_FF, device),
            down: linear(D_FF, D_MODEL, device),
        }
    }

    fn forward(&self, x: Tensor<3>, mask: Tensor<4, Bool>) -> Tensor<3> {
        let heads = |part: Tensor<3>| -> Tensor<4> {
            part.reshape([BATCH, CONTEXT, HEADS, D_MODEL / HEADS])
                .swap_dims(1, 2)
        };
        let mut qkv = self
            .qkv
            .forward(self.norm1.forward(x.clone()))
            .chunk(3, 2)
            .into_iter()
            .map(heads);
        let [q, k, v] = std::array::from_fn(|_| qkv.next().expect("three parts"));
        let scale = ((D_MODEL / HEADS) as f64).sqrt().recip();
        let scores = (q * scale).matmul(k.transpose()).mask_fill(mask, -1e30);
        let mixed = softmax(scores, 3)
            .matmul(v)
            .swap_dims(1, 2)
            .reshape([BATCH, CONTEXT, D_MODEL]);
        let x = x + self.out.forward(mixed);
        let mut up = self
            .up
            .forward(self.norm2.forward(x.clone()))
            .chunk(2, 2)
            .into_iter();
        let (gate, value) = (up.next().expect("the gate"), up.next().expect("the value"));
        x + self.down.forward(silu(gate) * value)
    }
}

#[derive(Module, Debug)]
struct Gpt {
    tokens: Embedding,
    positions: Embedding,
    blocks: Vec<Block>,
    norm: RmsNorm,
}

impl Gpt {
    fn new(device: &Device) -> Gpt {
        let embedding = |count| {
            EmbeddingConfig::new(count, D_MODEL)
                .with_initializer(initializer())
                .init(device)
        };
        Gpt {
            tokens: embedding(VOCABULARY),
            positions: embedding(CONTEXT),
            blocks: (0..LAYERS).map(|_| Block::new(device)).collect(),
            norm: RmsNormConfig::new(D_MODEL).with_epsilon(1e-6).init(device),
        }
    }

    fn logits(&self, tokens: Tensor<2, Int>, mask: Tensor<4, Bool>) -> Tensor<2> {
        let positions = self.positions.weight.val().unsqueeze::<3>();
        let mut x = self.tokens.forward(tokens) + positions;
        for block in &self.blocks {
            x = block.forward(x, mask.clone());
        }
        let x = self.norm.forward(x).reshape([BATCH * CONTEXT, D_MODEL]);
        x.matmul(self.tokens.weight.val().transpose())
    }
}

/// What a step needs beside the model.
struct Trainer {
    optimizer: ModuleOptimizer,
    loss: CrossEntropyLoss,
    device: Device,
}

impl Trainer {
    /// Queues one step. Returns the new model and the loss before it.
    fn step(&mut self, gpt: Gpt, step: usize) -> (Gpt, Tensor<1>) {
        // Every token tells the next one, so that the loss falls.
        let ids = |shift: usize| {
            let ids: Vec<i32> = (0..BATCH * CONTEXT)
                .map(|i| ((7 * (i + shift) + step) % VOCABULARY) as i32)
                .collect();
            let ids = TensorData::new(ids, [BATCH, CONTEXT]);
            Tensor::<2, Int>::from_data(ids, &self.device)
        };
        // What may not be seen: keys after the query.
        let mask = Tensor::<2, Bool>::tril_mask([CONTEXT, CONTEXT], 0, &self.device)
            .unsqueeze::<4>()
            .expand([BATCH, HEADS, CONTEXT, CONTEXT]);
        let targets = ids(1).reshape([BATCH * CONTEXT]);
        let loss = self.loss.forward(gpt.logits(ids(0), mask), targets);
        let gradients = GradientsParams::from_grads(loss.backward(), &gpt);
        (self.optimizer.step(3e-4, gpt, gradients), loss)
    }
}

fn main() {
    let steps: usize = std::env::args()
        .nth(1)
        .map_or(30, |count| count.parse().expect("a number of steps"));
    assert!(steps > 0, "at least one step");
    let (plain, setup) = Device::wgpu_options()
        .init_with_setup()
        .expect("there is a device");
    let adapter = setup.adapter.get_info();
    let device = plain.clone().autodiff();
    let mut gpt = Gpt::new(&device);
    let parameters = gpt.num_params();
    let mut trainer = Trainer {
        optimizer: AdamWConfig::new()
            .with_beta_2(0.95)
            .with_epsilon(1e-8)
            .with_weight_decay(0.1)
            .with_grad_clipping(Some(GradientClippingConfig::Norm(1.0)))
            .init(),
        loss: CrossEntropyLossConfig::new().init(&device),
        device,
    };
    let wait = || plain.sync().expect("the device works");

    let mut first = None;
    let mut times = Vec::new();
    for step in 0..=steps {
        let start = Instant::now();
        let loss;
        (gpt, loss) = trainer.step(gpt, step);
        wait();
        let seconds = start.elapsed().as_secs_f64();
        match first {
            None => {
                eprintln!("first step: {seconds:.1} s");
                first = Some((seconds, loss.into_scalar::<f32>()));
            }
            Some(_) => times.push(seconds),
        }
    }
    times.sort_by(f64::total_cmp);
    let median = 1e3 * times[times.len() / 2];

    let start = Instant::now();
    let mut last = None;
    for step in 0..steps {
        let loss;
        (gpt, loss) = trainer.step(gpt, steps + 1 + step);
        last = Some(loss);
    }
    wait();
    let mean = 1e3 * start.elapsed().as_secs_f64() / steps as f64;

    let (first, first_loss) = first.expect("there was a first step");
    let last_loss = last.expect("there was a last step").into_scalar::<f32>();
    println!(
        "{{\"adapter\": {:?}, \"api\": \"{}\", \"parameters\": {parameters}, \"first_step_s\": {first:.2}, \
         \"steps\": {steps}, \"median_ms\": {median:.3}, \"queued_mean_ms\": {mean:.3}, \
         \"first_loss\": {first_loss:.4}, \"last_loss\": {last_loss:.4}}}",
        adapter.name, adapter.backend
    );
}
