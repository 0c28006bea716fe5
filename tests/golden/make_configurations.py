"""Writes models/configurations.json: small changes of configurations, and what transformers makes of each.

    pip install torch transformers
    python make_configurations.py

Each case is a `config.json` with the sizes of BASE, some keys of it changed or left out, and `meaning`: what the model
that the library builds from it has. Cases that this crate is to refuse have the key at fault, `refused`, instead.
"""

import copy
import json
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

FILE = Path(__file__).parent / "models" / "configurations.json"

BASE = dict(
    vocab_size=11,
    hidden_size=32,
    intermediate_size=12,
    num_hidden_layers=3,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=2,
    max_position_embeddings=64,
)
# A value that leaves the key out.
NONE = object()
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
LINEAR = dict(rope_type="linear", factor=4.0)
YARN = dict(rope_type="yarn", factor=4.0)

# Of every type but gpt2.
ANY = [
    dict(),
    dict(rms_norm_eps=1e-5),
    dict(tie_word_embeddings=True),
    dict(tie_word_embeddings=False),
    dict(head_dim=4),
    dict(num_key_value_heads=16),
    dict(num_key_value_heads=NONE, num_attention_heads=64, hidden_size=64),
    dict(attention_dropout=0.25),
    dict(use_cache=False, initializer_range=0.5, bos_token_id=4, pad_token_id=5, eos_token_id=[6, 7]),
    dict(rope_theta=500.0),
    dict(rope_theta=500),
    dict(rope_scaling=None),
    dict(rope_scaling=LINEAR, rope_theta=500.0),
    dict(partial_rotary_factor=1.0),
    dict(refused="partial_rotary_factor", partial_rotary_factor=0.5),
    dict(refused="per_layer_config", per_layer_config={"0": {"head_dim": 4}}),
    dict(refused="quantization_config", quantization_config={"quant_method": "gptq"}),
]

# Of those with one kind of angles.
FLAT = [
    dict(head_dim=NONE, num_attention_heads=8),
    dict(hidden_act="swish"),
    dict(hidden_act="gelu_pytorch_tanh"),
    dict(hidden_act="gelu_new"),
    dict(refused="hidden_act", hidden_act="gelu"),
    dict(refused="hidden_act", hidden_act="relu"),
    dict(rope_parameters=dict(rope_theta=500.0)),
    dict(rope_parameters=dict(rope_theta=500.0, rope_type="default"), rope_theta=7.0),
    dict(rope_parameters=LINEAR, rope_theta=500.0),
    dict(rope_parameters=LINEAR | dict(rope_theta=7.0), rope_theta=500.0),
    dict(rope_scaling=dict(type="linear", factor=4.0)),
    dict(rope_scaling=dict(type="default", rope_type="linear", factor=4.0)),
    dict(rope_scaling=dict(factor=4.0)),
    dict(rope_scaling={}, rope_parameters=LINEAR),
    dict(rope_scaling=LINEAR, rope_parameters=dict(rope_type="default", rope_theta=500.0)),
    dict(rope_scaling=LLAMA3 | dict(original_max_position_embeddings=48), rope_theta=500.0, head_dim=8),
    dict(rope_scaling=LLAMA3 | dict(original_max_position_embeddings=16), head_dim=8),
    dict(rope_scaling=LLAMA3, head_dim=8),
    dict(rope_parameters=LLAMA3 | dict(original_max_position_embeddings=48, rope_theta=5.0), head_dim=8),
    dict(
        rope_parameters=LLAMA3 | dict(original_max_position_embeddings=48),
        original_max_position_embeddings=24,
        head_dim=8,
    ),
    dict(refused="factor", rope_scaling=dict(rope_type="linear")),
    dict(refused="low_freq_factor", rope_scaling=dict(rope_type="llama3", factor=8.0, high_freq_factor=4.0)),
    dict(refused="factor", rope_scaling=dict(rope_type="yarn")),
    dict(rope_scaling=YARN, head_dim=32),
    dict(rope_scaling=dict(type="yarn", factor=1.0), head_dim=32),
    dict(rope_scaling=YARN | dict(original_max_position_embeddings=16), rope_theta=500.0, head_dim=32),
    dict(rope_parameters=YARN | dict(rope_theta=500.0, truncate=False, beta_fast=4, beta_slow=0.5), head_dim=32),
    dict(rope_scaling=YARN, original_max_position_embeddings=4096, head_dim=32),
    dict(rope_scaling=YARN | dict(original_max_position_embeddings=8192, beta_slow=None), head_dim=64),
    dict(refused="beta_fast", rope_scaling=YARN | dict(beta_fast=0)),
    dict(rope_scaling=YARN | dict(attention_factor=1.5), head_dim=8),
    dict(refused="mscale", rope_scaling=YARN | dict(mscale=2.0, mscale_all_dim=0.5)),
    dict(refused="dynamic", rope_scaling=dict(type="dynamic", factor=4.0)),
    dict(refused="longrope", rope_scaling=dict(rope_type="longrope", short_factor=[1.0], long_factor=[2.0])),
    dict(refused="mrope", rope_scaling=dict(type="mrope", mrope_section=[1])),
    dict(refused="partial_rotary_factor", rope_scaling=LINEAR | dict(partial_rotary_factor=0.5)),
    dict(
        refused="rope_parameters",
        rope_parameters=dict(full_attention=dict(rope_theta=5.0), sliding_attention=dict(rope_theta=7.0)),
    ),
]

