"""Importance of a layer's inputs: their mean square over the calibration text, as llama.cpp's imatrix holds it."""

import torch
from jaxtyping import Float
from torch import Tensor

from slimsweep.blockwise.walk import Visit, Walk
from slimsweep.models.batches import Batch, token_mask
from slimsweep.models.language_model import LanguageModel
from slimsweep.numerics.hessian import squared_norm


def importance(model: LanguageModel, batch: Batch) -> dict[str, Float[Tensor, " in"]]:
    """Mean square of each input of every linear layer of the blocks, by the layer's full name; padding left out."""
    mask = token_mask(batch)
    tokens = batch["input_ids"].numel() if mask is None else int(mask.sum())

    def treat(visit: Visit) -> list[tuple[str, Tensor]]:
        block = model.block_names[visit.index]
        sums = visit.collect(model.linears(visit.block), squared_norm)
        return [(f"{block}.{layer}", entry.summed.cpu() / tokens) for entry in sums for layer in entry.layers]

    found = Walk(title="importance of inputs", batch=batch, propagation="dense").run(model, treat)
    return dict(found)


def usable(values: Float[Tensor, " in"]) -> Float[Tensor, " in"]:
    """Importance for a packer: an input that no text reached weighs a little instead of nothing, NaN is refused.

    Raises:
        ValueError: values that are not finite.
    """
    if not bool(torch.isfinite(values).all()):
        raise ValueError("inputs that are not finite")
    return values.float().clamp(min=float(values.mean()) * 1e-6 or 1.0)
