"""Base of every metric: faults and digests before weights load, values after."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from slimsweep.evaluation.outcomes import Outcomes
from slimsweep.evaluation.quantity import Quantity


@dataclass
class Measurement:
    """Record fields a metric has measured; a null always has its reason."""

    values: dict[str, int | float | None] = field(default_factory=dict)
    """Numbers by record field, units in the names. Non-finite ones become None."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Reason why a value is None, by field."""
    protocols: dict[str, str] = field(default_factory=dict)
    """Protocol of each value, as text; two values with different protocols are not comparable."""
    outcomes: dict[str, Outcomes] = field(default_factory=dict)
    """Contribution of each item, by field, where the metric tells it; kept beside the record."""

    def __post_init__(self) -> None:
        for name, value in self.values.items():
            if isinstance(value, float) and not math.isfinite(value):
                self.values[name] = None
                self.reasons.setdefault(name, f"not finite: {value}")
            elif value is None:
                self.reasons.setdefault(name, "not measured")


def together(measurements: Iterable[Measurement]) -> Measurement:
    """One measurement with the fields of several."""
    found = Measurement()
    for one in measurements:
        found.values |= one.values
        found.reasons |= one.reasons
        found.protocols |= one.protocols
        found.outcomes |= one.outcomes
    return found


@dataclass(frozen=True)
class Base:
    """The base of an experiment: its dense model after the leading stages that make a base."""

    folder: Path
    """Folder of the cache for what is kept of this base, named by its key."""
    load: Callable[[], Any]
    """Makes the LanguageModel; called only where something of it is not kept yet."""
    tokenizer: Any


@runtime_checkable
class Reader(Protocol):
    """Looks at the logits of every scored place, in the order of the text, while another metric scores them."""

    seconds: float
    """Time that it took so far."""

    def read(
        self,
        logits: Float[Tensor, "place vocabulary"],
        targets: Int[Tensor, " place"],
        nll: Float[Tensor, " place"],
    ) -> None:
        """Take in the next places; `nll` is the negative log-likelihood of the targets, in nats and fp32."""


@dataclass(frozen=True, kw_only=True)
class Metric(ABC):
    """Measurement of one or several quantities; its knobs are the fields of its dataclass."""

    version: ClassVar[int] = 1
    """Raised by hand when results change."""
    needs_weights: ClassVar[bool] = True
    """False: shapes alone are enough, so the metric is measured on the meta device too."""
    depends_on_values: ClassVar[bool] = True
    """False: shapes, storage, dtype and the machine decide the result, which models of equal shapes then share."""
    declares: ClassVar[tuple[Quantity, ...]] = ()
    """Quantities that any instance can measure, `*` for a corpus or task. Older records are read by them."""
    needs_base: ClassVar[bool] = False
    """True: `keep_base(corpora, base)` is called before the model is made, and `measure` and `reader` are given the
    Base after the corpora."""
    compared: ClassVar[tuple[str, ...]] = ()
    """Fields that `compare` measures; where there are none it is not called."""

    def parts(self) -> list["Metric"]:
        """One metric for each text or task, measured and kept by itself: asking for one more measures only that."""
        return [self]

    def faults(self, source: Any, corpora: Any) -> list[str]:
        """Everything wrong with measuring this on a ModelSource with these Corpora, known without weights."""
        return []

    def digests(self, corpora: Any) -> dict[str, str]:
        """Digests of the texts that decide the result, by name; they stand in the measurement's identity."""
        return {}

    def texts(self, corpora: Any) -> Iterable[str]:
        """Texts that are measured on, to be compared with those that a stage trains on."""
        return ()

    @abstractmethod
    def quantities(self) -> list[Quantity]:
        """Quantities that `measure` and `compare` fill, by the names of their fields."""

    @abstractmethod
    def measure(self, model: Any, corpora: Any) -> Measurement:
        """Measure a LanguageModel. Changes nothing about it."""

    def carrier(self) -> "Metric | None":
        """The metric whose forward this one reads along with, where both are measured; None: it runs its own.

        That metric's `measure` takes readers after the corpora, and this one gives them by `reader(model, corpora,
        base)`.
        """
        return None

    def working_bytes(self, token_bytes: int) -> int:
        """Approximate bytes of its largest forward, in plans of memory; 0 where it runs none.

        Args:
            token_bytes: of one token in a forward.
        """
        return 0

    def compare(self, dense: Any, model: Any) -> Measurement:
        """Measure what only shows beside the dense model, where layers have changed their shape."""
        return Measurement()


def other_task_fault(source: Any, quantity: str) -> str:
    """Fault of a quantity of decoders that a model of another task was asked for, with the profile that it has."""
    profile = "evaluation=cost"
    if source.task == "seq2seq_lm":
        profile = "evaluation=pairs evaluation.metrics.pair_perplexity.path=FILE"
    return f"{quantity} needs a language model, and model {source.name} has model.task={source.task}: set {profile}"