WINDOWS = [
    dict(sliding_window=5),
    dict(sliding_window=NONE),
    dict(sliding_window=None),
    dict(use_sliding_window=True),
    dict(use_sliding_window=True, max_window_layers=1),
    dict(use_sliding_window=True, max_window_layers=1, sliding_window=None),
    dict(use_sliding_window=True, max_window_layers=0, sliding_window=5),
    dict(use_sliding_window=True, max_window_layers=3, sliding_window=5),
    dict(
        use_sliding_window=True,
        sliding_window=5,
        max_window_layers=1,
        layer_types=["sliding_attention", "full_attention", "full_attention"],
    ),
    dict(use_sliding_window=True, sliding_window=5, layer_types=["attention"] * 3),
    dict(use_sliding_window=False, max_window_layers=0, sliding_window=5),
    dict(refused="layer_types", use_sliding_window=True, layer_types=["chunked_attention"] * 3),
    dict(refused="layer_types", use_sliding_window=False, layer_types=["sliding_attention"] * 3),
]

TYPES = {
    "llama": ANY
    + FLAT
    + [
        dict(num_key_value_heads=None),
        dict(head_dim=None, num_attention_heads=8),
        dict(attention_bias=True),
        dict(mlp_bias=True),
        dict(attention_bias=True, mlp_bias=True),
        dict(pretraining_tp=2),
        dict(rope_interleaved=False),
    ],
    "mistral": ANY
    + FLAT
    + [
        dict(num_key_value_heads=NONE),
        dict(head_dim=None, num_attention_heads=8),
        dict(sliding_window=5),
        dict(sliding_window=None),
        # Keys that this type does not have.
        dict(attention_bias=True),
        dict(mlp_bias=True),
        dict(refused="layer_types", sliding_window=5, layer_types=["full_attention"] * 3),
    ],
    "qwen2": ANY + FLAT + WINDOWS + [dict(num_key_value_heads=NONE), dict(attention_bias=False)],
    "qwen3": ANY + FLAT + WINDOWS + [dict(num_key_value_heads=NONE), dict(num_key_value_heads=None), dict(attention_bias=True)],
    "gemma3_text": ANY
    + [
        dict(head_dim=NONE),
        dict(num_key_value_heads=NONE),
        dict(attention_bias=True),
        dict(query_pre_attn_scalar=5),
        dict(hidden_activation="silu"),
        dict(hidden_activation=NONE, hidden_act="gelu"),
        dict(refused="hidden_activation", hidden_activation="gelu"),
        dict(sliding_window=5),
        dict(sliding_window=5, sliding_window_pattern=2),
        dict(sliding_window=5, _sliding_window_pattern=2),
        dict(sliding_window=5, sliding_window_pattern=1),
        dict(sliding_window=5, layer_types=["full_attention", "sliding_attention", "full_attention"]),
        dict(layer_types=["full_attention"] * 3, sliding_window=None),
        dict(rope_local_base_freq=500.0, sliding_window_pattern=2),
        dict(rope_theta=500.0, rope_local_base_freq=7.0, sliding_window_pattern=2),
        dict(rope_scaling=LINEAR, sliding_window_pattern=2),
        dict(rope_parameters=dict(full_attention=dict(rope_theta=5.0)), sliding_window_pattern=2),
        dict(rope_parameters=dict(sliding_attention=dict(rope_theta=5.0)), sliding_window_pattern=2),
        dict(
            rope_parameters=dict(full_attention=LINEAR, sliding_attention=dict(rope_theta=5.0, rope_type="default")),
            rope_theta=7.0,
            rope_local_base_freq=9.0,
            sliding_window_pattern=2,
        ),
        dict(
            refused="rope_scaling",
            rope_parameters=dict(full_attention=dict(rope_theta=5.0), sliding_attention=LINEAR),
            rope_scaling=dict(rope_type="linear", factor=8.0),
        ),
        dict(refused="final_logit_softcapping", final_logit_softcapping=30.0),
        dict(refused="attn_logit_softcapping", attn_logit_softcapping=50.0),
        dict(refused="use_bidirectional_attention", use_bidirectional_attention=True),
        dict(refused="rope_parameters", rope_parameters=dict(rope_type="default", rope_theta=5.0)),
    ],
}


