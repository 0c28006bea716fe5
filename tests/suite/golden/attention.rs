//! Multi-head attention and the encoder against `attention.safetensors`, made by `make_attention.py`.

use std::collections::BTreeMap;

use safetensors::SafeTensors;
use shadegrad::nn::{
    Encoder, EncoderConfig, MultiHeadAttention, MultiHeadAttentionConfig, ParameterBuilder,
    Parameters,
};
use shadegrad::ops::attention::Mask;
use shadegrad::tape::{Fusion, Gradients};
use shadegrad::{Device, Shape, Tape, Var};

use super::{TOLERANCE, words};
use crate::common::{assert_close_f32, device, gpu_device, portable_device};

/// One of the file's cases: tensors by the name behind `case.`, and those of integers among them.
struct Case {
    name: &'static str,
    floats: BTreeMap<String, (Shape, Vec<f32>)>,
    integers: BTreeMap<String, (Shape, Vec<u32>)>,
}

impl Case {
    fn load(name: &'static str) -> Case {
        let path = format!(
            "{}/tests/golden/attention.safetensors",
            env!("CARGO_MANIFEST_DIR")
        );
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let (mut floats, mut integers) = (BTreeMap::new(), BTreeMap::new());
        for (full, tensor) in file.tensors() {
            let Some(of_case) = full.strip_prefix(name).and_then(|n| n.strip_prefix('.')) else {
                continue;
            };
            let (of_case, shape) = (of_case.to_owned(), Shape::from(tensor.shape()));
            if tensor.dtype() == safetensors::Dtype::I32 {
                let values = words(&tensor).map(u32::from_le_bytes).collect();
                integers.insert(of_case, (shape, values));
            } else {
                let values = words(&tensor).map(f32::from_le_bytes).collect();
                floats.insert(of_case, (shape, values));
            }
        }
        assert!(!floats.is_empty(), "{name} is not in the file");
        Case {
            name,
            floats,
            integers,
        }
    }

    fn shape(&self, name: &str) -> Shape {
        self.floats[name].0
    }

    fn variable<'t>(&self, tape: &'t Tape, name: &str) -> Var<'t> {
        let (shape, values) = &self.floats[name];
        tape.variable(*shape, values)
    }

    fn integers<'t>(&self, tape: &'t Tape, name: &str) -> Option<Var<'t>> {
        let (shape, values) = self.integers.get(name)?;
        Some(tape.input(*shape, values))
    }

    /// The tensor of that name; for `qkv` the three that are packed in it, side by side.
    fn packed(&self, name: &str) -> Vec<f32> {
        if self.floats.contains_key(name) || !name.contains("qkv.") {
            return self.floats[name].1.clone();
        }
        let parts = ["query.", "key.", "value."].map(|part| name.replace("qkv.", part));
        let parts = parts.map(|part| &self.floats[&part]);
        let rows = |shape: Shape| shape.elements() / shape.last();
        (0..rows(parts[0].0))
            .flat_map(|row| {
                parts.iter().flat_map(move |(shape, values)| {
                    values[row * shape.last()..(row + 1) * shape.last()].to_vec()
                })
            })
            .collect()
    }

    fn fill(&self, parameters: &Parameters) {
        let values = parameters.iter().map(|parameter| {
            let values = self.packed(&format!("param.{}", parameter.name()));
            (parameter.name(), parameter.shape(), values)
        });
        parameters.load(values.collect::<Vec<_>>()).unwrap();
    }

    /// Compares relative to the largest value of the tensor.
    fn compare(&self, name: &str, actual: &[f32], expected: &[f32]) {
        // A softmax does not see a constant added to a query's scores: what arrives at the keys' bias is rounding of what
        // arrives at their weight.
        let scale = match name {
            "grad.key.bias" => &self.floats["grad.key.weight"].1,
            _ => expected,
        };
        let largest = scale.iter().fold(0f32, |most, x| most.max(x.abs()));
        let what = format!("{}: {name}", self.name);
        let absolute = TOLERANCE * f64::from(largest);
        assert_close_f32(&what, actual, expected, 0.0, absolute);
    }

    /// Asks for the result and all gradients, those of the inputs by name included.
    fn fetch<'t>(
        &self,
        tape: &'t Tape,
        out: Var<'t>,
        parameters: &Parameters,
        inputs: &[(&str, Var<'t>)],
    ) -> Vec<(String, shadegrad::gpu::Fetch<f32>)> {
        let (shape, upstream) = &self.floats["upstream"];
        let loss = (out * tape.input(*shape, upstream)).sum_all();
        let gradients: Gradients = tape.backward(loss);
        let mut fetches = vec![("out".to_owned(), tape.fetch::<f32>(out))];
        let leaves = parameters.iter().map(|p| (p.name(), p.on(tape)));
        for (name, var) in leaves.chain(inputs.iter().copied()) {
            let gradient = gradients.of(var).unwrap_or_else(|| panic!("no d{name}"));
            fetches.push((format!("grad.{name}"), tape.fetch::<f32>(gradient)));
        }
        fetches
    }
}

