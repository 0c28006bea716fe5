//! The three models of the names-GPT series, with its hyper-parameters.

use clap::ValueEnum;
use serde_json::{Map, Value, json};

/// A published model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Preset {
    /// The names-GPT series' NumPy model: layer norm but none before the head, tanh-GELU, biases but in attention, tied
    /// weights, 2 layers, width 16
    Numpy,
    /// Its PyTorch classes: layer norm, GELU, biases but in attention, a head of its own with a bias, 4 layers, width 16,
    /// trained at a constant 0.01
    Classes,
    /// Its program: RMS norm, SwiGLU, tied weights, 4 layers, width 32, 10,000 steps at a constant 0.0003
    Program,
}

impl Preset {
    /// Its settings, by the names of their flags with `_` for `-`.
    pub fn settings(self) -> Map<String, Value> {
        let model = match self {
            // Only run forward there. Here it is trained as the classes are.
            Preset::Numpy => json!({
                "context": 64, "d_model": 16, "n_heads": 4, "n_layers": 2, "d_ff": 64, "norm": "layer_norm",
                "norm_eps": 1e-5, "final_norm": false, "ffn": "gelu_tanh", "bias": true, "attention_bias": false,
                "head_bias": false, "tie": true, "init": "normal",
            }),
            Preset::Classes => json!({
                "context": 8, "d_model": 16, "n_heads": 4, "n_layers": 4, "d_ff": 64, "norm": "layer_norm",
                "norm_eps": 1e-5, "final_norm": true, "ffn": "gelu", "bias": true, "attention_bias": false,
                "head_bias": true, "tie": false, "init": "pytorch",
            }),
            // PyTorch's RMSNorm adds the epsilon of its numbers.
            Preset::Program => json!({
                "context": 16, "d_model": 32, "n_heads": 4, "n_layers": 4, "d_ff": 85, "norm": "rms_norm",
                "norm_eps": f32::EPSILON, "final_norm": true, "ffn": "swiglu", "bias": false, "attention_bias": false,
                "head_bias": false, "tie": true, "init": "normal",
            }),
        };
        let training = match self {
            Preset::Numpy | Preset::Classes => json!({
                "batch_size": 4, "steps": 1000, "lr": 0.01, "beta2": 0.999, "weight_decay": 0.01, "grad_clip": 0.0,
            }),
            Preset::Program => json!({
                "batch_size": 32, "steps": 10000, "lr": 3e-4, "beta2": 0.95, "weight_decay": 0.1, "grad_clip": 1.0,
            }),
        };
        let shared = json!({
            "batching": "stream", "positions": "learned", "dropout": 0.0, "schedule": "constant", "warmup": 0,
            "beta1": 0.9,
        });
        let parts = [model, training, shared].into_iter();
        let parts = parts.map(|part| part.as_object().cloned().unwrap_or_default());
        parts.flatten().collect()
    }
}