def meaning(config):
    """What the library builds."""
    config = AutoConfig.for_model(**config)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    layers, rotary = model.model.layers, model.model.rotary_emb
    attention, mlp = layers[0].self_attn, layers[0].mlp
    norm = layers[0].input_layernorm

    def window(layer):
        if config.model_type == "llama":
            return None
        if config.model_type == "mistral":
            return config.sliding_window
        return layer.self_attn.sliding_window

    def frequencies(layer):
        kind = f"{layer.self_attn.layer_type}_" if config.model_type == "gemma3_text" else ""
        return [float(f"{frequency:.8g}") for frequency in getattr(rotary, f"{kind}inv_freq").tolist()]

    def attention_factor(layer):
        kind = f"{layer.self_attn.layer_type}_" if config.model_type == "gemma3_text" else ""
        return float(f"{getattr(rotary, f'{kind}attention_scaling'):.8g}")

    x = torch.linspace(-4, 4, 41)
    activations = {
        "swiglu": torch.nn.functional.silu(x),
        "geglu_tanh": torch.nn.functional.gelu(x, approximate="tanh"),
    }
    fitting = [name for name, values in activations.items() if torch.allclose(mlp.act_fn(x), values, atol=1e-5)]
    return dict(
        d_model=model.model.embed_tokens.embedding_dim,
        n_heads=attention.q_proj.out_features // attention.head_dim,
        n_kv_heads=attention.k_proj.out_features // attention.head_dim,
        head_dim=attention.head_dim,
        attention_scale=attention.scaling,
        attention_dropout=attention.attention_dropout,
        qkv_bias=attention.q_proj.bias is not None,
        attention_bias=attention.o_proj.bias is not None,
        bias=mlp.up_proj.bias is not None,
        ffn=fitting[0],
        norm_eps=norm.eps if hasattr(norm, "eps") else norm.variance_epsilon,
        tie_weights=model.lm_head.weight is model.model.embed_tokens.weight,
        windows=[window(layer) for layer in layers],
        frequencies=[frequencies(layer) for layer in layers],
        attention_factors=[attention_factor(layer) for layer in layers],
    )


def main():
    logging.set_verbosity_error()
    cases = []
    for model_type, changes in TYPES.items():
        for change in changes:
            change = dict(change)
            refused = change.pop("refused", None)
            config = dict(model_type=model_type) | BASE | change
            config = {key: value for key, value in config.items() if value is not NONE}
            says = dict(refused=refused) if refused else dict(meaning=meaning(copy.deepcopy(config)))
            cases.append(dict(config=config) | says)
    FILE.write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")
    print(len(cases), "cases,", FILE.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
