"""Writes the golden files beside this script: one tiny GPT per variant, with what PyTorch says about it.

    pip install torch safetensors numpy
    python make_golden.py

Each file holds the initial parameters, one batch, its logits, its loss, the gradient of every parameter, and the
losses of 50 AdamW steps. Everything is computed in float64 from parameters that are exact in float32, the 50 training
steps included, and rounded to float32 only when stored: the files are the truth to one rounding, not one float32
program's opinion. To show what float32 can be asked for, the script also runs each model in float32 and prints how far
that lands from the stored values. README.md describes the files.

The model is written out in elementary operations on purpose; `check_pieces` holds each piece against PyTorch's own.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file, save_file

BATCH = 4
CURVE_STEPS = 50
IGNORED = -1
ROTARY_BASE = 10000.0


def config(norm, ffn, positions, bias, tie_weights, d_model=16, n_heads=4, n_layers=2):
    return dict(
        vocab_size=27,
        context=8,
        d_model=d_model,
        n_heads=n_heads,
        n_layers=n_layers,
        norm=norm,
        norm_eps=1e-5 if norm == "layer_norm" else 1e-6,
        ffn=ffn,
        d_ff=int(8 * d_model / 3) if ffn == "swiglu" else 4 * d_model,
        positions=positions,
        bias=bias,
        tie_weights=tie_weights,
        dropout=0.0,
    )


# file name: (config, label smoothing, fraction of targets that are ignored)
VARIANTS = {
    # the model of the reference series
    "series": (config("rms_norm", "swiglu", "learned", bias=False, tie_weights=True, n_layers=3), 0.0, 0.0),
    "gelu_untied": (config("layer_norm", "gelu", "learned", bias=True, tie_weights=False, n_heads=2), 0.0, 0.0),
    "gpt2": (config("layer_norm", "gelu_tanh", "learned", bias=True, tie_weights=True, n_layers=3), 0.0, 0.0),
    "sinusoidal": (config("layer_norm", "relu", "sinusoidal", bias=True, tie_weights=False), 0.0, 0.0),
    "rotary": (
        config("rms_norm", "swiglu", "rotary", bias=False, tie_weights=False, d_model=24, n_heads=3), 0.0, 0.0
    ),
    "ignored_smoothed": (
        config("layer_norm", "relu", "learned", bias=False, tie_weights=False, n_heads=1), 0.1, 0.3
    ),
    # the attention-only model of the GPT-2 notebook
    "attention_only": (
        config("layer_norm", "none", "sinusoidal", bias=True, tie_weights=False, n_layers=3)
        | {"norm_placement": "after", "sinusoidal_base": 100.0}, 0.0, 0.0
    ),
    # the other two models of the reference series: its PyTorch classes and its NumPy functions
    "series_classes": (
        config("layer_norm", "gelu", "learned", bias=True, tie_weights=False, n_layers=4)
        | {"attention_bias": False, "head_bias": True}, 0.0, 0.0
    ),
    "series_numpy": (
        config("layer_norm", "gelu_tanh", "learned", bias=True, tie_weights=True)
        | {"attention_bias": False, "final_norm": False}, 0.0, 0.0
    ),
}


# ---------------------------------------------------------------------------------------------------- the model


def layer_norm(x, weight, bias, eps):
    centred = x - x.mean(-1, keepdim=True)
    variance = (centred * centred).mean(-1, keepdim=True)
    y = centred / torch.sqrt(variance + eps) * weight
    return y if bias is None else y + bias


def rms_norm(x, weight, eps):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * weight


def gelu(x):
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def gelu_tanh(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def silu(x):
    return x / (1 + torch.exp(-x))


def sinusoidal(length, d, dtype, base=10000.0):
    """pe[t, 2i] = sin(t / base^(2i/d)), pe[t, 2i+1] = cos(the same)"""
    t = torch.arange(length, dtype=torch.float64)[:, None]
    angle = t / base ** (torch.arange(0, d, 2, dtype=torch.float64) / d)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).reshape(length, d).to(dtype)


def rotate(x):
    """Rotary positions over the whole head, "rotate-half" pairs (i, i + half). x: [B, H, T, head_dim]"""
    length, head_dim = x.shape[-2:]
    half = head_dim // 2
    theta = ROTARY_BASE ** (-2 * torch.arange(half, dtype=torch.float64) / head_dim)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * theta
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def causal_attention(q, k, v):
    """softmax(q kᵀ / √head_dim, positions up to one's own) v. Each: [B, H, T, head_dim]"""
    length, head_dim = q.shape[-2:]
    scores = q @ k.transpose(-2, -1) / math.sqrt(head_dim)
    later = torch.ones(length, length, dtype=torch.bool).triu(1)
    return torch.softmax(scores.masked_fill(later, -math.inf), dim=-1) @ v


def cross_entropy(logits, targets, smoothing):
    """Mean over the targets that count of (1-s) * (-log p[target]) + s * mean over the classes of (-log p)."""
    counts = (targets != IGNORED).to(logits.dtype)
    log_p = torch.log_softmax(logits, dim=-1)
    picked = log_p.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    per_target = -(1 - smoothing) * picked - smoothing * log_p.mean(-1)
    return (per_target * counts).sum() / counts.sum()


class Gpt:
    """The forward pass over a dict of named parameters. Linear weights are [in, out]: y = x W + b."""

    def __init__(self, cfg, params):
        self.cfg, self.params = cfg, params

    def linear(self, name, x):
        y = x @ self.params[f"{name}.weight"]
        return y + self.params[f"{name}.bias"] if f"{name}.bias" in self.params else y

    def norm(self, name, x):
        weight, eps = self.params[f"{name}.weight"], self.cfg["norm_eps"]
        if self.cfg["norm"] == "rms_norm":
            return rms_norm(x, weight, eps)
        return layer_norm(x, weight, self.params.get(f"{name}.bias"), eps)

    def attention(self, name, x):
        batch, length, d = x.shape
        heads = lambda y: y.reshape(batch, length, self.cfg["n_heads"], -1).transpose(1, 2)
        q, k, v = (heads(part) for part in self.linear(f"{name}.qkv", x).split(d, dim=-1))
        if self.cfg["positions"] == "rotary":
            q, k = rotate(q), rotate(k)
        y = causal_attention(q, k, v)
        return self.linear(f"{name}.out", y.transpose(1, 2).reshape(batch, length, d))

    def feed_forward(self, name, x):
        if self.cfg["ffn"] == "swiglu":
            gate, up = self.linear(f"{name}.gate_up", x).split(self.cfg["d_ff"], dim=-1)
            hidden = silu(gate) * up
        else:
            activation = {"relu": torch.relu, "gelu": gelu, "gelu_tanh": gelu_tanh}[self.cfg["ffn"]]
            hidden = activation(self.linear(f"{name}.up", x))
        return self.linear(f"{name}.down", hidden)

    def branch(self, x, norm, layer):
        if self.cfg.get("norm_placement", "before") == "after":
            return self.norm(norm, layer(x))
        return layer(self.norm(norm, x))

    def logits(self, tokens):
        length = tokens.shape[1]
        x = self.params["token_embedding.weight"][tokens]
        if self.cfg["positions"] == "learned":
            x = x + self.params["position_embedding.weight"][:length]
        elif self.cfg["positions"] == "sinusoidal":
            x = x + sinusoidal(length, self.cfg["d_model"], x.dtype, self.cfg.get("sinusoidal_base", 10000.0))
        for i in range(self.cfg["n_layers"]):
            x = x + self.branch(x, f"blocks.{i}.norm1", lambda y: self.attention(f"blocks.{i}.attention", y))
            if self.cfg["ffn"] != "none":
                x = x + self.branch(x, f"blocks.{i}.norm2", lambda y: self.feed_forward(f"blocks.{i}.ffn", y))
        if self.cfg.get("final_norm", True):
            x = self.norm("norm", x)
        if self.cfg["tie_weights"]:
            return x @ self.params["token_embedding.weight"].T
        return self.linear("head", x)


def parameter_shapes(cfg):
    d, d_ff, bias = cfg["d_model"], cfg["d_ff"], cfg["bias"]
    shapes = {"token_embedding.weight": (cfg["vocab_size"], d)}
    if cfg["positions"] == "learned":
        shapes["position_embedding.weight"] = (cfg["context"], d)

    def linear(name, rows, columns, bias=bias):
        shapes[f"{name}.weight"] = (rows, columns)
        if bias:
            shapes[f"{name}.bias"] = (columns,)

    def norm(name):
        shapes[f"{name}.weight"] = (d,)
        if bias and cfg["norm"] == "layer_norm":
            shapes[f"{name}.bias"] = (d,)

    attention_bias = cfg.get("attention_bias", bias)
    for i in range(cfg["n_layers"]):
        norm(f"blocks.{i}.norm1")
        linear(f"blocks.{i}.attention.qkv", d, 3 * d, attention_bias)
        linear(f"blocks.{i}.attention.out", d, d, attention_bias)
        if cfg["ffn"] == "none":
            continue
        norm(f"blocks.{i}.norm2")
        if cfg["ffn"] == "swiglu":
            linear(f"blocks.{i}.ffn.gate_up", d, 2 * d_ff)
        else:
            linear(f"blocks.{i}.ffn.up", d, d_ff)
        linear(f"blocks.{i}.ffn.down", d_ff, d)
    if cfg.get("final_norm", True):
        norm("norm")
    if not cfg["tie_weights"]:
        linear("head", d, cfg["vocab_size"], cfg.get("head_bias", False))
    return shapes


# -------------------------------------------------------------------------------- parameters, data, training


def draw_parameters(cfg, rng):
    """Wider than a training initialisation: 0.02 leaves every softmax flat and every gradient alike."""
    params = {}
    for name, shape in parameter_shapes(cfg).items():
        noise = rng.standard_normal(shape)
        if name.endswith(".bias"):
            value = 0.1 * noise
        elif "norm" in name:
            value = 1 + 0.1 * noise
        else:
            value = 0.2 * noise
        params[name] = value.astype(np.float32)
    return params


def draw_batches(cfg, count, ignored, rng):
    """Walks in which each token has three possible successors, so that there is something to learn."""
    vocab, length = cfg["vocab_size"], cfg["context"]
    successors = rng.randint(0, vocab, size=(vocab, 3))
    walk = np.empty((count, BATCH, length + 1), dtype=np.int32)
    walk[..., 0] = rng.randint(0, vocab, size=(count, BATCH))
    for t in range(length):
        walk[..., t + 1] = successors[walk[..., t], rng.randint(0, 3, size=(count, BATCH))]
    tokens, targets = walk[..., :-1].copy(), walk[..., 1:].copy()
    targets[rng.random_sample(targets.shape) < ignored] = IGNORED
    return tokens, targets


def leaves(params, dtype):
    return {name: torch.tensor(value, dtype=dtype, requires_grad=True) for name, value in params.items()}


def one_batch(cfg, params, tokens, targets, smoothing, dtype):
    params = leaves(params, dtype)
    logits = Gpt(cfg, params).logits(tokens)
    loss = cross_entropy(logits, targets, smoothing)
    loss.backward()
    results = {"logits": logits, "loss": loss.reshape(1)}
    results |= {f"grad.{name}": p.grad for name, p in params.items()}
    return {name: value.detach().numpy() for name, value in results.items()}


def decays(name):
    return name.endswith(".weight") and "norm" not in name and "embedding" not in name


def curve(cfg, params, tokens, targets, smoothing, dtype):
    params = leaves(params, dtype)
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for name, p in params.items() if decays(name)], "weight_decay": 0.1},
            {"params": [p for name, p in params.items() if not decays(name)], "weight_decay": 0.0},
        ],
        lr=3e-3, betas=(0.9, 0.95), eps=1e-8,
    )
    losses = []
    for x, y in zip(tokens, targets):
        optimizer.zero_grad()
        loss = cross_entropy(Gpt(cfg, params).logits(x), y, smoothing)
        losses.append(loss.item())  # before the update
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params.values(), 1.0)
        optimizer.step()
    return np.array(losses)