/// One case of attention with packed or separate projections.
fn attention(device: &Device, name: &'static str, packed: bool, fusion: Fusion) {
    let case = Case::load(name);
    let causal = name == "grouped";
    let (d_model, n_heads) = (16, 4);
    let key = case.shape("param.key.weight");
    let config = MultiHeadAttentionConfig {
        d_source: key.dim(0),
        n_kv_heads: key.dim(1) / (d_model / n_heads),
        causal,
        packed,
        ..MultiHeadAttentionConfig::new(d_model, n_heads)
    };
    let mut builder = ParameterBuilder::new(1);
    let attention = MultiHeadAttention::new(&mut builder, &config);
    let parameters = builder.build(device).unwrap();
    case.fill(&parameters);

    let tape = Tape::training(device);
    tape.set_fusion(fusion);
    let query = case.variable(&tape, "query");
    let mask = case.integers(&tape, "mask").map(Mask::Boolean);
    let mut inputs = vec![("query", query)];
    let mut weights = None;
    let out = if case.floats.contains_key("key") {
        let [key, value] = ["key", "value"].map(|name| case.variable(&tape, name));
        inputs.extend([("key", key), ("value", value)]);
        let (out, seen) = attention.forward_with_weights(query, key, value, mask);
        weights = case
            .floats
            .contains_key("weights")
            .then(|| tape.fetch(seen));
        out
    } else {
        attention.self_attention(query, mask)
    };
    let fetches = case.fetch(&tape, out, &parameters, &inputs);
    tape.run().unwrap();
    for (name, fetch) in fetches {
        case.compare(&name, &fetch.get().unwrap(), &case.packed(&name));
    }
    if let Some(weights) = weights {
        let expected = &case.floats["weights"].1;
        case.compare("weights", &weights.get().unwrap(), expected);
    }
}

#[test]
fn attention_of_all_kinds() {
    for name in [
        "self_padded",
        "cross",
        "cross_masked",
        "grouped",
        "multi_query_cross",
    ] {
        for packed in [true, false] {
            attention(device(), name, packed, Fusion::ON);
        }
    }
    attention(device(), "cross_wide", false, Fusion::ON);
    attention(device(), "cross_masked", true, Fusion::OFF);
}

#[test]
fn attention_by_gpu_kernels() {
    for device in [portable_device(), gpu_device()] {
        for name in ["self_padded", "multi_query_cross"] {
            attention(device, name, true, Fusion::ON);
        }
    }
}

#[test]
fn encoder() {
    for fusion in [Fusion::ON, Fusion::OFF] {
        let case = Case::load("encoder");
        let config = EncoderConfig {
            d_model: 16,
            d_ff: 24,
            ..EncoderConfig::new(11)
        };
        let mut builder = ParameterBuilder::new(1);
        let encoder = Encoder::new(&config, &mut builder).unwrap();
        let parameters = builder.build(device()).unwrap();
        case.fill(&parameters);
        let tape = Tape::training(device());
        tape.set_fusion(fusion);
        let tokens = case.integers(&tape, "tokens").unwrap();
        let is_token = case.integers(&tape, "is_token");
        let out = encoder.forward(tokens, is_token);
        // What comes out in the places of padding means nothing.
        let (shape, there) = &case.integers["is_token"];
        let there: Vec<f32> = there.iter().map(|&word| word as f32).collect();
        let there = tape.input([shape.dim(0), shape.dim(1), 1], &there);
        let fetches = case.fetch(&tape, out * there, &parameters, &[]);
        tape.run().unwrap();
        for (name, fetch) in fetches {
            case.compare(&name, &fetch.get().unwrap(), &case.floats[&name].1);
        }
    }
}

#[test]
fn padding_of_the_encoder_is_not_seen() {
    let mut builder = ParameterBuilder::new(3);
    let config = EncoderConfig {
        d_model: 16,
        d_ff: 24,
        dropout: 0.2,
        ..EncoderConfig::new(11)
    };
    let encoder = Encoder::new(&config, &mut builder).unwrap();
    let _parameters = builder.build(device()).unwrap();
    let encode = |tokens: &[u32], there: Option<&[u32]>, tape: Tape| {
        let shape = [1, tokens.len()];
        let there = there.map(|there| tape.input(shape, there));
        let out = tape.fetch::<f32>(encoder.forward(tape.input(shape, tokens), there));
        tape.run().unwrap();
        out.get().unwrap()
    };
    let inferring = || Tape::inference(device());
    let short = encode(&[4, 7, 1], None, inferring());
    let there: &[u32] = &[1, 1, 1, 0, 0];
    for padding in [[0, 0], [9, 10]] {
        let padded = [&[4, 7, 1], &padding[..]].concat();
        let out = encode(&padded, Some(there), inferring());
        assert_close_f32("padded", &out[..48], &short, 1e-5, 1e-5);
        let seen = encode(&padded, None, inferring());
        assert!((0..48).any(|i| (seen[i] - short[i]).abs() > 1e-4));
    }
    // Dropout is for training only.
    let trained = encode(&[4, 7, 1], None, Tape::training(device()));
    assert!((0..48).any(|i| (trained[i] - short[i]).abs() > 1e-3));
}
