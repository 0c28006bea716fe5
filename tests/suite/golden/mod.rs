//! Whole models against files made by PyTorch: see `golden/README.md`.

mod attention;

use std::collections::BTreeMap;

use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use shadegrad::data::IGNORE_INDEX;
use shadegrad::nn::{Gpt, GptConfig, ParameterBuilder, Parameters};
use shadegrad::ops::CrossEntropy;
use shadegrad::optim::{AdamW, AdamWConfig, Optimizer};
use shadegrad::tape::Fusion;
use shadegrad::{Device, Shape, Tape};

use crate::common::{ALL_BUT_ONE, FUSIONS, assert_close_f32, device, gpu_device};

/// Relative to the largest value of a tensor.
const TOLERANCE: f64 = 1e-4;

struct Golden {
    name: &'static str,
    config: GptConfig,
    label_smoothing: f32,
    floats: BTreeMap<String, (Shape, Vec<f32>)>,
    /// Tokens and targets; −1 becomes [`IGNORE_INDEX`].
    ids: BTreeMap<String, (Shape, Vec<u32>)>,
}

impl Golden {
    fn load(name: &'static str) -> Golden {
        let path = format!(
            "{}/tests/golden/{name}.safetensors",
            env!("CARGO_MANIFEST_DIR")
        );
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header.metadata().as_ref().unwrap();
        let mut golden = Golden {
            name,
            config: serde_json::from_str(&metadata["config"]).unwrap(),
            label_smoothing: metadata["label_smoothing"].parse().unwrap(),
            floats: BTreeMap::new(),
            ids: BTreeMap::new(),
        };
        for (name, tensor) in file.tensors() {
            let shape = Shape::from(tensor.shape());
            match tensor.dtype() {
                safetensors::Dtype::F32 => {
                    let values = words(&tensor).map(f32::from_le_bytes).collect();
                    golden.floats.insert(name, (shape, values));
                }
                safetensors::Dtype::I32 => {
                    let values = words(&tensor).map(u32::from_le_bytes).collect();
                    golden.ids.insert(name, (shape, values));
                }
                other => panic!("{name} holds {other:?}"),
            }
        }
        golden
    }

    fn model(&self, device: &Device) -> (Gpt, Parameters) {
        let mut builder = ParameterBuilder::new(0);
        let gpt = Gpt::new(&self.config, &mut builder).unwrap();
        let parameters = builder.build(device).unwrap();
        assert_eq!(
            parameters.element_count(),
            self.config.parameter_count(),
            "{}: the configuration counts its parameters",
            self.name
        );
        let given = self.floats.iter().filter_map(|(name, (shape, values))| {
            Some((name.strip_prefix("param.")?, *shape, values.clone()))
        });
        parameters.load(given).unwrap();
        (gpt, parameters)
    }

    fn options(&self) -> CrossEntropy {
        CrossEntropy {
            ignore_index: Some(IGNORE_INDEX),
            label_smoothing: self.label_smoothing,
        }
    }

    /// Compares with the tensor of that name, relative to its largest value.
    fn compare(&self, name: &str, actual: &[f32]) {
        let (_, expected) = &self.floats[name];
        let largest = expected
            .iter()
            .fold(0f32, |most, value| most.max(value.abs()));
        let what = format!("{}: {name}", self.name);
        assert_close_f32(&what, actual, expected, 0.0, TOLERANCE * f64::from(largest));
    }

    /// Logits, loss and gradients of one batch.
    fn check_batch(&self, device: &Device, fusion: Fusion) {
        let (gpt, parameters) = self.model(device);
        let tape = Tape::training(device);
        tape.set_fusion(fusion);
        let [tokens, targets] = ["tokens", "targets"].map(|name| {
            let (shape, ids) = &self.ids[name];
            tape.input(*shape, ids)
        });
        let logits = tape.fetch::<f32>(gpt.logits(tokens));
        let loss = gpt.loss(tokens, targets, self.options());
        let gradients = tape.backward(loss);
        let loss = tape.fetch::<f32>(loss);
        let gradients: Vec<_> = parameters
            .iter()
            .map(|parameter| {
                let gradient = gradients.of(parameter.on(&tape));
                let gradient = gradient.expect("the loss depends on every parameter");
                (
                    format!("grad.{}", parameter.name()),
                    tape.fetch::<f32>(gradient),
                )
            })
            .collect();
        tape.run().unwrap();
        self.compare("logits", &logits.get().unwrap());
        self.compare("loss", &loss.get().unwrap());
        for (name, gradient) in &gradients {
            self.compare(name, &gradient.get().unwrap());
        }
    }

    /// The losses of the training steps.
    fn check_curve(&self) {
        let (gpt, parameters) = self.model(device());
        let config = AdamWConfig {
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.1,
            clip_norm: Some(1.0),
            ..AdamWConfig::default()
        };
        let mut optimizer = AdamW::new(&parameters, config).unwrap();
        let [(shape, tokens), (_, targets)] =
            ["curve.tokens", "curve.targets"].map(|name| &self.ids[name]);
        let batch = [shape.dim(1), shape.dim(2)];
        let count = batch[0] * batch[1];
        let reports: Vec<_> = tokens
            .chunks(count)
            .zip(targets.chunks(count))
            .map(|(tokens, targets)| {
                let tape = Tape::training(device());
                let [tokens, targets] = [tokens, targets].map(|ids| tape.input(batch, ids));
                let loss = gpt.loss(tokens, targets, self.options());
                let report = optimizer.step(&tape, loss, 3e-3).fetch();
                tape.run().unwrap();
                report
            })
            .collect();
        let losses: Vec<f32> = reports
            .iter()
            .map(|report| report.get().unwrap().loss)
            .collect();
        let expected = &self.floats["curve.losses"].1;
        let what = format!("{}: losses of the steps", self.name);
        assert_close_f32(&what, &losses, expected, TOLERANCE, 0.0);
    }
}

fn words<'a>(tensor: &'a TensorView<'_>) -> impl Iterator<Item = [u8; 4]> + 'a {
    tensor.data().as_chunks().0.iter().copied()
}

macro_rules! variants {
    ($($name:ident)+) => {$(
        mod $name {
            use super::*;

            #[test]
            fn batch() {
                Golden::load(stringify!($name)).check_batch(device(), Fusion::ON);
            }

            #[test]
            fn batch_unfused() {
                Golden::load(stringify!($name)).check_batch(device(), Fusion::OFF);
            }

            #[test]
            fn curve() {
                Golden::load(stringify!($name)).check_curve();
            }
        }
    )+};
}

#[test]
fn one_fusion_at_a_time() {
    for &fusion in FUSIONS[1..].iter().chain(&ALL_BUT_ONE) {
        for name in ["series", "gelu_untied"] {
            println!("{name}, {fusion:?}");
            Golden::load(name).check_batch(device(), fusion);
        }
    }
}

#[test]
fn kernels_for_gpus() {
    let apart = Fusion {
        horizontal: false,
        ..Fusion::ON
    };
    for name in ["series", "gpt2", "rotary", "ignored_smoothed"] {
        for fusion in [Fusion::ON, apart] {
            println!("{name}, {fusion:?}");
            Golden::load(name).check_batch(gpu_device(), fusion);
        }
    }
}

variants! {
    series gelu_untied gpt2 sinusoidal rotary ignored_smoothed attention_only series_classes series_numpy
}
