"""The names GPT in idiomatic PyTorch: a peer to time against, and a check on the quality figures we quote.

    pip install torch numpy

Time of one training step (forward, backward, clip, AdamW), on random data:

    python names_torch.py --time
    python names_torch.py --time -d 64 --norm layer_norm --ffn gelu_tanh --bias

Quality, at the two settings of docs/laboratory.md:

    python names_torch.py --train -f names.txt --batching stream --steps 10000
    python names_torch.py --train -f names.txt --batching names --steps 5000 -d 64 --untied \
        --lr 5e-4 --beta2 0.99 --weight-decay 0.01

and the public run of the program that `names` comes from, whose model starts from PyTorch's own initialisation:

    python names_torch.py --train -f names.txt --batching names --steps 5000 -d 64 --norm layer_norm --ffn gelu_tanh \
        --bias --untied --init torch --grad-clip 0 --lr 5e-4 --beta2 0.99 --weight-decay 0.01

Add `--device cuda`, `--compile` or `--threads N` to either.
"""

import argparse
import json
import statistics
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
mode = parser.add_mutually_exclusive_group(required=True)
mode.add_argument("--time", action="store_true")
mode.add_argument("--train", action="store_true")
parser.add_argument("-f", "--filename")
parser.add_argument("--batching", choices=["stream", "names"], default="stream")
parser.add_argument("-e", "--steps", "--epochs", type=int, help="default: 300 to time, 10000 to train")
parser.add_argument("-d", "--d-model", type=int, default=32)
parser.add_argument("-n", "--n-heads", type=int, default=4)
parser.add_argument("-l", "--n-layers", type=int, default=4)
parser.add_argument("-b", "--batch-size", type=int, default=32)
parser.add_argument("--context", type=int, default=16)
parser.add_argument("--norm", choices=["rms_norm", "layer_norm"], default="rms_norm")
parser.add_argument("--ffn", choices=["swiglu", "gelu", "gelu_tanh", "relu"], default="swiglu")
parser.add_argument("--bias", action="store_true", help="biases on the projections and layer norms")
parser.add_argument("--untied", action="store_true", help="a head of its own rather than the token embedding")
parser.add_argument("--init", choices=["normal", "torch"], default="normal", help="normal(0, 0.02) or PyTorch's own")
parser.add_argument("--lr", type=float, default=3e-4)
parser.add_argument("--beta2", type=float, default=0.95)
parser.add_argument("--weight-decay", type=float, default=0.1)
parser.add_argument("--grad-clip", type=float, default=1.0)
parser.add_argument("--seed", type=int, default=42)
parser.add_argument("--eval-interval", type=int, default=1000)
parser.add_argument("--eval-iters", type=int, default=200, help="batches of 64 in an evaluation of the stream")
parser.add_argument("--device", default="cpu")
parser.add_argument("--compile", action="store_true")
parser.add_argument("--threads", type=int)


class Block(nn.Module):
    def __init__(self, a):
        super().__init__()
        d = a.d_model
        self.n_heads, self.ffn = a.n_heads, a.ffn
        d_ff = int(8 * d / 3) if a.ffn == "swiglu" else 4 * d
        self.norm1, self.norm2 = make_norm(a), make_norm(a)
        self.qkv = nn.Linear(d, 3 * d, bias=a.bias)
        self.out = nn.Linear(d, d, bias=a.bias)
        self.up = nn.Linear(d, 2 * d_ff if a.ffn == "swiglu" else d_ff, bias=a.bias)
        self.down = nn.Linear(d_ff, d, bias=a.bias)

    def forward(self, x):
        B, T, D = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(B, T, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(B, T, D))
        h = self.up(self.norm2(x))
        if self.ffn == "swiglu":
            gate, up = h.chunk(2, dim=-1)
            h = F.silu(gate) * up
        elif self.ffn == "relu":
            h = F.relu(h)
        else:
            h = F.gelu(h, approximate="tanh" if self.ffn == "gelu_tanh" else "none")
        return x + self.down(h)


class Gpt(nn.Module):
    def __init__(self, a, vocab):
        super().__init__()
        self.token_embedding = nn.Embedding(vocab, a.d_model)
        self.position_embedding = nn.Embedding(a.context, a.d_model)
        self.blocks = nn.ModuleList(Block(a) for _ in range(a.n_layers))
        self.norm = make_norm(a)
        self.head = nn.Linear(a.d_model, vocab, bias=False)
        if not a.untied:
            self.head.weight = self.token_embedding.weight
        for module in self.modules() if a.init == "normal" else ():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, tokens, targets):
        x = self.token_embedding(tokens) + self.position_embedding.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)


def make_norm(a):
    if a.norm == "rms_norm":
        return nn.RMSNorm(a.d_model, eps=1e-6)
    return nn.LayerNorm(a.d_model, bias=a.bias)


