"""Weights in host memory, one block at a time on the compute device."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


class Offload:
    """Moves each block to the compute device for its forward and back, by hooks on the blocks."""

    def __init__(self, compute_device: torch.device):
        self.compute_device = compute_device
        self._handles: list = []
        self._visiting: dict[nn.Module, list[tuple[nn.Parameter, torch.Tensor]]] = {}
        self._resident: set[nn.Module] = set()

    def install(self, module: nn.Module, blocks: list[nn.Module]) -> None:
        """Move all but the blocks' weights to the compute device and hook the blocks."""
        travelling = {id(parameter) for block in blocks for parameter in block.parameters()}
        for parameter in module.parameters():
            if id(parameter) not in travelling:
                parameter.data = parameter.data.to(self.compute_device)  # .data, so that tied weights stay tied
        for part in module.modules():
            for name, buffer in part.named_buffers(recurse=False):
                part._buffers[name] = buffer.to(self.compute_device)
        for block in blocks:
            self._handles.append(block.register_forward_pre_hook(self._arrive))
            self._handles.append(block.register_forward_hook(self._leave, always_call=True))

    def remove(self) -> None:
        """Take the hooks off; the weights stay where they are."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @contextlib.contextmanager
    def resident(self, block: nn.Module) -> Iterator[None]:
        """Keep a block on the compute device; its weights, changed or not, return to the host at the end."""
        if block in self._resident:
            yield
            return
        _move(block, self.compute_device)
        self._resident.add(block)
        try:
            yield
        finally:
            self._resident.discard(block)
            _move(block, torch.device("cpu"))

    def _arrive(self, block: nn.Module, _args: tuple) -> None:
        if block in self._resident:
            return
        # A forward only reads, so the host tensors are kept and put back instead of being copied.
        self._visiting[block] = [(part, part.data) for part in block.parameters()]
        for parameter in block.parameters():
            parameter.data = parameter.data.to(self.compute_device, non_blocking=True)

    def _leave(self, block: nn.Module, _args: tuple, _output: object) -> None:
        for parameter, on_host in self._visiting.pop(block, []):
            parameter.data = on_host


def _move(block: nn.Module, device: torch.device) -> None:
    for parameter in block.parameters():
        parameter.data = parameter.data.to(device)
