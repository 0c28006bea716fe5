//! Plans that are submitted in parts.

use super::PARTS;
use crate::gpu::readback::{Readback, Ring};
use crate::{DType, Device, Error, Tape, Tensor, Var};

const WIDTH: usize = 64;

/// Layers, of which the first is applied to more rows than the others.
const LAYERS: usize = 4;

struct Net {
    device: Device,
    weights: Vec<Tensor>,
    gradients: Vec<Tensor>,
    rows: usize,
}

impl Net {
    fn new(rows: usize) -> Net {
        let device = Device::new().unwrap_or_else(|error| panic!("{error}"));
        let values: Vec<f32> = (0..WIDTH * WIDTH)
            .map(|i| (i * 37 % 101) as f32 / 500.0 - 0.1)
            .collect();
        let tensor = |_| Tensor::new(&device, [WIDTH, WIDTH], &values).unwrap();
        Net {
            weights: (0..LAYERS).map(tensor).collect(),
            gradients: (0..LAYERS).map(tensor).collect(),
            rows,
            device,
        }
    }

    /// The loss, with its gradients assigned to where they belong.
    fn loss<'t>(&self, tape: &'t Tape) -> Var<'t> {
        let all = self.rows * WIDTH;
        let input: Vec<f32> = (0..all).map(|i| (i * 17 % 23) as f32 / 23.0).collect();
        let mut x = tape.input([self.rows, WIDTH], &input);
        let weights: Vec<Var<'_>> = self
            .weights
            .iter()
            .map(|w| tape.tensor_variable(w))
            .collect();
        for (index, &weight) in weights.iter().enumerate() {
            x = x.matmul(weight).tanh();
            if index == 0 {
                x = x.slice(0, 0..8);
            }
        }
        let loss = (x * x).sum_all();
        let found = tape.backward(loss);
        for (weight, gradient) in weights.iter().zip(&self.gradients) {
            tape.assign(gradient, found.of(*weight).unwrap());
        }
        loss
    }

    fn values(&self) -> Vec<Vec<u32>> {
        let bits = |tensor: &Tensor| {
            let values = tensor.to_vec::<f32>().unwrap();
            values.into_iter().map(f32::to_bits).collect()
        };
        self.gradients.iter().map(bits).collect()
    }

    fn ring(&self) -> Ring {
        Ring::new(&self.device, (4 * WIDTH * WIDTH) as u64).unwrap()
    }

    /// The gradients, those of the last layers first.
    fn pieces(&self) -> Vec<&[Tensor]> {
        self.gradients
            .iter()
            .rev()
            .map(std::slice::from_ref)
            .collect()
    }
}

fn bits(copy: &Readback) -> Vec<u32> {
    let bytes = copy.wait().unwrap();
    bytemuck::pod_collect_to_vec(&bytes)
}

#[test]
fn parts_leave_the_same_bits_and_copies_of_what_is_final() {
    let net = Net::new(8);
    let tape = Tape::training(&net.device);
    let loss = tape.fetch::<f32>(net.loss(&tape));
    tape.run().unwrap();
    let (expected, value) = (net.values(), loss.item().unwrap());

    for gradient in &net.gradients {
        gradient.write(&[f32::NAN; WIDTH * WIDTH]).unwrap();
    }
    let tape = Tape::training(&net.device);
    let loss = tape.fetch::<f32>(net.loss(&tape));
    let before = net.device.stats();
    let copies = tape.run_in_parts(&net.ring(), &net.pieces()).unwrap();
    let after = net.device.stats();
    assert_eq!(after.submits - before.submits, PARTS as u64);
    assert_eq!(after.plans, before.plans);
    let copied: Vec<Vec<u32>> = copies.iter().map(bits).collect();
    // All but that of the first layer.
    assert_eq!(copied.len(), LAYERS - 1);
    assert!(copied.iter().eq(expected.iter().rev().take(LAYERS - 1)));
    assert_eq!(net.values(), expected);
    assert_eq!(loss.item().unwrap().to_bits(), value.to_bits());

    // What would have to wait for the first layer's is not copied.
    let tape = Tape::training(&net.device);
    net.loss(&tape);
    let mut pieces = net.pieces();
    pieces.reverse();
    let before = net.device.stats();
    let copies = tape.run_in_parts(&net.ring(), &pieces).unwrap();
    assert!(copies.is_empty());
    assert!(net.device.stats().submits - before.submits <= 2);
    assert_eq!(net.values(), expected);
}

#[test]
fn early_copies_arrive_while_the_rest_runs() {
    // The backward pass ends with the one product that takes long.
    let net = Net::new(1 << 17);
    for _ in 0..2 {
        let tape = Tape::training(&net.device);
        let loss = tape.fetch::<f32>(net.loss(&tape));
        let copies = tape.run_in_parts(&net.ring(), &net.pieces()).unwrap();
        copies[0].wait().unwrap();
        assert!(!loss.is_ready().unwrap(), "the tape ended first");
        loss.get().unwrap();
    }
}

#[test]
fn faults_of_early_parts_are_told() {
    let net = Net::new(8);
    let indices = Tensor::new(&net.device, [2], &[1u32, 70]).unwrap();
    let tape = Tape::training(&net.device);
    let rows = tape
        .tensor(&net.weights[3])
        .embedding(tape.tensor(&indices));
    let loss = tape.fetch::<f32>(net.loss(&tape) + rows.sum_all());
    tape.run_in_parts(&net.ring(), &net.pieces()).unwrap();
    assert!(matches!(
        loss.item(),
        Err(Error::IndexOutOfRange { largest: 70, .. })
    ));
}

#[test]
fn one_piece_is_no_reason_for_parts() {
    let net = Net::new(8);
    let whole = Tensor::zeros(&net.device, [1], DType::F32).unwrap();
    let tape = Tape::training(&net.device);
    let loss = net.loss(&tape);
    tape.assign(&whole, loss.reshape([1]));
    let before = net.device.stats();
    let pieces = [std::slice::from_ref(&whole)];
    let copies = tape.run_in_parts(&net.ring(), &pieces).unwrap();
    assert!(copies.is_empty());
    assert_eq!(net.device.stats().submits - before.submits, 1);
}
