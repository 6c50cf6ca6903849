"""Training sets of token ids, for tests of techniques that train."""

import dataclasses

import torch

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.data.training import TrainingSet, padded_batch


def token_set(windows: torch.Tensor, validation: int = 4) -> TrainingSet:
    """Windows to train on, the last ones held out."""
    examples = [{"input_ids": ids, "labels": ids} for ids in windows.tolist()]
    return TrainingSet(examples[:-validation], examples[-validation:], lambda part: padded_batch(part, 0), "a test")


def training_context(windows: torch.Tensor, validation: int = 4, **fields) -> StageContext:
    """Context of a stage that trains on windows of tokens."""
    return dataclasses.replace(StageContext(data=token_set(windows, validation)), **fields)
