"""llm-compressor's one-shot run on a model in memory, so that its methods can be compared under one evaluator."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from slimsweep.models.language_model import LanguageModel

PACKAGE = "llmcompressor"


def run_oneshot(model: LanguageModel, token_ids: Int[Tensor, "sequence token"], recipe: Any) -> None:
    """Apply llm-compressor modifiers to a model in place, each sequence a batch of its own, as it does by default.

    It sees the very sequences that our techniques see, in their order. What it leaves on modules beside parameters
    (wrapped forwards, states) is taken off again.
    """
    from datasets import Dataset
    from llmcompressor import oneshot

    rows = {"input_ids": token_ids.tolist(), "attention_mask": torch.ones_like(token_ids).tolist()}
    own = {module: set(vars(module)) for module in model.module.modules()}
    with _quiet(), _readable_config(model.module), _no_pinning(model.compute_device):
        oneshot(
            model=model.module,
            processor=model.tokenizer,
            dataset=Dataset.from_dict(rows),
            recipe=recipe,
            max_seq_length=token_ids.shape[1],
            num_calibration_samples=len(token_ids),
            shuffle_calibration_samples=False,
        )
    for module in model.module.modules():
        for name in set(vars(module)) - own.get(module, set()):
            delattr(module, name)
    model.module.eval()


def package_faults() -> list[str]:
    """What to install where llm-compressor is missing."""
    if importlib.util.find_spec(PACKAGE) is None:
        return ["llm-compressor is not installed: .venv/bin/pip install --constraint constraints.txt -e '.[peers]'"]
    return []


def package_version() -> str:
    return metadata.version(PACKAGE)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep its log, a line for every layer, out of the job's; warnings and errors come through."""
    from loguru import logger

    logger.disable("llmcompressor")
    logger.disable("compressed_tensors")
    try:
        yield
    finally:
        logger.enable("llmcompressor")
        logger.enable("compressed_tensors")


@contextmanager
def _readable_config(module: nn.Module) -> Iterator[None]:
    """It reads the config again from where the model says it came from; a model made in memory has no such place."""
    import tempfile
    from pathlib import Path

    before = module.config.name_or_path
    with tempfile.TemporaryDirectory() as folder:
        module.config.save_pretrained(Path(folder))
        module.config.name_or_path = folder
        try:
            yield
        finally:
            module.config.name_or_path = before


@contextmanager
def _no_pinning(device: torch.device) -> Iterator[None]:
    """Its AWQ pins memory even where there is no accelerator, which torch refuses."""
    if device.type != "cpu":
        yield
        return
    before = torch.Tensor.pin_memory
    torch.Tensor.pin_memory = lambda self, *_, **__: self
    try:
        yield
    finally:
        torch.Tensor.pin_memory = before
