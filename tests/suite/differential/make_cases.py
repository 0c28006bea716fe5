"""Writes `cases.safetensors` beside this script: drawn calls of every operation, with PyTorch's values and gradients.

    pip install torch safetensors numpy
    python make_cases.py

Shapes are odd, prime, one, and beyond tiles, of rank 1 to 6; operands are dense, or views (permuted, sliced, broadcast) of
something dense. Everything is computed in float64 from inputs that are exact in float32. As in the crate's own checker,
the operation stands in the middle of a graph: with leaves x, operands a = view(f·x), and result y,

    loss = Σ (w·y + ½·v·y²) + Σ u·f·x

whose gradients with respect to the leaves are stored. Inputs and weights are not: both sides draw them from a hash of
seed and position. Of large tensors, some elements and one weighted sum over all are stored. The file's metadata describes
the cases; `main.rs` runs them.
"""

import json
import math
import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

WHOLE = 96
SAMPLES = 64
PRIMES = [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37]

draw = random.Random(20)


def hashed(seed, count):
    """32-bit hashes of seed and position (lowbias32 by Chris Wellons)."""
    with np.errstate(over="ignore"):
        h = np.arange(count, dtype=np.uint32) * np.uint32(0x9E3779B9) + np.uint32(seed * 0x85EBCA6B & 0xFFFFFFFF)
        h ^= h >> np.uint32(16)
        h *= np.uint32(0x7FEB352D)
        h ^= h >> np.uint32(15)
        h *= np.uint32(0x846CA68B)
        h ^= h >> np.uint32(16)
    return h


def values(seed, shape, low, high):
    """Evenly spread multiples of a power of two, none of them a multiple of 1/16 (no kink is hit), exact in float32."""
    count = math.prod(shape)
    k = (hashed(seed, count) >> np.uint32(20)).astype(np.float64)
    return torch.from_numpy(low + (high - low) * (2 * k + 1) / 8192).reshape(shape)


def indices(seed, shape, below):
    count = math.prod(shape)
    return torch.from_numpy((hashed(seed, count) % np.uint32(below)).astype(np.int64)).reshape(shape)


def viewed(x, steps):
    for step in steps:
        kind, *rest = step
        if kind == "permute":
            x = x.permute(rest[0])
        elif kind == "slice":
            axis, start, end = rest
            x = x.narrow(axis, start, end - start)
        elif kind == "broadcast":
            x = x.expand(rest[0])
        elif kind == "reshape":
            x = x.reshape(rest[0])
        else:
            raise ValueError(kind)
    return x


def operand(shape, low=-2.0, high=2.0, view=None):
    """An operand of this shape, dense or a drawn view of something dense."""
    view = draw.choice(["dense", "dense", "permuted", "sliced", "both"]) if view is None else view
    base, steps = list(shape), []
    if view in ("permuted", "both") and len(shape) > 1:
        order = list(range(len(shape)))
        draw.shuffle(order)
        # The base's axes come out in `order`.
        base = [0] * len(shape)
        for to, axis in enumerate(order):
            base[axis] = shape[to]
        steps = [["permute", order]]
    if view in ("sliced", "both") and shape:
        axis = draw.randrange(len(shape))
        before, after = draw.randrange(4), draw.randrange(3)
        position = steps[0][1].index(axis) if steps else axis
        extent = base[axis]
        base[axis] = extent + before + after
        # The slice is taken first.
        steps = [["slice", axis, before, before + extent]] + steps
        assert shape[position] == extent
    return {"shape": base, "low": low, "high": high, "view": steps}


def shape_of(rank, most=12, top=None):
    extents = [draw.choice([1, *PRIMES, 4, 8, 16]) for _ in range(rank)]
    extents = [min(extent, most) for extent in extents]
    if top is not None:
        extents[-1] = top
    return extents


