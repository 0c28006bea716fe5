"""Writes weights.safetensors: what PyTorch's generator draws in the walkthrough, for walkthrough/main.rs to compute with.

    pip install torch safetensors numpy
    python make_weights.py

Weights of linear layers are stored as [in, out]. The draws, in the walkthrough's order:

- v1.{query,key,value}: seed 123, uniform in 0..1.
- v2.{query,key,value}.weight: seed 789, as torch.nn.Linear starts.
- dropout.ones, dropout.weights: seed 123, what torch.nn.Dropout(0.5) makes of two 6 x 6 tensors of ones, one after the
  other: each element 0 or 2. Which elements depends on how PyTorch was built: the walkthrough's builds draw them with
  Intel's MKL, whose generator is written out below, so that the same file comes out everywhere.
- heads.{0,1}.{query,key,value}.weight: seed 123; head 0 is also the walkthrough's single causal head.
- split.{query,key,value}.weight, split.out.{weight,bias}: seed 123.
- biased.*: the same as split, of a layer with biases on queries, keys and values, which the walkthrough offers but does
  not print; biased.expected is what PyTorch computes with it for the walkthrough's batch.
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

D_IN, D_OUT, TOKENS, HEADS = 3, 2, 6, 2

INPUTS = torch.tensor(
    [
        [0.43, 0.15, 0.89],
        [0.55, 0.87, 0.66],
        [0.57, 0.85, 0.64],
        [0.22, 0.58, 0.33],
        [0.77, 0.25, 0.10],
        [0.05, 0.80, 0.55],
    ]
)

file = {}


def linear(name, inputs, outputs, bias):
    layer = torch.nn.Linear(inputs, outputs, bias=bias)
    file[f"{name}.weight"] = layer.weight.detach().T.contiguous()
    if bias:
        file[f"{name}.bias"] = layer.bias.detach()
    return layer


def mkl_dropout(generator):
    """MKL's MCG31m1, x <- 1132489760 x mod 2^31 - 1, seeded by the next word of PyTorch's own generator. An element is
    kept where x / (2^31 - 1) is below 0.5."""
    modulus = 2**31 - 1
    x = int(generator.random_raw()) % modulus or 1
    kept = []
    for _ in range(TOKENS * TOKENS):
        kept.append(2.0 * (x / modulus < 0.5))
        x = x * 1132489760 % modulus
    return torch.tensor(kept).reshape(TOKENS, TOKENS)


def projections(name, bias=False):
    return [linear(f"{name}.{part}", D_IN, D_OUT, bias) for part in ("query", "key", "value")]


torch.manual_seed(123)
for part in ("query", "key", "value"):
    file[f"v1.{part}"] = torch.rand(D_IN, D_OUT)

torch.manual_seed(789)
projections("v2")

generator = np.random.MT19937()
generator._legacy_seeding(123)
file["dropout.ones"] = mkl_dropout(generator)
file["dropout.weights"] = mkl_dropout(generator)

torch.manual_seed(123)
for head in range(HEADS):
    projections(f"heads.{head}")

torch.manual_seed(123)
projections("split")
linear("split.out", D_OUT, D_OUT, bias=True)

torch.manual_seed(123)
layers = projections("biased", bias=True)
out = linear("biased.out", D_OUT, D_OUT, bias=True)
batch = torch.stack([INPUTS, INPUTS])
query, key, value = (layer(batch).view(2, TOKENS, HEADS, -1).transpose(1, 2) for layer in layers)
mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
file["biased.expected"] = out(mixed.transpose(1, 2).reshape(2, TOKENS, D_OUT)).detach()

save_file(file, Path(__file__).with_name("weights.safetensors"))
