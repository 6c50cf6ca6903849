"""A block run once, halted wherever layers are to be compressed, so that each sees all compressed layers before it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet
from torch import Tensor, nn

from slimsweep.blockwise.activations import Activations, InputSum


def by_group(
    activations: Activations,
    index: int,
    layers: dict[str, nn.Module],
    replaced: Callable[[str], nn.Module],
    statistic: Callable[[Tensor], Tensor],
    is_last: bool,
) -> Iterator[InputSum]:
    """Yield what the inputs of the next layers sum to, in forward order; the consumer compresses these meanwhile.

    Layers given the very same tensor are one group. All batches halt before the group, then go on through the layers
    as the consumer has left them. A block's forward is so computed once and not twice. In the end the block's outputs
    are the inputs of the next block, but for the last. Memory: the fullest point of a forward of all sequences.

    Args:
        replaced: a layer of this name as it is now.
    Raises:
        ModelError: a layer that no token reached.
    Source: the option true-sequential of GPTQ's reference code; arXiv:2210.17323 itself compresses block by block.
    """
    groups = activations.groups(index, layers)
    halts = [group[0] for group in groups]
    with _halting({name: layers[name] for name in halts}, replaced):
        parts, runs = zip(*((part, greenlet(run)) for part, run in activations.runs(index)), strict=True)
        try:
            for place, group in enumerate(groups):
                summed: Any = None
                for part, run in zip(parts, runs, strict=True):
                    value = statistic(part.rows(run.switch()))
                    summed = value if summed is None else summed.add_(value)
                yield InputSum(group, summed)
                if is_last and place == len(groups) - 1:
                    return
            for run in runs:
                run.switch()
        finally:
            for run in runs:
                if not run.dead:
                    run.throw(GreenletExit)


@contextmanager
def _halting(layers: dict[str, nn.Module], replaced: Callable[[str], nn.Module]) -> Iterator[None]:
    """Let the forward of each layer hand its inputs over to whoever runs it, before it computes."""

    def halted(name: str, layer: nn.Module) -> Callable[[Tensor], Tensor]:
        forward = layer.forward

        def handing_over(inputs: Tensor) -> Tensor:
            getcurrent().parent.switch(inputs)
            now = replaced(name)
            return forward(inputs) if now is layer else now(inputs)

        return handing_over

    for name, layer in layers.items():
        layer.forward = halted(name, layer)
    try:
        yield
    finally:
        for layer in layers.values():
            del layer.forward
