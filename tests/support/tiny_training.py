"""Training stages in tests: a small model with learnable text, in seconds."""

import torch
from family_shapes import random_model

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.data.training import TrainingSet
from slimsweep.models.language_model import LanguageModel

WINDOW = 16
CPU = torch.device("cpu")


def tiny_llama(folder, family: str = "llama") -> LanguageModel:
    """A random Llama of two blocks in fp32, or a model of another family."""
    return random_model(family, str(folder)).load(torch.float32, CPU)


def counting_windows(vocabulary: int, count: int) -> list[torch.Tensor]:
    """Windows in which each token is the one before plus a step of one to three: learnable, and not at once."""
    chance = torch.Generator().manual_seed(7)
    starts = torch.randint(0, vocabulary, (count, 1), generator=chance)
    steps = torch.randint(1, 4, (count, 1), generator=chance)
    return list((starts + steps * torch.arange(WINDOW)) % vocabulary)


def text_batch_of(windows) -> dict[str, torch.Tensor]:
    ids = torch.stack(list(windows))
    return {"input_ids": ids, "labels": ids}


def counting_data(model: LanguageModel, count: int = 48) -> TrainingSet:
    """Counting windows for a model, the last eight for validation."""
    windows = counting_windows(min(32, model.config.vocab_size), count)
    return TrainingSet(windows[:-8], windows[-8:], text_batch_of, "counting")


def training_context(model: LanguageModel, seed: int = 0, work_dir=None, teacher=None, count: int = 48) -> StageContext:
    return StageContext(data=counting_data(model, count), seed=seed, work_dir=work_dir, teacher=teacher)


FAST = {"tokens": 16 * 4 * 12, "batch_sequences": 4, "evaluations": 3, "learning_rate": 1e-2}
"""Twelve steps of four windows."""
