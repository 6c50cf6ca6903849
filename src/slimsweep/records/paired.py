"""Statistics of two models on the same items: differences with intervals, tests, equivalence, many tests at once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from slimsweep.evaluation.outcomes import Outcomes

SAMPLES, SEED = 1000, 12345
"""Resamples and seed of the paired bootstrap: those of sacrebleu."""
LEVEL = 0.95
"""Confidence of the interval that is shown."""
EQUIVALENCE_LEVEL = 0.90
"""Confidence of the interval that must lie within a margin: two one-sided tests at 5 % each."""
CORPUS_SCORES = ("bleu", "chrf")
"""Aggregates whose paired bootstrap sacrebleu has too."""
SUMS = ("ratio", "exp_mean", "bits")
"""Aggregates of windows or pairs of text: functions of a mean, compared by a paired t test."""


@dataclass(frozen=True)
class Paired:
    """Comparison of a second model with a first on the same items."""

    items: int
    better: int
    """Items on which the second is better; of questions, those that flipped from wrong to right."""
    worse: int
    same: int
    first: float
    second: float
    difference: float
    """Second less first."""
    low: float
    high: float
    """Ends of the interval of the difference at LEVEL."""
    inner: tuple[float, float]
    """Ends of the narrower interval at EQUIVALENCE_LEVEL."""
    p: float
    """Two-sided probability of a difference at least as large without any."""
    method: str
    """Test and interval in words."""
    sacrebleu_p: float | None
    """The p of sacrebleu's own paired bootstrap, about that of a one-sided test; None for other scores."""

    def is_within(self, margin: float) -> bool:
        """Whether the two are equivalent: the interval at EQUIVALENCE_LEVEL lies within ±margin."""
        return -margin < self.inner[0] and self.inner[1] < margin


def paired(first: Outcomes, second: Outcomes, higher_is_better: bool = True) -> Paired:
    """Compare outcomes of the same items.

    Right and wrong answers: McNemar's exact test. Perplexities and other ratios over windows: a paired t test. Anything
    else: the paired bootstrap.

    Raises:
        ValueError: they are of other items or another aggregate.
    """
    if first.items != second.items or first.aggregate != second.aggregate or len(first.rows) != len(second.rows):
        raise ValueError("outcomes of other items or another aggregate are not paired")
    a, b = by_item(first), by_item(second)
    better, worse = int((b > a).sum()), int((b < a).sum())
    if not higher_is_better:
        better, worse = worse, better
    if first.aggregate == "mean" and np.isin(first.rows, (0, 1)).all() and np.isin(second.rows, (0, 1)).all():
        gained, lost = int((b > a).sum()), int((b < a).sum())
        p, method = mcnemar(gained, lost), "McNemar exact; interval of Bonett and Price"
        intervals = [proportions(gained, lost, len(a), level) for level in (LEVEL, EQUIVALENCE_LEVEL)]
    elif first.aggregate in SUMS:
        (p, *intervals), method = t_test(first, second), "paired t over windows or pairs of text; delta method"
    else:
        (p, *intervals), method = bootstrap(first, second), f"paired bootstrap, {SAMPLES} resamples, seed {SEED}"
    values = first.score(), second.score()
    return Paired(
        *(len(a), better, worse, len(a) - better - worse, *values, values[1] - values[0], *intervals[0], intervals[1]),
        *(p, method, sacrebleu_p(first, second) if first.aggregate in CORPUS_SCORES else None),
    )


def by_item(outcomes: Outcomes) -> np.ndarray:
    """The quantity of each item by itself."""
    rows = outcomes.rows
    if outcomes.aggregate == "mean":
        return rows[:, 0].astype(np.float64)
    if outcomes.aggregate in SUMS:
        return rows[:, 0] / rows[:, 1]
    return np.array([outcomes.score(np.array([place])) for place in range(len(rows))])


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided exact p of McNemar's test: items that flipped went either way by equal chance; 1 where none flipped."""
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0


def proportions(gained: int, lost: int, items: int, level: float) -> tuple[float, float]:
    """Interval of the difference of two paired proportions. Source: Bonett and Price, 2012, eq. 4 (adjusted Wald)."""
    up, down = (gained + 1) / (items + 2), (lost + 1) / (items + 2)
    error = math.sqrt((up + down - (up - down) ** 2) / (items + 2))
    reach = NormalDist().inv_cdf(0.5 + level / 2) * error
    return max(-1.0, up - down - reach), min(1.0, up - down + reach)


