"""Writes models/: one tiny model per type and variant as the transformers library saves it, with what it says.

    pip install torch transformers tokenizers safetensors numpy
    python make_models.py

`config.json` and the weights come from `save_pretrained`; README.md has the table. `published.json` is the same
configuration in the keys of files that older versions of the library wrote, as most of the published ones are; it is
checked here to give the same logits. `expected.safetensors` holds, computed in float64 from the stored weights and rounded once:

    tokens, targets [2, T]  two texts and what is to be predicted, -1 where nothing is
    logits [2, T, vocabulary]
    loss [1]                mean −ln p of the targets
    grad.<name>             of that loss, for every parameter by transformers' names
    prompt [P]              longer than a window
    greedy [64]             the tokens that follow it, each the most likely one that the tokenizer knows

What a model is to test is in CHANGES: each makes logits that differ by more than SEEN, so that an engine without that
part, or with another value of it, cannot come within its tolerance.
"""

import contextlib
import copy
import json
import math
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

import make_gpt2

FOLDER = Path(__file__).parent / "models"
LENGTH = 21
PROMPT = 13
GREEDY = 64
# A hundred times the tolerance of logits.
SEEN = 1e-2
# The lead of every greedy token over the next one.
LEAD = 3e-3
# Greedy texts of random models fall into loops. How many different tokens there must be.
DIFFERENT = 16

LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=5000.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=128,
)
YARN = dict(rope_type="yarn", rope_theta=1000000.0, factor=4.0, original_max_position_embeddings=64)

