"""Writes gpt2_tiny/: a small randomly initialised GPT-2 as the transformers library saves it, with what it says.

    pip install torch transformers tokenizers safetensors numpy
    python make_gpt2.py

`config.json` and `model.safetensors` come from `save_pretrained`, `tokenizer.json` from a byte-level BPE tokenizer that is
trained here on a few public-domain sentences. `expected.safetensors` holds, computed in float64 and rounded once:

    tokens [T]             the prompt's token ids
    logits [T, vocabulary]
    attention [layers, heads, T, T]
    greedy [GREEDY]        the tokens that follow the prompt, each the most likely one
    stream [S]             token ids of TEXT                  stream_loss [1]: mean −ln p over the sliding windows
    loss [1]               of predicting the prompt's own next tokens
    grad.<name>            of that loss, for SOME parameters by transformers' names

and as metadata the prompt, its token strings, the stride, and TEXT.
"""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel

FOLDER = Path(__file__).parent / "gpt2_tiny"
VOCABULARY = 288
POSITIONS = 64
STRIDE = 24
GREEDY = 24
SOME = ["wte.weight", "wpe.weight", "h.0.attn.c_attn.weight", "h.0.ln_1.weight", "h.1.mlp.c_proj.bias", "ln_f.bias"]
PROMPT = "The world will little note, nor long remember"

# Abraham Lincoln, Gettysburg, 1863.
TEXT = """Four score and seven years ago our fathers brought forth, upon this continent, a new nation, conceived in \
liberty, and dedicated to the proposition that all men are created equal. Now we are engaged in a great civil war, \
testing whether that nation, or any nation so conceived, and so dedicated, can long endure. We are met on a great \
battle field of that war. We have come to dedicate a portion of it, as a final resting place for those who died here, \
that the nation might live. This we may, in all propriety do. But, in a larger sense, we can not dedicate, we can not \
consecrate, we can not hallow, this ground. The brave men, living and dead, who struggled here, have hallowed it, far \
above our poor power to add or detract. The world will little note, nor long remember what we say here; while it can \
never forget what they did here.
"""


def train_tokenizer():
    """As GPT-2's: 256 bytes, then merges, then `<|endoftext|>`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    assert tokenizer.get_vocab_size() == VOCABULARY
    return tokenizer


def make_model():
    end = VOCABULARY - 1
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=POSITIONS,
        n_embd=32,
        n_layer=2,
        n_head=4,
        bos_token_id=end,
        eos_token_id=end,
        attn_implementation="eager",
    )
    torch.manual_seed(8)
    model = GPT2LMHeadModel(config).eval()
    # Larger than a fresh model's, so that no part of it can be wrong and still be hidden in the tolerance.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if ".ln_" in name and name.endswith("weight") else 0.0
            parameter.normal_(centre, 0.2)
    return model


def stream_loss(model, tokens):
    """The mean of −ln p over all tokens but the first, each seen from as much context as windows STRIDE apart give."""
    total, counted = 0.0, 1
    for start in range(0, len(tokens), STRIDE):
        window = tokens[start : start + POSITIONS]
        first = counted - start
        logits = model(window[None]).logits[0]
        losses = torch.nn.functional.cross_entropy(logits[:-1], window[1:], reduction="none")
        total += losses[first - 1 :].sum().item()
        counted = start + len(window)
        if counted == len(tokens):
            return total / (counted - 1)


def main():
    FOLDER.mkdir(exist_ok=True)
    tokenizer = train_tokenizer()
    tokenizer.save(str(FOLDER / "tokenizer.json"))
    model = make_model()
    model.save_pretrained(FOLDER)
    (FOLDER / "generation_config.json").unlink(missing_ok=True)

    model = model.double()
    tokens = torch.tensor(tokenizer.encode(PROMPT).ids)
    result = model(tokens[None], labels=tokens[None], output_attentions=True)
    logits = result.logits[0]
    result.loss.backward()
    gradients = {f"grad.{name}": model.transformer.get_parameter(name).grad for name in SOME}

    with torch.no_grad():
        text = tokens
        gaps = []
        for _ in range(GREEDY):
            best = model(text[None]).logits[0, -1].topk(2)
            gaps.append((best.values[0] - best.values[1]).item())
            text = torch.cat([text, best.indices[:1]])
        print(f"smallest lead of a greedy token: {min(gaps):.4f}")
        assert min(gaps) > 0.005, "greedy tokens must not hang on rounding: choose another seed"
        assert len(text) <= POSITIONS
        stream = torch.tensor(tokenizer.encode(TEXT).ids)
        loss = stream_loss(model, stream)
    print(f"{len(tokens)} tokens in the prompt, {len(stream)} in the text, mean loss {loss:.4f}")

    tensors = {
        "tokens": tokens,
        "logits": logits,
        "attention": torch.cat(result.attentions),
        "greedy": text[len(tokens) :],
        "stream": stream,
        "stream_loss": torch.tensor([loss]),
        "loss": result.loss.reshape(1),
        **gradients,
    }
    arrays = {}
    for name, tensor in tensors.items():
        kind = np.float32 if tensor.is_floating_point() else np.int32
        arrays[name] = np.ascontiguousarray(tensor.detach().numpy().astype(kind))
    strings = [tokenizer.decode([token]) for token in tokens.tolist()]
    # One entry: with several, the file's bytes would depend on a map's random order.
    about = dict(prompt=PROMPT, strings=strings, stride=STRIDE, text=TEXT)
    save_file(arrays, FOLDER / "expected.safetensors", {"about": json.dumps(about)})
    for file in sorted(FOLDER.iterdir()):
        print(f"{file.stat().st_size:8} {file.name}")


if __name__ == "__main__":
    main()
