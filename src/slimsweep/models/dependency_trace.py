"""Trace of one forward: the modules that read the output of each norm and linear layer."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from slimsweep.linear.base import is_linear, layer_shape
from slimsweep.models.language_model import LanguageModel

READS = {Tensor.__bool__: bool, Tensor.__int__: int, Tensor.__float__: float, Tensor.__index__: int, Tensor.item: int}
"""Operations that read the value of a tensor, and the type that Python expects from each."""


@dataclass
class Trace(TorchFunctionMode):
    """Who reads what in one forward, by identity of tensors."""

    maker: dict[str, str] = field(default_factory=dict)
    """Module that made the input of each linear layer, by the layer's name; layers without one are left out."""
    shared: set[str] = field(default_factory=set)
    """Modules whose output something else than a module of the blocks reads."""
    activations: dict[tuple[str, str], nn.Module] = field(default_factory=dict)
    """Modules without parameters by who made their input and by their own name."""
    _made: list[tuple[Tensor, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Tensors without values: code that decides by one, as a rope does by the highest position, reads a zero.
        if func in READS and args[0].is_meta:
            return READS[func](0)
        result = func(*args, **(kwargs or {}))
        if any(isinstance(part, Tensor) for part in (result if isinstance(result, tuple | list) else (result,))):
            self.shared.update(name for value in (*args, *(kwargs or {}).values()) if (name := self.made_by(value)))
        return result

    def made_by(self, value: Any) -> str | None:
        if isinstance(value, tuple | list):
            return next((name for part in value if (name := self.made_by(part))), None)
        return next((name for tensor, name in self._made if tensor is value), None)

    def made(self, name: str, output: Any) -> None:
        if isinstance(output, Tensor):
            self._made.append((output, name))

    def passes_scale(self, maker: str, reader: str) -> bool:
        """True if a scale passes from one layer to the other: directly, or through an activation such as ReLU."""
        between = self.maker.get(reader)
        activation = self.activations.get((maker, between)) if between else None
        values = torch.linspace(-4, 4, 65)
        return between == maker or (
            activation is not None and torch.allclose(activation(8 * values), 8 * activation(values))
        )


@torch.no_grad()
def trace(model: LanguageModel) -> Trace:
    """One forward of two tokens, in which linear layers of the blocks only say what they read."""
    device = "meta" if model.is_meta else model.compute_device
    seen = Trace()
    ids = torch.zeros(1, 2, dtype=torch.long, device=device)
    # Both are given, since what makes them by itself reads values, which there are none of on the meta device.
    mask, positions = torch.zeros(1, 1, 2, 2, dtype=model.dtype, device=device), ids
    if model.has_alibi:  # which is made from a mask of tokens
        mask = torch.ones_like(ids)
    with contextlib.ExitStack() as stack:
        for prefix, block in zip(model.block_names, model.blocks, strict=True):
            for name, module in block.named_modules():
                if not is_linear(module) and next(module.children(), None) is None:
                    stack.enter_context(_watched(f"{prefix}.{name}", module, seen))
            for name, layer in model.linears(block).items():
                stack.enter_context(_stubbed(f"{prefix}.{name}", layer, seen))
        with seen:
            if model.family.encoder is None:
                model.module.base_model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
            else:
                mask = torch.zeros(1, 1, 2, 2, dtype=model.dtype, device=device)
                states = model.module.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
                model.module.get_decoder()(
                    input_ids=ids,
                    attention_mask=mask,
                    encoder_hidden_states=states,
                    encoder_attention_mask=mask,
                    use_cache=False,
                )
    return seen


@contextlib.contextmanager
def _watched(name: str, module: nn.Module, seen: Trace) -> Iterator[None]:
    """Note what a norm or an activation makes, and of what."""

    def after_forward(_module: nn.Module, args: tuple, output: Any) -> None:
        if args and next(module.parameters(), None) is None and (maker := seen.made_by(args[0])):
            seen.activations[maker, name] = module
        seen.made(name, output)

    handle = module.register_forward_hook(after_forward)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def _stubbed(name: str, layer: nn.Module, seen: Trace) -> Iterator[None]:
    """Let a linear layer note what it reads and answer with zeros."""
    own = vars(layer).get("forward")

    def forward(inputs: Tensor) -> Tensor:
        if maker := seen.made_by(inputs):
            seen.maker[name] = maker
        output = torch.zeros(*inputs.shape[:-1], layer_shape(layer)[0], dtype=inputs.dtype, device=inputs.device)
        seen.made(name, output)
        return output

    layer.forward = forward
    try:
        yield
    finally:
        del layer.forward
        if own is not None:
            layer.forward = own
