"""True-sequential calibration of a block: each layer is calibrated on outputs of the compressed layers before it.

The usual way runs the block again for each group of layers that share an input. Here each forward runs only once. It is
a coroutine (a greenlet) that halts before each group, hands over the inputs of the group, and waits:

    part 1   inputs -> [q k v] -> attention -> [o] -> [gate up] -> [down] -> outputs      [..]: a halt
    part 2   inputs -> [q k v] -> attention -> [o] -> [gate up] -> [down] -> outputs

At a halt the statistic is summed over the parts of the batch, then the group is compressed. After that all parts go on,
through the compressed layers, to the next halt. The price is memory: all parts are inside the block at the same time.
"""

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
    """Yield the summed statistic of each group of layers, in forward order.

    The consumer compresses the layers of a group before it asks for the next sum. Layers that are given the very same
    tensor are one group. At the end the block's outputs become the inputs of the next block; a last block is not run
    to its end. Memory: the peak of a forward of all sequences.

    Args:
        replaced: gives the current layer of a name, after compression.
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
    """Make the forward of each layer switch to its parent greenlet with the inputs, before it computes."""

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