MODELS = {
    "gpt2": dict(
        config=dict(
            model_type="gpt2",
            vocab_size=131,
            n_positions=96,
            n_embd=30,
            n_layer=3,
            n_head=5,
            n_inner=44,
            layer_norm_epsilon=3e-3,
            bos_token_id=130,
            eos_token_id=130,
        ),
        seed=28,
        changes=[dict(layer_norm_epsilon=1e-5), dict(activation_function="relu"), dict(n_head=6)],
    ),
    "llama": dict(
        config=dict(
            model_type="llama",
            vocab_size=131,
            hidden_size=36,
            intermediate_size=50,
            num_hidden_layers=3,
            num_attention_heads=6,
            num_key_value_heads=3,
            max_position_embeddings=512,
            rms_norm_eps=3e-3,
            rope_parameters=LLAMA3,
        ),
        shard="48KB",
        seed=24,
        changes=[
            dict(rope_parameters=dict(rope_type="default", rope_theta=5000.0)),
            dict(rope_parameters=LLAMA3 | dict(rope_theta=10000.0)),
            dict(rope_parameters=LLAMA3 | dict(factor=4.0)),
            dict(rope_parameters=LLAMA3 | dict(low_freq_factor=1.5)),
            dict(rope_parameters=LLAMA3 | dict(high_freq_factor=3.0)),
            dict(rope_parameters=LLAMA3 | dict(original_max_position_embeddings=160)),
            dict(rms_norm_eps=1e-6),
            dict(hidden_act="gelu_new"),
            dict(hidden_act="relu"),
        ],
    ),
    # The head has values of its own although the configuration says that it is tied.
    "llama_biases": dict(
        config=dict(
            model_type="llama",
            vocab_size=61,
            hidden_size=30,
            intermediate_size=44,
            num_hidden_layers=2,
            num_attention_heads=5,
            num_key_value_heads=1,
            head_dim=8,
            max_position_embeddings=96,
            rms_norm_eps=1e-5,
            attention_bias=True,
            mlp_bias=True,
            rope_parameters=dict(rope_type="linear", factor=2.5, rope_theta=10000.0),
        ),
        says=dict(tie_word_embeddings=True),
        seed=14,
        changes=[
            dict(rope_parameters=dict(rope_type="default", rope_theta=10000.0)),
            dict(rope_parameters=dict(rope_type="linear", factor=2.0, rope_theta=10000.0)),
        ],
    ),
    "mistral": dict(
        config=dict(
            model_type="mistral",
            vocab_size=97,
            hidden_size=24,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=3,
            num_key_value_heads=3,
            head_dim=40,
            max_position_embeddings=256,
            rms_norm_eps=3e-3,
            sliding_window=9,
            rope_parameters=dict(rope_type="default", rope_theta=1000.0),
        ),
        dtype=torch.float16,
        seed=12,
        changes=[dict(sliding_window=None), dict(sliding_window=8), dict(sliding_window=10), dict(rms_norm_eps=1e-6)],
    ),
    # The tokenizer knows 288 tokens.
    "qwen2": dict(
        config=dict(
            model_type="qwen2",
            vocab_size=320,
            hidden_size=24,
            intermediate_size=36,
            num_hidden_layers=3,
            num_attention_heads=6,
            num_key_value_heads=3,
            max_position_embeddings=256,
            rms_norm_eps=3e-3,
            tie_word_embeddings=True,
            use_sliding_window=True,
            sliding_window=7,
            max_window_layers=1,
            rope_parameters=YARN,
        ),
        dtype=torch.bfloat16,
        known=make_gpt2.VOCABULARY,
        seed=20,
        changes=[
            dict(use_sliding_window=False, layer_types=None),
            dict(max_window_layers=0, layer_types=None),
            dict(sliding_window=8),
            dict(rope_parameters=dict(rope_type="default", rope_theta=1000000.0)),
            dict(rope_parameters=YARN | dict(rope_theta=10000.0)),
            dict(rope_parameters=YARN | dict(factor=2.0)),
            dict(rope_parameters=YARN | dict(attention_factor=1.0)),
            dict(rope_parameters=YARN | dict(original_max_position_embeddings=65536)),
        ],
    ),
    "qwen3": dict(
        config=dict(
            model_type="qwen3",
            vocab_size=1003,
            hidden_size=24,
            intermediate_size=20,
            num_hidden_layers=7,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=10,
            max_position_embeddings=256,
            rms_norm_eps=3e-3,
            tie_word_embeddings=True,
            rope_parameters=dict(rope_type="default", rope_theta=1000000.0),
        ),
        seed=8,
        changes=[dict(rms_norm_eps=1e-6), dict(rope_parameters=dict(rope_type="default", rope_theta=10000.0))],
    ),
    "gemma3_text": dict(
        config=dict(
            model_type="gemma3_text",
            vocab_size=83,
            hidden_size=18,
            intermediate_size=20,
            num_hidden_layers=7,
            num_attention_heads=6,
            num_key_value_heads=3,
            head_dim=12,
            max_position_embeddings=256,
            rms_norm_eps=3e-3,
            query_pre_attn_scalar=20,
            sliding_window=6,
            sliding_window_pattern=3,
            pad_token_id=None,
            rope_parameters=dict(
                full_attention=dict(rope_type="linear", factor=4.0, rope_theta=20000.0),
                sliding_attention=dict(rope_type="default", rope_theta=500.0),
            ),
        ),
        dtype=torch.bfloat16,
        seed=14,
        changes=[
            dict(query_pre_attn_scalar=12),
            dict(sliding_window=5),
            dict(sliding_window=7),
            dict(sliding_window=512),
            dict(layer_types=["sliding_attention"] * 7),
            dict(layer_types=["full_attention"] * 7),
            dict(layer_types=["sliding_attention"] * 6 + ["full_attention"]),
            dict(hidden_activation="silu"),
            dict(hidden_activation="relu"),
            dict(rms_norm_eps=1e-6),
            dict(
                rope_parameters=dict(
                    full_attention=dict(rope_type="default", rope_theta=20000.0),
                    sliding_attention=dict(rope_type="default", rope_theta=500.0),
                )
            ),
            dict(
                rope_parameters=dict(
                    full_attention=dict(rope_type="linear", factor=4.0, rope_theta=1000000.0),
                    sliding_attention=dict(rope_type="default", rope_theta=500.0),
                )
            ),
            dict(
                rope_parameters=dict(
                    full_attention=dict(rope_type="linear", factor=4.0, rope_theta=20000.0),
                    sliding_attention=dict(rope_type="default", rope_theta=10000.0),
                )
            ),
        ],
    ),
    # Heads as large as those of the published models.
    "gemma3_text_wide": dict(
        config=dict(
            model_type="gemma3_text",
            vocab_size=59,
            hidden_size=10,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=256,
            max_position_embeddings=128,
            sliding_window=6,
            sliding_window_pattern=2,
            pad_token_id=None,
        ),
        dtype=torch.bfloat16,
        seed=56,
        changes=[dict(query_pre_attn_scalar=128), dict(sliding_window=5), dict(sliding_window=7)],
    ),
}


def published(config):
    """The same configuration in the keys of the library's versions before 5, which published files have."""
    config = copy.deepcopy(config)
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.46.0"
    if config["model_type"] == "gpt2":
        return config
    rope = config.pop("rope_parameters")
    if config["model_type"] == "gemma3_text":
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
        config["sliding_window_pattern"] = config.pop("layer_types").index("full_attention") + 1
        config.pop("_sliding_window_pattern")
    if config["model_type"].startswith("qwen"):
        config.pop("layer_types")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    if config["model_type"] == "llama" and rope["rope_type"] == "linear":
        rope["type"] = rope.pop("rope_type")
    return config


@contextlib.contextmanager
def exactly():
    """The library computes norms, softmax and rotations in float32 whatever the weights are; here, all in float64."""
    kept = torch.float32, torch.float, torch.Tensor.float
    torch.float32 = torch.float = torch.float64
    torch.Tensor.float = torch.Tensor.double
    try:
        yield
    finally:
        torch.float32, torch.float, torch.Tensor.float = kept


def load(folder, config=None):
    model = AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=torch.float64, attn_implementation="eager"
    ).eval()
    if model.config.model_type != "gpt2":
        with exactly():
            model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    if model.config.model_type == "gemma3_text":
        model.model.embed_tokens.embed_scale = torch.tensor(model.config.hidden_size, dtype=torch.float64).sqrt()
    return model


