"""Contribution of each item to a measured quantity, so that two models are compared item by item."""

import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from slimsweep.hints import allowed_names


@dataclass(frozen=True)
class Outcomes:
    """Contribution of every item to one quantity, in the order of the items."""

    values: np.ndarray
    """[item] or [item, statistic]: float32, float64, uint8, int32 and the like."""
    aggregate: str
    """Name in AGGREGATES: how the rows become the quantity."""
    items: str
    """Digest of the items in order; outcomes of two models are paired only where it is equal."""

    def __post_init__(self) -> None:
        if self.aggregate not in AGGREGATES:
            raise ValueError(
                f"no aggregate {self.aggregate!r} of outcomes. {allowed_names(self.aggregate, AGGREGATES, 'Known')}"
            )
        if self.values.ndim not in (1, 2) or self.values.dtype.kind not in "biuf":
            shape = f"{self.values.dtype} of shape {self.values.shape}"
            raise ValueError(f"outcomes are numbers by item, or by item and statistic, not {shape}")

    @property
    def rows(self) -> np.ndarray:
        """Values as [item, statistic]."""
        return self.values[:, None] if self.values.ndim == 1 else self.values

    def score(self, chosen: np.ndarray | None = None) -> float:
        """The quantity of all items, or of the chosen ones (indices, repeats allowed)."""
        return AGGREGATES[self.aggregate](self.rows if chosen is None else self.rows[chosen])


def items_digest(parts: Iterable[bytes | str]) -> str:
    """SHA-256 of items in order, each told apart from the next."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def _mean(rows: np.ndarray) -> float:
    return float(rows[:, 0].mean(dtype=np.float64))


def _ratio(rows: np.ndarray) -> float:
    above, below = rows[:, :2].sum(axis=0, dtype=np.float64)
    return float(above / below)


def _exp_mean(rows: np.ndarray) -> float:
    nll = _ratio(rows)
    return math.inf if nll > math.log(1.7e308) else math.exp(nll)


def _bits(rows: np.ndarray) -> float:
    return _ratio(rows) / math.log(2)


def _bleu(rows: np.ndarray) -> float:
    from sacrebleu.metrics import BLEU

    # As sacrebleu's own bootstrap sums them; counts are whole numbers, which fp64 holds.
    sums = rows.sum(axis=0, dtype=np.float64).tolist()
    orders = (len(sums) - 2) // 2
    length, reference_length = int(sums[0]), int(sums[1])
    return BLEU.compute_bleu(sums[2 : 2 + orders], sums[2 + orders :], length, reference_length, "exp").score


def _chrf(rows: np.ndarray) -> float:
    from sacrebleu.metrics import CHRF

    sums = rows.sum(axis=0, dtype=np.float64).tolist()
    return CHRF(word_order=len(sums) // 3 - CHRF.CHAR_ORDER)._compute_f_score(sums)


def _f1(rows: np.ndarray) -> float:
    counts = rows.sum(axis=0, dtype=np.int64).reshape(-1, 3)
    right, wrong = 2 * counts[:, 0], counts[:, 1] + counts[:, 2]
    # A label that neither occurs nor is predicted has F1 0, as scikit-learn has it by default.
    return float((right / np.maximum(right + wrong, 1)).mean())


AGGREGATES: dict[str, Callable[[np.ndarray], float]] = {
    "mean": _mean,  # of one number an item: accuracy, ROUGE, METEOR
    "ratio": _ratio,  # sum of the first column over the sum of the second
    "exp_mean": _exp_mean,  # exp of that ratio: perplexity from NLL in nats and tokens
    "bits": _bits,  # that ratio from nats to bits: bits per byte from NLL and bytes
    "f1": _f1,  # tp, fp and fn of each label: mean F1 of the labels
    "bleu": _bleu,  # sacrebleu's statistics of a segment: lengths, matches, totals; smoothed by exp
    "chrf": _chrf,  # sacrebleu's statistics of a segment: three counts for each order
}
"""Functions from rows to a quantity, by name: sums over items, then a function of the sums."""
