"""Latency of one example: the time that a model takes to label it, or to read it and write an answer."""

import statistics
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from slimsweep.checks import refuse, whole_number_faults
from slimsweep.evaluation.base import Measurement, Metric
from slimsweep.evaluation.quantity import Quantity
from slimsweep.evaluation.speed import IN_A_FILE, timed_run
from slimsweep.models.batch_sizes import longest_context
from slimsweep.models.batches import to_device
from slimsweep.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Latency(Metric):
    """Seconds of one example in a batch of one: median of repeats after warm-ups. Tokenization is not in it.

    A classifier runs one forward. A model that generates reads the example and writes `new_tokens` greedy tokens with
    its cache. It goes on past an end token, so that models of equal shapes take equally long.
    """

    depends_on_values: ClassVar[bool] = False
    declares: ClassVar[tuple[Quantity, ...]] = (
        Quantity(
            field="latency_seconds",
            kind="latency",
            label="latency per example",
            unit="s",
            higher_is_better=False,
            group="cost",
            heading="latency ms",
            format=".2f",
            divisor=1e-3,
            place=43,
            varies=True,
        ),
    )

    tokens: int = 32
    """Tokens of the example."""
    new_tokens: int = 16
    """Tokens that a generating model writes."""
    repeats: int = 20
    """Measurements after the warm-ups; their median counts."""
    warm_ups: int = 3

    def __post_init__(self) -> None:
        names = ("tokens", "new_tokens", "repeats", "warm_ups")
        where = "evaluation.metrics.latency"
        refuse([fault for name in names for fault in whole_number_faults(f"{where}.{name}", getattr(self, name))])

    def quantities(self) -> list[Quantity]:
        return list(self.declares)

    def faults(self, source: Any, corpora: Any) -> list[str]:
        longest = longest_context(source.config())
        needed = self.tokens + (self.new_tokens if source.task == "causal_lm" else 0)
        if source.task == "seq2seq_lm":
            needed = max(self.tokens, self.new_tokens + 1)
        if longest is None or needed <= longest:
            return []
        return [
            f"latency of {self.tokens} tokens and {self.new_tokens} new ones, but this model takes {longest}: set a "
            "smaller evaluation.metrics.latency.tokens or new_tokens"
        ]

    @torch.no_grad()
    def measure(self, model: LanguageModel, corpora: Any) -> Measurement:
        """`latency_seconds`."""
        if model.scratch:
            return Measurement({"latency_seconds": None}, {"latency_seconds": IN_A_FILE})
        prompt = to_device(model.task.zeros(self.tokens), model.compute_device)
        runs = [sum(timed_run(model, prompt, self.new_tokens)) for _ in range(self.warm_ups + self.repeats)]
        written = f"+{self.new_tokens}" if model.task.generates else ""
        protocol = f"latency:1x{self.tokens}{written}:median of {self.repeats} after {self.warm_ups}"
        return Measurement(
            {"latency_seconds": statistics.median(runs[self.warm_ups :])}, protocols={"latency_seconds": protocol}
        )

    def working_bytes(self, token_bytes: int) -> int:
        return self.tokens * token_bytes
