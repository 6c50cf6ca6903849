"""Perplexity of targets given their sources, for encoder-decoders."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from slimsweep.checks import choice_faults, refuse, whole_number_faults
from slimsweep.data.corpora import SHORT_DIGEST, Corpora
from slimsweep.data.pair_file import PairFile
from slimsweep.data.pairs import HELD_OUT_PART, Pair, TokenPair, pair_batch
from slimsweep.evaluation.base import Measurement, Metric
from slimsweep.evaluation.outcomes import Outcomes, items_digest
from slimsweep.evaluation.perplexity import exp, nll_parts, non_finite_reason
from slimsweep.evaluation.quantity import Quantity
from slimsweep.models.batch_sizes import BATCH_TOKENS, batch_tokens
from slimsweep.models.batches import IGNORED
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.sources.tokenizer_digest import tokenizer_digest
from slimsweep.progress import tracked

SPLITS: dict[str, Callable[[Pair], bool]] = {"held_out": lambda pair: pair.is_held_out, "all": lambda pair: True}
RULES = {"held_out": f"sha256(source)%{HELD_OUT_PART}=0", "all": "all"}
"""Splits as the protocol id spells them."""


@dataclass(frozen=True, kw_only=True)
class PairPerplexity(PairFile, Metric):
    """exp of the mean NLL of a target's tokens, given the source and the target's tokens before.

    Every token that the tokenizer makes of a target counts, its end of sequence too; padding does not. The mean is over
    tokens, not over pairs.
    """

    declares: ClassVar[tuple[Quantity, ...]] = (
        Quantity(
            field="pair_perplexity",
            kind="perplexity",
            label="perplexity of targets given their sources",
            higher_is_better=False,
            scale="log",
            group="quality",
            place=1,
            seconds="pair_perplexity_seconds",
            tolerance=1e-3,  # other kernels round within it
        ),
        Quantity(
            field="pair_perplexity_seconds",
            label="time of the evaluation of pairs",
            unit="s",
            higher_is_better=False,
            varies=True,
        ),
    )
    where: ClassVar[str] = "evaluation.metrics.pair_perplexity"
    instead: ClassVar[str] = "measure text with +metric=perplexity, and leave pair_perplexity out"

    split: str = "held_out"
    """`held_out`: pairs that no calibration draws, one in five by the hash of the source; `all`: every pair of a file
    that nothing else reads."""
    max_pairs: int | None = None
    """Pairs that are measured, in the order of the hash of their sources; None measures all of the split."""
    batch_tokens: int | None = None
    """Tokens of one forward, which decide speed and memory; None: 2048 on a CPU, up to 16384 on a GPU as memory
    allows."""

    def __post_init__(self) -> None:
        refuse(
            self.setting_faults()
            + choice_faults(f"{self.where}.split", [self.split], tuple(SPLITS))
            + whole_number_faults(f"{self.where}.max_pairs", self.max_pairs, is_optional=True)
            + whole_number_faults(f"{self.where}.batch_tokens", self.batch_tokens, is_optional=True)
        )

    def quantities(self) -> list[Quantity]:
        return list(self.declares)

    def digests(self, corpora: Corpora) -> dict[str, str]:
        return {"pairs": self.read().digest}

    def texts(self, corpora: Corpora) -> Iterable[str]:
        return (pair.source for pair in self.read().pairs if SPLITS[self.split](pair))

    def faults(self, source: Any, corpora: Corpora) -> list[str]:
        faults = self.pair_faults(source, SPLITS[self.split])
        if not faults and not self._measured(source.tokenizer()):
            faults = [
                f"{self.read().origin} has no pair to measure: none of its {len(self.read().pairs)} pairs is in the "
                f"split {self.split} and within the limits of tokens. Give a longer file, or set {self.where}.split=all"
            ]
        return faults

    def measure(self, model: LanguageModel, corpora: Corpora) -> Measurement:
        """Perplexity of the targets as `pair_perplexity`, with its protocol id, and the seconds it took."""
        pairs = self._measured(model.tokenizer)
        started = time.perf_counter()
        nll, by_pair = target_nll(model, pairs, self.batch_tokens or batch_tokens(model))
        values = {"pair_perplexity": exp(nll), "pair_perplexity_seconds": time.perf_counter() - started}
        reason = non_finite_reason(nll)
        reasons = {"pair_perplexity": reason} if reason else {}
        items = items_digest(repr((pair.source, pair.target)) for pair in pairs)
        return Measurement(
            values,
            reasons,
            {"pair_perplexity": self._protocol(model, len(pairs))},
            {"pair_perplexity": Outcomes(by_pair, "exp_mean", items)},
        )

    def _measured(self, tokenizer: Any) -> list[TokenPair]:
        """The pairs that are measured, in the order of the hash of their sources."""
        kept = sorted(self.kept(tokenizer, SPLITS[self.split]), key=lambda both: (both[0].source_digest, both[0].row))
        return [tokens for _, tokens in kept[: self.max_pairs]]

    def _protocol(self, model: LanguageModel, count: int) -> str:
        return ":".join(
            (
                f"split={RULES[self.split]}",
                f"pairs={count}",
                f"source<={self.source_tokens or 'any'}",
                f"target<={self.target_tokens or 'any'}",
                "target token",
                f"tok={tokenizer_digest(model.tokenizer)[:SHORT_DIGEST]}",
                f"sha={self.read().digest[:SHORT_DIGEST]}",
            )
        )

    def working_bytes(self, token_bytes: int) -> int:
        return max(self.batch_tokens or BATCH_TOKENS, self.longest("source") + self.longest("target")) * token_bytes


@torch.no_grad()
def target_nll(model: LanguageModel, pairs: Sequence[TokenPair], batch_tokens: int) -> tuple[float, np.ndarray]:
    """Mean negative log-likelihood in nats of all tokens of the targets; its sum and tokens by pair.

    Pairs of about equal length go through the model together, so that little of a batch is padding. The log-softmax is
    fp32, sums are fp64.
    """
    total = torch.zeros((), dtype=torch.float64, device=model.compute_device)
    by_pair = np.zeros((len(pairs), 2))
    for _, group in tracked(_groups(pairs, batch_tokens), "pairs: batch"):
        batch = pair_batch([pairs[place] for place in group], model.config)
        predicted = batch["labels"] != IGNORED
        hidden = model.hidden_states(batch)
        parts = []
        for part in nll_parts(model, hidden[predicted.to(hidden.device)], batch["labels"][predicted]):
            total += sum(some.double().sum() for some in part)
            parts += part
        counts = predicted.sum(dim=1).tolist()
        sums = [nll.double().sum().item() for nll in torch.cat(parts).cpu().split(counts)]
        by_pair[group] = np.column_stack([sums, counts])
    return total.item() / int(by_pair[:, 1].sum()), by_pair


def _groups(pairs: Sequence[TokenPair], batch_tokens: int) -> list[list[int]]:
    """Places of pairs in groups of about equal length; a group's longest source or target, times its pairs, is in the
    budget."""

    def length(place: int) -> int:
        return max(len(pairs[place].source), len(pairs[place].target))

    ordered, groups, start = sorted(range(len(pairs)), key=length, reverse=True), [], 0
    while start < len(ordered):
        size = max(1, batch_tokens // length(ordered[start]))
        groups.append(ordered[start : start + size])
        start += size
    return groups
