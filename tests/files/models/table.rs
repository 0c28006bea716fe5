//! What each directory is, said once more by hand.

use shadegrad::nn::{
    FeedForwardKind, GptConfig, LocalAttention, NormKind, NormPlacement, PositionKind, Rotary,
    RotaryScaling, Yarn,
};

/// A directory.
pub struct Model {
    pub name: &'static str,
    pub config: fn() -> GptConfig,
    /// What is to be added to its norms' weights.
    pub norm_shift: f32,
    /// How many tokens the tokenizer knows, if fewer than the model.
    pub known: Option<u32>,
}

pub const MODELS: [Model; 8] = [
    model("gpt2", gpt2),
    model("llama", llama),
    model("llama_biases", llama_biases),
    model("mistral", mistral),
    Model {
        known: Some(288),
        ..model("qwen2", qwen2)
    },
    model("qwen3", qwen3),
    Model {
        norm_shift: 1.0,
        ..model("gemma3_text", gemma3_text)
    },
    Model {
        norm_shift: 1.0,
        ..model("gemma3_text_wide", gemma3_text_wide)
    },
];

const fn model(name: &'static str, config: fn() -> GptConfig) -> Model {
    Model {
        name,
        config,
        norm_shift: 0.0,
        known: None,
    }
}

fn gpt2() -> GptConfig {
    GptConfig {
        context: 96,
        d_model: 30,
        n_heads: 5,
        n_layers: 3,
        norm: NormKind::LayerNorm,
        norm_eps: 3e-3,
        ffn: FeedForwardKind::GeluTanh,
        d_ff: 44,
        bias: true,
        dropout: 0.1,
        scale_residual_init: true,
        ..GptConfig::new(131)
    }
}

fn rotary(base: f32, scaling: Option<RotaryScaling>) -> Rotary {
    Rotary { base, scaling }
}

fn llama() -> GptConfig {
    GptConfig {
        context: 512,
        d_model: 36,
        n_heads: 6,
        n_kv_heads: Some(3),
        n_layers: 3,
        norm_eps: 3e-3,
        d_ff: 50,
        positions: PositionKind::Rotary,
        rotary: rotary(
            5000.0,
            Some(RotaryScaling::Llama3 {
                factor: 8.0,
                low_frequency_factor: 1.0,
                high_frequency_factor: 4.0,
                original_context: 128,
            }),
        ),
        tie_weights: false,
        ..GptConfig::new(131)
    }
}

fn llama_biases() -> GptConfig {
    GptConfig {
        context: 96,
        d_model: 30,
        n_heads: 5,
        n_kv_heads: Some(1),
        head_dim: Some(8),
        n_layers: 2,
        norm_eps: 1e-5,
        d_ff: 44,
        positions: PositionKind::Rotary,
        rotary: rotary(10_000.0, Some(RotaryScaling::Linear { factor: 2.5 })),
        bias: true,
        tie_weights: false,
        ..GptConfig::new(61)
    }
}

fn mistral() -> GptConfig {
    GptConfig {
        context: 256,
        d_model: 24,
        n_heads: 3,
        head_dim: Some(40),
        n_layers: 2,
        norm_eps: 3e-3,
        d_ff: 40,
        positions: PositionKind::Rotary,
        rotary: rotary(1000.0, None),
        local: Some(LocalAttention {
            window: 9,
            layers: vec![true; 2],
            rotary: None,
        }),
        tie_weights: false,
        ..GptConfig::new(97)
    }
}

fn qwen2() -> GptConfig {
    GptConfig {
        context: 256,
        d_model: 24,
        n_heads: 6,
        n_kv_heads: Some(3),
        n_layers: 3,
        norm_eps: 3e-3,
        d_ff: 36,
        positions: PositionKind::Rotary,
        rotary: rotary(
            1e6,
            Some(RotaryScaling::Yarn(Yarn {
                factor: 4.0,
                attention_factor: 0.1 * 4f32.ln() + 1.0,
                beta_fast: 32.0,
                beta_slow: 1.0,
                truncate: true,
                original_context: 64,
            })),
        ),
        local: Some(LocalAttention {
            window: 7,
            layers: vec![false, true, true],
            rotary: None,
        }),
        qkv_bias: Some(true),
        ..GptConfig::new(320)
    }
}

fn qwen3() -> GptConfig {
    GptConfig {
        context: 256,
        d_model: 24,
        n_heads: 4,
        n_kv_heads: Some(2),
        head_dim: Some(10),
        n_layers: 7,
        norm_eps: 3e-3,
        d_ff: 20,
        positions: PositionKind::Rotary,
        rotary: rotary(1e6, None),
        qk_norm: true,
        ..GptConfig::new(1003)
    }
}

fn gemma3_text() -> GptConfig {
    GptConfig {
        context: 256,
        d_model: 18,
        n_heads: 6,
        n_kv_heads: Some(3),
        head_dim: Some(12),
        n_layers: 7,
        norm_eps: 3e-3,
        norm_placement: NormPlacement::Both,
        ffn: FeedForwardKind::GegluTanh,
        d_ff: 20,
        positions: PositionKind::Rotary,
        rotary: rotary(20_000.0, Some(RotaryScaling::Linear { factor: 4.0 })),
        local: Some(LocalAttention {
            window: 6,
            layers: (0..7).map(|layer| layer % 3 != 2).collect(),
            rotary: Some(rotary(500.0, None)),
        }),
        qk_norm: true,
        attention_scale: Some(20f32.sqrt().recip()),
        embedding_scale: 18f32.sqrt(),
        ..GptConfig::new(83)
    }
}

fn gemma3_text_wide() -> GptConfig {
    GptConfig {
        context: 128,
        d_model: 10,
        n_heads: 2,
        n_kv_heads: Some(1),
        head_dim: Some(256),
        n_layers: 2,
        norm_eps: 1e-6,
        d_ff: 16,
        rotary: rotary(1e6, None),
        local: Some(LocalAttention {
            window: 6,
            layers: vec![true, false],
            rotary: Some(rotary(1e4, None)),
        }),
        attention_scale: Some(1.0 / 16.0),
        embedding_scale: 10f32.sqrt(),
        vocab_size: 59,
        ..gemma3_text()
    }
}
