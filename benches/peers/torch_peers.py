"""The models and shapes of `cargo bench` in PyTorch, timed; the output is JSON: {id: seconds}.

    python torch_peers.py                        # on the CPU
    python torch_peers.py --device cuda --compile
    python torch_peers.py --only step/series matmul/square/512

The identifiers are those of `cargo bench`. TF32 is off: both sides compute in f32, but for those that begin with
`mixed/`: there models train in bf16 autocast, and products, attention and the model that decodes are given bf16.
"""

import argparse
import json
import statistics
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

# d_model, heads, layers, context, vocabulary, d_ff, feed-forward, norm, biases, batch
STEPS = {
    "step/series": (32, 4, 4, 16, 27, 85, "swiglu", "rms_norm", False, 32),
    "step/d64": (64, 4, 4, 16, 27, 170, "swiglu", "rms_norm", False, 32),
    "step/char10m_one_row": (384, 6, 6, 256, 65, 1536, "gelu", "layer_norm", False, 1),
    "step/char10m": (384, 6, 6, 256, 65, 1536, "gelu", "layer_norm", False, 64),
    "step/gpt2_small": (768, 12, 12, 1024, 50257, 3072, "gelu", "layer_norm", True, 4),
}
LARGE = {"step/char10m", "step/gpt2_small", "attention/fused/8x2048x12x64"}
SQUARES = {f"matmul/square/{n}": n for n in (256, 512, 1024, 4096)}
# batch, positions, heads, head size; forward and gradient
ATTENTION = {
    "attention/fused/1x256x6x64": (1, 256, 6, 64),
    "attention/fused/1x1024x6x64": (1, 1024, 6, 64),
    "attention/fused/1x2048x2x64": (1, 2048, 2, 64),
    "attention/fused/8x2048x12x64": (8, 2048, 12, 64),
}


class Block(nn.Module):
    def __init__(self, d, heads, d_ff, ffn, norm, bias):
        super().__init__()
        self.heads, self.ffn = heads, ffn
        self.norm1, self.norm2 = norm(), norm()
        self.qkv, self.out = nn.Linear(d, 3 * d, bias=bias), nn.Linear(d, d, bias=bias)
        self.up = nn.Linear(d, 2 * d_ff if ffn == "swiglu" else d_ff, bias=bias)
        self.down = nn.Linear(d_ff, d, bias=bias)

    def forward(self, x):
        B, T, D = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(B, T, D))
        h = self.up(self.norm2(x))
        if self.ffn == "swiglu":
            gate, up = h.chunk(2, dim=-1)
            return x + self.down(F.silu(gate) * up)
        return x + self.down(F.gelu(h, approximate="tanh"))


class Gpt(nn.Module):
    def __init__(self, d, heads, layers, context, vocabulary, d_ff, ffn, norm, bias):
        super().__init__()
        make = (lambda: nn.RMSNorm(d, eps=1e-6)) if norm == "rms_norm" else (lambda: nn.LayerNorm(d, bias=bias))
        self.tokens, self.positions = nn.Embedding(vocabulary, d), nn.Embedding(context, d)
        self.blocks = nn.ModuleList(Block(d, heads, d_ff, ffn, make, bias) for _ in range(layers))
        self.norm, self.head = make(), nn.Linear(d, vocabulary, bias=False)
        self.head.weight = self.tokens.weight
        for p in self.parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02)

    def forward(self, tokens, targets):
        x = self.tokens(tokens) + self.positions.weight
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1), targets.flatten())


def step(device, compiled, mixed, *shape):
    *model, batch = shape
    context, vocabulary = model[3], model[4]
    gpt = Gpt(*model).to(device)
    run = torch.compile(gpt) if compiled else gpt
    optimizer = torch.optim.AdamW(gpt.parameters(), lr=1e-4, weight_decay=0.1, fused=True)
    tokens, targets = torch.randint(vocabulary, (2, batch, context), device=device)

    def one():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=mixed):
            loss = run(tokens, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(gpt.parameters(), 1.0)
        optimizer.step()

    return one


def attention(device, dtype, batch, positions, heads, head_dim):
    packed = torch.randn(batch, positions, 3, heads, head_dim, device=device, dtype=dtype, requires_grad=True)
    upstream = torch.randn(batch, heads, positions, head_dim, device=device, dtype=dtype)

    def forward():
        q, k, v = packed.permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    def gradient():
        packed.grad = None
        forward().backward(upstream)

    return forward, gradient


def smollm(device, prefix, dtype):
    """SmolLM2-135M by `transformers`, with random weights of a type: `benches/smollm.rs` has the same."""
    from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, rms_norm_eps=1e-5, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0})
    model = LlamaForCausalLM(config).to(device, dtype).eval()
    tokens = torch.arange(1, 129, device=device)[None] * 7919 % 49152
    cache = DynamicCache(config=config)
    with torch.no_grad():
        model(tokens[:, :127], past_key_values=cache)

    def forward():
        with torch.no_grad():
            model(tokens, labels=tokens, use_cache=False)

    def forward_backward():
        model.zero_grad(set_to_none=True)
        model(tokens, labels=tokens, use_cache=False).loss.backward()

    def token():
        with torch.no_grad():
            model(tokens[:, 127:], past_key_values=cache)
        cache.crop(-1)

    steps = {"smollm/forward": forward, "smollm/forward_backward": forward_backward, "smollm/token": token}
    # From halves there is only a decoded token to compare with.
    return {prefix + name: function for name, function in steps.items() if not prefix or name == "smollm/token"}


def median_time(function, device, seconds):
    sync = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    for _ in range(3):
        function()
    sync()
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        start = time.perf_counter()
        function()
        sync()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile the models")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seconds", type=float, default=2.0, help="time spent on each")
    parser.add_argument("--only", nargs="*", help="identifiers to run")
    a = parser.parse_args()
    if a.threads:
        torch.set_num_threads(a.threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.manual_seed(0)
    on_gpu, found = a.device.startswith("cuda"), {}
    wanted = lambda name: any(name.startswith(o) for o in a.only) if a.only else (
        on_gpu or name.removeprefix("mixed/") not in LARGE)
    timed = lambda function: median_time(function, a.device, a.seconds)

    for prefix, mixed in ("", False), ("mixed/", True):
        dtype = torch.bfloat16 if mixed else torch.float32
        for name, n in SQUARES.items():
            if wanted(prefix + name) and (on_gpu or n <= 1024):
                x, y = torch.randn(2, n, n, device=a.device, dtype=dtype)
                found[prefix + name] = timed(lambda: x @ y)
        for name, shape in ATTENTION.items():
            if wanted(prefix + name):
                forward, gradient = attention(a.device, dtype, *shape)
                alone = found[f"{prefix}{name}/forward"] = timed(forward)
                # As `cargo bench` counts it: what the gradient adds to the forward pass.
                found[f"{prefix}{name}/gradient"] = timed(gradient) - alone
        for name, shape in STEPS.items():
            if wanted(prefix + name):
                found[prefix + name] = timed(step(a.device, a.compile, mixed, *shape))
        if a.only and any(only.startswith(f"{prefix}smollm") for only in a.only):
            for name, function in smollm(a.device, prefix, dtype).items():
                if wanted(name):
                    found[name] = timed(function)
    json.dump(found, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