def t_test(first: Outcomes, second: Outcomes) -> tuple[float, tuple[float, float], tuple[float, float]]:
    """Paired t test of ratios over items, and intervals of the difference of the quantity at both levels.

    The difference of means is tested. For the quantity itself, such as exp of the mean, its error is that of the
    linear approximation: the deviation over items of each one's effect on the difference.
    """
    from scipy.stats import t

    count, values = len(first.rows), (first.score(), second.score())
    difference = values[1] - values[0]
    if count < 2 or not all(map(math.isfinite, values)):
        return math.nan, (math.nan, math.nan), (math.nan, math.nan)
    means, effects = [], []
    for outcomes, value in zip((first, second), values, strict=True):
        above, below = outcomes.rows[:, 0].astype(np.float64), outcomes.rows[:, 1].astype(np.float64)
        residual = (above - above.sum() / below.sum() * below) / below.mean()
        slope = {"ratio": 1.0, "exp_mean": value, "bits": 1 / math.log(2)}[outcomes.aggregate]
        means.append((above.sum() / below.sum(), residual))
        effects.append(slope * residual)
    change = float(means[1][0] - means[0][0])
    error = float((means[1][1] - means[0][1]).std(ddof=1)) / math.sqrt(count)
    p = 2 * float(t.sf(abs(change) / error, count - 1)) if error else float(change == 0)
    reach = float((effects[1] - effects[0]).std(ddof=1)) / math.sqrt(count)
    inner, outer = (float(t.ppf(0.5 + level / 2, count - 1)) * reach for level in (EQUIVALENCE_LEVEL, LEVEL))
    return p, (difference - outer, difference + outer), (difference - inner, difference + inner)


def bootstrap(
    first: Outcomes, second: Outcomes, samples: int = SAMPLES, seed: int = SEED
) -> tuple[float, tuple[float, float], tuple[float, float]]:
    """Two-sided p of the paired bootstrap test, and percentile intervals of the difference at both levels.

    Resamples are centred on the measured difference, as if there were none. p is the share of centred differences that
    are at least as large as the measured one, with one added to both counts. It is 1 where all items are equal.

    Source: Efron and Tibshirani, 1993, ch. 16.
    """
    found, measured = _resampled(first, second, samples, seed)
    if np.array_equal(first.rows, second.rows):
        return 1.0, (0.0, 0.0), (0.0, 0.0)
    p = (int((np.abs(found - measured) >= abs(measured)).sum()) + 1) / (samples + 1)
    intervals = [np.quantile(found, [0.5 - level / 2, 0.5 + level / 2]) for level in (LEVEL, EQUIVALENCE_LEVEL)]
    (low, high), (inner_low, inner_high) = ([float(end) for end in interval] for interval in intervals)
    return p, (low, high), (inner_low, inner_high)


def sacrebleu_p(first: Outcomes, second: Outcomes, samples: int = SAMPLES, seed: int = SEED) -> float:
    """p as sacrebleu prints it: about that of a one-sided test, and 1 / (samples + 1) for equal items.

    The mean of all absolute differences is subtracted from that of each resample. p is the share that then exceeds
    the absolute measured difference, with one added to both counts.

    Source: sacrebleu's `_paired_bs_test` (Koehn 2004, with p as in multeval).
    """
    found, measured = _resampled(first, second, samples, seed)
    sizes = np.abs(found)
    return (int((sizes - sizes.mean() > abs(measured)).sum()) + 1) / (samples + 1)


def _resampled(first: Outcomes, second: Outcomes, samples: int, seed: int) -> tuple[np.ndarray, float]:
    """Differences of resamples of the items, and the measured difference."""
    chosen = np.random.default_rng(seed).choice(len(first.rows), size=(samples, len(first.rows)), replace=True)
    found = np.array([second.score(some) - first.score(some) for some in chosen])
    return found, second.score() - first.score()


def holm(ps: Sequence[float]) -> list[float]:
    """Each p corrected for their number, so that one below 0.05 is false in at most 5 % of such lists.

    The smallest is multiplied by their number, the next by one less, and so on; none may fall below the one before. A p
    that is no number is no comparison and stays.

    Source: Holm, 1979.
    """
    order = sorted((place for place, p in enumerate(ps) if not math.isnan(p)), key=lambda place: ps[place])
    corrected, largest = list(ps), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * ps[place]))
        corrected[place] = largest
    return corrected
