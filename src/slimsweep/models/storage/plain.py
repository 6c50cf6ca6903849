"""Config from which plain transformers builds a model as it is now, where there is one."""

import copy
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn

from slimsweep.linear.base import layer_shape, linear_forms
from slimsweep.models import anatomy
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.placement import loading


def plain_config(model: LanguageModel) -> Any | None:
    """The config from which transformers builds exactly this model; None where there is none."""
    shape, config, heads = anatomy.shape_of(model), copy.deepcopy(model.config), 0
    for stack, of_stack in zip(model.family.stacks, model.stack_ranges, strict=True):
        if len({shape.blocks[index] for index in of_stack}) != 1:
            return None
        block = shape.blocks[of_stack[0]]
        heads = block.heads
        setattr(config, stack.heads_field, heads)
        if stack.neurons_field:
            setattr(config, stack.neurons_field, block.neurons)
        if hasattr(config, model.family.key_value_heads_field):
            setattr(config, model.family.key_value_heads_field, block.key_value_heads)
    if model.family.scales_embeddings and shape.channels != config.hidden_size:
        return None
    width = anatomy.head_width(model)
    config.hidden_size = shape.channels
    is_derived = isinstance(getattr(type(config), "head_dim", None), property)  # Falcon's: width over heads
    if not is_derived and (width * heads != shape.channels or getattr(config, "head_dim", None) is not None):
        config.head_dim = width  # families that do not know this field build another shape, which is found below
    try:
        config.validate()  # Llama's, for one, wants a width that the number of heads divides
        built = loading.build(config, model.task, torch.float32, torch.device("meta"), remote_code=False)
    except (StrictDataclassError, ValueError, RuntimeError, ZeroDivisionError, TypeError):
        return None
    is_same = _shapes(built) == _shapes(model.module)
    return config if is_same and _head_widths(built, model) == _head_widths(model.module, model) else None


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor by name; of a form that of the weight it stands for."""
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    for name, layer in linear_forms(module).items():
        for stored in layer.storage:
            del shapes[f"{name}.{stored}"]
        shapes[f"{name}.weight"] = layer_shape(layer)
    return shapes


def _head_widths(module: nn.Module, model: LanguageModel) -> list[int]:
    like = LanguageModel(module=module, family=model.family, task=model.task)
    return [anatomy.head_width(like, index) for index in range(len(like.blocks))]