def make_optimizer(a, model):
    """Decay on the matrices, none on norms, biases and embeddings."""
    decay, keep = [], []
    for name, p in model.named_parameters():
        (decay if p.dim() == 2 and "embedding" not in name else keep).append(p)
    groups = [{"params": decay, "weight_decay": a.weight_decay}, {"params": keep, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=a.lr, betas=(0.9, a.beta2), fused=True)


def make_step(a, vocab):
    model = Gpt(a, vocab).to(a.device)
    optimizer = make_optimizer(a, model)
    loss_of = model
    if a.compile:
        loss_of = torch.compile(model, mode="reduce-overhead" if a.device == "cuda" else None)

    def step(tokens, targets):
        loss = loss_of(tokens, targets)
        loss.backward()
        if a.grad_clip > 0:
            nn.utils.clip_grad_norm_(model.parameters(), a.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    return model, step


def describe(a):
    kind = f"{a.device}, {torch.get_num_threads()} threads" if a.device == "cpu" else torch.cuda.get_device_name()
    return (
        f"PyTorch {torch.__version__}{' compiled' if a.compile else ''} on {kind}: context {a.context}, "
        f"d_model {a.d_model}, {a.n_heads} heads, {a.n_layers} layers, batch {a.batch_size}, {a.norm}, {a.ffn}, "
        f"{'biases' if a.bias else 'no biases'}, {'own' if a.untied else 'tied'} head"
    )


def time_steps(a, vocab=27):
    _, step = make_step(a, vocab)
    shape = (a.batch_size, a.context)
    batches = [torch.randint(0, vocab, (2, *shape), device=a.device) for _ in range(16)]
    wait = torch.cuda.synchronize if a.device == "cuda" else lambda: None
    each = 10 if a.device == "cuda" else 1  # steps a measurement: a GPU's queue stays filled, as in training
    steps, warm_up = a.steps or 300, 50
    times = []
    for i in range(-warm_up, steps, each):
        wait()
        start = time.perf_counter()
        for j in range(each):
            step(*batches[(i + j) % len(batches)])
        wait()
        if i >= 0:
            times.append((time.perf_counter() - start) * 1e3 / each)
    result = {"what": "training step, " + describe(a), "median_ms": round(statistics.median(times), 3),
              "min_ms": round(min(times), 3), "steps": steps}
    print(json.dumps(result))


def stream_batches(a, text):
    """Random windows of the character stream; the last tenth of it is for test."""
    alphabet = sorted(set(text))
    tokens = torch.tensor([alphabet.index(c) for c in text])
    cut = int(0.9 * len(tokens))
    parts = {"train": tokens[:cut], "test": tokens[cut:]}

    def windows(split, count):
        part = parts[split]
        at = torch.randint(0, len(part) - a.context, (count, 1)) + torch.arange(a.context + 1)
        return part[at[:, :-1]], part[at[:, 1:]]

    def evaluation(split):
        return (windows(split, 64) for _ in range(a.eval_iters))

    return len(alphabet), lambda: windows("train", a.batch_size), evaluation


def name_batches(a, text):
    """A name a row: token 0 starts it and ends it, what follows is ignored; 1,000 names (at most 10%) are for test."""
    names = [name.strip() for name in text.splitlines() if name.strip()]
    alphabet = sorted(set("".join(names)))
    assert max(map(len, names)) < a.context, "the window is shorter than the longest name and its end"
    tokens = torch.zeros(len(names), a.context, dtype=torch.long)
    targets = torch.full((len(names), a.context), -1)
    for row, name in enumerate(names):
        ids = torch.tensor([alphabet.index(c) + 1 for c in name])
        tokens[row, 1 : len(ids) + 1] = ids
        targets[row, : len(ids)] = ids
        targets[row, len(ids)] = 0
    order = torch.randperm(len(names))
    test = min(1000, len(names) // 10)
    rows = {"train": order[:-test], "test": order[-test:]}

    def batch():
        at = rows["train"][torch.randint(0, len(rows["train"]), (a.batch_size,))]
        return tokens[at], targets[at]

    def evaluation(split):
        return ((tokens[at], targets[at]) for at in rows[split].split(1000))

    return len(alphabet) + 1, batch, evaluation


@torch.no_grad()
def mean_loss(a, model, batches):
    total, count = 0.0, 0
    for tokens, targets in batches:
        here = int((targets != -1).sum())
        total += model(tokens.to(a.device), targets.to(a.device)).item() * here
        count += here
    return total / count


def train(a):
    with open(a.filename, encoding="utf-8") as file:
        text = file.read()
    vocab, batch, evaluation = (stream_batches if a.batching == "stream" else name_batches)(a, text)
    model, step = make_step(a, vocab)
    steps = a.steps or 10_000
    print(f"{describe(a)}, {sum(p.numel() for p in model.parameters())} parameters", flush=True)
    for i in range(1, steps + 1):
        step(*(part.to(a.device) for part in batch()))
        if i % a.eval_interval == 0 or i == steps:
            losses = {f"{split}_loss": round(mean_loss(a, model, evaluation(split)), 4) for split in ("train", "test")}
            print(json.dumps({"step": i, **losses}), flush=True)


if __name__ == "__main__":
    args = parser.parse_args()
    if args.train and not args.filename:
        parser.error("--train needs -f/--filename")
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    time_steps(args) if args.time else train(args)
