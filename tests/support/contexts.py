"""Contexts of stages in tests."""

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.models.batches import text_batch


def text_context(token_ids=None, seed=0, statistics=None):
    """Context of a stage that is calibrated on text without padding."""
    return StageContext(None if token_ids is None else text_batch(token_ids), seed, statistics)
