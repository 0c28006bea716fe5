"""Opens with transformers and peft what the tests of tests/files/models have written, and compares logits.

    cargo test --test files models::
    pip install torch transformers peft safetensors
    python check_saved.py [../../target/tmp]

Every directory must open without a warning, with no tensor missing or left over, and give the logits that this crate
computed from it. Saved once more by the library, it must have the same tensors.
"""

import logging
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

TOLERANCE = 1e-4
KINDS = ["models_saved", "models_exported", "models_merged", "lora_saved"]
MODELS = Path(__file__).parent / "models"


class Heard(logging.Handler):
    """Keeps what is logged."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.said = []

    def emit(self, record):
        self.said.append(record.getMessage())


def tensors(folder):
    """Name, type and shape of all tensors, and the files' metadata."""
    found, metadata = {}, []
    for path in sorted(folder.glob("*model*.safetensors")):
        with safe_open(path, "pt") as file:
            metadata.append(file.metadata())
            for name in file.keys():
                tensor = file.get_tensor(name)
                found[name] = (tensor.dtype, tuple(tensor.shape))
    return found, metadata


def check(folder, heard):
    heard.said.clear()
    is_adapter = (folder / "adapter_config.json").exists()
    whole = MODELS / folder.name if is_adapter else folder
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model, report = AutoModelForCausalLM.from_pretrained(
            whole, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
        )
        if is_adapter:
            model = PeftModel.from_pretrained(model, folder)
    said = heard.said + [str(warning.message) for warning in caught]
    # Of transformers about peft, not about the files.
    said = [text for text in said if "is_gradient_checkpointing" not in text]
    assert not said, said
    assert not any(report.values()), report
    expected = load_file(folder / "logits.safetensors")
    with torch.no_grad():
        logits = model(expected["tokens"].long()).logits
    difference = (logits - expected["logits"]).abs().max().item()
    assert difference <= TOLERANCE, f"logits are {difference} apart"
    ours, metadata = tensors(folder)
    assert all(one == {"format": "pt"} for one in metadata), metadata
    with tempfile.TemporaryDirectory() as again:
        stored = AutoModelForCausalLM.from_pretrained(whole, dtype="auto")
        stored = PeftModel.from_pretrained(stored, folder) if is_adapter else stored
        stored.save_pretrained(again)
        theirs, _ = tensors(Path(again))
    assert ours == theirs, ours.items() ^ theirs.items()
    return difference


def main():
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[2] / "target/tmp")
    heard = Heard()
    transformers_logging.disable_progress_bar()
    transformers_logging.disable_default_handler()
    transformers_logging.add_handler(heard)
    failed = False
    for kind in KINDS:
        folders = sorted(folder for folder in (root / kind).iterdir() if folder.is_dir())
        assert folders, f"there is nothing in {root / kind}: run the tests first"
        for folder in folders:
            try:
                print(f"{kind}/{folder.name}: logits {check(folder, heard):.1e} apart, no warnings")
            except Exception as error:
                failed = True
                print(f"{kind}/{folder.name}: {error}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