def broadcast_pair(rank):
    """Two shapes that broadcast to one."""
    whole = shape_of(rank, 9)
    one = [1 if draw.random() < 0.3 else extent for extent in whole]
    other = [1 if draw.random() < 0.3 else extent for extent in whole]
    keep = draw.randrange(rank + 1)
    return (one, other[keep:]) if draw.random() < 0.5 else (other[keep:], one)


def layer_norm(a, at, _):
    bias = a[2] if len(a) > 2 else None
    return F.layer_norm(a[0], a[0].shape[-1:], a[1], bias, at["epsilon"])


def rms_norm(a, at, _):
    return a[0] / torch.sqrt((a[0] ** 2).mean(-1, keepdim=True) + at["epsilon"]) * a[1]


def cross_entropy(a, at, ids):
    x = a[0].reshape(-1, a[0].shape[-1])
    ignored = at["ignored"] if at["ignored"] is not None else -100
    reduction = "mean" if at["mean"] else "none"
    loss = F.cross_entropy(
        x, ids.reshape(-1), ignore_index=ignored, reduction=reduction, label_smoothing=at["smoothing"]
    )
    return loss if at["mean"] else loss.reshape(ids.shape)


def rotary(a, at, _):
    x, heads, size = a[0], at["heads"], at["size"]
    length, half = x.shape[-2], size // 2
    turned = x[..., : heads * size].unflatten(-1, (heads, size))
    # The crate's table is rounded to float32.
    angles = [[t * 10000.0 ** (-(2 * i) / size) for i in range(half)] for t in range(length)]
    angles = torch.tensor(angles, dtype=torch.float64)
    cos = angles.cos().float().double()[:, None, :]
    sin = angles.sin().float().double()[:, None, :]
    one, two = turned[..., :half], turned[..., half:]
    turned = torch.cat([one * cos - two * sin, two * cos + one * sin], -1).flatten(-2)
    return torch.cat([turned, x[..., heads * size :]], -1)


def slopes(heads):
    def of_power(n):
        return [2.0 ** (-8.0 * (h + 1) / n) for h in range(n)]

    power = 2 ** int(math.floor(math.log2(heads)))
    extra = of_power(2 * power)[0::2][: heads - power]
    return (of_power(power) + extra)[:heads]


def attention(a, at, ids):
    q, k, v = a[:3]
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    queries, keys = q.shape[2], k.shape[2]
    scale = at["scale"] if at["scale"] is not None else 1 / math.sqrt(q.shape[-1])
    scores = q @ k.transpose(-1, -2) * scale
    i = torch.arange(queries)[:, None] + keys - queries
    j = torch.arange(keys)[None, :]
    if at["alibi"]:
        slope = torch.tensor(slopes(q.shape[1]), dtype=torch.float64)
        # The crate's slopes are rounded to float32.
        scores = scores - slope.float().double()[:, None, None] * (i - j).abs()
    seen = torch.ones(queries, keys, dtype=torch.bool)
    if at["causal"]:
        seen = seen & (j <= i)
    if at["window"] is not None:
        seen = seen & (j > i - at["window"]) & (j < i + at["window"])
    seen = seen.expand(scores.shape)
    if at["mask"] is not None:
        seen = seen & (indices(at["mask"]["seed"], at["mask"]["shape"], 4) != 0)
    scores = scores.masked_fill(~seen, -math.inf)
    weights = torch.where(seen.any(-1, keepdim=True), scores, torch.zeros_like(scores)).softmax(-1)
    return torch.where(seen.any(-1, keepdim=True), weights, torch.zeros_like(weights)) @ v


