"""llm-compressor's one-shot run on a model in memory, so that its methods can be compared under one evaluator."""

import importlib.util
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from slimsweep.models.batches import Batch
from slimsweep.models.language_model import LanguageModel

log = logging.getLogger(__name__)

PACKAGE = "llmcompressor"
LOG_DISABLED = "LLM_COMPRESSOR_LOG_DISABLED"
"""Its setting, which wins over those of its code."""
USUAL = ("No accelerator available", "Disabling tokenizer parallelism")
"""Begin warnings that say nothing of the result."""


def run_oneshot(model: LanguageModel, batch: Batch, recipe: Any, batch_size: int) -> list[str]:
    """Apply llm-compressor modifiers to a model in place, `batch_size` sequences in one forward.

    It sees the very sequences that our techniques see, in their order. What it leaves on modules beside parameters
    (containers that offload, wrapped forwards, states) is taken off again. Returns the warnings it logged.
    """
    from datasets import Dataset

    import_quietly()
    from llmcompressor import oneshot

    token_ids = batch["input_ids"]
    rows = {
        "input_ids": token_ids.tolist(),
        "attention_mask": batch.get("attention_mask", torch.ones_like(token_ids)).tolist(),
    }
    with ExitStack() as stack:
        warnings = stack.enter_context(_warnings())
        stack.enter_context(_readable_config(model.module))
        stack.enter_context(_no_pinning(model.compute_device))
        stack.enter_context(_no_trace(model.module))
        oneshot(
            model=model.module,
            processor=model.tokenizer,
            dataset=Dataset.from_dict(rows),
            recipe=recipe,
            max_seq_length=token_ids.shape[1],
            num_calibration_samples=len(token_ids),
            shuffle_calibration_samples=False,
            batch_size=batch_size,
        )
    model.module.eval()
    for warning in warnings:
        log.warning("llm-compressor: %s", warning)
    return warnings


def package_faults() -> list[str]:
    """Faults with the package to install where llm-compressor is missing."""
    if importlib.util.find_spec(PACKAGE) is None:
        return ["llm-compressor is not installed: .venv/bin/pip install --constraint constraints.txt -e '.[peers]'"]
    return []


def package_notes(warnings: list[str]) -> dict[str, Any]:
    """Notes on a run for the report: the package's version and its warnings."""
    return {PACKAGE: metadata.version(PACKAGE)} | ({"warnings": warnings} if warnings else {})


def import_quietly() -> None:
    """Its first import says on standard output that there is no accelerator, among what a command prints."""
    if PACKAGE in sys.modules:
        return
    os.environ[LOG_DISABLED] = "true"
    try:
        import_module(PACKAGE)
    finally:
        del os.environ[LOG_DISABLED]


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collect its warnings and errors, each once, and keep its log, a line for every layer, out of the job's."""
    from llmcompressor.logger import LoggerConfig, configure_logger
    from loguru import logger

    found: dict[str, None] = {}

    def collect(message: Any) -> None:
        record = message.record
        if record["level"].name != "METRIC" and not record["message"].startswith(USUAL):
            found[record["message"]] = None

    configure_logger(LoggerConfig(console_log_level=None))
    handler, warnings = logger.add(collect, level="WARNING"), []
    try:
        yield warnings
    finally:
        logger.remove(handler)
        warnings += found


@contextmanager
def _no_trace(module: nn.Module) -> Iterator[None]:
    """Take off the model, and out of this process, what a run leaves there: it would keep every model alive."""
    from compressed_tensors.offload import remove_dispatch
    from llmcompressor.core import reset_session
    from torch.fx import _symbolic_trace

    own = {part: set(vars(part)) for part in module.modules()}
    patches, environment = _symbolic_trace._wrapped_fns_to_patch, "TOKENIZERS_PARALLELISM"
    before, parallelism = dict(patches), os.environ.get(environment)
    try:
        yield
    finally:
        remove_dispatch(module)
        for part in module.modules():
            for name in set(vars(part)) - own.get(part, set()):
                delattr(part, name)
        reset_session()
        patches.clear()
        patches.update(before)
        if parallelism is None:
            os.environ.pop(environment, None)


@contextmanager
def _readable_config(module: nn.Module) -> Iterator[None]:
    """It reads the config again from where the model says it came from; a model made in memory has no such place."""
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
