"""Writes names_series.safetensors: what NumPy's generator draws in the second part of the names-GPT series.

    pip install numpy safetensors
    python make_names_series.py

The draws, in the document's order, each group from its own seed of 10:

- norm.input [15, 16]: what its LayerNorm is shown on.
- token [16, 16], position [64, 16]: the embeddings; then query, key, value [16, 16] of its single head.
- Two layers, twice: stack.{0,1}.*, whose residual norms the document prints, and model.{0,1}.*, whose text it prints.
  Each has qkv [16, 48], out [16, 16], up [16, 64] and down [64, 16]. What the document tries out before, attention, the
  feed-forward part and one whole layer, takes draws too.
"""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

WIDTH, TEXT_LENGTH, POSITIONS, TOKENS = 16, 15, 64, 16

file = {}


def draw(*shape):
    return np.random.randn(*shape)


def layer(name=None):
    drawn = {
        "qkv": draw(WIDTH, 3 * WIDTH) * 0.02,
        "out": draw(WIDTH, WIDTH) * 0.002,
        "up": draw(WIDTH, 4 * WIDTH) * 0.02,
        "down": draw(4 * WIDTH, WIDTH) * 0.02,
    }
    if name is not None:
        file.update({f"{name}.{part}": values.astype(np.float32) for part, values in drawn.items()})


np.random.seed(10)
file["norm.input"] = draw(TEXT_LENGTH, WIDTH).astype(np.float32) * 3.0 + 5.0

np.random.seed(10)
file["token"] = (draw(TOKENS, WIDTH) / np.sqrt(WIDTH)).astype(np.float32)
file["position"] = (draw(POSITIONS, WIDTH) / np.sqrt(WIDTH)).astype(np.float32)
for name in ("query", "key", "value"):
    file[name] = draw(WIDTH, WIDTH).astype(np.float32) * 0.02

layer()  # attention and feed-forward part, tried one by one
layer()  # a layer
for index in range(2):
    layer(f"stack.{index}")
for index in range(2):
    layer(f"model.{index}")

file = {name: np.ascontiguousarray(values, dtype=np.float32) for name, values in file.items()}
save_file(file, Path(__file__).with_name("names_series.safetensors"))