OPERATIONS = {
    "add": lambda a, at, _: a[0] + a[1],
    "sub": lambda a, at, _: a[0] - a[1],
    "mul": lambda a, at, _: a[0] * a[1],
    "div": lambda a, at, _: a[0] / a[1],
    "powf": lambda a, at, _: a[0] ** a[1],
    "minimum": lambda a, at, _: torch.minimum(a[0], a[1]),
    "maximum": lambda a, at, _: torch.maximum(a[0], a[1]),
    "select": lambda a, at, _: torch.where(a[0] > 0.5, a[1], a[2]),
    "less": lambda a, at, _: (a[0] < a[1]).double(),
    "neg": lambda a, at, _: -a[0],
    "scale": lambda a, at, _: a[0] * at["factor"],
    "shift": lambda a, at, _: a[0] + at["factor"],
    "recip": lambda a, at, _: 1 / a[0],
    "abs": lambda a, at, _: a[0].abs(),
    "exp": lambda a, at, _: a[0].exp(),
    "log": lambda a, at, _: a[0].log(),
    "sqrt": lambda a, at, _: a[0].sqrt(),
    "rsqrt": lambda a, at, _: a[0].rsqrt(),
    "powi": lambda a, at, _: a[0] ** at["exponent"],
    "sin": lambda a, at, _: a[0].sin(),
    "cos": lambda a, at, _: a[0].cos(),
    "tanh": lambda a, at, _: a[0].tanh(),
    "sigmoid": lambda a, at, _: a[0].sigmoid(),
    "softplus": lambda a, at, _: F.softplus(a[0]),
    "mse": lambda a, at, _: F.mse_loss(a[0], a[1]),
    "binary_cross_entropy": lambda a, at, _: F.binary_cross_entropy_with_logits(a[0], a[1]),
    "relu": lambda a, at, _: a[0].relu(),
    "erf": lambda a, at, _: a[0].erf(),
    "gelu": lambda a, at, _: F.gelu(a[0]),
    "gelu_tanh": lambda a, at, _: F.gelu(a[0], approximate="tanh"),
    "silu": lambda a, at, _: F.silu(a[0]),
    "clamp": lambda a, at, _: a[0].clamp(-1.0, 0.5),
    "matmul": lambda a, at, _: a[0] @ a[1],
    "linear": lambda a, at, _: F.gelu(a[0] @ a[1] + a[2]),
    "sum": lambda a, at, _: a[0].sum(at["axes"]),
    "mean": lambda a, at, _: a[0].mean(at["axes"]),
    "max": lambda a, at, _: a[0].amax(at["axes"]),
    "min": lambda a, at, _: a[0].amin(at["axes"]),
    "var": lambda a, at, _: a[0].var(at["axes"], correction=0),
    "var_unbiased": lambda a, at, _: a[0].var(at["axes"], correction=1),
    "argmax": lambda a, at, _: a[0].argmax(at["axes"][0]).double(),
    "softmax": lambda a, at, _: a[0].softmax(-1),
    "log_softmax": lambda a, at, _: a[0].log_softmax(-1),
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "cross_entropy": cross_entropy,
    "embedding": lambda a, at, ids: F.embedding(ids, a[0]),
    "gather": lambda a, at, ids: a[0].gather(at["axis"], ids),
    "index_select": lambda a, at, ids: a[0].index_select(at["axis"], ids),
    "pad": lambda a, at, _: torch.cat(
        [
            torch.zeros_like(a[0].narrow(at["axis"], 0, 1)).repeat_interleave(at["before"], at["axis"]),
            a[0],
            torch.zeros_like(a[0].narrow(at["axis"], 0, 1)).repeat_interleave(at["after"], at["axis"]),
        ],
        at["axis"],
    ),
    "concat": lambda a, at, _: torch.cat(a, at["axis"]),
    "stack": lambda a, at, _: torch.stack(a, at["axis"]),
    "identity": lambda a, at, _: a[0] * 1.0,
    "swiglu": lambda a, at, _: F.silu(a[0].chunk(2, -1)[0]) * a[0].chunk(2, -1)[1],
    "rotary": rotary,
    "attention": attention,
}