# --------------------------------------------------------------------------------------------------- the checks


def check_pieces():
    """Every piece above against PyTorch's own implementation, values and gradients."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)

    def same(ours, theirs, *inputs):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
        upstream = torch.randn(ours.shape, generator=generator, dtype=torch.float64)
        grads = [torch.autograd.grad((y * upstream).sum(), inputs) for y in (ours, theirs)]
        torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-12)

    q, k, v = (draw(2, 3, 7, 8) for _ in range(3))
    same(causal_attention(q, k, v), F.scaled_dot_product_attention(q, k, v, is_causal=True), q, k, v)

    x, weight, bias = draw(4, 5, 6), draw(6), draw(6)
    same(layer_norm(x, weight, bias, 1e-5), F.layer_norm(x, (6,), weight, bias, 1e-5), x, weight, bias)
    same(layer_norm(x, weight, None, 1e-5), F.layer_norm(x, (6,), weight, None, 1e-5), x, weight)
    same(rms_norm(x, weight, 1e-6), F.rms_norm(x, (6,), weight, 1e-6), x, weight)
    same(gelu(x), F.gelu(x), x)
    same(gelu_tanh(x), F.gelu(x, approximate="tanh"), x)
    same(silu(x), F.silu(x), x)

    # a rotary pair is a complex number that is turned by position * theta
    theta = ROTARY_BASE ** (-torch.arange(4, dtype=torch.float64) / 4)
    angle = torch.arange(7, dtype=torch.float64)[:, None] * theta
    turned = torch.complex(q[..., :4], q[..., 4:]) * torch.polar(torch.ones_like(angle), angle)
    same(rotate(q), torch.cat([turned.real, turned.imag], dim=-1), q)

    table = sinusoidal(7, 6, torch.float64)
    assert math.isclose(table[5, 2], math.sin(5 / 10000 ** (2 / 6)))
    assert math.isclose(table[5, 3], math.cos(5 / 10000 ** (2 / 6)))

    logits, targets = draw(4, 5, 9), torch.randint(0, 9, (4, 5), generator=generator)
    targets[0, :3] = IGNORED
    for smoothing in (0.0, 0.1):
        theirs = F.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, label_smoothing=smoothing
        )
        same(cross_entropy(logits, targets, smoothing), theirs, logits)


def deviation(truth, other):
    """The largest difference, relative to the largest value of the tensor."""
    return float(np.abs(truth - other).max() / max(np.abs(truth).max(), 1e-6))


def save(path, tensors, metadata):
    """save_file puts the metadata in an order that changes from run to run: write the header again, sorted."""
    save_file(tensors, path, metadata)
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + size :])
    back = load_file(path)
    assert back.keys() == tensors.keys() and all(np.array_equal(back[n], tensors[n]) for n in tensors)


def main():
    torch.set_num_threads(1)
    check_pieces()
    here = Path(__file__).parent
    print("float32 against the stored float64 results, relative to the largest value of each tensor:")
    print(f"{'variant':<18}{'logits':>9}{'loss':>9}{'gradients':>11}{'curve':>9}   losses of the curve")
    for seed, (variant, (cfg, smoothing, ignored)) in enumerate(VARIANTS.items()):
        rng = np.random.RandomState(1000 + seed)  # the one generator whose stream numpy promises never to change
        params = draw_parameters(cfg, rng)
        tokens, targets = draw_batches(cfg, 1 + CURVE_STEPS, ignored, rng)
        as_index = lambda array: torch.from_numpy(array.astype(np.int64))

        def run(dtype):
            results = one_batch(cfg, params, as_index(tokens[0]), as_index(targets[0]), smoothing, dtype)
            losses = curve(cfg, params, as_index(tokens[1:]), as_index(targets[1:]), smoothing, dtype)
            return results | {"curve.losses": losses}

        truth, single = run(torch.float64), run(torch.float32)
        off = {name: deviation(truth[name], single[name]) for name in truth}
        worst = max(value for name, value in off.items() if name.startswith("grad."))
        losses = truth["curve.losses"]
        print(
            f"{variant:<18}{off['logits']:>9.1e}{off['loss']:>9.1e}{worst:>11.1e}{off['curve.losses']:>9.1e}"
            f"   {losses[0]:.3f} -> {losses[-1]:.3f}"
        )

        file = {f"param.{name}": value for name, value in params.items()}
        file |= {"tokens": tokens[0], "targets": targets[0]}
        file |= {"curve.tokens": tokens[1:], "curve.targets": targets[1:]}
        file |= {name: value.astype(np.float32) for name, value in truth.items()}
        file = {name: np.ascontiguousarray(value) for name, value in file.items()}
        save(here / f"{variant}.safetensors", file, {"config": json.dumps(cfg), "label_smoothing": str(smoothing)})


if __name__ == "__main__":
    main()
