"""Statistics and factors of an input that several layers read: summed once and prepared once."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import Tensor

from slimsweep.blockwise.activations import InputSum
from slimsweep.blockwise.layer_method import LayerMethod, StoredFactors
from slimsweep.errors import HessianError
from slimsweep.numerics.finite import refuse_non_finite
from slimsweep.numerics.hessian import squared_norm

ALONG = {"gram": {"squared_norm": squared_norm}}
"""Statistics summed in the same forwards for later jobs; beside the Gram matrix they cost next to nothing."""
SUM = "sum"

Groups = list[tuple[list[str], dict[str, Tensor]]]
"""Layers that share an input, and tensors of that input by name."""


class KeptBlocks(Protocol):
    """Tensors of earlier jobs, by block."""

    seconds: float
    """Seconds that computing the tensors of a block took, on average."""

    def of(self, index: int, device: torch.device) -> Groups:
        """The tensors of one block on a device."""


class BlockKeeper(Protocol):
    """Takes tensors block by block, for later jobs."""

    def write(self, index: int, groups: Groups, seconds: float) -> None:
        """Keep tensors of a block, which took so long to compute."""


class Prepared:
    """Lazy result of `prepare` for one input; layers that are compressed in parallel may ask for it at once."""

    def __init__(self, method: LayerMethod, shared: InputSum):
        """Take the sum over; where there is one, the method is an InputStatistic and prepares it.

        Raises:
            ModelError: what was collected is not finite.
        """
        refuse_inputs(shared)
        self.layers = shared.layers
        self.seconds = 0.0
        """Seconds that `prepare` took."""
        self.numbers = 0 if shared.summed is None else shared.summed.numel()
        """Numbers in the sum; the time of `prepare` grows with them."""
        self._method, self._summed = method, shared.summed
        shared.summed = None  # so that it can be freed when it is prepared
        self._lock, self._result, self._failed = threading.Lock(), None, None

    @classmethod
    def ready(cls, layers: list[str], result: Any) -> "Prepared":
        """Wrap a result that was prepared before."""
        made = cls.__new__(cls)
        made.layers, made.seconds, made.numbers = layers, 0.0, 0
        made._method, made._summed, made._lock = None, None, threading.Lock()
        made._result, made._failed = result, None
        return made

    def __call__(self) -> Any:
        """None where there is no sum.

        Raises:
            HessianError: naming the layers.
        """
        with self._lock:
            if self._failed:
                raise self._failed
            if self._summed is not None:
                started = time.perf_counter()
                try:
                    self._result, self._summed = self._method.prepare(self._summed), None
                except HessianError as error:
                    self._failed = HessianError(
                        f"Hessian of {', '.join(self.layers)}: {error}. Use more calibration text or exclude these "
                        "layers."
                    )
                    raise self._failed from error
                self.seconds = time.perf_counter() - started
            return self._result


def refuse_inputs(shared: InputSum) -> None:
    """Raise ModelError where what was collected of some inputs is not finite."""
    if shared.summed is not None:
        refuse_non_finite(shared.summed, inputs_clause(shared.layers), "compress less")


def inputs_clause(layers: Iterable[str]) -> str:
    """Subject of an error about statistics of inputs that are not finite."""
    return f"The calibration inputs of {', '.join(layers)} are not finite"


class Shared:
    """Statistics and factors of a method's inputs: read from a cache if known, else computed, and written if asked."""

    def __init__(self, method: LayerMethod):
        self.method = method
        self._factors = method if isinstance(method, StoredFactors) else None
        self.known: dict[str, KeptBlocks] = {}
        self.writers: dict[str, BlockKeeper] = {}
        self._seconds = 0.0
        """Seconds that summing over a block's inputs took."""

    @property
    def is_known(self) -> bool:
        """Whether no inputs need be collected."""
        return bool(self.known)

    def read(self, index: int, device: torch.device) -> list[Prepared]:
        """Read the cached statistics or factors of a block, to a device."""
        if self._factors and (result := self.known.get(self._factors.prepared_name)):
            groups = result.of(index, device)
            return [Prepared.ready(layers, self._factors.from_tensors(tensors)) for layers, tensors in groups]
        known = self.known[self.method.statistic_name]
        groups, self._seconds = known.of(index, device), known.seconds
        return [Prepared(self.method, InputSum(layers, tensors[SUM])) for layers, tensors in groups]

    def sum(self, index: int, collect: Callable[..., tuple[list[InputSum], float]]) -> list[Prepared]:
        """A block's sums.

        Args:
            collect: of a statistic and what merges two of them; returns the sums, and the seconds they took.
        """
        along = ALONG.get(self.method.statistic_name, {})
        every = {self.method.statistic_name: self.method.statistic}
        every |= {name: along[name] for name in self.writers if name in along}
        tuples, self._seconds = collect(lambda inputs: tuple(part(inputs) for part in every.values()), _add)
        for place, name in enumerate(every):
            self._write(name, index, [(shared.layers, {SUM: shared.summed[place]}) for shared in tuples], self._seconds)
        return [Prepared(self.method, InputSum(shared.layers, shared.summed[0])) for shared in tuples]

    def keep(self, index: int, every: list[Prepared]) -> None:
        """Keep what was prepared for a block."""
        if self._factors and self._factors.prepared_name in self.writers:
            groups = [(prepared.layers, self._factors.to_tensors(prepared())) for prepared in every]
            # A job that reads the factors sums nothing: their cost includes that of the sums.
            seconds = self._seconds + sum(prepared.seconds for prepared in every)
            self._write(self._factors.prepared_name, index, groups, seconds)

    def _write(self, name: str, index: int, groups: Groups, seconds: float) -> None:
        if name in self.writers:
            self.writers[name].write(index, groups, seconds)


def statistic_bytes(statistic: Callable[[Tensor], Tensor], widths: Iterable[int]) -> int:
    """Bytes of the statistics of inputs with these widths, if no two layers share an input."""
    counts = Counter(widths)
    return sum(count * statistic(torch.empty(1, width, device="meta")).nbytes for width, count in counts.items())


def prepared_bytes(statistics: int, widths: Iterable[int]) -> int:
    """Bytes of the prepared factors: the statistics' size plus an fp32 scale and an int64 index per input."""
    return statistics + 12 * sum(widths)


def _add(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(a.add_(b) for a, b in zip(one, other, strict=True))