def cases():
    def case(op, inputs, ids=None, **attributes):
        return {"op": op, "inputs": inputs, "ids": ids, "attributes": attributes}

    unary = {
        "neg": (-2, 2), "abs": (-2, 2), "exp": (-3, 3), "log": (0.125, 8), "sqrt": (0.125, 8), "rsqrt": (0.125, 8),
        "recip": (0.25, 4), "sin": (-4, 4), "cos": (-4, 4), "tanh": (-4, 4), "sigmoid": (-8, 8), "relu": (-2, 2),
        "erf": (-3, 3), "gelu": (-4, 4), "gelu_tanh": (-4, 4), "silu": (-8, 8), "clamp": (-2, 2),
    }
    for op, (low, high) in unary.items():
        for rank in draw.sample(range(1, 7), 3):
            yield case(op, [operand(shape_of(rank, 7), low, high)])
    for exponent in [-2, -1, 0, 1, 2, 3, 7]:
        yield case("powi", [operand(shape_of(draw.randrange(1, 5), 7), 0.5, 2)], exponent=exponent)
    for op in ["scale", "shift"]:
        yield case(op, [operand(shape_of(3))], factor=-1.75)
    for op in ["add", "sub", "mul", "div", "powf", "minimum", "maximum", "less"]:
        for rank in range(1, 7):
            one, other = broadcast_pair(rank)
            low, high = {"div": (0.5, 4), "powf": (0.5, 2)}.get(op, (-2, 2))
            first = (0.5, 3) if op == "powf" else (-2, 2)
            yield case(op, [operand(one, *first), operand(other, low, high)])
    for rank in range(1, 5):
        shape = shape_of(rank, 9)
        yield case("select", [operand(shape), operand(shape), operand(shape)])

    # Products: rank 2 to 6, batches broadcast in part, depths and edges beyond tiles.
    for m, k, n in [(1, 1, 1), (3, 5, 7), (1, 130, 33), (65, 17, 1), (17, 257, 31), (70, 64, 66), (128, 32, 128), (131, 129, 67)]:
        yield case("matmul", [operand([m, k], -1, 1), operand([k, n], -1, 1)])
    for one, other in [
        ([2, 2], [2]), ([2, 1], [1, 3]), ([3], []), ([], [3]), ([2, 3, 1], [3, 2]), ([1, 1], [2, 2]), ([2, 1, 2], [1, 3, 1]),
        ([1], [4]), ([2, 1, 3, 1], [2, 1, 2]),
    ]:
        m, k, n = draw.choice(PRIMES[:7]), draw.choice(PRIMES[:8]), draw.choice(PRIMES[:7])
        yield case("matmul", [operand([*one, m, k], -1, 1), operand([*other, k, n], -1, 1)])
    for batch, m, k, n in [([], 9, 16, 12), ([5], 3, 20, 8), ([], 67, 96, 64), ([2, 3], 1, 24, 20)]:
        yield case("linear", [operand([*batch, m, k], -1, 1), operand([k, n], -1, 1), operand([n], -1, 1)])

    for op in ["sum", "mean", "max", "min", "var", "var_unbiased"]:
        for rank in range(1, 7):
            shape = [extent if extent > 1 else 3 for extent in shape_of(rank, 7)]
            axes = sorted(draw.sample(range(rank), draw.randrange(1, rank + 1)))
            yield case(op, [operand(shape)], axes=axes)
        for shape, axes in [([3, 1031], [1]), ([1031, 3], [0]), ([2049], [0]), ([65, 67, 5], [0, 2])]:
            yield case(op, [operand(shape)], axes=axes)
    for shape, axis in [([7], 0), ([5, 3, 4], 1), ([2, 1031], 1), ([1031, 2], 0)]:
        yield case("argmax", [operand(shape)], axes=[axis])

    for op in ["softmax", "log_softmax"]:
        for shape in [[1], [7], [5, 1], [3, 4, 13], [2, 2, 2, 3, 17], [65, 33], [3, 257], [2, 1031], [2, 4100]]:
            yield case(op, [operand(shape, -6, 6)])
    for shape in [[1], [7], [5, 4], [3, 4, 13], [2, 1, 2, 3, 32], [130, 33], [3, 257], [2, 1031], [67, 128]]:
        weight, bias, scale, gain = (operand(shape[-1:], -1, 1) for _ in range(4))
        yield case("layer_norm", [operand(shape), weight, bias], epsilon=2.0**-16)
        yield case("layer_norm", [operand(shape), scale], epsilon=2.0**-10)
        yield case("rms_norm", [operand(shape), gain], epsilon=2.0**-16)

    for shape, smoothing, ignored, mean in [
        ([5], 0.0, None, True), ([3, 7], 0.0, None, False), ([4, 3, 11], 0.125, 2, True), ([2, 600], 0.25, None, True),
        ([9, 513], 0.0, 5, True), ([2, 2, 1031], 0.125, None, False), ([2, 5000], 0.0, 1, True), ([70, 17], 0.0, 3, False),
    ]:
        ids = {"shape": shape[:-1], "seed": draw.randrange(1000), "below": shape[-1]}
        attributes = {"smoothing": smoothing, "ignored": ignored, "mean": mean}
        yield case("cross_entropy", [operand(shape, -3, 3)], ids, **attributes)

    for table, ids in [([1, 1], [3]), ([5, 3], [2, 3]), ([7, 32], [41]), ([300, 5], [2, 3, 2, 5]), ([40, 67], [1100])]:
        yield case("embedding", [operand(table)], {"shape": ids, "seed": draw.randrange(1000), "below": table[0]})
    for shape, axis, ids in [([5], 0, [9]), ([3, 4], 1, [3, 6]), ([3, 4, 5], 0, [7, 2, 5]), ([2, 3, 2, 5], 2, [2, 1, 3, 4])]:
        ids = {"shape": ids, "seed": draw.randrange(1000), "below": shape[axis]}
        yield case("gather", [operand(shape)], ids, axis=axis)
    for shape, axis, count in [([5], 0, 9), ([3, 4], 1, 6), ([3, 4, 5], 0, 7), ([2, 3, 2, 5], 2, 3)]:
        ids = {"shape": [count], "seed": draw.randrange(1000), "below": shape[axis]}
        yield case("index_select", [operand(shape)], ids, axis=axis)

    for rank in range(1, 5):
        axis = draw.randrange(rank)
        yield case("pad", [operand(shape_of(rank))], axis=axis, before=draw.randrange(4), after=draw.randrange(1, 4))
        shapes = [shape_of(rank)] * 3
        shapes = [[extent + i * (place == axis) for place, extent in enumerate(s)] for i, s in enumerate(shapes)]
        yield case("concat", [operand(shape) for shape in shapes], axis=axis)
        yield case("stack", [operand(shapes[0]) for _ in range(2)], axis=draw.randrange(rank + 1))
    for rank in range(1, 7):
        yield case("identity", [operand(shape_of(rank, 8), view="both")])
        whole = shape_of(rank, 7)
        one = [1 if draw.random() < 0.5 else extent for extent in whole]
        broadcast = operand(one)
        broadcast["view"] = broadcast["view"] + [["broadcast", whole]]
        yield case("identity", [broadcast])
        reshaped = operand(whole, view="permuted")
        reshaped["view"] = reshaped["view"] + [["reshape", [math.prod(whole)]]]
        yield case("identity", [reshaped])

    for shape in [[2], [3, 8], [2, 3, 14], [67, 66], [5, 128]]:
        yield case("swiglu", [operand(shape, -4, 4)])
    for batch, length, heads, size, rest in [([], 5, 1, 2, 0), ([2], 7, 3, 4, 4), ([2, 3], 4, 2, 8, 16), ([1], 33, 2, 6, 0)]:
        yield case("rotary", [operand([*batch, length, heads * size + rest])], heads=heads, size=size)

    for batch, heads, kv_heads, queries, keys, size, how in [
        (1, 1, 1, 1, 1, 1, {}), (2, 2, 2, 5, 5, 8, {"causal": True}), (1, 4, 2, 17, 17, 16, {"causal": True}),
        (2, 3, 1, 7, 13, 5, {}), (1, 2, 2, 3, 70, 32, {"causal": True}), (1, 2, 1, 65, 65, 16, {"causal": True, "window": 7}),
        (1, 3, 3, 33, 33, 8, {"alibi": True}), (2, 6, 3, 9, 11, 4, {"causal": True, "alibi": True, "scale": 0.25}),
        (1, 2, 2, 40, 40, 64, {"window": 3}), (2, 2, 2, 19, 23, 8, {"mask": [2, 1, 19, 23]}),
        (1, 4, 2, 12, 12, 16, {"causal": True, "mask": [1, 4, 12, 12]}), (1, 1, 1, 130, 130, 16, {"causal": True}),
        (3, 2, 2, 1, 37, 12, {}), (1, 2, 2, 67, 29, 20, {"mask": [1, 1, 1, 29]}),
    ]:
        attributes = {"causal": False, "window": None, "alibi": False, "scale": None, "mask": None} | how
        if attributes["mask"] is not None:
            attributes["mask"] = {"shape": attributes["mask"], "seed": draw.randrange(1000)}
        q = operand([batch, heads, queries, size], -1, 1)
        k, v = (operand([batch, kv_heads, keys, size], -1, 1) for _ in range(2))
        yield case("attention", [q, k, v], **attributes)

    # Behind all others, whose draws stay what they were.
    for rank in [1, 2, 4]:
        yield case("softplus", [operand(shape_of(rank, 7), -12, 12)])
    for shape in [[1], [7], [3, 65], [2, 3, 4, 5]]:
        yield case("mse", [operand(shape), operand(shape)])
        yield case("binary_cross_entropy", [operand(shape, -12, 12), operand(shape, 0, 1)])


