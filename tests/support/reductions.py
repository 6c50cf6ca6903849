"""Small models of every family in which each part shows in the logits, and the same ones with parts removed."""

import torch
from family_shapes import DECODERS, ENCODER_DECODERS, ENCODERS, FIXED_HEADS, task_of
from torch import Tensor

from slimsweep.models import anatomy, surgery
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.sources.random import RandomModel

CPU = torch.device("cpu")
EVERY = DECODERS | ENCODERS
WITHOUT_HEADS = [name for name in EVERY if name not in FIXED_HEADS]
"""Families whose blocks can lose heads."""


def loud(name: str, cache_dir: str, dtype: torch.dtype = torch.float32, **shape) -> LanguageModel:
    """A random model whose attention is far from uniform and whose biases and norms are no constants."""
    source = RandomModel(
        name=name, shape=(EVERY | ENCODER_DECODERS)[name] | shape, task=task_of(name), cache_dir=cache_dir
    )
    model = source.load(dtype, CPU)
    generator = torch.Generator().manual_seed(1)
    matrices = {id(layer.weight) for layer in model.targets().values()}
    for parameter in model.module.parameters():
        if id(parameter) in matrices:
            parameter *= 10
        elif parameter.ndim == 1:
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator).to(dtype)
    return model


def token_ids(tokens: int = 20) -> Tensor:
    return torch.randint(3, 250, (2, tokens), generator=torch.Generator().manual_seed(0))


def logits(model: LanguageModel | torch.nn.Module) -> Tensor:
    module = model.module if isinstance(model, LanguageModel) else model
    with torch.no_grad():
        return module(token_ids()).logits


def remove_units(model: LanguageModel, heads: list[list[int]], neurons: list[list[int]]) -> LanguageModel:
    """Remove each block's own heads, where the family lets them go, and neurons."""
    for index in range(len(model.blocks)):
        if not model.has_alibi:
            surgery.remove(model, anatomy.heads(model, index), heads[index])
        surgery.remove(model, anatomy.neurons(model, index), neurons[index])
    return model


def uneven(model: LanguageModel) -> LanguageModel:
    """Another width in each of two blocks, of heads and of neurons."""
    return remove_units(model, [[0], []], [[1, 5], [0, 7, 8, 20]])