def make_weights(model, seed):
    """Nothing is at its neutral value, and scores are large enough for attention to choose."""
    generator = torch.Generator().manual_seed(seed)
    shifted = model.config.model_type == "gemma3_text"
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_norm = "norm" in name or ".ln_" in name
            if is_norm and name.endswith("weight"):
                centre, spread = 1.2 - shifted, 0.3
            elif parameter.dim() == 1:
                centre, spread = 0.0, 0.3
            elif "embed_tokens" in name or "wte" in name or "wpe" in name:
                centre, spread = 0.0, 0.8 / parameter.shape[1] ** 0.5
            else:
                fan_in = parameter.shape[0 if model.config.model_type == "gpt2" else 1]
                gain = 1.6 if any(part in name for part in ("q_proj", "k_proj", "c_attn")) else 1.1
                centre, spread = 0.0, gain / fan_in**0.5
            parameter.normal_(centre, spread, generator=generator)


def texts(known):
    """Texts in which tokens come again, so that attention has something to find."""
    generator = torch.Generator().manual_seed(7)
    tokens = torch.randint(known, (2, LENGTH), generator=generator)
    tokens[:, LENGTH // 2 :] = tokens[:, : LENGTH - LENGTH // 2].roll(1, dims=0)
    tokens[0, 0] = known - 1
    targets = torch.full_like(tokens, -1)
    targets[:, :-1] = tokens[:, 1:]
    targets[1, 3:6] = -1
    return tokens, targets


@torch.no_grad()
def greedy(model, prompt, known):
    """The tokens, the smallest lead of one, and whether one that no token stands for would have been taken."""
    text, lead, padding = prompt, math.inf, False
    for _ in range(GREEDY):
        logits = model(text[None]).logits[0, -1]
        padding |= logits.argmax().item() >= known
        best = logits[:known].topk(2)
        lead = min(lead, (best.values[0] - best.values[1]).item())
        text = torch.cat([text, best.indices[:1]])
    return text[len(prompt) :], lead, padding


@torch.no_grad()
def check_sensitivity(name, folder, changes, tokens, logits):
    """Every change is seen in the logits, and published.json makes none."""

    def difference(config):
        model = load(folder, AutoConfig.for_model(**config))
        with exactly():
            return (model(tokens).logits - logits).abs().max().item()

    stored = json.loads((folder / "config.json").read_text())
    for change in changes:
        assert difference(stored | change) > SEEN, f"{name}: {change} changes the logits by {difference(stored | change)}"
    published = difference(json.loads((folder / "published.json").read_text()))
    assert published == 0, f"{name}: published.json changes the logits by {published}"


def save(folder, about):
    config = AutoConfig.for_model(**about["config"])
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    make_weights(model, about["seed"])
    model.to(about.get("dtype", torch.float32)).save_pretrained(folder, max_shard_size=about.get("shard", "1GB"))
    (folder / "generation_config.json").unlink(missing_ok=True)
    path = folder / "config.json"
    stored = json.loads(path.read_text()) | about.get("says", {})
    path.write_text(json.dumps(stored, indent=2, sort_keys=True) + "\n")
    (folder / "published.json").write_text(json.dumps(published(stored), indent=2, sort_keys=True) + "\n")


def make(name, about):
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    save(folder, about)
    known = about.get("known", about["config"]["vocab_size"])
    if "known" in about:
        make_gpt2.train_tokenizer().save(str(folder / "tokenizer.json"))

    model = load(folder)
    tokens, targets = texts(known)
    prompt = tokens[1, :PROMPT]
    with exactly():
        logits = model(tokens).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
        loss.backward()
        following, lead, padding = greedy(model, prompt, known)
    check_sensitivity(name, folder, about["changes"], tokens, logits)

    different = len(set(following.tolist()))
    print(f"{name}: loss {loss.item():.3f}, lead {lead:.4f}, {different} different tokens")
    assert lead > LEAD, "greedy tokens must not hang on rounding: choose another seed"
    assert different >= DIFFERENT, "choose another seed"
    assert padding == ("known" in about), "choose another seed"

    tensors = {
        "tokens": tokens,
        "targets": targets,
        "logits": logits,
        "loss": loss.reshape(1),
        "prompt": prompt,
        "greedy": following,
    }
    for parameter, tensor in model.named_parameters():
        assert tensor.grad.abs().max() > 1e-4, f"{parameter} has no gradient"
        tensors[f"grad.{parameter}"] = tensor.grad
    arrays = {}
    for key, tensor in tensors.items():
        kind = np.float32 if tensor.is_floating_point() else np.int32
        arrays[key] = np.ascontiguousarray(tensor.detach().numpy().astype(kind))
    save_file(arrays, folder / "expected.safetensors")


def main():
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    for name, about in MODELS.items():
        make(name, about)
    sizes = [(file.stat().st_size, file) for file in sorted(FOLDER.rglob("*")) if file.is_file()]
    for size, file in sizes:
        print(f"{size:8} {file.relative_to(FOLDER)}")
    print(f"{sum(size for size, _ in sizes):8} in all")


if __name__ == "__main__":
    main()
