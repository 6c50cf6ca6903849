"""Speed of one sequence: reading a prompt, and generating token by token from the key-value cache."""

import statistics
import time
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from slimsweep.checks import refuse, whole_number_faults
from slimsweep.evaluation.base import Measurement, Metric
from slimsweep.evaluation.quantity import Quantity
from slimsweep.models.batch_sizes import longest_context
from slimsweep.models.batches import Batch, to_device
from slimsweep.models.language_model import LanguageModel

IN_A_FILE = "weights rest in a file (memory_budget), so that this would be the speed of reading them"


@dataclass(frozen=True, kw_only=True)
class Speed(Metric):
    """Seconds of a prefill and tokens per second of a decode: warmed up, median of repeats."""

    depends_on_values: ClassVar[bool] = False
    compared: ClassVar[tuple[str, ...]] = ("speedup_prefill", "speedup_decode")
    declares: ClassVar[tuple[Quantity, ...]] = (
        Quantity(
            field="prefill_seconds",
            kind="latency",
            label="time of a prefill",
            unit="s",
            higher_is_better=False,
            varies=True,
        ),
        Quantity(
            field="decode_tokens_per_second",
            label="tokens per second",
            higher_is_better=True,
            group="cost",
            heading="tokens/s",
            format=".1f",
            place=40,
            varies=True,
        ),
        *(
            Quantity(
                field=f"speedup_{part}",
                label="times as fast as dense",
                higher_is_better=True,
                group="cost",
                kind="speedup",
                name=part,
                heading=f"{part} times as fast",
                format=".2f",
                place=place,
                varies=True,
            )
            for place, part in ((41, "prefill"), (42, "decode"))
        ),
    )

    prompt_tokens: int = 64
    """Tokens read at once; an encoder-decoder reads them as its source, with the first token of its target."""
    new_tokens: int = 16
    """Tokens generated one at a time after the prompt."""
    repeats: int = 3
    """Measurements after the warm-up; their median counts."""

    def __post_init__(self) -> None:
        names = ("prompt_tokens", "new_tokens", "repeats")
        refuse([fault for name in names for fault in whole_number_faults(f"evaluation.{name}", getattr(self, name))])

    def quantities(self) -> list[Quantity]:
        return list(self.declares)

    def faults(self, source: Any, corpora: Any) -> list[str]:
        longest, needed = longest_context(source.config()), self.prompt_tokens + self.new_tokens
        if longest is None or needed <= longest:
            return []
        return [
            f"{self.prompt_tokens} prompt and {self.new_tokens} new tokens, but this model takes {longest} together: "
            "set a smaller evaluation.prompt_tokens or evaluation.new_tokens"
        ]

    @torch.no_grad()
    def measure(self, model: LanguageModel, corpora: Any) -> Measurement:
        """`prefill_seconds` and `decode_tokens_per_second`; the latter null for a model that does not generate."""
        if model.scratch:
            names = [one.field for one in self.declares if one.field not in self.compared]
            return Measurement(dict.fromkeys(names), dict.fromkeys(names, IN_A_FILE))
        prompt = self._prompt(model)
        runs = [self._run(model, prompt) for _ in range(self.repeats + 1)][1:]  # the first one warms up
        prefill, decode = (statistics.median(seconds) for seconds in zip(*runs, strict=True))
        shape = f"1x{self.prompt_tokens}:median of {self.repeats}"
        generates = model.task.generates
        return Measurement(
            {
                "prefill_seconds": prefill,
                "decode_tokens_per_second": self.new_tokens / decode if generates else None,
            },
            {} if generates else {"decode_tokens_per_second": "this model does not generate text"},
            {
                "prefill_seconds": f"prefill:{shape}",
                "decode_tokens_per_second": f"decode:{self.new_tokens} tokens after {shape}",
            },
        )

    @torch.no_grad()
    def compare(self, dense: LanguageModel, model: LanguageModel) -> Measurement:
        """`speedup_prefill` and `speedup_decode`: dense time over compressed time, both alternating in this process."""
        prompt = self._prompt(model)
        runs = [(self._run(dense, prompt), self._run(model, prompt)) for _ in range(self.repeats + 1)][1:]
        prefill, decode = (
            statistics.median(slow[part] for slow, _ in runs) / (statistics.median(fast[part] for _, fast in runs) or 1)
            for part in (0, 1)
        )
        generates = model.task.generates
        shape = f"1x{self.prompt_tokens}:medians of {self.repeats} alternating runs"
        return Measurement(
            {"speedup_prefill": prefill, "speedup_decode": decode if generates else None},
            {} if generates else {"speedup_decode": "this model does not generate text"},
            {
                "speedup_prefill": f"prefill:{shape}",
                "speedup_decode": f"decode:{self.new_tokens} tokens after {shape}",
            },
        )

    def _prompt(self, model: LanguageModel) -> Batch:
        return to_device(model.task.zeros(self.prompt_tokens), model.compute_device)

    @torch.no_grad()
    def prefill_seconds(self, model: LanguageModel, prompt: Batch) -> float:
        """Seconds of one forward over a prompt."""
        return self._run(model, prompt)[0]

    def _run(self, model: LanguageModel, prompt: Batch) -> tuple[float, float]:
        return timed_run(model, prompt, self.new_tokens)

    def working_bytes(self, token_bytes: int) -> int:
        return self.prompt_tokens * token_bytes


@torch.no_grad()
def timed_run(model: LanguageModel, prompt: Batch, new_tokens: int) -> tuple[float, float]:
    """Seconds of one forward over a prompt that fills the cache, and of greedy steps after it.

    The steps are taken whether or not a token ends the text, which `models/generation.py` would stop at.
    """
    started = _now(model)
    output = model.module(**model.task.prefill_inputs(prompt))
    prefilled = _now(model)
    for _ in range(new_tokens if model.task.generates else 0):
        token = output.logits[:, -1:].argmax(dim=-1)
        output = model.module(**model.task.step_inputs(output, token))
    return prefilled - started, _now(model) - prefilled


def _now(model: LanguageModel) -> float:
    """Seconds on a clock that counts only finished work."""
    if model.compute_device.type == "cuda":
        torch.cuda.synchronize(model.compute_device)
    return time.perf_counter()