def stored(name, tensor, arrays):
    """Puts a tensor, or what stands for it, into the file."""
    flat = tensor.detach().reshape(-1).double()
    n = flat.numel()
    if n > WHOLE:
        step = max(1, n // SAMPLES)
        places = [i * n // SAMPLES + i * 7919 % step for i in range(SAMPLES)]
        weights = values(99, [n], -1.0, 1.0)
        terms = flat * weights
        arrays[name] = flat[places].float().numpy()
        return {"sum": terms.sum().item(), "scale": terms.abs().sum().item(), "most": flat.abs().max().item()}
    arrays[name] = flat.float().numpy()
    return None


def main():
    arrays, descriptions = {}, []
    for number, case in enumerate(cases()):
        leaves, operands, direct = [], [], 0.0
        for index, one in enumerate(case["inputs"]):
            one["seed"] = 7 * number + index
            leaf = values(one["seed"], one["shape"], one["low"], one["high"])
            factor = [0.5, 2.0, 4.0][index % 3]
            leaf = (leaf / factor).requires_grad_()
            scaled = leaf * factor
            leaves.append(leaf)
            operands.append(viewed(scaled, one["view"]))
            direct = direct + (scaled * values(one["seed"] + 50_000, one["shape"], -1.0, 1.0)).sum()
        ids = case["ids"]
        ids = None if ids is None else indices(ids["seed"], ids["shape"], ids["below"])
        y = OPERATIONS[case["op"]](operands, case["attributes"], ids)
        w = values(7 * number + 100_000, list(y.shape), -1.0, 1.0)
        v = values(7 * number + 150_000, list(y.shape), -1.0, 1.0)
        loss = (w * y + 0.5 * v * y * y).sum() + direct
        gradients = torch.autograd.grad(loss, leaves)
        case["number"] = number
        case["shape"] = list(y.shape)
        case["sums"] = [stored(f"{number}.value", y, arrays)]
        for index, gradient in enumerate(gradients):
            case["sums"].append(stored(f"{number}.gradient.{index}", gradient, arrays))
        descriptions.append(case)
    missing = set(OPERATIONS) - {case["op"] for case in descriptions}
    assert not missing, missing
    path = Path(__file__).with_name("cases.safetensors")
    save_file(arrays, path, {"cases": json.dumps(descriptions, separators=(",", ":"))})
    print(f"{len(descriptions)} cases, {path.stat().st_size} bytes")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
