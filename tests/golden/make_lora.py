"""Writes lora/: adapters of models/ before and after 20 steps of training by the peft library, and the losses.

    pip install torch transformers peft safetensors numpy
    python make_lora.py

`start/` and `tuned/` come from peft's `save_pretrained`. `expected.safetensors` holds, computed in float64 from the
stored weights and rounded once:

    tokens, targets [20, 2, T]    of each step, two texts and what follows each token
    losses [20]                   mean −ln p of the targets, before the step
    logits [2, T, vocabulary]     of the tuned adapters, for the first step's tokens

Nothing is dropped, and AdamW is PyTorch's, with its defaults but for the learning rate.
"""

import shutil
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM

HERE = Path(__file__).parent
STEPS = 20
LENGTH = 12
RATE = 1e-2

ADAPTERS = {
    # Parts of both packed projections.
    "llama": dict(r=3, lora_alpha=5, target_modules=["q_proj", "v_proj", "o_proj", "up_proj"]),
    "gpt2": dict(r=4, lora_alpha=3, use_rslora=True, fan_in_fan_out=True, target_modules=["c_attn", "c_fc"]),
    "qwen3": dict(r=2, lora_alpha=4, target_modules="all-linear"),
}


def main():
    for seed, (name, settings) in enumerate(ADAPTERS.items()):
        folder = HERE / "lora" / name
        shutil.rmtree(folder, ignore_errors=True)
        torch.manual_seed(seed)
        base = AutoModelForCausalLM.from_pretrained(HERE / "models" / name, dtype=torch.float32)
        model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **settings))
        model.peft_config["default"].base_model_name_or_path = f"models/{name}"
        save(model, folder / "start")
        model = model.double().eval()
        rng = np.random.default_rng(seed)
        # Texts with something to learn: each goes through a few tokens again and again.
        period = rng.integers(3, 6, [STEPS, 2])
        cycles = rng.integers(0, base.config.vocab_size, [2, 8])
        texts = np.stack([[cycles[row][np.arange(LENGTH + 1) % n] for row, n in enumerate(rows)] for rows in period])
        tokens, targets = torch.tensor(texts[..., :-1]), torch.tensor(texts[..., 1:])
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=RATE)
        losses = []
        for step in range(STEPS):
            logits = model(input_ids=tokens[step]).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets[step].flatten())
            losses.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            logits = model(input_ids=tokens[0]).logits
        print(f"{name}: {len(trained)} factors, loss {losses[0]:.4f} to {losses[-1]:.4f}")
        assert losses[-1] < losses[0] - 0.5
        save(model.float(), folder / "tuned")
        expected = dict(
            tokens=tokens.numpy().astype(np.int32),
            targets=targets.numpy().astype(np.int32),
            losses=np.array(losses, np.float32),
            logits=logits.numpy().astype(np.float32),
        )
        save_file(expected, folder / "expected.safetensors")


def save(model, folder):
    model.save_pretrained(folder)
    (folder / "README.md").unlink()


if __name__ == "__main__":
    main()
