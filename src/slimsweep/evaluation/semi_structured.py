"""Speed of 2:4 zeros in kernels that skip them, beside the same model in dense kernels."""

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from slimsweep.evaluation.base import Measurement, Metric
from slimsweep.evaluation.quantity import Quantity
from slimsweep.evaluation.speed import Speed
from slimsweep.linear.base import is_plain
from slimsweep.linear.orientation import is_transposed
from slimsweep.models.batches import to_device
from slimsweep.models.language_model import LanguageModel

FIELD = "speedup_prefill_semi_structured"
NO_CARD = "torch's 2:4 kernels need a CUDA card of compute capability 8.0 or above; CPUs have none that are faster"
NO_PATTERN = "no linear layer keeps two of every four neighbouring inputs"


@dataclass(frozen=True, kw_only=True)
class SemiStructured(Metric):
    """`speedup_prefill_semi_structured`: a prefill in dense kernels over one in sparse ones, both alternating.

    Both runs have the same weights; only how those with a 2:4 pattern are stored differs. Decoding is left out: one
    token at a time waits for memory, and torch pads it to what the kernels take.

    Source: torch.sparse.to_sparse_semi_structured; arXiv:2104.08378 for the pattern.
    """

    declares: ClassVar[tuple[Quantity, ...]] = (
        Quantity(
            field=FIELD,
            label="times as fast as dense",
            higher_is_better=True,
            kind="speedup",
            name="prefill_semi_structured",
            format=".2f",
            varies=True,
        ),
    )

    prompt_tokens: int = 512
    """Tokens read at once."""
    repeats: int = 5
    """Measurements after the warm-up; their median counts."""

    def quantities(self) -> list[Quantity]:
        return list(self.declares)

    def measure(self, model: LanguageModel, corpora: Any) -> Measurement:
        if not self.has_kernels(model.compute_device):
            return Measurement({FIELD: None}, {FIELD: NO_CARD})
        layers = [
            layer
            for layer in model.targets().values()
            if is_plain(layer) and not is_transposed(layer) and is_2_of_4(layer.weight)
        ]
        if not layers:
            return Measurement({FIELD: None}, {FIELD: NO_PATTERN})
        prompt = to_device(model.task.zeros(self.prompt_tokens), model.compute_device)
        speed = Speed(prompt_tokens=self.prompt_tokens, new_tokens=1, repeats=self.repeats)
        seconds: tuple[list[float], list[float]] = ([], [])
        try:
            for _ in range(self.repeats + 1):  # the first one warms up
                seconds[0].append(speed.prefill_seconds(model, prompt))
                with stored_sparse(layers):
                    seconds[1].append(speed.prefill_seconds(model, prompt))
        except RuntimeError as error:
            return Measurement({FIELD: None}, {FIELD: f"torch refuses these layers: {error}"})
        dense, sparse = (statistics.median(values[1:]) for values in seconds)
        protocol = f"prefill:1x{self.prompt_tokens}:medians of {self.repeats} alternating runs:{len(layers)} layers"
        return Measurement({FIELD: dense / sparse}, {}, {FIELD: protocol})

    def working_bytes(self, token_bytes: int) -> int:
        return self.prompt_tokens * token_bytes

    @staticmethod
    def has_kernels(device: torch.device) -> bool:
        """Whether torch has 2:4 kernels for a device."""
        return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def is_2_of_4(weight: Tensor) -> bool:
    """Whether of every four neighbouring inputs at least two are zero."""
    return weight.shape[1] % 4 == 0 and bool(((weight == 0).unflatten(1, (-1, 4)).sum(dim=2) >= 2).all())


@contextmanager
def stored_sparse(layers: list[nn.Linear]) -> Iterator[None]:
    """Hold layers' weights in torch's 2:4 form inside, and as they were after it."""
    before = [layer.weight for layer in layers]
    try:
        for layer in layers:
            sparse = torch.sparse.to_sparse_semi_structured(layer.weight.detach())
            layer.weight = nn.Parameter(sparse, requires_grad=False)
        yield
    finally:
        for layer, weight in zip(layers, before, strict=True):
            layer.weight = weight
