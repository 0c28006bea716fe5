"""Writes attention.safetensors beside this script: attention layers and an encoder, with what PyTorch says about them.

    pip install torch safetensors numpy
    python make_attention.py

Everything is computed by PyTorch's own modules, in float64, from values that are exact in float32, and rounded to
float32 when stored. README.md describes the file.
"""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

torch.set_default_dtype(torch.float64)
D_MODEL, HEADS, BATCH = 16, 4, 2
stored = {}


def draw(*shape, scale=0.5):
    """Exact in float32."""
    return (scale * torch.randn(*shape)).float().double().requires_grad_()


def store(name, value):
    dtype = np.int32 if value.dtype == torch.int64 else np.float32
    stored[name] = np.ascontiguousarray(value.detach().numpy().astype(dtype))


def finish(case, parameters, inputs, out):
    """The result, and the gradients of its product with an upstream gradient."""
    upstream = draw(*out.shape).detach()
    (out * upstream).sum().backward()
    store(f"{case}.out", out)
    store(f"{case}.upstream", upstream)
    for name, value in (parameters | inputs).items():
        kind = "param." if name in parameters else ""
        store(f"{case}.{kind}{name}", value)
        store(f"{case}.grad.{name}", value.grad)


def attention(case, queries, keys, d_source=D_MODEL, kv_heads=HEADS, mask=None, causal=False):
    """`torch.nn.MultiheadAttention` where it can do it, else `scaled_dot_product_attention`."""
    width = kv_heads * D_MODEL // HEADS
    parameters = {}
    for name, rows, columns in [
        ("query", D_MODEL, D_MODEL), ("key", d_source, width), ("value", d_source, width), ("out", D_MODEL, D_MODEL),
    ]:
        parameters[f"{name}.weight"] = draw(rows, columns)
        parameters[f"{name}.bias"] = draw(columns)
    inputs = {"query": draw(BATCH, queries, D_MODEL)}
    if keys is None:
        keys, sources = queries, [inputs["query"]] * 2
    else:
        inputs |= {"key": draw(BATCH, keys, d_source), "value": draw(BATCH, keys, d_source)}
        sources = [inputs["key"], inputs["value"]]
    if mask is not None:
        store(f"{case}.mask", mask)
    of = parameters.__getitem__
    if kv_heads == HEADS and not causal:
        # PyTorch says where not to look, per head and batch.
        blocked = None
        if mask is not None:
            blocked = (mask == 0).expand(BATCH, HEADS, queries, keys).reshape(-1, queries, keys)
        bias = torch.cat([of(f"{name}.bias") for name in ("query", "key", "value")])
        out, weights = F.multi_head_attention_forward(
            *(x.transpose(0, 1) for x in [inputs["query"], *sources]), D_MODEL, HEADS, None, bias, None, None, False, 0.0,
            of("out.weight").T, of("out.bias"), attn_mask=blocked, use_separate_proj_weight=True,
            q_proj_weight=of("query.weight").T, k_proj_weight=of("key.weight").T, v_proj_weight=of("value.weight").T,
            average_attn_weights=False,
        )
        out = out.transpose(0, 1)
        store(f"{case}.weights", weights)
    else:
        projected = [
            (x @ of(f"{name}.weight") + of(f"{name}.bias")).unflatten(-1, (-1, D_MODEL // HEADS)).transpose(1, 2)
            for name, x in zip(("query", "key", "value"), [inputs["query"], *sources])
        ]
        heads = F.scaled_dot_product_attention(
            *projected, attn_mask=None if mask is None else mask != 0, is_causal=causal, enable_gqa=True
        )
        out = heads.transpose(1, 2).flatten(2) @ of("out.weight") + of("out.bias")
    finish(case, parameters, inputs, out)


def encoder(case, vocabulary=11, length=6, d_ff=24, layers=2):
    """`torch.nn.TransformerEncoder` of layers with their norms first."""
    layer = torch.nn.TransformerEncoderLayer(
        D_MODEL, HEADS, d_ff, dropout=0.0, activation="relu", layer_norm_eps=1e-5, batch_first=True, norm_first=True
    )
    model = torch.nn.TransformerEncoder(
        layer, layers, norm=torch.nn.LayerNorm(D_MODEL, eps=1e-5), enable_nested_tensor=False
    )
    names = {
        "norm1": "norm1", "norm2": "norm2", "self_attn.in_proj_": "attention.qkv.", "self_attn.out_proj": "attention.out",
        "linear1": "ffn.up", "linear2": "ffn.down", "layers.": "blocks.",
    }
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.copy_(centre + draw(*parameter.shape, scale=0.3)).copy_(parameter.float().double())
    embedding = draw(vocabulary, D_MODEL)
    tokens = torch.randint(vocabulary, (BATCH, length))
    is_token = torch.ones(BATCH, length, dtype=torch.int64)
    is_token[1, 4:] = 0
    t = torch.arange(length, dtype=torch.float64)[:, None]
    angle = t / 10000.0 ** (torch.arange(0, D_MODEL, 2, dtype=torch.float64) / D_MODEL)
    positions = torch.stack([angle.sin(), angle.cos()], dim=-1).reshape(length, D_MODEL)
    x = F.embedding(tokens, embedding) * math.sqrt(D_MODEL) + positions
    out = model(x, src_key_padding_mask=is_token == 0)
    upstream = draw(*out.shape).detach()
    # The places of padding take no part.
    (out * upstream * is_token[..., None]).sum().backward()
    store(f"{case}.tokens", tokens)
    store(f"{case}.is_token", is_token)
    store(f"{case}.upstream", upstream * is_token[..., None])
    store(f"{case}.out", out * is_token[..., None])
    store(f"{case}.param.token_embedding.weight", embedding)
    store(f"{case}.grad.token_embedding.weight", embedding.grad)
    for name, parameter in model.named_parameters():
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        turn = (lambda x: x.T) if parameter.dim() == 2 else (lambda x: x)
        store(f"{case}.param.{name}", turn(parameter))
        store(f"{case}.grad.{name}", turn(parameter.grad))


torch.manual_seed(5)
padding = torch.ones(BATCH, 1, 1, 6, dtype=torch.int64)
padding[1, ..., 4:] = 0
per_head = torch.randint(2, (1, HEADS, 5, 7))
per_head[..., 0] = 1  # every query sees something
attention("self_padded", 6, None, mask=padding)
attention("cross", 5, 7)
attention("cross_masked", 5, 7, mask=per_head)
attention("cross_wide", 3, 7, d_source=12)
attention("grouped", 6, None, kv_heads=2, causal=True)
attention("multi_query_cross", 5, 7, kv_heads=1, mask=per_head)
encoder("encoder")
save_file(stored, Path(__file__).parent / "attention.safetensors")
print(len(stored), "tensors,", sum(value.nbytes for value in stored.values()) // 1000, "kB")
